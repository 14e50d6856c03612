"""Guard against hostile Parquet files: check the claims of a file before Arrow acts on them.

Arrow ends the process on some damaged footers, and it allocates what a page header claims, up to
2 GiB per page. The guard therefore reads footers and page headers itself (`read_chunks`,
`walk_pages`; nothing is decompressed) and compares their claims with the number of rows. Its two
entry points:

- `check_footer`: the sizes and counts that the footer claims for a column;
- `check_pages`: the sizes that the page headers claim.

`verify` also uses `walk_pages`, to check the CRC-32 of every page.

Field numbers are as in parquet-format's `parquet.thrift`: structs FileMetaData, ColumnMetaData,
PageHeader. A page is a PageHeader followed by its stored bytes; `crc` is the CRC-32 of the bytes as
they are stored.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeGuard

import numpy as np

from streamtrain.errors import DataError
from streamtrain.storage.parquet.thrift import read_struct
from streamtrain.storage.remote.urls import is_remote
from streamtrain.types import Shard

#: Bytes read for a page header without statistics, and for one with them. A struct that is longer
#: is not a page header.
_HEADER_BYTES, _MAX_HEADER_BYTES = 128, 1 << 16
_BLOCK_BYTES = 1 << 20
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
#: Page type → the field of PageHeader that describes pages of this type.
_HEADER_FIELDS = {_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}
#: Physical types of `parquet.thrift` by number.
_PHYSICAL_TYPES = {
    0: "BOOLEAN",
    1: "INT32",
    2: "INT64",
    3: "INT96",
    4: "FLOAT",
    5: "DOUBLE",
    6: "BYTE_ARRAY",
    7: "FIXED_LEN_BYTE_ARRAY",
}
#: Codecs of `parquet.thrift`. Arrow's accessor ends the process on any other number.
_NUM_CODECS = 8
#: Early versions of parquet-mr did not count a dictionary page's header in the size of its chunk
#: (PARQUET-816). Arrow tolerates the same number of bytes.
_MAX_BYTES_BEYOND_CHUNK = 100

#: A numeric column takes at most 16 bytes per row, plus its page headers and its dictionary. A file
#: that claims more than these limits is a decompression bomb or damaged.
_MAX_BYTES_PER_ROW = 256
_MAX_EXTRA_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A column chunk as the footer describes it.

    `start`: its first byte in the file. `value_bytes`: the length of one value of a fixed-length
    type, 0 for other types.
    """

    start: int
    stored_bytes: int
    decoded_bytes: int
    num_values: int
    value_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page as its header describes it.

    `num_values` is 0 for a page that holds no data. `has_checksum`: the header has a CRC-32.
    """

    start: int
    stored_bytes: int
    decoded_bytes: int
    num_values: int
    has_checksum: bool


class EncryptedColumns(DataError):
    """The footer can be read, and the values of a column cannot."""


def read_chunks(footer: bytes, schema: Sequence[Any]) -> list[list[Chunk]]:
    """Return the column chunks of each row group.

    `schema`: the columns as Arrow read them from the same footer.

    Raises DataError for a footer on which Arrow's accessors would end the process.
    """
    metadata, _ = read_struct(footer)
    try:
        groups = [
            [_read_chunk(column, leaf) for column, leaf in zip(group[1], schema, strict=True)]
            for group in metadata.get(4, ())
        ]
        starts = [chunk.start for group in groups for chunk in group if chunk.num_values]
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError("the footer does not describe its column chunks") from error
    if len(set(starts)) < len(starts):
        raise DataError("two column chunks start at the same byte")
    return groups


def _read_chunk(column: dict[int, Any], leaf: Any) -> Chunk:
    """Return the chunk that a ColumnChunk struct describes; `leaf` is its column in the schema."""
    if 8 in column:
        raise EncryptedColumns("columns of the Parquet file are encrypted. Decrypt it first")
    if column.get(1):
        raise DataError("a column chunk is in another file")
    metadata = column[3]
    same_type = _PHYSICAL_TYPES[metadata[1]] == leaf.physical_type
    if not same_type or b".".join(metadata[3]) != leaf.path.encode():
        raise DataError("a column chunk has the type or the name of another column")
    codec = metadata[4]
    if not 0 <= codec < _NUM_CODECS:
        raise DataError(f"a column chunk has the unknown codec {codec}")
    size_statistics = metadata.get(16, {})
    for histogram, max_level in (
        (size_statistics.get(2), leaf.max_repetition_level),
        (size_statistics.get(3), leaf.max_definition_level),
    ):
        if histogram and len(histogram) != max_level + 1:
            raise DataError("the statistics of a column chunk do not fit its column")
    start, dictionary = metadata[9], metadata.get(11)
    if isinstance(dictionary, int) and dictionary > 0:
        start = min(dictionary, start)
    num_values, decoded_bytes, stored_bytes = metadata[5], metadata[6], metadata[7]
    numbers = (start, num_values, decoded_bytes, stored_bytes)
    if not all(isinstance(number, int) and 0 <= number < 2**62 for number in numbers):
        raise DataError("a column chunk has a size that is negative or not a number")
    fixed_length = leaf.physical_type == "FIXED_LEN_BYTE_ARRAY"
    return Chunk(
        start=start,
        stored_bytes=stored_bytes,
        decoded_bytes=decoded_bytes,
        num_values=num_values,
        value_bytes=leaf.length if fixed_length else 0,
    )


def walk_pages(file: BinaryIO, chunk: Chunk, *, checksums: bool = True) -> Iterator[Page]:
    """Yield the pages of a column chunk in order; raise DataError at the first fault.

    With `checksums` the bytes of each page are read, in blocks of 1 MiB, and their CRC-32 is
    verified. Without it only the headers are read.
    """
    start = chunk.start
    end = chunk.start + chunk.stored_bytes + _MAX_BYTES_BEYOND_CHUNK
    num_values = 0
    while num_values < chunk.num_values:
        header, header_bytes = _read_header(file, start, end)
        # a false header may have any value here, also one that no dict can look up
        kind = header[1] if isinstance(header.get(1), int) else -1
        decoded, stored, crc = header.get(2), header.get(3), header.get(4)
        if not _is_count(stored) or not _is_count(decoded) or start + header_bytes + stored > end:
            raise DataError(f"the page at byte {start:,} does not end within its column chunk")
        if checksums and isinstance(crc, int):
            computed, expected = _crc32(file, start + header_bytes, stored), crc & 0xFFFFFFFF
            if computed != expected:
                raise DataError(
                    f"the page at byte {start:,} has the checksum {computed:08x} instead of"
                    f" {expected:08x}"
                )
        details = header.get(_HEADER_FIELDS.get(kind, 0), {})
        count = details.get(1, 0) if isinstance(details, dict) else 0
        is_dictionary = kind == _DICTIONARY
        if not _is_count(count) or (is_dictionary and count > decoded):
            raise DataError(
                f"the page at byte {start:,} does not say how many values it has, or claims more"
                " than fit into it"
            )
        if is_dictionary:
            count = 0
        yield Page(
            start=start,
            stored_bytes=stored,
            decoded_bytes=decoded,
            num_values=count,
            has_checksum=isinstance(crc, int),
        )
        num_values += count
        start += header_bytes + stored
    if num_values != chunk.num_values:
        raise DataError(
            f"its pages have {num_values:,} values, but the footer claims {chunk.num_values:,}"
        )


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and value >= 0


def _read_header(file: BinaryIO, start: int, end: int) -> tuple[dict[int, Any], int]:
    """Return the page header at `start`, and its length in bytes."""
    for size in (_HEADER_BYTES, _MAX_HEADER_BYTES):
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


def check_footer(url: str, boundaries: np.ndarray, chunks: Sequence[Chunk], name: str) -> None:
    """Compare the claims of the footer for the column `name` with the rows of each row group.

    `chunks`: the column's chunk in each row group.

    Raises DataError when a chunk claims another number of values, or more bytes than its rows can
    decode to.
    """
    for group, (chunk, rows) in enumerate(zip(chunks, np.diff(boundaries).tolist(), strict=True)):
        claimed = max(chunk.decoded_bytes, chunk.value_bytes * rows)
        if claimed > max_decoded_bytes(rows) or chunk.num_values != rows:
            raise DataError(
                f"{_location(url, group, name)}: the footer claims {chunk.num_values:,} values that"
                f" decode to {claimed:,} bytes, for {rows:,} rows. Write the file again."
            )


def check_pages(shard: Shard, columns: Mapping[str, Sequence[Chunk]]) -> None:
    """Compare the claims of the page headers of `columns` with the rows of each row group.

    `columns`: name → its chunk in each row group.

    Call it before Arrow decodes: Arrow reads page headers only as it decodes, and allocates what
    they claim. A shard that a manifest lists is not checked, because its pages are our writer's.
    A shard in an object store is not checked either: it would take one request per page.

    Raises DataError.
    """
    if shard.listed or is_remote(shard.url):
        return
    with open(shard.url, "rb") as file:
        for name, chunks in columns.items():
            for group, chunk in enumerate(chunks):
                location = _location(shard.url, group, name)
                pages = walk_pages(file, chunk, checksums=False)
                try:
                    largest = max((page.decoded_bytes for page in pages), default=0)
                except DataError as error:
                    raise DataError(
                        f"{location}: {error}; the file is damaged. Write it again."
                    ) from error
                if largest > max_decoded_bytes(chunk.num_values):
                    raise DataError(
                        f"{location}: a page claims to decode to {largest:,} bytes, for"
                        f" {chunk.num_values:,} rows. Write the file again."
                    )


def max_decoded_bytes(rows: int) -> int:
    """Return the most bytes that a numeric column of `rows` rows decodes to."""
    return rows * _MAX_BYTES_PER_ROW + _MAX_EXTRA_BYTES


def _location(url: str, group: int, name: str) -> str:
    return f"{url}: row group {group}, column {name!r}"
