"""Parquet shards: read by row range, and written with page checksums.

Footers are read and validated in `parquet_footer.py`.
"""

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streamtrain.errors import DataError
from streamtrain.storage.decode import decode_arrow
from streamtrain.storage.file_identity import FileIdentity, file_identity
from streamtrain.storage.parquet.fast_pages import (
    PlainBuffers,
    PlainColumn,
    plain_columns,
    read_plain,
)
from streamtrain.storage.parquet.parquet_footer import (
    reread_footer,
    validate_footer,
    validate_pages,
)
from streamtrain.storage.remote.filesystem import open_remote
from streamtrain.storage.remote.remote_file import Traffic
from streamtrain.storage.remote.urls import is_remote
from streamtrain.types import Shard

BATCH_ROWS = 65_536
BUFFER_BYTES = 1 << 20
_EMPTY = pa.RecordBatch.from_pylist([])


class ParquetReader:
    """Reads row ranges of one Parquet file.

    Holds the parsed footer and no open file. Thread-safe.
    """

    def __init__(
        self,
        shard: Shard,
        columns: Sequence[str],
        *,
        buffers: PlainBuffers,
        validated: bool = False,
        validated_pages: set[str] | None = None,
        traffic: Traffic | None = None,
        keeps_rows: bool = False,
    ):
        """Read and validate the footer.

        `buffers`: memory that plain pages are decoded into. `validated`: an earlier reader of this
        shard validated its footer, which is recognised by its hash. `validated_pages`: the URLs of
        shards whose page headers were validated; this reader adds its own. `keeps_rows`: the rows
        of a local shard are kept in memory, so that each is decoded once while the file stays the
        same.
        """
        self._shard, self._buffers, self._traffic = shard, buffers, traffic
        self._keeps_rows = keeps_rows and not is_remote(shard.url)
        self._kept: dict[tuple[object, ...], tuple[np.ndarray, ...]] = {}
        self._validated_pages = set() if validated_pages is None else validated_pages
        self._plain_columns: dict[tuple[str, ...], list[PlainColumn] | None] = {}
        self._identity = _identity(shard)
        self._metadata, self._chunks = validate_footer(shard, columns, validated=validated)

    def read(
        self, columns: Sequence[str], decoded_type: str, start: int, stop: int
    ) -> tuple[np.ndarray, ...]:
        """Return rows `[start, stop)` of `columns`, decoded: one 1-D array per column.

        Page checksums are verified where the file has them. A range much smaller than its row
        groups is decoded in small batches, so that memory is proportional to the range.
        """
        key = (*columns, decoded_type, start, stop)
        kept = self._kept.get(key)
        if kept is not None:
            before, self._identity = self._identity, _require_same_file(self._shard, self._identity)
            if self._identity == before:
                return kept
            self._kept.clear()
        values = self._read(columns, decoded_type, start, stop)
        # Kept for the first read only: the chunks of many readers would take more memory than rows.
        self._chunks = None
        self._identity = _require_same_file(self._shard, self._identity)
        if self._keeps_rows:
            return self._keep(key, values)
        return values

    def _keep(
        self, key: tuple[object, ...], values: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, ...]:
        """Return copies of decoded columns, and keep them.

        They are not kept where more rows than the shard has would be. They are copies, so that
        buffers can be lent again, and read-only, because several callers get the same arrays.
        """
        copies = tuple(column.copy() for column in values)
        for column in copies:
            column.flags.writeable = False
        others = sum(len(columns[0]) for columns in list(self._kept.values()))
        if others + len(copies[0]) <= self._shard.num_rows:
            self._kept[key] = copies
        return copies

    def _read(
        self, columns: Sequence[str], decoded_type: str, start: int, stop: int
    ) -> tuple[np.ndarray, ...]:
        shard, edges = self._shard, self._shard.boundaries
        first = int(np.searchsorted(edges, start, side="right")) - 1
        last = int(np.searchsorted(edges, stop, side="left"))
        num_rows = int(edges[last] - edges[first])
        skip = start - int(edges[first])
        rows = slice(skip, skip + stop - start)
        in_batches = num_rows > max(2 * (stop - start), BATCH_ROWS)
        if not in_batches and not is_remote(shard.url):
            plain = self._read_plain(columns, decoded_type, range(first, last))
            if plain is not None:
                return tuple(column[rows] for column in plain)
        if shard.url not in self._validated_pages:
            validate_pages(shard, columns, self._chunks)
            self._validated_pages.add(shard.url)
        buffer_bytes = BUFFER_BYTES if in_batches else 0
        with open_file(shard, self._metadata, buffer_bytes, self._traffic) as file:
            groups = list(range(first, last))
            if in_batches:
                batches = file.iter_batches(
                    BATCH_ROWS, row_groups=groups, columns=list(columns), use_threads=False
                )
                # pyarrow orders the columns of a batch by the file or by `columns`, by version
                parts = list(_cut(batches, rows.start, rows.stop)) or [_EMPTY]
                table = pa.Table.from_batches(parts)
            else:
                table = file.read_row_groups(groups, columns=list(columns), use_threads=False)
                _require_rows(shard.url, table.num_rows, num_rows)
                table = table.slice(skip, stop - start)
        _require_rows(shard.url, table.num_rows, stop - start)
        return tuple(decode_arrow(name, table.column(name), decoded_type) for name in columns)

    def _read_plain(
        self, columns: Sequence[str], decoded_type: str, groups: range
    ) -> tuple[np.ndarray, ...] | None:
        """Read whole row groups without Arrow; None where they are not plain.

        A shard with one row group that is not plain is never tried again.
        """
        key = (*columns, decoded_type)
        if key not in self._plain_columns:
            self._plain_columns[key] = plain_columns(self._metadata, columns, decoded_type)
        leaves = self._plain_columns[key]
        if leaves is None:
            return None
        values = read_plain(
            self._shard, self._metadata, leaves, decoded_type, groups, self._buffers
        )
        if values is None:
            self._plain_columns[key] = None
        return values


class ParquetForward:
    """Reads one shard forward, range after range, with about one batch in memory.

    For one thread at a time. The file stays open from the first read to `close`.
    """

    def __init__(
        self,
        shard: Shard,
        columns: Sequence[str],
        decoded_type: str,
        *,
        validated: bool = False,
        traffic: Traffic | None = None,
    ):
        """Read and validate the footer; `validated`: footer and pages were validated before."""
        self._shard, self._columns, self._type = shard, list(columns), decoded_type
        self._traffic = traffic
        self._identity = _identity(shard)
        self._metadata, chunks = validate_footer(shard, columns, validated=validated)
        if not validated:
            validate_pages(shard, columns, chunks)
        self._file: pq.ParquetFile | None = None
        self._position = 0
        # decoded rows from `_position` on, and the batches after them
        self._rest = _EMPTY
        self._batches: Iterator[pa.RecordBatch] = iter(())

    def read(self, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """Return rows `[start, stop)`: one 1-D array per column.

        Reading on from the end of the last read is cheap. A range further ahead decodes the rows
        between; a range further back decodes from the start of its row group.
        """
        if self._file is None or start < self._position:
            self._open(start)
        pieces: list[list[np.ndarray]] = [[] for _ in self._columns]
        while self._position < stop:
            if not self._rest.num_rows:
                self._rest = next(self._batches, _EMPTY)
                if self._rest is _EMPTY:
                    _require_rows(self._shard.url, self._position, stop)
            is_in_range = self._position >= start
            limit = stop if is_in_range else start
            count = min(self._rest.num_rows, limit - self._position)
            if is_in_range:
                for name, piece in zip(self._columns, pieces, strict=True):
                    column = self._rest.column(name).slice(0, count)
                    piece.append(decode_arrow(name, pa.chunked_array([column]), self._type))
            self._rest = self._rest.slice(count)
            self._position += count
        self._identity = _require_same_file(self._shard, self._identity)
        return tuple(np.concatenate(piece) for piece in pieces)

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, start: int) -> None:
        """Open the file at the start of the row group that holds row `start`."""
        self.close()
        edges = self._shard.boundaries
        group = int(np.searchsorted(edges, start, side="right")) - 1
        self._file = open_file(self._shard, self._metadata, BUFFER_BYTES, self._traffic)
        groups = list(range(group, len(edges) - 1))
        self._batches = self._file.iter_batches(
            BATCH_ROWS, row_groups=groups, columns=self._columns, use_threads=False
        )
        self._rest = _EMPTY
        self._position = int(edges[group])


def stream_parquet(shard: Shard, columns: Sequence[str]) -> Generator[pa.RecordBatch, None, None]:
    """Yield all rows of a shard in order, in small batches.

    Memory stays bounded whatever the size of the row groups.
    """
    identity = _identity(shard)
    metadata, chunks = validate_footer(shard, columns)
    validate_pages(shard, columns, chunks)
    with open_file(shard, metadata, BUFFER_BYTES) as file:
        num_rows = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=list(columns), use_threads=False):
            num_rows += batch.num_rows
            yield batch
        _require_rows(shard.url, num_rows, shard.num_rows)
    _require_same_file(shard, identity)


def _identity(shard: Shard) -> FileIdentity:
    """Return the identity of the file; empty for a remote file, and for one that is missing.

    Reading a missing file gives the better error message.
    """
    with suppress(OSError):
        return () if is_remote(shard.url) else file_identity(shard.url)
    return ()


def _require_same_file(shard: Shard, before: FileIdentity) -> FileIdentity:
    """Raise DataError when the rows just read may be from another file than was opened.

    Returns the new identity when only the modification time differs. It is checked after a read,
    not before it: a file replaced in between was either still read from the old one, or is detected
    here.
    """
    now = _identity(shard)
    if now != before:
        reread_footer(shard)
    return now


class ParquetWriter:
    """Writes one shard, one row group per span.

    Snappy, no dictionary, with statistics and page checksums.
    """

    def __init__(
        self, path: str, columns: Sequence[str], decoded_type: str, span_rows: int, max_rows: int
    ):
        value_type = pa.float32() if decoded_type == "float32" else pa.float64()
        self._schema = pa.schema([pa.field(name, value_type) for name in columns])
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression="snappy",
            use_dictionary=False,
            write_statistics=True,
            write_page_checksum=True,
            store_schema=False,
        )

    def write(self, columns: Sequence[np.ndarray]) -> None:
        """Write one span: 1-D arrays of equal length."""
        arrays = [pa.array(column) for column in columns]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema), len(columns[0]))

    def close(self) -> None:
        """Write the footer and close the file."""
        self._writer.close()


def open_file(
    shard: Shard, metadata: pq.FileMetaData, buffer_bytes: int, traffic: Traffic | None = None
) -> pq.ParquetFile:
    """Open the file of a shard; the caller closes it.

    `buffer_bytes`: size of the pieces in which columns are read; 0 reads a whole row group at once.

    Raises DataError when its size is no longer what was described.
    """
    source: str | pa.PythonFile = shard.url
    if is_remote(shard.url):
        remote = open_remote(shard.url, shard.storage, traffic)
        source, num_bytes = pa.PythonFile(remote, mode="r"), remote.size
    else:
        num_bytes = os.path.getsize(shard.url)
    if num_bytes != shard.num_bytes:
        raise DataError(
            f"{shard.url}: the file has changed since it was opened. Open the data set again."
        )
    # From a network, the adjacent columns of a row group are fetched in one request.
    pre_buffer = source is not shard.url and not buffer_bytes
    return pq.ParquetFile(
        source,
        metadata=metadata,
        pre_buffer=pre_buffer,
        buffer_size=buffer_bytes,
        page_checksum_verification=True,
        memory_map=False,
    )


def _cut(batches: Iterator[pa.RecordBatch], start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """Yield rows `[start, stop)` of a stream of batches."""
    position = 0
    for batch in batches:
        low, high = max(start - position, 0), min(stop - position, batch.num_rows)
        position += batch.num_rows
        if low < high:
            yield batch.slice(low, high - low)
        if position >= stop:
            return


def _require_rows(url: str, num_rows: int, claimed: int) -> None:
    if num_rows != claimed:
        raise DataError(
            f"{url}: the footer claims {claimed:,} rows, but the file has {num_rows:,}. Write the"
            " file again."
        )
