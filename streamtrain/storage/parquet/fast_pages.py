"""Plain pages of a Parquet file, without Arrow: a read, a checksum, a decompression, and the values
lie where they belong.

Arrow's decoder checks the pages' CRC-32 and copies every value three times, which takes 14 ns for a
row of five float32 columns. What most writers make of numbers needs neither: PLAIN pages without
nulls, one run of levels before the values. Pages are decompressed from the last to the first, so
that the levels of one lie on values of the page before it, which come next:

    | pad   0 | values 0       | values 1       |  page 1 first: its levels end at its values
    |    lev 0| values 0  lev 1| values 1       |  page 0 then overwrites those levels

Whatever is not just so is left to Arrow, errors and wrong checksums included: `read_plain` returns
None for it.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cramjam
import numpy as np
import pyarrow.parquet as pq
from isal import isal_zlib

from streamtrain.base.buffers import Buffers
from streamtrain.kernels.page_headers import BODY, CRC, DECODED, STORED, VALUES, read_page_headers
from streamtrain.types import Shard

#: Before each column's values: room for the levels of its first page.
_PAD_BYTES = 64

#: Pages with fewer values than this are left to Arrow: the calls would take longer than the work.
_LEAST_VALUES = 2048

#: Buffers that wait to be used again, and the largest; larger reads are rare and few.
_KEPT, _MOST_BUFFER_BYTES = 8, 2**26

_TYPES = {"FLOAT": "float32", "DOUBLE": "float64"}


def _copy(stored: memoryview, out: memoryview) -> int:
    if len(stored) == len(out):
        out[:] = stored
    return len(stored)


#: Codec → writes what a page decodes to and returns its length.
_DECOMPRESS: dict[str, Callable[[memoryview, memoryview], int]] = {
    "UNCOMPRESSED": _copy,
    "SNAPPY": cramjam.snappy.decompress_raw_into,
}


class PlainBuffers:
    """Memory for the largest read of a data set: row groups of `most_rows` rows and `width` columns
    of at most 8 bytes. Thread-safe.
    """

    def __init__(self, most_rows: int, width: int):
        self.decoded = Buffers(
            min(width * (most_rows * 8 + 2 * _PAD_BYTES), _MOST_BUFFER_BYTES), keep=_KEPT
        )
        self.stored = Buffers(min(most_rows * 8 + 2**16, _MOST_BUFFER_BYTES), keep=_KEPT)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainColumn:
    """A leaf of the schema whose chunks may be plain: its place, and whether its values may be null
    (levels come first).
    """

    place: int
    optional: bool


def plain_columns(
    metadata: pq.FileMetaData, names: Sequence[str], decoded_type: str
) -> list[PlainColumn] | None:
    """The leaves of `names`, or None when one of them is no flat column of just this type, or this
    machine stores numbers otherwise.
    """
    schema = metadata.schema
    found = {}
    for place in range(metadata.num_columns):
        leaf = schema.column(place)
        flat = (
            leaf.max_repetition_level == 0
            and leaf.max_definition_level <= 1
            and leaf.path == leaf.name
        )
        if flat and _TYPES.get(leaf.physical_type) == decoded_type:
            found[leaf.name] = PlainColumn(place=place, optional=leaf.max_definition_level == 1)
    if sys.byteorder != "little" or not all(name in found for name in names):
        return None
    return [found[name] for name in names]


def read_plain(
    shard: Shard,
    metadata: pq.FileMetaData,
    columns: Sequence[PlainColumn],
    decoded_type: str,
    groups: range,
    buffers: PlainBuffers,
) -> tuple[np.ndarray, ...] | None:
    """All rows of row groups `groups`, a 1-D array a column; None when anything is not plain, or
    the file has another size than it had.

    The arrays are views of memory that `buffers` lends. Checksums are verified where pages have
    them. Raises OSError.
    """
    item = np.dtype(decoded_type).itemsize
    rows = [metadata.row_group(group).num_rows for group in groups]
    stride = -(-(_PAD_BYTES + sum(rows) * item) // _PAD_BYTES) * _PAD_BYTES
    out = buffers.decoded.lend((len(columns), stride), np.uint8)
    file = os.open(shard.url, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(file).st_size != shard.num_bytes:
            return None
        for line, column in zip(out, columns, strict=True):
            end = _PAD_BYTES + sum(rows) * item
            for group, count in zip(reversed(groups), reversed(rows), strict=True):
                chunk = metadata.row_group(group).column(column.place)
                if not _read_chunk(
                    file, chunk, column.optional, count, item, memoryview(line), end, buffers.stored
                ):
                    return None
                end -= count * item
    finally:
        os.close(file)
    return tuple(
        line[_PAD_BYTES : _PAD_BYTES + sum(rows) * item].view(decoded_type) for line in out
    )


def _read_chunk(
    file: int,
    chunk: pq.ColumnChunkMetaData,
    optional: bool,
    rows: int,
    item: int,
    out: memoryview,
    end: int,
    buffers: Buffers,
) -> bool:
    """Put a chunk's values at `out[end - rows * item : end]`; what lies up to 64 bytes before them
    is overwritten. False: not plain.
    """
    decompress, stored_bytes = _DECOMPRESS.get(chunk.compression), chunk.total_compressed_size
    if (
        decompress is None
        or chunk.has_dictionary_page
        or chunk.num_values != rows
        or stored_bytes > 2 * rows * item + 2**16
    ):
        return False
    stored = buffers.lend((stored_bytes,), np.uint8)
    if os.preadv(file, [stored], chunk.data_page_offset) != stored_bytes:
        return False
    pages = np.empty((rows // _LEAST_VALUES + 1, 5), dtype=np.int64)
    count = read_page_headers(stored, rows, pages)
    if count < 0:
        return False
    body = memoryview(stored)
    for page in reversed(pages[:count].tolist()):
        content = body[page[BODY] : page[BODY] + page[STORED]]
        levels = _levels(page[VALUES]) if optional else b""
        begin = end - page[VALUES] * item - len(levels)
        if page[DECODED] != end - begin or (
            page[CRC] >= 0 and isal_zlib.crc32(content) != page[CRC]
        ):
            return False
        try:
            decoded = decompress(content, out[begin:end])
        except cramjam.DecompressionError:
            return False
        if decoded != page[DECODED] or out[begin : begin + len(levels)] != levels:
            return False
        end = begin + len(levels)
    return True


def _levels(num_values: int) -> bytes:
    """Definition levels of a page without nulls, as all writers put it: their length, and one run
    of so many ones.

    >>> _levels(20000).hex()
    '04000000c0b80201'
    """
    run, left = bytearray(), num_values << 1
    while left >= 128:
        run.append(left & 127 | 128)
        left >>= 7
    run += bytes([left, 1])
    return len(run).to_bytes(4, "little") + bytes(run)
