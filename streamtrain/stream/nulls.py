"""The null policy: what is done with a value that cannot be trained on.

Such a value is null, NaN, ±Inf, or too large for float32 in model units: whatever the arithmetic of
the deal kernel does not turn into a finite float32. `error` refuses it; `drop` steps over its row;
`impute` puts the mean of its feature in its place, and refuses it in the target. A dropped row
counts once, at its first bad column; imputed values count one by one.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from streamtrain.errors import DataError
from streamtrain.records import NullSummary
from streamtrain.stream.source import Source
from streamtrain.types import Dataset, Span, Standardization

Columns = tuple[np.ndarray, ...]

#: (shard, column) → rows dropped or values imputed.
NullCounts = Counter[tuple[int, int]]

NOTHING = np.empty(0, dtype=np.int64)

#: Records name this many shards, those with the most.
_NAMED_SHARDS = 16


class Mended(NamedTuple):
    """A span after the policy: its columns, the ascending positions of the rows to step over, and
    what was done.
    """

    columns: Columns
    dropped: np.ndarray
    counts: NullCounts


def bad_values(values: np.ndarray, mean: float, scale: float) -> np.ndarray:
    """Which values of a column cannot be trained on: bool (rows,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        # The arithmetic is monotone and NaN shows in the extremes: where both are good, all are,
        # and the column is not searched.
        ends = (
            np.array([values.min(), values.max()], dtype=np.float64) if len(values) else np.empty(0)
        )
        if np.isfinite(((ends - mean) * scale).astype(np.float32)).all():
            return np.zeros(len(values), dtype=bool)
        return ~np.isfinite(((values.astype(np.float64) - mean) * scale).astype(np.float32))


def first_bad(columns: Columns, standard: Standardization) -> np.ndarray:
    """The first bad column of each row, -1 where all are good: int64 (rows,)."""
    first = np.full(len(columns[0]), -1)
    for number in reversed(range(len(columns))):
        first[bad_values(columns[number], standard.mean[number], standard.scale[number])] = number
    return first


def mend(source: Source, span: Span, columns: Columns, skip: np.ndarray = NOTHING) -> Mended:
    """Apply the policy to a span.

    Rows at `skip` (held out) are neither refused nor imputed, but a bad one is dropped.

    Raises DataError naming file, column, row and cause.
    """
    if source.on_null == "drop":
        first = first_bad(columns, source.standard)
        dropped = np.flatnonzero(first >= 0)
        per_column = np.bincount(first[dropped], minlength=len(columns))
        return Mended(columns, dropped, _counts(span, per_column))
    masks = [
        bad_values(*each)
        for each in zip(columns, source.standard.mean, source.standard.scale, strict=True)
    ]
    for mask in masks:
        mask[skip] = False
    if source.fill is None:
        _refuse(source, span, columns, masks)
        return Mended(columns, NOTHING, Counter())
    _refuse(source, span, columns[-1:], masks[-1:])
    features = zip(columns, masks, source.fill, strict=False)
    filled = [np.where(mask, fill, column).astype(column.dtype) for column, mask, fill in features]
    return Mended(
        (*filled, columns[-1]), NOTHING, _counts(span, [int(mask.sum()) for mask in masks])
    )


def mend_evaluation(source: Source, rows: np.ndarray) -> np.ndarray:
    """The policy for evaluation rows, float64 (rows, columns) in raw units, once the
    standardisation of `source` is known.
    """
    columns = tuple(rows.T)
    masks = [
        bad_values(*each)
        for each in zip(columns, source.standard.mean, source.standard.scale, strict=True)
    ]
    bad = np.stack(masks, axis=1)
    if source.on_null == "drop":
        return rows[~bad.any(axis=1)]
    refused = bad if source.fill is None else bad[:, -1:]
    if refused.any():
        column = int(np.flatnonzero(bad.any(axis=0))[0]) if source.fill is None else -1
        value = rows[bad[:, column], column][0]
        raise DataError(
            f"{source.dataset.url}: column {source.dataset.columns[column]!r}: the value"
            f" {value:.6g} of a held-out row is too large for float32 beside the other rows'"
            f" deviation of {1 / source.standard.scale[column]:.3g}."
            f" {_remedy(source, source.dataset.columns[column])}"
        )
    return rows if source.fill is None else np.where(bad, np.append(source.fill, 0.0), rows)


def alike(columns: Columns) -> Columns:
    """Read-only views of one memory layout: a tuple of one type, which a kernel needs.

    A decoder gives read-only views of its own memory, copies where it had to cast, and strided
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
    """Return counts by name; of shards, the 16 with the most bad values."""
    columns: Counter[str] = Counter()
    shards: Counter[str] = Counter()
    for (shard, column), count in counts.items():
        columns[dataset.columns[column]] += count
        shards[dataset.shards[shard].url] += count
    return NullSummary(
        total=counts.total(),
        columns=dict(columns),
        shards=dict(shards.most_common(_NAMED_SHARDS)),
    )


def _counts(span: Span, per_column) -> NullCounts:
    return Counter(
        {(span.shard, column): int(count) for column, count in enumerate(per_column) if count}
    )


def _refuse(source: Source, span: Span, columns: Columns, masks: list[np.ndarray]) -> None:
    """Raise DataError for the first bad value; `columns` are the last ones of the data set."""
    for name, values, mask in zip(
        source.dataset.columns[-len(columns) :], columns, masks, strict=True
    ):
        bad = np.flatnonzero(mask)
        if len(bad):
            value = values[bad[0]]
            what = (
                "null or NaN"
                if np.isnan(value)
                else "infinite"
                if np.isinf(value)
                else f"{value:.6g}, too large for float32"
            )
            remedy = (
                _remedy(source, name)
                if not np.isfinite(value) or len(bad) < len(values)
                else "Rescale the column: every value of these rows is."
            )
            raise DataError(
                f"{source.dataset.shards[span.shard].url}: column {name!r}, row"
                f" {span.start + int(bad[0]):,}: the value is {what} ({len(bad):,} such in rows"
                f" {span.start:,} to {span.stop:,}). {remedy}"
            )


def _remedy(source: Source, name: str) -> str:
    if name == source.dataset.target and source.on_null == "error":
        return "Clean the column, or use --on-null drop."
    if source.on_null == "impute":
        return "A target is never imputed: clean the column, or use --on-null drop."
    return "Clean the column, leave it out with --features, or use --on-null drop or impute."
