"""Write a data set from spans: shards and a manifest, whole or not at all."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import numpy as np

from streamtrain.base.words import did_you_mean
from streamtrain.errors import ConfigError, ResourceError
from streamtrain.storage.dataset import describe_shard
from streamtrain.storage.manifest import (
    Manifest,
    ShardEntry,
    Statistics,
    compact_boundaries,
    exists,
    hash_shard,
    write_manifest,
)
from streamtrain.storage.moments import Moments
from streamtrain.storage.parquet.parquet_reader import ParquetWriter
from streamtrain.storage.remote.urls import is_remote, normal_url, refuse_read_only
from streamtrain.storage.write.staging import Staging, open_staging
from streamtrain.types import LOCAL, Format, Storage, Truth

if TYPE_CHECKING:
    from streamtrain.storage.zarr.zarr_writer import ZarrWriter

SPANS_PER_SHARD = 16

_FORMATS = get_args(Format)

Columns = tuple[np.ndarray, ...]
MakeSpan = Callable[[], Columns]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a data set is written.

    `columns`: names, target last, all stored as `decoded_type`. `span_rows`: rows per row group or
    chunk; a shard has 16 of them.
    """

    columns: tuple[str, ...]
    decoded_type: Literal["float32", "float64"]
    format: Format
    span_rows: int


def write_dataset(
    out: str | os.PathLike[str],
    layout: Layout,
    spans: Iterable[MakeSpan],
    *,
    workers: int = 1,
    truth: Truth | None = None,
    shuffle_seed: int | None = None,
    storage: Storage = LOCAL,
) -> str:
    """Write spans in order; return the path or URL of the folder.

    Each span but the last has `span_rows` rows. The calls in `spans` run on `workers` threads, at
    most `workers + 1` ahead of the span that is being written. Shards are staged (staging.py), so a
    failure leaves nothing behind.

    Raises ConfigError when `out` is not empty or the format is unknown, ResourceError when it
    cannot be written, and StoreError when its store does not answer.
    """
    out = normal_url(out)
    refuse_output(out, layout, storage)
    try:
        with open_staging(out, storage) as staging:
            with ThreadPoolExecutor(workers, thread_name_prefix="write") as pool:
                calls = (partial(_measure, make_span) for make_span in spans)
                measured = run_ahead(pool, calls, workers + 1)
                shards, moments = _write_shards(pool, staging, layout, measured, workers)
            manifest = _manifest(layout, shards, moments, truth, shuffle_seed)
            write_manifest(str(staging.folder), manifest)
            staging.publish()
    except OSError as error:
        cure = "Check its permissions" if isinstance(error, PermissionError) else "Free space there"
        raise ResourceError(
            f"{out}: cannot be written: {error.strerror or error}. {cure}, or choose another"
            " folder."
        ) from error
    return out


def refuse_output(out: str | os.PathLike[str], layout: Layout, storage: Storage = LOCAL) -> None:
    """Raise ConfigError when `out` is not empty, or when the layout is not valid."""
    if layout.format not in _FORMATS:
        raise ConfigError(
            f"format {layout.format!r} is unknown; choose parquet or"
            f" zarr.{did_you_mean(layout.format, _FORMATS)}"
        )
    if layout.span_rows < 1:
        raise ConfigError(f"span_rows is {layout.span_rows}; a span has at least 1 row.")
    out = normal_url(out)
    if is_remote(out):
        refuse_read_only(out)
        used = exists(out, storage)
    else:
        used = os.path.lexists(out) and not (os.path.isdir(out) and not os.listdir(out))
    if used:
        raise ConfigError(
            f"{out}: not empty, and nothing is ever overwritten. Choose another folder, or remove"
            " this one."
        )


def run_ahead(
    pool: ThreadPoolExecutor, calls: Iterable[Callable[[], Result]], ahead: int
) -> Iterator[Result]:
    """Yield the results of `calls` in order, with at most `ahead` of them running or waiting."""
    waiting: deque[Future[Result]] = deque()
    try:
        for call in calls:
            waiting.append(pool.submit(call))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _writer_of(format: Format) -> "type[ParquetWriter] | type[ZarrWriter]":
    if format == "parquet":
        return ParquetWriter
    # 0.2 s, which the import of a table need not wait for
    from streamtrain.storage.zarr.zarr_writer import ZarrWriter

    return ZarrWriter


def _write_shards(
    pool: ThreadPoolExecutor,
    staging: Staging,
    layout: Layout,
    measured: Iterator[tuple[Columns, list[Moments]]],
    workers: int,
) -> tuple[list[ShardEntry], list[Moments]]:
    """Write shards; return their manifest entries and the moments of each column."""
    entries: list[Future[ShardEntry]] = []
    moments = [Moments() for _ in layout.columns]
    writer, path = None, ""
    for spans, (columns, added) in enumerate(measured, start=1):
        if writer is None:
            if len(entries) > workers:
                # limit the finished shards on this machine that wait to be uploaded
                entries[-workers - 1].result()
            path = str(staging.folder / f"shard-{len(entries):05d}.{layout.format}")
            max_rows = SPANS_PER_SHARD * layout.span_rows
            writer = _writer_of(layout.format)(
                path, layout.columns, layout.decoded_type, layout.span_rows, max_rows
            )
        writer.write(columns)
        moments = [total + new for total, new in zip(moments, added, strict=True)]
        if spans % SPANS_PER_SHARD == 0:
            writer.close()
            entries.append(pool.submit(_entry, path, staging))
            writer = None
    if writer is not None:
        writer.close()
        entries.append(pool.submit(_entry, path, staging))
    return [entry.result() for entry in entries], moments


def _entry(path: str, staging: Staging) -> ShardEntry:
    shard = describe_shard(path)
    entry = ShardEntry(
        name=os.path.basename(path),
        rows=shard.num_rows,
        boundaries=compact_boundaries(shard.boundaries),
        bytes=shard.num_bytes,
        sha256=hash_shard(path),
        source=shard.source,
    )
    staging.add(Path(path))
    return entry


def _manifest(
    layout: Layout,
    shards: Sequence[ShardEntry],
    moments: Sequence[Moments],
    truth: Truth | None,
    shuffle_seed: int | None,
) -> Manifest:
    statistics = {
        name: Statistics.of(column) for name, column in zip(layout.columns, moments, strict=True)
    }
    return Manifest(
        format=layout.format,
        rows=sum(shard.rows for shard in shards),
        columns=list(layout.columns),
        decoded_type=layout.decoded_type,
        span_rows=layout.span_rows,
        shards=list(shards),
        truth=truth,
        statistics=statistics,
        shuffle_seed=shuffle_seed,
    )


def _measure(make_span: MakeSpan) -> tuple[Columns, list[Moments]]:
    columns = make_span()
    return columns, [Moments.of(column) for column in columns]
