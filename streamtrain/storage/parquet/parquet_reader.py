"""Parquet shards: read by row range, written with page checksums.

What their footers say: parquet_footer.py.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streamtrain.errors import DataError
from streamtrain.storage.decode import decode_arrow
from streamtrain.storage.file_identity import Stamp, stamp
from streamtrain.storage.parquet.fast_pages import (
    PlainBuffers,
    PlainColumn,
    plain_columns,
    read_plain,
)
from streamtrain.storage.parquet.parquet_footer import judge_footer, judge_pages, read_again
from streamtrain.storage.remote.filesystem import open_binary
from streamtrain.storage.remote.remote_file import Traffic
from streamtrain.storage.remote.urls import is_remote
from streamtrain.types import Shard

BATCH_ROWS = 65_536
BUFFER_BYTES = 1 << 20


class ParquetReader:
    """Row ranges of one Parquet file.

    Holds the parsed footer, no open file; any number of threads may read at once.
    """

    def __init__(
        self,
        shard: Shard,
        columns: Sequence[str],
        *,
        buffers: PlainBuffers,
        checked: bool = False,
        judged_pages: set[str] | None = None,
        traffic: Traffic | None = None,
    ):
        """`buffers`: what plain pages are decoded into.

        `checked`: a reader of this shard was made before; its footer, known by its hash, need not
        be judged again. `judged_pages`: the URLs of shards whose pages need not be either, kept up
        to date.
        """
        self._shard, self._buffers, self._traffic = shard, buffers, traffic
        self._judged_pages = set() if judged_pages is None else judged_pages
        self._leaves: dict[tuple[str, ...], list[PlainColumn] | None] = {}
        self._stamp = _stamp(shard)
        self._metadata, self._chunks = judge_footer(shard, columns, checked=checked)

    def read(
        self, columns: Sequence[str], decoded_type: str, start: int, stop: int
    ) -> tuple[np.ndarray, ...]:
        """Rows `[start, stop)` of `columns`, decoded; page checksums are verified where the file
        has them.

        A range much smaller than its row groups is decoded in small batches, so that the memory
        taken is the range's.
        """
        found = self._read(columns, decoded_type, start, stop)
        self._chunks = (
            None  # for the first read alone: those of many readers would take more than rows do
        )
        self._stamp = _refuse_changed(self._shard, self._stamp)
        return found

    def _read(
        self, columns: Sequence[str], decoded_type: str, start: int, stop: int
    ) -> tuple[np.ndarray, ...]:
        edges = self._shard.boundaries
        first = int(np.searchsorted(edges, start, side="right")) - 1
        last = int(np.searchsorted(edges, stop, side="left"))
        num_rows = int(edges[last] - edges[first])
        skip = start - int(edges[first])
        sliced = num_rows > max(2 * (stop - start), BATCH_ROWS)
        if (
            not (sliced or is_remote(self._shard.url))
            and (plain := self._read_plain(columns, decoded_type, range(first, last))) is not None
        ):
            return tuple(column[skip : skip + stop - start] for column in plain)
        if self._shard.url not in self._judged_pages:
            judge_pages(self._shard, columns, self._chunks)
            self._judged_pages.add(self._shard.url)
        with open_file(
            self._shard, self._metadata, BUFFER_BYTES if sliced else 0, self._traffic
        ) as file:
            groups = list(range(first, last))
            if sliced:
                batches = file.iter_batches(
                    BATCH_ROWS, row_groups=groups, columns=list(columns), use_threads=False
                )
                table = pa.Table.from_batches(
                    _cut(batches, skip, skip + stop - start), schema=_schema(file, columns)
                )
            else:
                table = file.read_row_groups(groups, columns=list(columns), use_threads=False)
                _refuse_count(self._shard.url, table.num_rows, num_rows)
                table = table.slice(skip, stop - start)
        _refuse_count(self._shard.url, table.num_rows, stop - start)
        return tuple(decode_arrow(name, table.column(name), decoded_type) for name in columns)

    def _read_plain(
        self, columns: Sequence[str], decoded_type: str, groups: range
    ) -> tuple[np.ndarray, ...] | None:
        """Whole row groups without Arrow.

        None where they are not plain, which is then taken to hold for the whole shard.
        """
        asked = (*columns, decoded_type)
        if asked not in self._leaves:
            self._leaves[asked] = plain_columns(self._metadata, columns, decoded_type)
        leaves, found = self._leaves[asked], None
        if leaves is not None:
            found = read_plain(
                self._shard, self._metadata, leaves, decoded_type, groups, self._buffers
            )
            self._leaves[asked] = leaves if found is not None else None
        return found


class ParquetForward:
    """Reads one shard forward, range after range, with about a batch of it in memory; for one
    thread at a time.

    The file stays open from the first read to `close`.
    """

    def __init__(
        self,
        shard: Shard,
        columns: Sequence[str],
        decoded_type: str,
        *,
        checked: bool = False,
        traffic: Traffic | None = None,
    ):
        """`checked`: its footer and its pages need not be judged again."""
        self._shard, self._columns, self._type, self._traffic = (
            shard,
            list(columns),
            decoded_type,
            traffic,
        )
        self._stamp = _stamp(shard)
        self._metadata, chunks = judge_footer(shard, columns, checked=checked)
        if not checked:
            judge_pages(shard, columns, chunks)
        self._file: pq.ParquetFile | None = None
        self._position = 0

    def read(self, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """Rows `[start, stop)`: cheap from where the last read ended, by decoding what lies between
        when further on; from the start of their row group when further back.
        """
        if self._file is None or start < self._position:
            self._open(start)
        pieces: list[list[np.ndarray]] = [[] for _ in self._columns]
        while self._position < stop:
            if not self._rest.num_rows:
                self._rest = next(self._batches, None)
                if self._rest is None:
                    _refuse_count(self._shard.url, self._position, stop)
            take = min(
                self._rest.num_rows, (stop if self._position >= start else start) - self._position
            )
            if self._position >= start:
                for name, piece in zip(self._columns, pieces, strict=True):
                    column = self._rest.column(name).slice(0, take)
                    piece.append(decode_arrow(name, pa.chunked_array([column]), self._type))
            self._rest = self._rest.slice(take)
            self._position += take
        self._stamp = _refuse_changed(self._shard, self._stamp)
        return tuple(np.concatenate(piece) for piece in pieces)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, start: int) -> None:
        self.close()
        edges = self._shard.boundaries
        group = int(np.searchsorted(edges, start, side="right")) - 1
        self._file = open_file(self._shard, self._metadata, BUFFER_BYTES, self._traffic)
        groups = list(range(group, len(edges) - 1))
        self._batches = self._file.iter_batches(
            BATCH_ROWS, row_groups=groups, columns=self._columns, use_threads=False
        )
        self._rest = pa.RecordBatch.from_pylist([])
        self._position = int(edges[group])


def stream_parquet(shard: Shard, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """All rows of a shard in order, in small batches: memory stays bounded whatever the size of the
    row groups.
    """
    before = _stamp(shard)
    metadata, chunks = judge_footer(shard, columns)
    judge_pages(shard, columns, chunks)
    with open_file(shard, metadata, BUFFER_BYTES) as file:
        num_rows = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=list(columns), use_threads=False):
            num_rows += batch.num_rows
            yield batch
        _refuse_count(shard.url, num_rows, shard.num_rows)
    _refuse_changed(shard, before)


def _stamp(shard: Shard) -> Stamp:
    """Empty for what has none: a file in a store, or one that is gone, which reading tells
    better.
    """
    with suppress(OSError):
        return () if is_remote(shard.url) else stamp(shard.url)
    return ()


def _refuse_changed(shard: Shard, before: Stamp) -> Stamp:
    """Raise DataError when what was just read may be of another file than was opened; the new stamp
    where only its time is new.

    After a read, not before it: a file that is replaced in between was still read from the old one,
    or is found here.
    """
    now = _stamp(shard)
    if now != before:
        read_again(shard)
    return now


class ParquetWriter:
    """Writes one shard, a row group a span: snappy, no dictionary, statistics, page checksums."""

    def __init__(
        self, path: str, columns: Sequence[str], decoded_type: str, span_rows: int, max_rows: int
    ):
        kind = pa.float32() if decoded_type == "float32" else pa.float64()
        self._schema = pa.schema([pa.field(name, kind) for name in columns])
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
        """One span: 1-D arrays of one length."""
        self._writer.write_batch(
            pa.record_batch([pa.array(column) for column in columns], schema=self._schema),
            len(columns[0]),
        )

    def close(self) -> None:
        self._writer.close()


def open_file(
    shard: Shard, metadata: pq.FileMetaData, buffer_bytes: int, traffic: Traffic | None = None
) -> pq.ParquetFile:
    """The file of a shard, to be closed by the caller.

    `buffer_bytes`: columns are read in pieces of so many; 0: a row group at once.

    Raises DataError when its size is no longer what was described.
    """
    source: str | pa.PythonFile = shard.url
    if is_remote(shard.url):
        remote = open_binary(shard.url, shard.storage, traffic)
        source, num_bytes = pa.PythonFile(remote, mode="r"), remote.size
    else:
        num_bytes = os.path.getsize(shard.url)
    if num_bytes != shard.num_bytes:
        raise DataError(
            f"{shard.url}: the file has changed since it was opened. Open the data set again."
        )
    # Over a network the columns of a row group come in as few requests as they lie in pieces of the
    # file.
    at_once = source is not shard.url and not buffer_bytes
    return pq.ParquetFile(
        source,
        metadata=metadata,
        pre_buffer=at_once,
        buffer_size=buffer_bytes,
        page_checksum_verification=True,
        memory_map=False,
    )


def _schema(file: pq.ParquetFile, columns: Sequence[str]) -> pa.Schema:
    schema = file.schema_arrow
    return pa.schema([field for field in schema if field.name in set(columns)])


def _cut(batches: Iterator[pa.RecordBatch], start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """Rows `[start, stop)` of a stream of batches."""
    position = 0
    for batch in batches:
        low, high = max(start - position, 0), min(stop - position, batch.num_rows)
        position += batch.num_rows
        if low < high:
            yield batch.slice(low, high - low)
        if position >= stop:
            return


def _refuse_count(url: str, got: int, asked: int) -> None:
    if got != asked:
        raise DataError(
            f"{url}: the footer promises {asked:,} rows where the file holds {got:,}. Write the"
            " file again."
        )
