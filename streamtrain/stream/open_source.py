"""Opening a data set for streaming: spans, hold-out, source.

Refuses what cannot be streamed, before the first row.
"""

from dataclasses import replace

import numpy as np

from streamtrain.base.budget import Budget, default_limit_bytes, default_readers, make_budget
from streamtrain.base.units import format_bytes
from streamtrain.config import FetchConfig
from streamtrain.errors import ConfigError, ResourceError
from streamtrain.plan.holdout import HELD_OUT_BYTES, draw_holdout, holdout_rows, spread_spans
from streamtrain.plan.order import OPEN_CHAINS
from streamtrain.plan.plan import default_window_rows
from streamtrain.plan.spans import cut_spans
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.readers import Readers
from streamtrain.stream.chains import chain_bytes
from streamtrain.stream.quarantine import Quarantine
from streamtrain.stream.read_timeout import Watch
from streamtrain.stream.source import TIMEOUT_SECONDS, Source
from streamtrain.stream.survey import impute_values, take_survey
from streamtrain.stream.transform import TransformedReaders, load_transform
from streamtrain.types import Dataset, OnBadShard, OnNull, Standardization


def open_source(
    dataset: Dataset,
    *,
    seed: int,
    span_rows: int,
    window_rows: int | None,
    holdout: int | float | None,
    eval_rows: int,
    on_null: OnNull = "error",
    transform: str | None = None,
    on_bad_shard: OnBadShard = "error",
    timeout_seconds: float = TIMEOUT_SECONDS,
    limit_bytes: int | None = None,
) -> tuple[Source, int]:
    """A source of raw values, and the window's size in rows.

    Reads no data; `impute` needs `with_fill` as well.

    Raises ConfigError when the hold-out asks for more rows than there are, or when the transform
    cannot be used, and ResourceError when the held-out rows cannot be listed within `limit_bytes`,
    which is what this machine has when left out.
    """
    readers: Readers | TransformedReaders = Readers(dataset)
    loaded = None
    if transform is not None:
        loaded = load_transform(transform, dataset.features)
        readers = TransformedReaders(dataset, loaded)
        dataset = readers.dataset
    window_rows = window_rows or default_window_rows(len(dataset.columns))
    if window_rows < OPEN_CHAINS:
        raise ConfigError(
            f"order.window_rows is {window_rows}; a window takes at least {OPEN_CHAINS} rows."
        )
    spans = cut_spans(dataset.shards, span_rows=span_rows, window_rows=window_rows)
    rows = holdout_rows(dataset.num_rows, asked=holdout, eval_rows=eval_rows)
    if rows >= dataset.num_rows and rows:
        raise ConfigError(
            f"data.holdout asks for {rows:,} of {dataset.num_rows:,} rows; none would be left to"
            " train on. Ask for fewer."
        )
    limit_bytes = limit_bytes or default_limit_bytes()
    if rows * HELD_OUT_BYTES > limit_bytes:
        raise ResourceError(
            f"data.holdout: a list of {rows:,} held-out rows takes"
            f" {format_bytes(rows * HELD_OUT_BYTES)}; the budget is {format_bytes(limit_bytes)}."
            " Hold out fewer: 100,000 tell losses apart to a per cent. Or raise --memory."
        )
    try:
        drawn = draw_holdout(spans, rows, seed)
    except ValueError as error:
        raise ConfigError(f"data.holdout: {error}. Ask for fewer, or use --eval-data.") from None
    standard = Standardization.identity(len(dataset.columns))
    source = Source(
        dataset=dataset,
        readers=readers,
        spans=spans,
        holdout=drawn,
        standard=standard,
        on_null=on_null,
        transform=loaded,
        quarantine=Quarantine(dataset, spans) if on_bad_shard == "quarantine" else None,
        watch=Watch(timeout_seconds),
    )
    return source, window_rows


def stream_budget(
    source: Source, window_rows: int, fetch: FetchConfig, *, fixed_bytes: int
) -> Budget:
    """What a stream of this source may hold at once.

    `fixed_bytes`: what else stays in memory. Raises ResourceError.
    """
    itemsize = np.dtype(source.dataset.decoded_type).itemsize
    fixed_bytes += source.holdout.num_rows * HELD_OUT_BYTES
    return make_budget(
        limit_bytes=fetch.memory or default_limit_bytes(),
        window_rows=min(window_rows, source.dataset.num_rows),
        span_rows=_most_read_rows(source),
        num_columns=source.num_columns,
        decoded_columns=source.decoded_columns,
        decoded_itemsize=itemsize,
        readers=fetch.readers or default_readers(),
        fixed_bytes=fixed_bytes
        + chain_bytes(source.spans, source.dataset.shards, source.decoded_columns, itemsize),
    )


def _most_read_rows(source: Source) -> int:
    """Rows that one decode may take: a span's, or those of a Zarr chunk that is larger than its
    array.
    """
    spans = source.spans
    sliced = np.zeros(len(source.dataset.shards), dtype=bool)
    sliced[spans.shard[spans.is_slice(np.arange(len(spans)))]] = True  # chain_bytes counts these
    padded = (
        shard.read_rows
        for shard, is_sliced in zip(source.dataset.shards, sliced, strict=True)
        if not is_sliced
    )
    return max(int(spans.num_rows.max()), max(padded, default=0))


def with_fill(source: Source) -> Source:
    """The same source, with the values that its policy imputes, if it does: one more read of the
    survey's spans.
    """
    return replace(source, fill=impute_values(source)) if source.on_null == "impute" else source


def with_standard(source: Source, standard: Standardization) -> Source:
    """The same source, delivering model units."""
    return replace(source, standard=standard)


def read_evaluation_rows(path: str, source: Source, *, rows: int, span_rows: int) -> np.ndarray:
    """Rows of another data set, drawn like a hold-out: float64 (at most `rows`, columns), raw
    units.

    The columns, the transform, the null policy and what it imputes are those of `source`.
    """
    inputs, target, transform = source.dataset.features, source.dataset.target, None
    if source.transform is not None:
        inputs, transform = source.transform.inputs, source.transform.name
    other = open_shards(
        path, features=inputs, target=target, storage=source.dataset.shards[0].storage
    )
    fill = source.fill
    source, _ = open_source(
        other,
        seed=0,
        span_rows=span_rows,
        window_rows=None,
        holdout=0,
        eval_rows=rows,
        on_null=source.on_null,
        transform=transform,
        timeout_seconds=source.watch.timeout_seconds,
    )
    spread = spread_spans(len(source.spans), min(rows / other.num_rows, 1.0))
    drawn = draw_holdout(source.spans, min(rows, int(source.spans.num_rows[spread].sum())), seed=0)
    return take_survey(replace(source, holdout=drawn, fill=fill)).holdout
