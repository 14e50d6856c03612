"""The pages of a Parquet file, walked header by header: sizes, value counts and checksums, without decompressing anything.

A page is a Thrift struct (compact protocol) and its stored bytes. `crc` is the CRC-32 of those bytes as they are stored
(parquet-format, `parquet.thrift`, struct PageHeader); Thrift: `doc/specs/thrift-compact-protocol.md`.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow.parquet as pq

from streamtrain.errors import DataError

#: A header with its statistics; longer ones are not headers.
_MOST_HEADER_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 20
_DICTIONARY, _DATA, _DATA_V2 = 2, 0, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page as its header describes it; `num_values` is 0 for what holds no data. `checked`: its bytes match its checksum."""

    start: int
    stored_bytes: int
    decoded_bytes: int
    num_values: int
    checked: bool


def walk_pages(file: BinaryIO, chunk: pq.ColumnChunkMetaData) -> Iterator[Page]:
    """The pages of a column chunk, in order; their bytes are read in blocks of 1 MiB. Raises DataError for the first fault."""
    dictionary = chunk.dictionary_page_offset
    start = chunk.data_page_offset if dictionary is None or dictionary <= 0 else min(dictionary, chunk.data_page_offset)
    end, num_values = start + chunk.total_compressed_size, 0
    while num_values < chunk.num_values:
        file.seek(start)
        header, length = read_header(file.read(min(_MOST_HEADER_BYTES, max(end - start, 0))))
        stored, decoded, crc = header.get(3), header.get(2), header.get(4)
        if not isinstance(stored, int) or not isinstance(decoded, int) or stored < 0 or decoded < 0 or start + length + stored > end:
            raise DataError(f"the page at byte {start:,} does not end within its column chunk")
        if isinstance(crc, int):
            found = _crc32(file, start + length, stored)
            if found != crc & 0xFFFFFFFF:
                raise DataError(f"the page at byte {start:,} has the checksum {found:08x} instead of {crc & 0xFFFFFFFF:08x}")
        about = header.get({_DATA: 5, _DATA_V2: 8}.get(header.get(1), 0), {})
        count = about.get(1, 0) if isinstance(about, dict) else 0
        if not isinstance(count, int) or count < 0 or (not count and header.get(1) in (_DATA, _DATA_V2)):
            raise DataError(f"the page at byte {start:,} claims {count} values")
        yield Page(start=start, stored_bytes=stored, decoded_bytes=decoded, num_values=count, checked=isinstance(crc, int))
        num_values += count
        start += length + stored
    if num_values != chunk.num_values:
        raise DataError(f"its pages hold {num_values:,} values where the footer promises {chunk.num_values:,}")


def read_header(data: bytes) -> tuple[dict[int, Any], int]:
    """One Thrift struct as {field: value}, nested structs likewise, and its length in bytes. Raises DataError when it is not one.

    >>> read_header(bytes([0x15, 0x04, 0x15, 0x06, 0x00]))
    ({1: 2, 2: 3}, 5)
    """
    reader = _Compact(data)
    try:
        return reader.struct(0), reader.place
    except (IndexError, ValueError) as error:
        raise DataError("a page header cannot be parsed") from error


class _Compact:
    """The part of Thrift's compact protocol that page headers use."""

    def __init__(self, data: bytes):
        self.data, self.place = data, 0

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > 8:
            raise ValueError("nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while (head := self.byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self.zigzag()
            fields[number] = self.value(head & 15, depth)
        return fields

    def value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self.byte()
        if kind in (4, 5, 6):
            return self.zigzag()
        if kind == 8:
            return self.skip(self.varint())
        if kind == 7:
            return self.skip(8)
        if kind in (9, 10):
            head = self.byte()
            size = head >> 4 if head >> 4 < 15 else self.varint()
            return [self.byte() if head & 15 in (1, 2) else self.value(head & 15, depth + 1) for _ in range(min(size, len(self.data)))]
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError(f"unknown type {kind}")

    def byte(self) -> int:
        self.place += 1
        return self.data[self.place - 1]

    def skip(self, count: int) -> None:
        self.place += count
        if self.place > len(self.data):
            raise IndexError

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise ValueError("a number too long")

    def zigzag(self) -> int:
        value = self.varint()
        return value >> 1 ^ -(value & 1)


def _crc32(file: BinaryIO, start: int, length: int) -> int:
    file.seek(start)
    crc = 0
    while length:
        block = file.read(min(length, _BLOCK_BYTES))
        if not block:
            raise DataError("the file ends within a page")
        crc = zlib.crc32(block, crc)
        length -= len(block)
    return crc
