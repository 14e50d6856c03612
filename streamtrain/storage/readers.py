"""Row ranges of a data set, decoded: one contract for every format."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

from streamtrain.base.buffers import Buffers
from streamtrain.errors import DataError, ResourceError, StoreError, first_line
from streamtrain.storage.parquet.fast_pages import PlainBuffers
from streamtrain.storage.parquet.parquet_reader import ParquetForward, ParquetReader
from streamtrain.storage.remote.remote_file import Traffic
from streamtrain.storage.remote.urls import is_remote
from streamtrain.types import Dataset, Format, Shard

if TYPE_CHECKING:
    from streamtrain.storage.zarr.zarr_reader import ZarrForward

_CACHED_SHARDS = 256

#: The rows of a data set of at most this many values stay in memory once they are decoded, 2 MiB.
#: A small table is read for thousands of epochs, and decoding takes a third of its delivery.
KEPT_VALUES = 2**18

_KEPT_BUFFERS = 8
_MAX_BUFFER_BYTES = 2**26

#: Row groups smaller than this are usually read together, up to about this number of rows.
_SPAN_ROWS = 2**18


class Reader(Protocol):
    """Reads row ranges of one shard."""

    def read(
        self, columns: tuple[str, ...], decoded_type: str, start: int, stop: int
    ) -> tuple[np.ndarray, ...]:
        """Return rows `[start, stop)`; see `Readers.read`."""
        ...


class Readers:
    """Reads any row range of any shard. Thread-safe.

    The parsed metadata of the last 256 shards is kept; no file stays open between calls. `traffic`
    counts the reads from object stores so far.
    """

    def __init__(self, dataset: Dataset, *, keeps_rows: bool = False):
        """`keeps_rows`: keep the rows of a small data set in local Parquet files."""
        self._dataset = dataset
        self._keeps_rows = keeps_rows and dataset.num_rows * len(dataset.columns) <= KEPT_VALUES
        self.traffic = Traffic()
        self._reader = lru_cache(_CACHED_SHARDS)(self._open)
        # shards whose footer was validated, and URLs of those whose page headers were
        self._validated: set[int] = set()
        self._validated_pages: set[str] = set()
        # Zarr chunks and plain Parquet pages are decoded into these; Arrow has its own memory pool.
        self._buffers = Buffers(_largest_chunk_bytes(dataset), keep=_KEPT_BUFFERS)
        self._plain_buffers = PlainBuffers(
            max(_largest_rows(dataset, "parquet"), min(_SPAN_ROWS, dataset.num_rows)),
            len(dataset.columns),
        )

    def read(self, shard: int, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """Return rows `[start, stop)` of shard number `shard`.

        One 1-D array per column of the data set, target last, of the data set's `decoded_type`;
        null is NaN. The arrays may be strided or read-only, and belong to the caller. Any range is
        valid; ranges along the shard's boundaries are fast.

        A failed read is retried once, since networks and disks fail temporarily.

        Raises DataError naming file, rows and cause, and ResourceError when memory is not
        sufficient.
        """
        described = self._dataset.shards[shard]
        assert 0 <= start <= stop <= described.num_rows, (shard, start, stop)
        decoded_type = self._dataset.decoded_type
        if start == stop:
            return tuple(np.empty(0, dtype=decoded_type) for _ in self._dataset.columns)
        for last_attempt in (False, True):
            with (
                suppress(_RetryRead),
                _as_data_error(described, start, stop, last_attempt=last_attempt),
            ):
                columns = self._reader(shard).read(self._dataset.columns, decoded_type, start, stop)
                break
        assert all(len(column) == stop - start for column in columns)
        return columns

    def forward(self, shard: int) -> "Forward":
        """Return a reader of the same rows for ranges that follow one another.

        It is for row groups or chunks that are too large to be read at once: it keeps its position
        in them. For one thread at a time; it holds a file open until `close`.
        """
        return Forward(shard, self._dataset, self._validated_pages, self.traffic)

    def _open(self, shard: int) -> Reader:
        described = self._dataset.shards[shard]
        if described.format == "zarr":
            # imported where a shard is Zarr: see `describe_shard`
            from streamtrain.storage.zarr.zarr_reader import ZarrReader

            return ZarrReader(described, self._buffers, self.traffic)
        reader = ParquetReader(
            described,
            self._dataset.columns,
            buffers=self._plain_buffers,
            validated=shard in self._validated,
            validated_pages=self._validated_pages,
            traffic=self.traffic,
            keeps_rows=self._keeps_rows,
        )
        self._validated.add(shard)
        return reader


class Forward:
    """Reads consecutive ranges of one shard; see `Readers.forward`."""

    def __init__(self, number: int, dataset: Dataset, validated: set[str], traffic: Traffic):
        """`validated`: URLs of shards that were validated; this reader adds its own."""
        self._shard = dataset.shards[number]
        self._dataset = dataset
        self._validated = validated
        self._traffic = traffic
        self._reader: ParquetForward | ZarrForward | None = None

    def read(self, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """Return rows `[start, stop)`, as `Readers.read` does."""
        for last_attempt in (False, True):
            with (
                suppress(_RetryRead),
                _as_data_error(self._shard, start, stop, last_attempt=last_attempt),
            ):
                if self._reader is None:
                    self._reader = self._open()
                return self._reader.read(start, stop)
            self.close()  # a reader that failed has lost its position
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _open(self) -> "ParquetForward | ZarrForward":
        shard, columns, decoded_type = (
            self._shard,
            self._dataset.columns,
            self._dataset.decoded_type,
        )
        if shard.format == "zarr":
            from streamtrain.storage.zarr.zarr_reader import ZarrForward

            return ZarrForward(shard, columns, decoded_type, self._traffic)
        validated = shard.url in self._validated
        reader = ParquetForward(
            shard, columns, decoded_type, validated=validated, traffic=self._traffic
        )
        self._validated.add(shard.url)
        return reader


class _RetryRead(Exception):
    """A read failed for the first time."""


@contextmanager
def _as_data_error(shard: Shard, start: int, stop: int, *, last_attempt: bool) -> Iterator[None]:
    """Raise one DataError for whatever a decoder raises.

    Hostile bytes raise OSError, ArrowInvalid, UnicodeDecodeError, RuntimeError and others. Before
    the last attempt they become `_RetryRead`. Our own DataErrors are retried for an object store
    only, where bytes may be damaged on their way.
    """
    try:
        yield
    except MemoryError as error:
        raise ResourceError(
            f"{_rows_of(shard, start, stop)} do not fit in memory: {first_line(error)}. Close other"
            " programs, or run streamtrain ingest, which writes small row groups."
        ) from error
    except DataError as error:
        if not last_attempt and is_remote(shard.url) and not isinstance(error, StoreError):
            raise _RetryRead from error
        if shard.url in str(error) or isinstance(error, StoreError):
            raise
        raise DataError(f"{_rows_of(shard, start, stop)}: {error}") from error
    except Exception as error:
        if not last_attempt:
            raise _RetryRead from error
        raise DataError(
            f"{_rows_of(shard, start, stop)} cannot be decoded: {first_line(error)}. Restore the"
            " file, or leave it out of the data set."
        ) from error


def _rows_of(shard: Shard, start: int, stop: int) -> str:
    return f"{shard.url}: rows {start:,} to {stop:,}"


def _largest_chunk_bytes(dataset: Dataset) -> int:
    """Return the bytes of the largest decoded Zarr chunk, all its columns as float64.

    At most 64 MiB, because larger reads are rare.
    """
    num_columns = max(len(shard.columns) for shard in dataset.shards)
    return min(_largest_rows(dataset, "zarr") * num_columns * 8, _MAX_BUFFER_BYTES)


def _largest_rows(dataset: Dataset, format: Format) -> int:
    """Return the rows of the largest row group or chunk; 0 when there is no shard of `format`."""
    sizes = (
        int(np.diff(shard.boundaries).max(initial=0))
        for shard in dataset.shards
        if shard.format == format
    )
    return max(sizes, default=0)
