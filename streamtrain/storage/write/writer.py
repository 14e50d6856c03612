"""Writing a data set: spans in, shards and a manifest out; whole or not at all."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamtrain.base.words import did_you_mean
from streamtrain.errors import ConfigError, ResourceError
from streamtrain.storage.dataset import describe_shard
from streamtrain.storage.manifest import (
    Manifest,
    ShardEntry,
    compact_boundaries,
    exists,
    hash_shard,
    write_manifest,
)
from streamtrain.storage.moments import Moments
from streamtrain.storage.parquet.parquet_reader import ParquetWriter
from streamtrain.storage.remote.filesystem import refuse_read_only
from streamtrain.storage.remote.urls import is_remote, normal_url
from streamtrain.storage.write.staging import Draft, open_draft
from streamtrain.storage.zarr.zarr_writer import ZarrWriter
from streamtrain.types import LOCAL, Format, Storage, Truth

SPANS_PER_SHARD = 16

_WRITERS = {"parquet": ParquetWriter, "zarr": ZarrWriter}

Columns = tuple[np.ndarray, ...]
MakeSpan = Callable[[], Columns]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a data set is written: the columns (target last) of one type, `span_rows` a row group or
    chunk, 16 spans a shard.
    """

    columns: tuple[str, ...]
    decoded_type: str
    format: Format
    span_rows: int


def write_dataset(
    out: str | os.PathLike[str],
    layout: Layout,
    spans: Iterable[MakeSpan],
    *,
    workers: int = 1,
    truth: Truth | None = None,
    storage: Storage = LOCAL,
) -> str:
    """Write spans, each of `span_rows` rows but the last, in order; returns the folder's path or
    URL.

    Calls of `spans` run on `workers` threads, at most `workers + 1` ahead of the one being written.
    Shards are made under a temporary name, and have their own when the manifest is written
    (drafts.py), so a failure leaves nothing. Raises ConfigError when `out` is not empty or the
    format is unknown, ResourceError when it cannot be written, StoreError when its store does not
    answer.
    """
    out = normal_url(out)
    refuse_output(out, layout, storage)
    try:
        with open_draft(out, storage) as draft:
            with ThreadPoolExecutor(workers, thread_name_prefix="write") as pool:
                measured = _ahead(
                    pool, (lambda make=make: _measure(make()) for make in spans), workers + 1
                )
                shards, moments = _write_shards(pool, draft, layout, measured, workers)
            write_manifest(str(draft.folder), _manifest(layout, shards, moments, truth))
            draft.finish()
    except OSError as error:
        raise ResourceError(
            f"{out}: cannot be written: {error.strerror or error}. Free space there, or choose"
            " another folder."
        ) from error
    return out


def refuse_output(out: str | os.PathLike[str], layout: Layout, storage: Storage = LOCAL) -> None:
    """Raise ConfigError when `out` holds something already, or the layout cannot be written."""
    if layout.format not in _WRITERS:
        raise ConfigError(
            f"format {layout.format!r} is unknown; choose parquet or"
            f" zarr.{did_you_mean(layout.format, _WRITERS)}"
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


def _ahead(pool: ThreadPoolExecutor, calls: Iterable[Callable[[], object]], ahead: int) -> Iterator:
    """The results of `calls` in order, `ahead` of them running or waiting at any time."""
    waiting: deque[Future] = deque()
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


def _write_shards(
    pool: ThreadPoolExecutor,
    draft: Draft,
    layout: Layout,
    measured: Iterator[tuple[Columns, list[Moments]]],
    workers: int,
) -> tuple[list[ShardEntry], list[Moments]]:
    entries: list[Future[ShardEntry]] = []
    moments = [Moments() for _ in layout.columns]
    writer, path = None, ""
    for spans, (columns, added) in enumerate(measured, start=1):
        if writer is None:
            if len(entries) > workers:
                # shards that wait to be uploaded take room on this machine
                entries[-workers - 1].result()
            path = str(draft.folder / f"shard-{len(entries):05d}.{layout.format}")
            max_rows = SPANS_PER_SHARD * layout.span_rows
            writer = _WRITERS[layout.format](
                path, layout.columns, layout.decoded_type, layout.span_rows, max_rows
            )
        writer.write(columns)
        moments = [mine + new for mine, new in zip(moments, added, strict=True)]
        if spans % SPANS_PER_SHARD == 0:
            writer.close()
            entries.append(pool.submit(_entry, path, draft))
            writer = None
    if writer is not None:
        writer.close()
        entries.append(pool.submit(_entry, path, draft))
    return [entry.result() for entry in entries], moments


def _entry(path: str, draft: Draft) -> ShardEntry:
    shard = describe_shard(path)
    entry = ShardEntry(
        name=os.path.basename(path),
        rows=shard.num_rows,
        boundaries=compact_boundaries(shard.boundaries),
        bytes=shard.num_bytes,
        sha256=hash_shard(path),
        source=shard.source,
    )
    draft.keep(Path(path))
    return entry


def _manifest(
    layout: Layout, shards: Sequence[ShardEntry], moments: Sequence[Moments], truth: Truth | None
) -> Manifest:
    return Manifest(
        format=layout.format,
        rows=sum(shard.rows for shard in shards),
        columns=list(layout.columns),
        decoded_type=layout.decoded_type,
        span_rows=layout.span_rows,
        shards=list(shards),
        truth=truth,
        statistics={
            name: each.statistics() for name, each in zip(layout.columns, moments, strict=True)
        },
    )


def _measure(columns: Columns) -> tuple[Columns, list[Moments]]:
    return columns, [Moments.of(column) for column in columns]
