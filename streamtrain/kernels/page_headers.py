"""Page headers of a Parquet column chunk, if all its pages are plain.

A header is a struct in Thrift's compact protocol, which storage/parquet/thrift.py parses in Python.
There is one per 20,000 values or so; parsing them in Python would take a third of the decoding
time. Field numbers are as in `PageHeader` and `DataPageHeader` of parquet-format.
"""

import numpy as np
from numba import njit

#: Columns of the page table.
BODY, STORED, DECODED, VALUES, CRC = range(5)

#: The deepest nesting of structs; a header that nests deeper is not plain.
_DEPTH = 8

#: Types of Thrift's compact protocol. The two booleans have no body.
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY = range(1, 9)
_STRUCT = 12


@njit(nogil=True, cache=True)
def read_page_headers(data, num_values, pages):
    """List the pages of a column chunk; return how many there are, or -1 if one is not plain.

    A plain page is a data page of version 1 with PLAIN encoding and RLE levels that ends within the
    chunk. Whatever the bytes are, nothing beyond `data` is read.

    Args:
        data: The chunk as stored, uint8 (bytes,).
        num_values: Values of the chunk.
        pages: int64 (most pages, 5). Per page it receives the offset of the body, its stored and
            decoded bytes, its values, and its CRC-32 (-1: none).
    """
    size, position, seen, count = data.shape[0], 0, 0, 0
    outer_fields = np.zeros(_DEPTH, dtype=np.int64)
    while seen < num_values:
        page_type = stored = decoded = values = encoding = levels = crc = np.int64(-1)
        depth, field = 0, np.int64(0)
        while True:
            if position >= size:
                return -1
            field_header = np.int64(data[position])
            position += 1
            if field_header == 0:
                if depth == 0:
                    break
                depth -= 1
                field = outer_fields[depth]
                continue
            if field_header >> 4:
                field += field_header >> 4
            else:
                field, position = _varint(data, position)
                field = (field >> 1) ^ -(field & 1)
            wire_type = field_header & 15
            if _I16 <= wire_type <= _I64:
                value, position = _varint(data, position)
                value = (value >> 1) ^ -(value & 1)
                if depth == 0:
                    if field == 1:
                        page_type = value
                    elif field == 2:
                        decoded = value
                    elif field == 3:
                        stored = value
                    elif field == 4:
                        crc = value & 0xFFFFFFFF
                elif depth == 1 and outer_fields[0] == 5:
                    if field == 1:
                        values = value
                    elif field == 2:
                        encoding = value
                    elif field == 3:
                        levels = value
            elif wire_type == _BINARY:
                length, position = _varint(data, position)
                if length < 0 or length > size - position:
                    return -1
                position += length
            elif wire_type == _STRUCT and depth < _DEPTH - 1:
                outer_fields[depth] = field
                depth += 1
                field = np.int64(0)
            elif wire_type == _BYTE:
                position += 1
            elif wire_type == _DOUBLE:
                position += 8
            elif wire_type != _TRUE and wire_type != _FALSE:
                return -1
        fits = (
            position <= size
            and 0 <= stored <= size - position
            and decoded >= 0
            and 0 < values <= num_values - seen
        )
        if page_type != 0 or encoding != 0 or levels != 3 or not fits or count == pages.shape[0]:
            return -1
        pages[count, BODY], pages[count, STORED], pages[count, DECODED] = position, stored, decoded
        pages[count, VALUES], pages[count, CRC] = values, crc
        count += 1
        seen += values
        position += stored
    return count


@njit(inline="always")
def _varint(data, position):
    """Return a varint (7 bits per byte) and the position after it.

    If it does not end within the data, that position is the end of the data.
    """
    value, shift = np.int64(0), 0
    while position < data.shape[0] and shift < 63:
        byte = np.int64(data[position])
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    return value, data.shape[0]
