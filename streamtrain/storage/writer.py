"""Writing a data set: spans in, shards and a manifest out; whole or not at all."""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamtrain.config import did_you_mean
from streamtrain.errors import ConfigError, ResourceError
from streamtrain.storage.dataset import describe_shard
from streamtrain.storage.manifest import Manifest, ShardEntry, compact_boundaries, hash_shard, write_manifest
from streamtrain.storage.moments import Moments
from streamtrain.storage.parquet import ParquetWriter
from streamtrain.storage.zarr import ZarrWriter
from streamtrain.types import Format, Truth

SPANS_PER_SHARD = 16

_WRITERS = {"parquet": ParquetWriter, "zarr": ZarrWriter}

Columns = tuple[np.ndarray, ...]
MakeSpan = Callable[[], Columns]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a data set is written: the columns (target last) of one type, `span_rows` a row group or chunk, 16 spans a shard."""

    columns: tuple[str, ...]
    decoded_type: str
    format: Format
    span_rows: int


def write_dataset(
    out: str | os.PathLike[str], layout: Layout, spans: Iterable[MakeSpan], *, workers: int = 1, truth: Truth | None = None
) -> str:
    """Write spans, each of `span_rows` rows but the last, in order; returns the folder's path.

    Calls of `spans` run on `workers` threads, at most `workers + 1` ahead of the one being written. The folder is made under
    a temporary name and renamed when its manifest is written, so a failure leaves nothing.
    Raises ConfigError when `out` is not empty or the format is unknown, ResourceError when it cannot be written.
    """
    out = os.path.abspath(os.fspath(out))
    refuse_output(out, layout)
    temporary = Path(out).parent / f".{Path(out).name}.writing-{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed and had the same number
        temporary.mkdir(parents=True)
        with ThreadPoolExecutor(workers, thread_name_prefix="write") as pool:
            measured = _ahead(pool, (lambda make=make: _measure(make()) for make in spans), workers + 1)
            shards, moments = _write_shards(pool, temporary, layout, measured)
        write_manifest(str(temporary), _manifest(layout, shards, moments, truth))
        if os.path.isdir(out):
            os.rmdir(out)
        os.rename(temporary, out)
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written: {error.strerror or error}. Free space there, or choose another folder.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def refuse_output(out: str | os.PathLike[str], layout: Layout) -> None:
    """Raise ConfigError when `out` holds something already, or the layout cannot be written."""
    if layout.format not in _WRITERS:
        raise ConfigError(f"format {layout.format!r} is unknown; choose parquet or zarr.{did_you_mean(layout.format, _WRITERS)}")
    if layout.span_rows < 1:
        raise ConfigError(f"span_rows is {layout.span_rows}; a span has at least 1 row.")
    if os.path.lexists(out) and not (os.path.isdir(out) and not os.listdir(out)):
        raise ConfigError(f"{out}: not empty, and nothing is ever overwritten. Choose another folder, or remove this one.")


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
    pool: ThreadPoolExecutor, folder: Path, layout: Layout, measured: Iterator[tuple[Columns, list[Moments]]]
) -> tuple[list[ShardEntry], list[Moments]]:
    entries: list[Future[ShardEntry]] = []
    moments = [Moments() for _ in layout.columns]
    writer, spans, path = None, 0, ""
    for columns, added in measured:
        if writer is None:
            path = str(folder / f"shard-{len(entries):05d}.{layout.format}")
            max_rows = SPANS_PER_SHARD * layout.span_rows
            writer = _WRITERS[layout.format](path, layout.columns, layout.decoded_type, layout.span_rows, max_rows)
        writer.write(columns)
        moments = [mine + new for mine, new in zip(moments, added, strict=True)]
        spans += 1
        if spans % SPANS_PER_SHARD == 0:
            writer.close()
            entries.append(pool.submit(_entry, path))
            writer = None
    if writer is not None:
        writer.close()
        entries.append(pool.submit(_entry, path))
    return [entry.result() for entry in entries], moments


def _entry(path: str) -> ShardEntry:
    shard = describe_shard(path)
    return ShardEntry(
        name=os.path.basename(path), rows=shard.num_rows, boundaries=compact_boundaries(shard.boundaries), bytes=shard.num_bytes,
        sha256=hash_shard(path), source=shard.source,
    )


def _manifest(layout: Layout, shards: Sequence[ShardEntry], moments: Sequence[Moments], truth: Truth | None) -> Manifest:
    return Manifest(
        format=layout.format, rows=sum(shard.rows for shard in shards), columns=list(layout.columns), decoded_type=layout.decoded_type,
        span_rows=layout.span_rows, shards=list(shards), truth=truth,
        statistics={name: each.statistics() for name, each in zip(layout.columns, moments, strict=True)},
    )


def _measure(columns: Columns) -> tuple[Columns, list[Moments]]:
    return columns, [Moments.of(column) for column in columns]
