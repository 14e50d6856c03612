"""What a Parquet file says of its column chunks and pages: sizes, counts, checksums; nothing is
decompressed.

Field numbers are those of parquet-format's `parquet.thrift`: structs FileMetaData, ColumnMetaData,
PageHeader. A page is such a struct and its stored bytes; `crc` is the CRC-32 of those bytes as they
are stored.

Bombs: column chunks and pages that say they decode to far more than their rows can take, refused
by arithmetic, before they do.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from streamtrain.errors import DataError
from streamtrain.storage.parquet.thrift import read_struct
from streamtrain.storage.remote.urls import is_remote
from streamtrain.types import Shard

#: A header without statistics, and with them; longer ones are not headers.
_HEADER_BYTES, _MOST_HEADER_BYTES = 128, 1 << 16
_BLOCK_BYTES = 1 << 20
_DICTIONARY, _DATA, _DATA_V2 = 2, 0, 3
_KINDS = dict(
    enumerate(
        (
            "BOOLEAN",
            "INT32",
            "INT64",
            "INT96",
            "FLOAT",
            "DOUBLE",
            "BYTE_ARRAY",
            "FIXED_LEN_BYTE_ARRAY",
        )
    )
)
#: Codecs of `parquet.thrift`. Arrow's accessor ends the process on any other number.
_NUM_CODECS = 8
#: Early versions of parquet-mr left a dictionary page's header out of a chunk's size (PARQUET-816);
#: Arrow allows as much.
_MOST_BEYOND = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A column chunk as the footer describes it: bytes of the file from `start`, its values and
    what they decode to.

    `value_bytes`: the length of a value of fixed length, 0 for others.
    """

    start: int
    stored_bytes: int
    decoded_bytes: int
    num_values: int
    value_bytes: int = 0


def read_chunks(footer: bytes, schema: Sequence[Any]) -> list[list[Chunk]]:
    """The column chunks of each row group.

    `schema`: the columns as Arrow read them from the same footer.

    Raises DataError for a footer on which Arrow's accessors would end the process.
    """
    metadata, _ = read_struct(footer)
    try:
        groups = [
            [_chunk(column, leaf) for column, leaf in zip(group[1], schema, strict=True)]
            for group in metadata.get(4, ())
        ]
        starts = [chunk.start for group in groups for chunk in group if chunk.num_values]
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError("the footer does not describe its column chunks") from error
    if len(set(starts)) < len(starts):
        raise DataError("two column chunks begin at the same byte")
    return groups


def _chunk(column: dict[int, Any], leaf: Any) -> Chunk:
    if column.get(1) or 8 in column:
        raise DataError("a column chunk lies in another file, or is encrypted")
    about = column[3]
    if _KINDS[about[1]] != leaf.physical_type or b".".join(about[3]) != leaf.path.encode():
        raise DataError("a column chunk has the type or the name of another column")
    if not 0 <= about[4] < _NUM_CODECS:
        raise DataError(f"a column chunk has the unknown codec {about[4]}")
    sizes = about.get(16, {})
    for histogram, most in (
        (sizes.get(2), leaf.max_repetition_level),
        (sizes.get(3), leaf.max_definition_level),
    ):
        if histogram and len(histogram) != most + 1:
            raise DataError("the statistics of a column chunk are not those of its column")
    data, dictionary = about[9], about.get(11)
    start = data if not isinstance(dictionary, int) or dictionary <= 0 else min(dictionary, data)
    numbers = start, about[7], about[6], about[5]
    if not all(isinstance(number, int) and 0 <= number < 2**62 for number in numbers):
        raise DataError("the sizes of a column chunk are negative, or no sizes")
    value_bytes = leaf.length if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" else 0
    return Chunk(
        start=start,
        stored_bytes=about[7],
        decoded_bytes=about[6],
        num_values=about[5],
        value_bytes=value_bytes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page as its header describes it.

    `num_values` is 0 for what holds no data. `checked`: it has a checksum.
    """

    start: int
    stored_bytes: int
    decoded_bytes: int
    num_values: int
    checked: bool


def walk_pages(file: BinaryIO, chunk: Chunk, *, checksums: bool = True) -> Iterator[Page]:
    """The pages of a column chunk, in order. Raises DataError for the first fault.

    Their bytes are read, in blocks of 1 MiB, and held against `checksums`; else only their headers
    are.
    """
    start, end, num_values = chunk.start, chunk.start + chunk.stored_bytes + _MOST_BEYOND, 0
    while num_values < chunk.num_values:
        header, length = _read_header(file, start, end)
        stored, decoded, crc = header.get(3), header.get(2), header.get(4)
        if (
            not isinstance(stored, int)
            or not isinstance(decoded, int)
            or stored < 0
            or decoded < 0
            or start + length + stored > end
        ):
            raise DataError(f"the page at byte {start:,} does not end within its column chunk")
        if checksums and isinstance(crc, int):
            found = _crc32(file, start + length, stored)
            if found != crc & 0xFFFFFFFF:
                raise DataError(
                    f"the page at byte {start:,} has the checksum {found:08x} instead of"
                    f" {crc & 0xFFFFFFFF:08x}"
                )
        about = header.get({_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}.get(header.get(1), 0), {})
        count = about.get(1, 0) if isinstance(about, dict) else 0
        if (
            not isinstance(count, int)
            or count < 0
            or (header.get(1) == _DICTIONARY and count > decoded)
        ):
            raise DataError(
                f"the page at byte {start:,} does not say how many values it has, or claims more"
                " than fit into it"
            )
        count = 0 if header.get(1) == _DICTIONARY else count
        yield Page(
            start=start,
            stored_bytes=stored,
            decoded_bytes=decoded,
            num_values=count,
            checked=isinstance(crc, int),
        )
        num_values += count
        start += length + stored
    if num_values != chunk.num_values:
        raise DataError(
            f"its pages hold {num_values:,} values where the footer promises {chunk.num_values:,}"
        )


def _read_header(file: BinaryIO, start: int, end: int) -> tuple[dict[int, Any], int]:
    for size in (_HEADER_BYTES, _MOST_HEADER_BYTES):
        file.seek(start)
        data = file.read(min(size, max(end - start, 0)))
        try:
            return read_struct(data)
        except DataError:
            if len(data) < size:
                break
    raise DataError(f"there is no page at byte {start:,}")


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


#: A column of numbers takes 16 bytes a row at most, and its pages' headers and dictionary; a footer
#: that says more is a bomb or a lie.
_MOST_ROW_BYTES = 256
_MOST_EXTRA_BYTES = 4 << 20


def refuse_bomb(url: str, boundaries: np.ndarray, chunks: Sequence[Chunk], name: str) -> None:
    """What each row group's chunk of a column says that it decodes to is held against its rows.

    Raises DataError.
    """
    for group, (chunk, rows) in enumerate(zip(chunks, np.diff(boundaries).tolist(), strict=True)):
        claimed = max(chunk.decoded_bytes, chunk.value_bytes * rows)
        if claimed > _most(rows) or chunk.num_values != rows:
            raise DataError(
                f"{_place(url, group, name)}: the footer claims {chunk.num_values:,} values that"
                f" decode to {claimed:,} bytes, for {rows:,} rows. Write the file again."
            )


def refuse_false_pages(shard: Shard, columns: Mapping[str, Sequence[Chunk]]) -> None:
    """What the pages of each column's chunks say is held against their rows; for files that no
    manifest lists. Raises DataError.

    Arrow looks into pages' headers only as it decodes, and takes memory as they say: up to 2 GiB
    each. So this comes before it. Pages in a store are not looked at: it would take a request for
    each.
    """
    if shard.listed or is_remote(shard.url):
        return
    with open(shard.url, "rb") as file:
        for name, chunks in columns.items():
            for group, chunk in enumerate(chunks):
                try:
                    largest = max(
                        (page.decoded_bytes for page in walk_pages(file, chunk, checksums=False)),
                        default=0,
                    )
                except DataError as error:
                    raise DataError(
                        f"{_place(shard.url, group, name)}: {error}; the file is damaged. Write it"
                        " again."
                    ) from error
                if largest > _most(chunk.num_values):
                    raise DataError(
                        f"{_place(shard.url, group, name)}: a page claims to decode to {largest:,}"
                        f" bytes, for {chunk.num_values:,} rows. Write the file again."
                    )


def _most(rows: int) -> int:
    return rows * _MOST_ROW_BYTES + _MOST_EXTRA_BYTES


def _place(url: str, group: int, name: str) -> str:
    return f"{url}: row group {group}, column {name!r}"
