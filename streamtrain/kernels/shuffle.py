"""The two-pass shuffle: deal rows of decoded columns into buckets of the block, then permute inside each bucket.

A random scatter over a window of 40 MB misses the cache on every row. Dealing each row to one of up to 256 random buckets
writes to 256 streams instead, and a bucket then fits the cache while it is permuted in place (Rao 1961; Sandelius 1962;
Bacher et al., MergeShuffle, arXiv 1508.03167, §1). Buckets drawn independently and uniformly, with a Fisher-Yates shuffle in
each, give every permutation of the window the same probability.

Legend: row positions count the rows of a window in reading order; each span starts at a multiple of 8, because one hash
deals 8 rows. `flat` is the block as one line: row r begins at r * width.
"""

import numpy as np
from numba import njit, uint8, uint32, uint64
from numba.core import types
from numba.extending import intrinsic
from llvmlite import ir

GOLDEN = uint64(0x9E3779B97F4A7C15)
MIX_1 = uint64(0xBF58476D1CE4E5B9)
MIX_2 = uint64(0x94D049BB133111EB)

#: Rows dealt at a time: their destinations stay in the first-level cache.
TILE_ROWS = 2048

_INFINITY_BITS = uint32(0x7F800000)
_SIGN_OFF = uint32(0x7FFFFFFF)
_LOW_32 = uint64(0xFFFFFFFF)


@intrinsic
def _float32_bits(typingctx, value):  # noqa: ARG001 - Numba's signature
    """The bits of a float32, as uint32: one instruction, where a check of finiteness would stop vectorisation."""

    def codegen(context, builder, signature, args):  # noqa: ARG001
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@njit(inline="always")
def _mix(z):
    z = (z ^ (z >> uint64(30))) * MIX_1
    z = (z ^ (z >> uint64(27))) * MIX_2
    return z ^ (z >> uint64(31))


@njit(nogil=True, cache=True)
def count_buckets(key, first_position, num_rows, skip, mask, counts):
    """Add to `counts` (int64, up to 256) how many rows of a span each bucket will get.

    `skip` are ascending positions within the span that are not dealt; `mask` is the number of buckets minus one.
    """
    partial = np.zeros((4, 256), dtype=np.int32)  # four tables: no increment waits for the one before it
    whole = num_rows // 8
    base = uint64(first_position // 8)
    for group in range(whole):
        bits = _mix(key + (base + uint64(group)) * GOLDEN)
        for k in range(8):
            partial[k & 3, (bits >> uint64(8 * k)) & mask] += 1
    bits = _mix(key + (base + uint64(whole)) * GOLDEN)
    for k in range(num_rows - 8 * whole):
        partial[k & 3, (bits >> uint64(8 * k)) & mask] += 1
    for bucket in range(counts.shape[0]):
        counts[bucket] += partial[0, bucket] + partial[1, bucket] + partial[2, bucket] + partial[3, bucket]
    for row in skip:
        bits = _mix(key + (base + uint64(row // 8)) * GOLDEN)
        counts[(bits >> uint64(8 * (row % 8))) & mask] -= 1


@njit(nogil=True, cache=True, boundscheck=False)
def deal(columns, skip, first_position, first_id, key, mask, cursors, block, mean, scale, receipt_key):
    """Deal the rows of one span into their buckets; returns (rows dealt, digest of their ids, all of them finite).

    `columns`: tuple of 1-D arrays of one type, any stride. `skip`: ascending positions that are stepped over. `cursors`
    (int64): the next free row of each bucket, moved on. `block`: float32 (rows + 1, len(columns)); the last row is a bin for
    skipped rows, so that no branch is needed. Values are `(value - mean) * scale` in float64, then cast.
    """
    num_rows = columns[0].shape[0]
    width = len(columns)
    flat = block.reshape(-1)
    unused = (block.shape[0] - 1) * width
    target = np.empty(TILE_ROWS, dtype=np.int64)
    keep = np.ones(TILE_ROWS, dtype=np.uint8)
    digest = uint64(0)
    dealt = 0
    worst = uint32(0)
    next_skip = 0
    for tile in range(0, num_rows, TILE_ROWS):
        rows = min(TILE_ROWS, num_rows - tile)
        every = True
        while next_skip < skip.shape[0] and skip[next_skip] < tile + rows:
            keep[skip[next_skip] - tile] = uint8(0)
            next_skip += 1
            every = False
        base = uint64((first_position + tile) // 8)
        if every:
            for row in range(rows):
                digest += _mix(uint64(first_id + tile + row) * GOLDEN + receipt_key)
            dealt += rows
        else:
            for row in range(rows):
                digest += _mix(uint64(first_id + tile + row) * GOLDEN + receipt_key) * uint64(keep[row])
                dealt += keep[row]
        whole = rows // 8
        if every:
            for group in range(whole):
                bits = _mix(key + (base + uint64(group)) * GOLDEN)
                for k in range(8):
                    bucket = (bits >> uint64(8 * k)) & mask
                    place = cursors[bucket]
                    cursors[bucket] = place + 1
                    target[group * 8 + k] = place * width
        else:
            for group in range(whole):
                bits = _mix(key + (base + uint64(group)) * GOLDEN)
                for k in range(8):
                    bucket = (bits >> uint64(8 * k)) & mask
                    place = cursors[bucket]
                    kept = keep[group * 8 + k]
                    cursors[bucket] = place + kept
                    target[group * 8 + k] = place * width if kept else unused
        for row in range(whole * 8, rows):
            bits = _mix(key + (base + uint64(whole)) * GOLDEN)
            bucket = (bits >> uint64(8 * (row % 8))) & mask
            place = cursors[bucket]
            cursors[bucket] = place + keep[row]
            target[row] = place * width if keep[row] else unused
        if every:
            for row in range(rows):
                begin = target[row]
                for c in range(width):
                    value = np.float32((np.float64(columns[c][tile + row]) - mean[c]) * scale[c])
                    worst = max(worst, _float32_bits(value) & _SIGN_OFF)
                    flat[begin + c] = value
        else:
            for row in range(rows):
                begin = target[row]
                for c in range(width):
                    value = np.float32((np.float64(columns[c][tile + row]) - mean[c]) * scale[c])
                    if keep[row]:
                        worst = max(worst, _float32_bits(value) & _SIGN_OFF)
                    flat[begin + c] = value
            keep[:] = uint8(1)
    return dealt, digest, worst < _INFINITY_BITS


@njit(nogil=True, cache=True, boundscheck=False)
def permute(block, starts, ends, key, width):
    """Shuffle rows `[starts[b], ends[b])` of each bucket in place, then close the gaps; returns the number of rows.

    `block`: float32 (rows + 1, len(width)). `width` is a tuple of any values: its length is known to the compiler.
    Random indices are exactly uniform (Lemire, arXiv 1805.10941, algorithm 5).
    """
    flat = block.reshape(-1)
    w = len(width)
    filled = 0
    for bucket in range(starts.shape[0]):
        first = starts[bucket]
        state = _mix(key ^ (uint64(bucket + 1) * GOLDEN))
        for i in range(ends[bucket] - first - 1, 0, -1):
            bound = uint64(i + 1)
            state += GOLDEN
            product = (_mix(state) >> uint64(32)) * bound
            if (product & _LOW_32) < bound:
                threshold = (uint64(0x100000000) - bound) % bound
                while (product & _LOW_32) < threshold:
                    state += GOLDEN
                    product = (_mix(state) >> uint64(32)) * bound
            one = (first + i) * w
            other = (first + np.int64(product >> uint64(32))) * w
            if w == 5:  # four features: all loads before all stores; the loop below waits for each store
                a, b, c, d, e = flat[one], flat[one + 1], flat[one + 2], flat[one + 3], flat[one + 4]
                v, x, y, z, t = flat[other], flat[other + 1], flat[other + 2], flat[other + 3], flat[other + 4]
                flat[one], flat[one + 1], flat[one + 2], flat[one + 3], flat[one + 4] = v, x, y, z, t
                flat[other], flat[other + 1], flat[other + 2], flat[other + 3], flat[other + 4] = a, b, c, d, e
            else:
                for k in range(w):
                    flat[one + k], flat[other + k] = flat[other + k], flat[one + k]
        if filled == first:
            filled = ends[bucket]
        else:
            for place in range(first * w, ends[bucket] * w):
                flat[filled * w + place - first * w] = flat[place]
            filled += ends[bucket] - first
    return filled
