"""Opening a data set for streaming: spans, hold-out, source.

What cannot be streamed is refused here, before the first row is read.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from streamtrain.base.budget import Budget, default_limit_bytes, default_readers, make_budget
from streamtrain.base.units import format_bytes
from streamtrain.config import Config, FetchConfig, make_config
from streamtrain.errors import ConfigError, ResourceError
from streamtrain.plan.holdout import (
    HELD_OUT_BYTES,
    Holdout,
    draw_holdout,
    holdout_rows,
    spread_spans,
)
from streamtrain.plan.order import OPEN_CHAINS
from streamtrain.plan.plan import default_window_rows, whole_window_rows
from streamtrain.plan.spans import Spans, cut_spans
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.readers import Readers
from streamtrain.storage.remote.store_options import make_storage
from streamtrain.stream.chains import chain_bytes
from streamtrain.stream.quarantine import Quarantine
from streamtrain.stream.read_timeout import Watch
from streamtrain.stream.source import Source
from streamtrain.stream.survey import impute_values, take_survey
from streamtrain.stream.transform import Transform, TransformedReaders, load_transform
from streamtrain.types import Dataset, Standardization


def open_dataset(path: str, config: Config) -> Dataset:
    """Return the data set of a path, as the sections `data` and `fetch` say. Reads footers only.

    Raises ConfigError or DataError.
    """
    data = config.data
    storage = make_storage(data.storage_options, timeout_seconds=config.fetch.timeout_seconds)
    return open_shards(
        path,
        features=data.features,
        target=data.target,
        on_bad_shard=data.on_bad_shard,
        storage=replace(storage, reading=data.reading),
    )


def open_source(
    dataset: Dataset,
    config: Config,
    *,
    holdout: int | float | None,
    window_rows: int | None = None,
) -> Source:
    """Return a source of raw values. Reads no data; `impute` needs `with_fill` as well.

    `holdout` is a number of rows or a fraction below 1; None means `eval.eval_rows`, but at most
    20 % of the data. `window_rows`: the default window of an earlier run that is resumed. The rest
    is taken from the sections `data`, `order`, `eval` and `fetch`.

    Raises ConfigError when the hold-out asks for more rows than there are, or when the transform
    cannot be used, and ResourceError when the list of held-out rows exceeds `fetch.memory`, or the
    machine's default budget if that is unset.
    """
    readers: Readers | TransformedReaders = Readers(dataset, keeps_rows=True)
    transform = None
    if config.data.transform is not None:
        transform = load_transform(config.data.transform, dataset.features)
        readers = TransformedReaders(dataset, transform)
        dataset = readers.dataset
    cut = partial(_cut, dataset, readers, transform, config, holdout)
    window_rows = config.order.window_rows or window_rows
    whole = whole_window_rows(dataset.num_rows, len(dataset.columns))
    if window_rows is None and whole is not None and _fits_well(cut(whole), config.fetch):
        return cut(whole)
    return cut(window_rows or default_window_rows(len(dataset.columns)))


def _cut(
    dataset: Dataset,
    readers: Readers | TransformedReaders,
    transform: Transform | None,
    config: Config,
    holdout: int | float | None,
    window_rows: int,
) -> Source:
    """Return the source whose spans are cut for windows of this size."""
    if window_rows < OPEN_CHAINS:
        raise ConfigError(
            f"order.window_rows is {window_rows}; a window takes at least {OPEN_CHAINS} rows."
        )
    spans = cut_spans(dataset.shards, span_rows=config.order.span_rows, window_rows=window_rows)
    quarantine = None
    if config.data.on_bad_shard == "quarantine":
        quarantine = Quarantine(dataset, spans)
    return Source(
        dataset=dataset,
        readers=readers,
        spans=spans,
        window_rows=window_rows,
        holdout=_hold_out(dataset, spans, config, holdout),
        standard=Standardization.identity(len(dataset.columns)),
        on_null=config.data.on_null,
        transform=transform,
        quarantine=quarantine,
        watch=Watch(config.fetch.timeout_seconds),
    )


def _fits_well(source: Source, fetch: FetchConfig) -> bool:
    """Return whether the windows of a stream take at most half of the memory budget.

    The other half is for learners, whose memory is not known here.
    """
    limit_bytes = fetch.memory or default_limit_bytes()
    try:
        stream_budget(source, fetch, fixed_bytes=limit_bytes // 2)
    except ResourceError:
        return False
    return True


def _hold_out(
    dataset: Dataset, spans: Spans, config: Config, holdout: int | float | None
) -> Holdout:
    rows = holdout_rows(dataset.num_rows, asked=holdout, eval_rows=config.eval.eval_rows)
    if rows >= dataset.num_rows and rows:
        raise ConfigError(
            f"data.holdout asks for {rows:,} of {dataset.num_rows:,} rows; none would be left to"
            " train on. Ask for fewer."
        )
    limit_bytes = config.fetch.memory or default_limit_bytes()
    if rows * HELD_OUT_BYTES > limit_bytes:
        raise ResourceError(
            f"data.holdout: a list of {rows:,} held-out rows takes"
            f" {format_bytes(rows * HELD_OUT_BYTES)}; the budget is {format_bytes(limit_bytes)}."
            " Hold out fewer (100,000 rows resolve differences in loss of one per cent), or raise"
            " --memory."
        )
    try:
        return draw_holdout(spans, rows, config.eval.holdout_seed)
    except ValueError as error:
        raise ConfigError(f"data.holdout: {error}. Ask for fewer, or use --eval-data.") from None


def stream_budget(source: Source, fetch: FetchConfig, *, fixed_bytes: int) -> Budget:
    """Return the memory budget of a stream of this source.

    `fixed_bytes`: memory that the caller uses in addition.

    Raises ResourceError when two windows do not fit the limit.
    """
    itemsize = np.dtype(source.dataset.decoded_type).itemsize
    fixed_bytes += source.holdout.num_rows * HELD_OUT_BYTES
    fixed_bytes += chain_bytes(
        source.spans, source.dataset.shards, source.decoded_columns, itemsize
    )
    return make_budget(
        limit_bytes=fetch.memory or default_limit_bytes(),
        window_rows=min(source.window_rows, source.dataset.num_rows),
        span_rows=_most_decoded_rows(source),
        num_columns=source.num_columns,
        decoded_columns=source.decoded_columns,
        decoded_itemsize=itemsize,
        readers=fetch.readers or default_readers(),
        fixed_bytes=fixed_bytes,
    )


def _most_decoded_rows(source: Source) -> int:
    """Return the most rows that one decode may take.

    These are the rows of a span, or of a Zarr chunk that is larger than its array. Shards that are
    read in slices are left out, since `chain_bytes` counts them.
    """
    spans, shards = source.spans, source.dataset.shards
    sliced = np.zeros(len(shards), dtype=bool)
    sliced[spans.shard[spans.is_slice(np.arange(len(spans)))]] = True
    whole_reads = (
        shard.read_rows for shard, is_sliced in zip(shards, sliced, strict=True) if not is_sliced
    )
    return max(int(spans.num_rows.max()), max(whole_reads, default=0))


def with_imputed_values(source: Source) -> Source:
    """Return the source with the values that its policy imputes, if it imputes any.

    Reads the spans of the survey once.
    """
    return replace(source, fill=impute_values(source)) if source.on_null == "impute" else source


def with_standard(source: Source, standard: Standardization) -> Source:
    """Return the source with this standardisation, so that it delivers model units."""
    return replace(source, standard=standard)


def read_evaluation_rows(path: str, source: Source, *, rows: int, span_rows: int) -> np.ndarray:
    """Return rows of another data set, drawn like a hold-out, in raw units.

    The result is float64 (at most `rows`, columns). The columns, the transform, the null policy and
    the values it imputes are taken from `source`.
    """
    features, transform = source.dataset.features, None
    if source.transform is not None:
        features, transform = source.transform.inputs, source.transform.name
    evaluation_data = open_shards(
        path,
        features=features,
        target=source.dataset.target,
        storage=source.dataset.shards[0].storage,
    )
    config = make_config(
        {
            "data": {"on_null": source.on_null, "transform": transform},
            "order": {"span_rows": span_rows},
            "fetch": {"timeout_seconds": source.watch.timeout_seconds},
        }
    )
    evaluation = open_source(evaluation_data, config, holdout=0)
    spread = spread_spans(len(evaluation.spans), min(rows / evaluation_data.num_rows, 1.0))
    spread_rows = int(evaluation.spans.num_rows[spread].sum())
    drawn = draw_holdout(evaluation.spans, min(rows, spread_rows), seed=0)
    return take_survey(replace(evaluation, holdout=drawn, fill=source.fill)).holdout
