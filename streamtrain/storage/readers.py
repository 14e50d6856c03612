"""Row ranges of a data set, decoded: one contract over every format."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Protocol

import numpy as np

from streamtrain.base.buffers import Buffers
from streamtrain.errors import DataError, ResourceError, StoreError, first_line
from streamtrain.storage.parquet.fast_pages import PlainBuffers
from streamtrain.storage.parquet.parquet_reader import ParquetForward, ParquetReader
from streamtrain.storage.remote.remote_file import Traffic
from streamtrain.storage.zarr.zarr_reader import ZarrForward, ZarrReader
from streamtrain.types import Dataset, Format, Shard

_CACHED_SHARDS = 256
_KEPT_BUFFERS = 8
_MOST_BUFFER_BYTES = 2**26

#: Small row groups are read together up to about so many rows, as a rule.
_SPAN_ROWS = 2**18


class Reader(Protocol):
    """Row ranges of one shard; see `Readers.read`."""

    def read(
        self, columns: tuple[str, ...], decoded_type: str, start: int, stop: int
    ) -> tuple[np.ndarray, ...]: ...


class Readers:
    """Reads any row range of any shard; any number of threads at once.

    Parsed metadata of the last 256 shards is kept; no file stays open between calls. `traffic`:
    what came from object stores so far.
    """

    def __init__(self, dataset: Dataset):
        self._dataset = dataset
        self.traffic = Traffic()
        self._reader = lru_cache(_CACHED_SHARDS)(self._open)
        self._checked: set[int] = set()
        self._judged_pages: set[str] = set()
        # Arrow's decoder has a memory pool of its own; Zarr chunks and plain Parquet pages are
        # decoded into these.
        self._buffers = Buffers(_largest_chunk_bytes(dataset), keep=_KEPT_BUFFERS)
        self._plain = PlainBuffers(
            max(_largest_rows(dataset, "parquet"), min(_SPAN_ROWS, dataset.num_rows)),
            len(dataset.columns),
        )

    def read(self, shard: int, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """Rows `[start, stop)` of shard number `shard`: one 1-D array per column of the data set,
        target last.

        Arrays have the data set's `decoded_type`; null is NaN; they may be strided or read-only,
        and belong to the caller. Any range is right; ranges along the shard's boundaries are fast.
        A read that fails is tried once more, since networks and disks fail for a moment too. Raises
        DataError naming file, rows and cause, ResourceError when memory does not suffice.
        """
        described = self._dataset.shards[shard]
        assert 0 <= start <= stop <= described.num_rows, (shard, start, stop)
        if start == stop:
            return tuple(
                np.empty(0, dtype=self._dataset.decoded_type) for _ in self._dataset.columns
            )
        for last in (False, True):
            with suppress(_Again), _typed_errors(described, start, stop, last=last):
                columns = self._reader(shard).read(
                    self._dataset.columns, self._dataset.decoded_type, start, stop
                )
                break
        assert all(len(column) == stop - start for column in columns)
        return columns

    def forward(self, shard: int) -> "Forward":
        """A reader of the same rows for ranges that follow one another, where a row group or chunk
        is too large to read at once: it keeps its place in it. For one thread at a time; holds a
        file open until `close`.
        """
        return Forward(shard, self._dataset, self._judged_pages, self.traffic)

    def _open(self, shard: int) -> Reader:
        described = self._dataset.shards[shard]
        if described.format == "zarr":
            return ZarrReader(described, self._buffers, self.traffic)
        reader = ParquetReader(
            described,
            self._dataset.columns,
            buffers=self._plain,
            checked=shard in self._checked,
            judged_pages=self._judged_pages,
            traffic=self.traffic,
        )
        self._checked.add(shard)
        return reader


class Forward:
    """See `Readers.forward`."""

    def __init__(self, number: int, dataset: Dataset, judged: set[str], traffic: Traffic):
        self._shard, self._dataset, self._judged, self._traffic = (
            dataset.shards[number],
            dataset,
            judged,
            traffic,
        )
        self._reader: ParquetForward | ZarrForward | None = None

    def read(self, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """As `Readers.read`."""
        for last in (False, True):
            with suppress(_Again), _typed_errors(self._shard, start, stop, last=last):
                if self._reader is None:
                    self._reader = self._open()
                return self._reader.read(start, stop)
            self.close()  # a reader that failed has lost its place
        raise AssertionError

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _open(self) -> ParquetForward | ZarrForward:
        shard, columns, kind = self._shard, self._dataset.columns, self._dataset.decoded_type
        if shard.format == "zarr":
            return ZarrForward(shard, columns, kind, self._traffic)
        reader = ParquetForward(
            shard, columns, kind, checked=shard.url in self._judged, traffic=self._traffic
        )
        self._judged.add(shard.url)
        return reader


class _Again(Exception):
    """A read failed for the first time."""


@contextmanager
def _typed_errors(shard: Shard, start: int, stop: int, *, last: bool) -> Iterator[None]:
    """Hostile bytes raise OSError, ArrowInvalid, UnicodeDecodeError, RuntimeError …: all become one
    DataError; before the `last` attempt, `_Again`. What we refused ourselves stays refused.
    """
    try:
        yield
    except MemoryError as error:
        raise ResourceError(
            f"{_place(shard, start, stop)} do not fit in memory: {first_line(error)}. Close other"
            " programs, or run streamtrain ingest, which writes small row groups."
        ) from error
    except DataError as error:
        raise (
            error
            if shard.url in str(error) or isinstance(error, StoreError)
            else DataError(f"{_place(shard, start, stop)}: {error}")
        ) from error
    except Exception as error:
        if not last:
            raise _Again from error
        raise DataError(
            f"{_place(shard, start, stop)} cannot be decoded: {first_line(error)}. Restore the"
            " file, or leave it out of the data set."
        ) from error


def _place(shard: Shard, start: int, stop: int) -> str:
    return f"{shard.url}: rows {start:,} to {stop:,}"


def _largest_chunk_bytes(dataset: Dataset) -> int:
    """Of the Zarr shards: float32 or float64, all columns; at most 64 MiB, since larger reads are
    rare and few.
    """
    return min(
        _largest_rows(dataset, "zarr") * max(len(shard.columns) for shard in dataset.shards) * 8,
        _MOST_BUFFER_BYTES,
    )


def _largest_rows(dataset: Dataset, format: Format) -> int:
    """Of its row groups or chunks; 0 when it has none of the format."""
    return max(
        (
            int(np.diff(shard.boundaries).max(initial=0))
            for shard in dataset.shards
            if shard.format == format
        ),
        default=0,
    )
