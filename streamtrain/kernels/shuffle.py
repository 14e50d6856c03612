"""The two-pass shuffle: deal rows to buckets of the block, then permute each bucket.

A random scatter over a window of 40 MB misses the cache on every row. Dealing each row to one of up
to 256 random buckets writes to 256 sequential streams instead, and a bucket then fits the cache
while it is permuted in place (Rao 1961; Sandelius 1962; Bacher et al., MergeShuffle, arXiv
1508.03167, §1). Since buckets are drawn independently and uniformly, and each is shuffled by
Fisher-Yates, every permutation of the window has the same probability.

A store of 20 bytes would first read its whole cache line from memory. Therefore 16 rows of a
bucket, which are whole cache lines, are collected in the cache and then written at once, bypassing
it (software write-combining: Balkesen et al., ICDE 2013, §4.2).

Terms: a position counts the rows of a window in reading order; each span starts at a multiple of 8,
because one hash deals 8 rows. `flat` is the block as one axis, in which row r starts at r * width.
A group is 16 rows of the block, starting at a multiple of 16.
"""

import numpy as np
from llvmlite import ir
from numba import njit, uint8, uint32, uint64
from numba.core import types

from streamtrain.kernels.intrinsics import intrinsic

GOLDEN = uint64(0x9E3779B97F4A7C15)
MIX_1 = uint64(0xBF58476D1CE4E5B9)
MIX_2 = uint64(0x94D049BB133111EB)

#: Rows dealt at a time; their standardised values stay in the first-level cache.
TILE_ROWS = 512

#: Rows per group: 16 rows of any width are whole cache lines of 64 bytes, or 16 floats.
GROUP_ROWS = 16
LINE_FLOATS = 16
_CACHE_LINE_BYTES = 64

_INFINITY_BITS = uint32(0x7F800000)
_SIGN_OFF = uint32(0x7FFFFFFF)
_LOW_32 = uint64(0xFFFFFFFF)


@intrinsic
def _float32_bits(typingctx, value):
    """Return the bits of a float32 as uint32; unlike `isfinite`, this permits vectorisation."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@intrinsic
def _write_line(typingctx, target, target_at, source, source_at):
    """Copy 16 floats from `source[source_at:]` to `target[target_at:]`, bypassing the cache.

    Both must be aligned to a cache line. The thread itself sees its stores in order, and the lock
    taken to pass the block to another thread waits for them.
    """

    def codegen(context, builder, signature, args):
        line = ir.VectorType(ir.FloatType(), LINE_FLOATS).as_pointer()
        pointers = []
        for number in (0, 2):
            array = context.make_array(signature.args[number])(context, builder, args[number])
            pointers.append(builder.bitcast(builder.gep(array.data, [args[number + 1]]), line))
        to_pointer, from_pointer = pointers
        line_values = builder.load(from_pointer, align=_CACHE_LINE_BYTES)
        store = builder.store(line_values, to_pointer, align=_CACHE_LINE_BYTES)
        store.set_metadata(
            "nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        )
        return context.get_dummy_value()

    return types.void(target, target_at, source, source_at), codegen


@intrinsic
def _prefetch(typingctx, array, index):
    """Prefetch the cache line of `array[index]` into the second-level cache.

    It has no other effect, even if the index is out of bounds.
    """

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
        i32 = ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch",
            [pointer.type],
            ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32]),
        )
        for_writing, second_level, data_cache = (ir.Constant(i32, value) for value in (1, 2, 1))
        builder.call(function, [pointer, for_writing, second_level, data_cache])
        return context.get_dummy_value()

    return types.void(array, index), codegen


@njit(inline="always")
def _mix(z):
    z = (z ^ (z >> uint64(30))) * MIX_1
    z = (z ^ (z >> uint64(27))) * MIX_2
    return z ^ (z >> uint64(31))


@njit(nogil=True, cache=True)
def count_buckets(key, first_position, num_rows, skip, mask, counts):
    """Add the number of rows of a span that each bucket will receive to `counts`.

    Args:
        key: Key of the window, uint64.
        first_position: Position of the span's first row, a multiple of 8.
        num_rows: Rows of the span.
        skip: Ascending rows of the span that are not dealt, int64.
        mask: Number of buckets minus one, uint64.
        counts: int64 (buckets,), at most 256.
    """
    # four tables, so that increments need not wait for one another
    partial = np.zeros((4, 256), dtype=np.int32)
    whole_groups = num_rows // 8
    base = uint64(first_position // 8)
    for group in range(whole_groups):
        bits = _mix(key + (base + uint64(group)) * GOLDEN)
        for k in range(8):
            partial[k & 3, (bits >> uint64(8 * k)) & mask] += 1
    bits = _mix(key + (base + uint64(whole_groups)) * GOLDEN)
    for k in range(num_rows - 8 * whole_groups):
        partial[k & 3, (bits >> uint64(8 * k)) & mask] += 1
    for bucket in range(counts.shape[0]):
        counts[bucket] += (
            partial[0, bucket] + partial[1, bucket] + partial[2, bucket] + partial[3, bucket]
        )
    for row in skip:
        bits = _mix(key + (base + uint64(row // 8)) * GOLDEN)
        counts[(bits >> uint64(8 * (row % 8))) & mask] -= 1


@njit(nogil=True, cache=True, boundscheck=False)
def deal(
    columns, skip, first_position, first_id, key, mask, cursors, block, mean, scale, receipt_key
):
    """Deal the rows of a span to their buckets; return (rows dealt, digest of ids, all finite).

    Args:
        columns: Tuple of arrays (rows of the span,) of one type, with any stride.
        skip: Ascending rows of the span that are not dealt, int64.
        first_position: Position of the span's first row, a multiple of 8.
        first_id: Id of the span's first row.
        key: Key of the window, uint64.
        mask: Number of buckets minus one, uint64.
        cursors: Next free row of each bucket, int64 (buckets,); advanced.
        block: float32 (rows, len(columns)), written bypassing the cache if it is aligned to a cache
            line. Its contents beyond the cursors are undefined.
        mean: float64 (len(columns),). A value becomes `(value - mean) * scale`, computed in float64
            and then cast.
        scale: As `mean`.
        receipt_key: Key of the digest, uint64.
    """
    num_rows, width = columns[0].shape[0], len(columns)
    flat = block.reshape(-1)
    bypass_cache = block.ctypes.data % _CACHE_LINE_BYTES == 0
    stage = _aligned_floats(cursors.shape[0] * GROUP_ROWS * width)
    first_rows = cursors.copy()
    # Stage the rows of partly filled groups, which come from this bucket or the previous one.
    for bucket in range(cursors.shape[0]):
        first = cursors[bucket] // GROUP_ROWS * GROUP_ROWS * width
        if cursors[bucket] % GROUP_ROWS:
            group_values = flat[first : first + GROUP_ROWS * width]
            stage_at = bucket * GROUP_ROWS * width
            stage[stage_at : stage_at + group_values.shape[0]] = group_values
    values = np.empty(width * TILE_ROWS, dtype=np.float32)
    keep = np.ones(TILE_ROWS, dtype=np.uint8)
    digest = uint64(0)
    dealt = 0
    largest_bits = uint32(0)
    next_skip = 0
    for tile in range(0, num_rows, TILE_ROWS):
        rows = min(TILE_ROWS, num_rows - tile)
        keep_all = True
        while next_skip < skip.shape[0] and skip[next_skip] < tile + rows:
            keep[skip[next_skip] - tile] = uint8(0)
            next_skip += 1
            keep_all = False
        for row in range(rows):
            digest += _mix(uint64(first_id + tile + row) * GOLDEN + receipt_key) * uint64(keep[row])
        for c in range(width):
            column = columns[c][tile : tile + rows]
            out = values[c * TILE_ROWS : (c + 1) * TILE_ROWS]
            column_bits = _standardise(column, mean[c], scale[c], out)
            if not keep_all:
                column_bits = _largest_bits(out[:rows], keep)
            largest_bits = max(largest_bits, column_bits)
        base = uint64((first_position + tile) // 8)
        for group in range((rows + 7) // 8):
            bits = _mix(key + (base + uint64(group)) * GOLDEN)
            for row in range(uint64(group * 8), uint64(min(group * 8 + 8, rows))):
                if not keep_all and not keep[row]:
                    continue
                bucket = (bits >> (uint64(8) * (row & uint64(7)))) & mask
                block_row = uint64(cursors[bucket])
                cursors[bucket] = block_row + uint64(1)
                slot = block_row % uint64(GROUP_ROWS)
                slot_at = (bucket * uint64(GROUP_ROWS) + slot) * uint64(width)
                for c in range(width):
                    stage[slot_at + uint64(c)] = values[uint64(c * TILE_ROWS) + row]
                if slot == uint64(GROUP_ROWS - 1):
                    group_at = bucket * uint64(GROUP_ROWS * width)
                    flat_at = (block_row - slot) * uint64(width)
                    _write_group(stage, group_at, flat, flat_at, width, bypass_cache)
        if keep_all:
            dealt += rows
        else:
            for row in range(rows):
                dealt += keep[row]
            keep[:] = uint8(1)
    # Write the groups that are not full. If two buckets share a group, each writes its own rows.
    for bucket in range(cursors.shape[0]):
        last = cursors[bucket] // GROUP_ROWS * GROUP_ROWS
        for flat_at in range(max(last, first_rows[bucket]) * width, cursors[bucket] * width):
            flat[flat_at] = stage[bucket * GROUP_ROWS * width + flat_at - last * width]
    return dealt, digest, largest_bits < _INFINITY_BITS


@njit(nogil=True, boundscheck=False)
def _aligned_floats(count):
    """Return an uninitialised float32 (count,) that starts at a cache-line boundary."""
    raw = np.empty(count + LINE_FLOATS, dtype=np.float32)
    first = (-(raw.ctypes.data // 4)) % LINE_FLOATS
    return raw[first : first + count]


@njit(nogil=True, boundscheck=False)
def _standardise(column, mean, scale, out):
    """Set `out` to the standardised column; return the largest bits of any value, ignoring signs.

    These bits order values by magnitude, with infinity and then NaN as the largest.
    """
    largest = uint32(0)
    for row in range(column.shape[0]):
        value = np.float32((np.float64(column[row]) - mean) * scale)
        out[row] = value
        largest = max(largest, _float32_bits(value) & _SIGN_OFF)
    return largest


@njit(nogil=True, boundscheck=False)
def _largest_bits(values, keep):
    """Return the largest bits of the values that are kept, ignoring signs."""
    largest = uint32(0)
    for row in range(values.shape[0]):
        largest = max(largest, (_float32_bits(values[row]) & _SIGN_OFF) * uint32(keep[row]))
    return largest


@njit(nogil=True, boundscheck=False)
def _write_group(stage, stage_at, flat, flat_at, width, bypass_cache):
    """Copy a full group, `width` cache lines, from `stage[stage_at:]` to `flat[flat_at:]`."""
    if bypass_cache:
        for line in range(width):
            offset = uint64(line * LINE_FLOATS)
            _write_line(flat, flat_at + offset, stage, stage_at + offset)
    else:
        for i in range(uint64(width * LINE_FLOATS)):
            flat[flat_at + i] = stage[stage_at + i]


@njit(nogil=True, cache=True, boundscheck=False)
def permute(block, starts, ends, key, width):
    """Shuffle each bucket in place, then close the gaps between buckets; return the number of rows.

    Random indices are exactly uniform (Lemire, arXiv 1805.10941, algorithm 5).

    Args:
        block: float32 (rows, width).
        starts: First row of each bucket, int64 (buckets,).
        ends: End of each bucket, exclusive, int64 (buckets,).
        key: Key of the window, uint64.
        width: A tuple with as many elements as the block has columns, so that the compiler knows
            the width; its values do not matter.
    """
    flat = block.reshape(-1)
    w = len(width)
    filled = 0
    for bucket in range(starts.shape[0]):
        first = starts[bucket]
        # Per row of this bucket, prefetch one line of the next bucket, in sequence. The rows of a
        # bucket are then accessed in random order, which the hardware cannot prefetch.
        next_bucket = flat[:0]
        if bucket + 1 < starts.shape[0]:
            next_bucket = flat[starts[bucket + 1] * w : ends[bucket + 1] * w]
        state = _mix(key ^ (uint64(bucket + 1) * GOLDEN))
        for i in range(ends[bucket] - first - 1, 0, -1):
            bound = uint64(i + 1)
            _prefetch(next_bucket, min(i * w, next_bucket.shape[0] - 1))
            state += GOLDEN
            product = (_mix(state) >> uint64(32)) * bound
            if (product & _LOW_32) < bound:
                threshold = (uint64(0x100000000) - bound) % bound
                while (product & _LOW_32) < threshold:
                    state += GOLDEN
                    product = (_mix(state) >> uint64(32)) * bound
            left = (first + i) * w
            right = (first + np.int64(product >> uint64(32))) * w
            # Four features: all loads before all stores. In the loop below each load would wait for
            # the store before it.
            if w == 5:
                left_0 = flat[left]
                left_1 = flat[left + 1]
                left_2 = flat[left + 2]
                left_3 = flat[left + 3]
                left_4 = flat[left + 4]
                right_0 = flat[right]
                right_1 = flat[right + 1]
                right_2 = flat[right + 2]
                right_3 = flat[right + 3]
                right_4 = flat[right + 4]
                flat[left] = right_0
                flat[left + 1] = right_1
                flat[left + 2] = right_2
                flat[left + 3] = right_3
                flat[left + 4] = right_4
                flat[right] = left_0
                flat[right + 1] = left_1
                flat[right + 2] = left_2
                flat[right + 3] = left_3
                flat[right + 4] = left_4
            else:
                for k in range(w):
                    flat[left + k], flat[right + k] = flat[right + k], flat[left + k]
        if filled == first:
            filled = ends[bucket]
        else:
            for flat_at in range(first * w, ends[bucket] * w):
                flat[filled * w + flat_at - first * w] = flat[flat_at]
            filled += ends[bucket] - first
    return filled
