"""Read-only parser for the part of Thrift's compact protocol that Parquet metadata uses.

Parquet footers and page headers are such structs (thrift-compact-protocol.md). Arrow parses them
too, but some of its accessors end the process on a damaged footer (an uncaught C++ exception). What
we need to know of a footer beyond plain reading is therefore parsed here.

`kernels/page_headers.py` is a deliberate second implementation: it reads the page headers of plain
column chunks with Numba, because this parser would take a third of the decode time there. This one
is general and runs once per file. A test compares the two
(`tests/storage/test_fast_pages.py::test_headers_are_those_of_the_slow_walk`).
"""

from typing import Any

from streamtrain.errors import DataError

_MAX_DEPTH = 32
_MAX_FIELD = 2**15 - 1


def read_struct(data: bytes) -> tuple[dict[int, Any], int]:
    """Return the struct at the start of `data` as {field: value}, and the position after it.

    Nested structs are dicts too; binary values are bytes.

    Raises DataError when the bytes are not a struct.

    >>> read_struct(bytes([0x15, 0x04, 0x15, 0x06, 0x00]))
    ({1: 2, 2: 3}, 5)
    """
    try:
        return _struct(data, 0, 0)
    except (IndexError, ValueError) as error:
        raise DataError("the Thrift struct cannot be parsed") from error


# Plain functions of (bytes, position) → (value, position), for speed: a shard's footer has a few
# thousand values.


def _struct(data: bytes, position: int, depth: int) -> tuple[dict[int, Any], int]:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    fields: dict[int, Any] = {}
    number = count = 0
    while (head := data[position]) != 0:
        position += 1
        count += 1
        if head >> 4:
            number += head >> 4
        else:
            number, position = _integer(data, position)
        kind = head & 15
        if kind in (4, 5, 6):
            if data[position] < 0x80:  # most numbers are small
                value = data[position]
                fields[number] = value >> 1 ^ -(value & 1)
                position += 1
            else:
                fields[number], position = _integer(data, position)
        elif kind in (1, 2):
            fields[number] = kind == 1
        else:
            fields[number], position = _value(data, position, kind, depth)
    # Arrow keeps 16 bits of a field number, and merges a struct that occurs twice: it would see
    # another footer than we do.
    if count and (len(fields) < count or min(fields) < 1 or max(fields) > _MAX_FIELD):
        raise ValueError("a repeated field, or a field number out of range")
    return fields, position + 1


def _value(data: bytes, position: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind == 8:
        count, position = _varint(data, position)
        return _binary(data, position, count)
    if kind == 12:
        return _struct(data, position, depth + 1)
    if kind in (9, 10):
        return _list(data, position, depth)
    if kind in (4, 5, 6):
        return _integer(data, position)
    if kind == 7:
        return _binary(data, position, 8)
    if kind in (1, 2, 3):
        return data[position], position + 1
    raise ValueError(f"unknown type {kind}")


def _list(data: bytes, position: int, depth: int) -> tuple[list[Any], int]:
    head = data[position]
    position += 1
    size, kind = head >> 4, head & 15
    if size == 15:
        size, position = _varint(data, position)
    if size > len(data) - position:  # an element takes at least one byte
        raise ValueError("a list longer than its bytes")
    values = []
    for _ in range(size):
        value, position = _value(data, position, kind, depth)
        values.append(value)
    return values, position


def _binary(data: bytes, position: int, count: int) -> tuple[bytes, int]:
    if position + count > len(data):
        raise ValueError("a value beyond the end of the data")
    return data[position : position + count], position + count


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while (byte := data[position]) >= 0x80:
        value |= (byte & 0x7F) << shift
        shift += 7
        position += 1
        if shift > 63:
            raise ValueError("a number longer than 64 bits")
    return value | byte << shift, position + 1


def _integer(data: bytes, position: int) -> tuple[int, int]:
    """Return a zigzag-encoded integer, and the position after it."""
    value, position = _varint(data, position)
    return value >> 1 ^ -(value & 1), position
