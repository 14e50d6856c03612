"""The headers of a Parquet column chunk's pages, where all of them are plain ones.

A header is a struct in Thrift's compact protocol (storage/thrift.py), and there is one for every
20,000 values or so: in Python they would take a third of the time of decoding. Field numbers are
those of parquet-format's `PageHeader` and `DataPageHeader`.
"""

import numpy as np
from numba import njit

#: Columns of the table of pages.
BODY, STORED, DECODED, VALUES, CRC = range(5)

_DEPTH = 8


@njit(nogil=True, cache=True)
def read_page_headers(data, num_values, pages):
    """List the pages of a column chunk that holds `num_values`; returns how many there are, or -1
    when one is not plain.

    `data`: uint8 (bytes,), the chunk as stored. `pages`: int64 (most, 5), filled with where a
    page's body begins, its bytes as stored and as decoded, its values, and its CRC-32 (-1 where it
    has none). Plain: a data page of version 1, PLAIN encoding, levels in RLE, that ends within the
    chunk. Whatever the bytes are, nothing beyond `data` is read.
    """
    size, place, seen, count = data.shape[0], 0, 0, 0
    outer = np.zeros(_DEPTH, dtype=np.int64)
    while seen < num_values:
        kind = stored = decoded = values = encoding = levels = crc = np.int64(-1)
        depth, number = 0, np.int64(0)
        while True:
            if place >= size:
                return -1
            head = np.int64(data[place])
            place += 1
            if head == 0:
                if depth == 0:
                    break
                depth -= 1
                number = outer[depth]
                continue
            if head >> 4:
                number += head >> 4
            else:
                number, place = _varint(data, place)
                number = (number >> 1) ^ -(number & 1)
            what = head & 15
            if what == 4 or what == 5 or what == 6:
                value, place = _varint(data, place)
                value = (value >> 1) ^ -(value & 1)
                if depth == 0:
                    if number == 1:
                        kind = value
                    elif number == 2:
                        decoded = value
                    elif number == 3:
                        stored = value
                    elif number == 4:
                        crc = value & 0xFFFFFFFF
                elif depth == 1 and outer[0] == 5:
                    if number == 1:
                        values = value
                    elif number == 2:
                        encoding = value
                    elif number == 3:
                        levels = value
            elif what == 8:
                length, place = _varint(data, place)
                if length < 0 or length > size - place:
                    return -1
                place += length
            elif what == 12 and depth < _DEPTH - 1:
                outer[depth] = number
                depth += 1
                number = np.int64(0)
            elif what == 3:
                place += 1
            elif what == 7:
                place += 8
            elif what != 1 and what != 2:  # neither of the booleans, which have no body
                return -1
        fits = (
            place <= size
            and 0 <= stored <= size - place
            and decoded >= 0
            and 0 < values <= num_values - seen
        )
        if kind != 0 or encoding != 0 or levels != 3 or not fits or count == pages.shape[0]:
            return -1
        pages[count, BODY], pages[count, STORED], pages[count, DECODED] = place, stored, decoded
        pages[count, VALUES], pages[count, CRC] = values, crc
        count += 1
        seen += values
        place += stored
    return count


@njit(inline="always")
def _varint(data, place):
    """A number of seven bits a byte, and the place after it; what does not end within the data ends
    it.
    """
    value, shift = np.int64(0), 0
    while place < data.shape[0] and shift < 63:
        byte = np.int64(data[place])
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
    return value, data.shape[0]
