"""The null policy: how values that cannot be trained on are handled.

Such a value is null, NaN, ±Inf, or too large for float32 in model units: any value that the deal
kernel does not turn into a finite float32. `error` refuses it; `drop` leaves its row out; `impute`
replaces it by the mean of its feature, and refuses it in the target. A dropped row counts once, at
its first bad column; imputed values are counted one by one.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from streamtrain.errors import DataError
from streamtrain.records import NullSummary
from streamtrain.stream.source import Source
from streamtrain.types import Dataset, Span, Standardization

Columns = tuple[np.ndarray, ...]

#: (shard, column) → rows dropped or values imputed.
NullCounts = Counter[tuple[int, int]]

NO_POSITIONS = np.empty(0, dtype=np.int64)

#: Records name at most this many shards, those with the most bad values.
_NAMED_SHARDS = 16


class NullPolicyResult(NamedTuple):
    """A span after the null policy.

    Attributes:
        columns: Its columns, imputed where the policy says so.
        dropped: The positions of the rows to leave out, ascending.
        counts: The rows dropped or values imputed, by shard and column.
    """

    columns: Columns
    dropped: np.ndarray
    counts: NullCounts


def bad_values(values: np.ndarray, mean: float, scale: float) -> np.ndarray:
    """Return which values of a column cannot be trained on: bool (rows,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        # The arithmetic is monotone, and NaN shows in the extremes: where both are good, all values
        # are, and the column need not be searched.
        extremes = np.empty(0)
        if len(values):
            extremes = np.array([values.min(), values.max()], dtype=np.float64)
        if np.isfinite(((extremes - mean) * scale).astype(np.float32)).all():
            return np.zeros(len(values), dtype=bool)
        return ~np.isfinite(((values.astype(np.float64) - mean) * scale).astype(np.float32))


def first_bad_column(columns: Columns, standard: Standardization) -> np.ndarray:
    """Return the first bad column of each row, -1 where all values are good: int64 (rows,)."""
    first = np.full(len(columns[0]), -1)
    for number in reversed(range(len(columns))):
        first[bad_values(columns[number], standard.mean[number], standard.scale[number])] = number
    return first


def apply_null_policy(
    source: Source, span: Span, columns: Columns, skip: np.ndarray = NO_POSITIONS
) -> NullPolicyResult:
    """Apply the policy of `source` to the decoded columns of a span.

    Rows at the positions `skip` (held out) are neither refused nor imputed, but a bad one is
    dropped.

    Raises DataError naming the file, column, row and cause of a value that the policy refuses.
    """
    if source.on_null == "drop":
        first = first_bad_column(columns, source.standard)
        dropped = np.flatnonzero(first >= 0)
        rows_per_column = np.bincount(first[dropped], minlength=len(columns))
        return NullPolicyResult(columns, dropped, _counts(span, rows_per_column.tolist()))
    masks = _bad_masks(source, columns)
    for mask in masks:
        mask[skip] = False
    if source.fill is None:
        _refuse(source, span, columns, masks)
        return NullPolicyResult(columns, NO_POSITIONS, Counter())
    *features, target = columns
    _refuse(source, span, (target,), masks[-1:])
    filled = [
        np.where(mask, fill, column).astype(column.dtype)
        for column, mask, fill in zip(features, masks, source.fill, strict=False)
    ]
    values_per_column = [int(mask.sum()) for mask in masks]
    return NullPolicyResult((*filled, target), NO_POSITIONS, _counts(span, values_per_column))


def apply_null_policy_to_evaluation(
    source: Source, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Apply the policy to evaluation rows, once the standardisation of `source` is known.

    Returns the rows that are kept, and their positions in `rows`. Rows are float64 (rows, columns)
    in raw units.

    Raises DataError for a value that the policy refuses.
    """
    bad = np.stack(_bad_masks(source, tuple(rows.T)), axis=1)
    if source.on_null == "drop":
        kept = np.flatnonzero(~bad.any(axis=1))
        return rows[kept], kept
    refused = bad if source.fill is None else bad[:, -1:]
    if refused.any():
        column = -1
        if source.fill is None:
            column = int(np.flatnonzero(bad.any(axis=0))[0])
        name = source.dataset.columns[column]
        value = rows[bad[:, column], column][0]
        raise DataError(
            f"{source.dataset.url}: column {name!r}: the value {value:.6g} of a held-out row is too"
            " large for float32; the other rows' standard deviation is"
            f" {1 / source.standard.scale[column]:.3g}. {_remedy(source, name)}"
        )
    if source.fill is not None:
        rows = np.where(bad, np.append(source.fill, 0.0), rows)
    return rows, np.arange(len(rows))


def as_uniform_views(columns: Columns) -> Columns:
    """Return read-only views of one memory layout, so that a kernel sees a tuple of one type.

    Decoders give read-only views of their own memory, copies where they had to cast, and strided
    columns of 2-D arrays.
    """
    if len({column.flags.c_contiguous for column in columns}) > 1:
        columns = tuple(np.ascontiguousarray(column) for column in columns)
    views = tuple(column.view() for column in columns)
    for view in views:
        view.flags.writeable = False
    return views


def null_fields(counts: NullCounts, source: Source) -> dict[str, NullSummary]:
    """Return the field of a `pass` record that the null policy sets: `imputed` or `dropped`."""
    name = "imputed" if source.on_null == "impute" else "dropped"
    return {name: summarize_nulls(counts, source.dataset)}


def summarize_nulls(counts: NullCounts, dataset: Dataset) -> NullSummary:
    """Return the counts by column name and by shard: the 16 shards with the most bad values."""
    columns: Counter[str] = Counter()
    shards: Counter[str] = Counter()
    for (shard, column), count in counts.items():
        columns[dataset.columns[column]] += count
        shards[dataset.place(shard, 0)[0]] += count
    return NullSummary(
        total=counts.total(),
        columns=dict(columns),
        shards=dict(shards.most_common(_NAMED_SHARDS)),
    )


def _bad_masks(source: Source, columns: Columns) -> list[np.ndarray]:
    standard = source.standard
    return [
        bad_values(column, mean, scale)
        for column, mean, scale in zip(columns, standard.mean, standard.scale, strict=True)
    ]


def _counts(span: Span, per_column: Sequence[int]) -> NullCounts:
    return Counter(
        {(span.shard, column): count for column, count in enumerate(per_column) if count}
    )


def _refuse(source: Source, span: Span, columns: Columns, masks: list[np.ndarray]) -> None:
    """Raise DataError for the first bad value; `columns` are the last ones of the data set."""
    names = source.dataset.columns[-len(columns) :]
    for name, values, mask in zip(names, columns, masks, strict=True):
        bad = np.flatnonzero(mask)
        if not len(bad):
            continue
        value = values[bad[0]]
        remedy = _remedy(source, name)
        if np.isnan(value):
            cause = "null or NaN"
            if len(bad) == len(values) and name == source.dataset.target:
                remedy = "No row of these has a target: choose another with --target."
        elif np.isinf(value):
            cause = "infinite"
        else:
            cause = f"{value:.6g}, too large for float32"
            if len(bad) == len(values):
                remedy = "Rescale the column: every value of these rows is too large."
        url, start = source.dataset.place(span.shard, span.start)
        raise DataError(
            f"{url}: column {name!r}, row {start + int(bad[0]):,}: the value is {cause}"
            f" ({len(bad):,} such in rows {start:,} to {start + span.num_rows - 1:,}). {remedy}"
        )


def _remedy(source: Source, name: str) -> str:
    if name == source.dataset.target and source.on_null == "error":
        return "Clean the column, or use --on-null drop."
    if source.on_null == "impute":
        return "A target is never imputed: clean the column, or use --on-null drop."
    return "Clean the column, leave it out with --features, or use --on-null drop or impute."
