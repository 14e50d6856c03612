"""Thrift's compact protocol, read only: the part that Parquet's footers and page headers use (thrift-compact-protocol.md).

Arrow reads them too, and in some accessors a damaged footer ends the process (a C++ exception that nobody catches). So what we
ask of a footer beyond what reading needs, we read ourselves.
"""

from typing import Any

from streamtrain.errors import DataError

_MOST_DEPTH = 32


def read_struct(data: bytes, start: int = 0) -> tuple[dict[int, Any], int]:
    """One struct as {field: value}, nested ones likewise, binary as bytes; and where it ends. Raises DataError when it is not one.

    >>> read_struct(bytes([0x15, 0x04, 0x15, 0x06, 0x00]))
    ({1: 2, 2: 3}, 5)
    """
    reader = _Compact(data, start)
    try:
        return reader.struct(0), reader.place
    except (IndexError, ValueError) as error:
        raise DataError("the Thrift struct cannot be parsed") from error


class _Compact:
    def __init__(self, data: bytes, start: int):
        self.data, self.place = data, start

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > _MOST_DEPTH:
            raise ValueError("nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while (head := self.byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self.zigzag()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self.value(kind, depth)
        return fields

    def value(self, kind: int, depth: int) -> Any:
        if kind in (4, 5, 6):
            return self.zigzag()
        if kind == 8:
            return self.binary(self.varint())
        if kind == 12:
            return self.struct(depth + 1)
        if kind in (9, 10):
            head = self.byte()
            size, kind = head >> 4, head & 15
            size = self.varint() if size == 15 else size
            if size > len(self.data) - self.place:  # an element takes a byte at least
                raise ValueError("a list longer than its bytes")
            return [self.byte() if kind in (1, 2) else self.value(kind, depth + 1) for _ in range(size)]
        if kind == 7:
            return self.binary(8)
        if kind in (1, 2, 3):
            return self.byte()
        raise ValueError(f"unknown type {kind}")

    def byte(self) -> int:
        self.place += 1
        return self.data[self.place - 1]

    def binary(self, count: int) -> bytes:
        self.place += count
        if self.place > len(self.data):
            raise IndexError
        return self.data[self.place - count : self.place]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.place]
            self.place += 1
            if byte < 0x80:
                return value | byte << shift
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a number too long")

    def zigzag(self) -> int:
        value = self.varint()
        return value >> 1 ^ -(value & 1)
