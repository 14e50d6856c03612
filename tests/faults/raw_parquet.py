"""Write Parquet files byte by byte: invalid files, and valid ones that Arrow never writes.

Numbers of fields, types, encodings and codecs are those of parquet-format's `parquet.thrift`.
Structs are written in Thrift's compact protocol from dicts {field: value}. A Python int is an i32,
an `I64` is an i64, an `I8` is an i8.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BOOLEAN, INT32, INT64, INT96, FLOAT, DOUBLE, BYTE_ARRAY, FIXED = range(8)
PLAIN, PLAIN_DICTIONARY, RLE, BIT_PACKED, DELTA_BINARY_PACKED = 0, 2, 3, 4, 5
RLE_DICTIONARY, BYTE_STREAM_SPLIT = 8, 9
NONE, SNAPPY, GZIP, LZO, BROTLI, LZ4, ZSTD, LZ4_RAW = range(8)
REQUIRED, OPTIONAL, REPEATED = range(3)


class I64(int):
    """An i64."""


class I8(int):
    """An i8."""


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def thrift(value: Any) -> tuple[int, bytes]:
    """Return type and bytes of a value in the compact protocol."""
    match value:
        case bool():
            return (1 if value else 2), b""
        case I8():
            return 3, struct.pack("<b", value)
        case int():
            return (6 if isinstance(value, I64) else 5), varint(
                (value << 1 ^ value >> 63) & (1 << 64) - 1
            )
        case bytes():
            return 8, varint(len(value)) + value
        case list():
            kind = thrift(value[0])[0] if value else 5
            if len(value) < 15:
                size = bytes([len(value) << 4 | kind])
            else:
                size = bytes([0xF0 | kind]) + varint(len(value))
            return 9, size + b"".join(thrift(element)[1] for element in value)
    out, last = b"", 0
    for number, field_value in sorted(value.items()):
        if field_value is None:
            continue
        kind, body = thrift(field_value)
        step = number - last
        head = bytes([step << 4 | kind]) if step < 16 else bytes([kind]) + varint(number << 1)
        out += head + body
        last = number
    return 12, out + b"\0"


def page(
    body: bytes,
    num_values: int,
    *,
    encoding: int = PLAIN,
    stored: bytes | None = None,
    size: int | None = None,
    crc: bool = False,
    header: dict | None = None,
) -> bytes:
    """Return a v1 data page: `body` decoded, `stored` compressed; `header` replaces fields."""
    stored = body if stored is None else stored
    about = {
        1: 0,
        2: len(body) if size is None else size,
        3: len(stored),
        5: {1: num_values, 2: encoding, 3: RLE, 4: RLE},
    }
    if crc:
        about[4] = struct.unpack("<i", struct.pack("<I", zlib.crc32(stored)))[0]
    return thrift(about | (header or {}))[1] + stored


def page_v2(
    levels: bytes,
    body: bytes,
    num_values: int,
    *,
    nulls: int = 0,
    encoding: int = PLAIN,
    compressed: bool | None = None,
    size: int | None = None,
    header: dict | None = None,
    about: dict | None = None,
) -> bytes:
    """Return a v2 data page: definition levels are separate and never compressed."""
    size = len(levels) + len(body) if size is None else size
    data = {
        1: num_values,
        2: nulls,
        3: num_values,
        4: encoding,
        5: len(levels),
        6: 0,
        7: compressed,
    }
    return (
        thrift(
            {1: 3, 2: size, 3: len(levels) + len(body), 8: data | (about or {})} | (header or {})
        )[1]
        + levels
        + body
    )


def dictionary(body: bytes, num_values: int, *, encoding: int = PLAIN) -> bytes:
    return thrift({1: 2, 2: len(body), 3: len(body), 7: {1: num_values, 2: encoding}})[1] + body


def floats(values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def run_of(value: int, times: int, width: int = 1) -> bytes:
    """Return one run of the RLE / bit-packing hybrid."""
    return varint(times << 1) + value.to_bytes(-(-width // 8), "little")


def levels(*runs: bytes) -> bytes:
    """Return the levels of a v1 page, with their length."""
    joined = b"".join(runs)
    return struct.pack("<I", len(joined)) + joined


@dataclass(kw_only=True)
class Leaf:
    """A column of a file with one row group.

    `pages`: its bytes in the file; None for floats that count from 0. `schema`, `meta` and `chunk`
    replace fields of SchemaElement, ColumnMetaData and ColumnChunk.
    """

    name: str
    pages: bytes | None = None
    kind: int = FLOAT
    repetition: int = REQUIRED
    codec: int = NONE
    dictionary_bytes: int = 0
    decoded: int | None = None
    schema: dict = field(default_factory=dict)
    meta: dict = field(default_factory=dict)
    chunk: dict = field(default_factory=dict)


def write(
    path: Path,
    leaves: Sequence[Leaf],
    rows: int,
    *,
    footer: dict | None = None,
    group: dict | None = None,
) -> Path:
    """Write a file; `footer` and `group` replace fields of FileMetaData and RowGroup."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = bytearray(b"PAR1")
    schema, chunks = [{4: b"schema", 5: len(leaves)}], []
    for leaf in leaves:
        body = page(floats(range(rows)), rows) if leaf.pages is None else leaf.pages
        start = len(data)
        data += body
        meta = {
            1: leaf.kind,
            2: [PLAIN, RLE],
            3: [leaf.name.encode()],
            4: leaf.codec,
            5: I64(rows),
            6: I64(leaf.decoded or len(body)),
            7: I64(len(body)),
            9: I64(start + leaf.dictionary_bytes),
            11: I64(start) if leaf.dictionary_bytes else None,
        }
        schema.append({1: leaf.kind, 3: leaf.repetition, 4: leaf.name.encode()} | leaf.schema)
        chunks.append({2: I64(start), 3: meta | leaf.meta} | leaf.chunk)
    groups = [{1: chunks, 2: I64(len(data)), 3: I64(rows)} | (group or {})]
    about = thrift({1: 1, 2: schema, 3: I64(rows), 4: groups} | (footer or {}))[1]
    path.write_bytes(bytes(data) + about + struct.pack("<I", len(about)) + b"PAR1")
    return path
