"""Thrift's compact protocol, read only: the part that Parquet's footers and page headers use
(thrift-compact-protocol.md).

Arrow reads them too, and in some accessors a damaged footer ends the process (a C++ exception that
nobody catches). So what we ask of a footer beyond what reading needs, we read ourselves.
"""

from typing import Any

from streamtrain.errors import DataError

_MOST_DEPTH = 32
_MOST_FIELD = 2**15 - 1


def read_struct(data: bytes, start: int = 0) -> tuple[dict[int, Any], int]:
    """One struct as {field: value}, nested ones likewise, binary as bytes; and where it ends.

    Raises DataError when it is not one.

    >>> read_struct(bytes([0x15, 0x04, 0x15, 0x06, 0x00]))
    ({1: 2, 2: 3}, 5)
    """
    try:
        return _struct(data, start, 0)
    except (IndexError, ValueError) as error:
        raise DataError("the Thrift struct cannot be parsed") from error


# Plain functions of (bytes, place) → (value, place), for speed: a shard's footer has some thousand
# values.


def _struct(data: bytes, place: int, depth: int) -> tuple[dict[int, Any], int]:
    if depth > _MOST_DEPTH:
        raise ValueError("nested too deeply")
    fields: dict[int, Any] = {}
    number = count = 0
    while (head := data[place]) != 0:
        place += 1
        count += 1
        if head >> 4:
            number += head >> 4
        else:
            number, place = _integer(data, place)
        kind = head & 15
        if kind in (4, 5, 6):
            if data[place] < 0x80:  # most numbers are small
                value = data[place]
                fields[number] = value >> 1 ^ -(value & 1)
                place += 1
            else:
                fields[number], place = _integer(data, place)
        elif kind in (1, 2):
            fields[number] = kind == 1
        else:
            fields[number], place = _value(data, place, kind, depth)
    # Arrow keeps sixteen bits of a field's number, and joins structs that come twice: it would see
    # another footer than we do.
    if count and (len(fields) < count or min(fields) < 1 or max(fields) > _MOST_FIELD):
        raise ValueError("a field twice, or of an impossible number")
    return fields, place + 1


def _value(data: bytes, place: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind == 8:
        count, place = _varint(data, place)
        return _binary(data, place, count)
    if kind == 12:
        return _struct(data, place, depth + 1)
    if kind in (9, 10):
        return _list(data, place, depth)
    if kind in (4, 5, 6):
        return _integer(data, place)
    if kind == 7:
        return _binary(data, place, 8)
    if kind in (1, 2, 3):
        return data[place], place + 1
    raise ValueError(f"unknown type {kind}")


def _list(data: bytes, place: int, depth: int) -> tuple[list[Any], int]:
    head = data[place]
    size, kind, place = head >> 4, head & 15, place + 1
    if size == 15:
        size, place = _varint(data, place)
    if size > len(data) - place:  # an element takes a byte at least
        raise ValueError("a list longer than its bytes")
    found = []
    for _ in range(size):
        value, place = _value(data, place, kind, depth)
        found.append(value)
    return found, place


def _binary(data: bytes, place: int, count: int) -> tuple[bytes, int]:
    if place + count > len(data):
        raise ValueError("more bytes than there are")
    return data[place : place + count], place + count


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while (byte := data[place]) >= 0x80:
        value |= (byte & 0x7F) << shift
        shift += 7
        place += 1
        if shift > 63:
            raise ValueError("a number too long")
    return value | byte << shift, place + 1


def _integer(data: bytes, place: int) -> tuple[int, int]:
    value, place = _varint(data, place)
    return value >> 1 ^ -(value & 1), place
