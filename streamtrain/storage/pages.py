"""What a Parquet file says of its column chunks and pages: sizes, counts, checksums; nothing is decompressed.

Field numbers are those of parquet-format's `parquet.thrift`: structs FileMetaData, SchemaElement, ColumnMetaData, PageHeader. A
page is such a struct and its stored bytes; `crc` is the CRC-32 of those bytes as they are stored.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from streamtrain.errors import DataError
from streamtrain.storage.thrift import read_struct

#: A header with its statistics; longer ones are not headers.
_MOST_HEADER_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 20
_DICTIONARY, _DATA, _DATA_V2 = 2, 0, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A column chunk as the footer describes it: bytes of the file from `start`, its values and what they decode to."""

    start: int
    stored_bytes: int
    decoded_bytes: int
    num_values: int


def read_chunks(footer: bytes) -> list[list[Chunk]]:
    """The column chunks of each row group. Raises DataError for a footer on which Arrow's accessors would end the process."""
    metadata, _ = read_struct(footer)
    try:
        levels = _levels(metadata[2])
        return [[_chunk(column, *level) for column, level in zip(group[1], levels, strict=True)] for group in metadata.get(4, ())]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError("the footer does not describe its column chunks") from error


def _chunk(column: dict[int, Any], repetition: int, definition: int) -> Chunk:
    about = column[3]
    if column.get(1) or 8 in column:
        raise DataError("a column chunk lies in another file, or is encrypted")
    sizes = about.get(16, {})
    for histogram, most in ((sizes.get(2), repetition), (sizes.get(3), definition)):
        if histogram and len(histogram) != most + 1:
            raise DataError("the statistics of a column chunk are not those of its column")
    data, dictionary = about[9], about.get(11)
    start = data if not isinstance(dictionary, int) or dictionary <= 0 else min(dictionary, data)
    numbers = start, about[7], about[6], about[5]
    if not all(isinstance(number, int) and 0 <= number < 2**62 for number in numbers):
        raise DataError("the sizes of a column chunk are negative, or no sizes")
    return Chunk(start=start, stored_bytes=about[7], decoded_bytes=about[6], num_values=about[5])


def _levels(schema: list[dict[int, Any]]) -> list[tuple[int, int]]:
    """The highest repetition and definition level of each leaf, in order."""
    leaves: list[tuple[int, int]] = []
    open_groups = [[schema[0].get(5, 0), 0, 0]]  # children to come, levels
    for element in schema[1:]:
        while not open_groups[-1][0]:
            open_groups.pop()
        open_groups[-1][0] -= 1
        kind = element.get(3, 0)  # 0 required, 1 optional, 2 repeated
        repetition, definition = open_groups[-1][1] + (kind == 2), open_groups[-1][2] + (kind != 0)
        if element.get(5):
            open_groups.append([element[5], repetition, definition])
        else:
            leaves.append((repetition, definition))
    return leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page as its header describes it; `num_values` is 0 for what holds no data. `checked`: its bytes match its checksum."""

    start: int
    stored_bytes: int
    decoded_bytes: int
    num_values: int
    checked: bool


def walk_pages(file: BinaryIO, chunk: Chunk) -> Iterator[Page]:
    """The pages of a column chunk, in order; their bytes are read in blocks of 1 MiB. Raises DataError for the first fault."""
    start, end, num_values = chunk.start, chunk.start + chunk.stored_bytes, 0
    while num_values < chunk.num_values:
        file.seek(start)
        header, length = read_struct(file.read(min(_MOST_HEADER_BYTES, max(end - start, 0))))
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
