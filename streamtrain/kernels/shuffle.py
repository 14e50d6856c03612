"""The two-pass shuffle: deal rows to buckets of the block, then permute each bucket (permute.py).

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

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import carray, njit, uint8, uint32, uint64
from numba.core import types
from numba.extending import overload

from streamtrain.kernels.intrinsics import intrinsic

GOLDEN = uint64(0x9E3779B97F4A7C15)
_MIX_1 = uint64(0xBF58476D1CE4E5B9)
_MIX_2 = uint64(0x94D049BB133111EB)

#: Rows dealt at a time; their standardised values stay in the first-level cache. Wide rows are
#: dealt TILE_VALUES values at a time, but enough rows that columns are read in whole cache lines.
TILE_ROWS = 512
TILE_VALUES, MIN_TILE_ROWS = 8192, 128

#: These numbers of columns are part of the type, so that the compiler unrolls the loops over them,
#: which takes seconds for each number. One kernel serves all others.
UNROLLED = frozenset(range(8))

#: Rows per group: 16 rows of any width are whole cache lines of 64 bytes, or 16 floats.
GROUP_ROWS = 16
LINE_FLOATS = 16
_CACHE_LINE_BYTES = 64

_INFINITY_BITS = uint32(0x7F800000)
_SIGN_OFF = uint32(0x7FFFFFFF)


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


@njit(inline="always")
def mix(z):
    """Return the 64-bit hash of SplitMix64 (plan/order.py: mix64)."""
    z = (z ^ (z >> uint64(30))) * _MIX_1
    z = (z ^ (z >> uint64(27))) * _MIX_2
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
        bits = mix(key + (base + uint64(group)) * GOLDEN)
        for k in range(8):
            partial[k & 3, (bits >> uint64(8 * k)) & mask] += 1
    bits = mix(key + (base + uint64(whole_groups)) * GOLDEN)
    for k in range(num_rows - 8 * whole_groups):
        partial[k & 3, (bits >> uint64(8 * k)) & mask] += 1
    for bucket in range(counts.shape[0]):
        counts[bucket] += (
            partial[0, bucket] + partial[1, bucket] + partial[2, bucket] + partial[3, bucket]
        )
    for row in skip:
        bits = mix(key + (base + uint64(row // 8)) * GOLDEN)
        counts[(bits >> uint64(8 * (row % 8))) & mask] -= 1


class Table(NamedTuple):
    """Columns by their addresses, so that their number is not part of a compiled type.

    Attributes:
        addresses: Address of each column's first value, int64 (columns,).
        steps: Values from each value of a column to its next, int64 (columns,).
        like: One of the columns, which all have its type, length and layout.
    """

    addresses: np.ndarray
    steps: np.ndarray
    like: np.ndarray


def _num_columns(columns) -> Any:
    """Return the number of columns of a tuple or a `Table`; of a tuple, the compiler knows it."""


def _num_rows(columns) -> Any:
    """Return the rows of a tuple of columns or a `Table`."""


def column_part(columns, c, start, count) -> Any:
    """Return `count` values of column `c` from row `start` on."""


@overload(_num_columns)
def _overload_num_columns(columns):
    if isinstance(columns, types.BaseNamedTuple):
        return lambda columns: columns.addresses.shape[0]
    return lambda columns: len(columns)


@overload(_num_rows)
def _overload_num_rows(columns):
    if isinstance(columns, types.BaseNamedTuple):
        return lambda columns: columns.like.shape[0]
    return lambda columns: columns[0].shape[0]


@overload(column_part)
def _overload_column_part(columns, c, start, count):
    if not isinstance(columns, types.BaseNamedTuple):
        return lambda columns, c, start, count: columns[c][start : start + count]
    like: Any = getattr(columns, "types")[2]  # noqa: B009 - Numba has no stub for it
    itemsize = like.dtype.bitwidth // 8
    if like.layout == "C":

        def contiguous_part(columns, c, start, count):
            return carray(_pointer(columns.like, columns.addresses[c] + start * itemsize), (count,))

        return contiguous_part

    def strided_part(columns, c, start, count):
        step = columns.steps[c]
        address = columns.addresses[c] + start * step * itemsize
        return carray(_pointer(columns.like, address), ((count - 1) * step + 1,))[::step]

    return strided_part


@intrinsic
def _pointer(typingctx, like, address):
    """Return a pointer to values of the type of the array `like`."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[1], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(like, address), codegen


@njit(nogil=True, cache=True, boundscheck=False)
def deal_columns(
    columns, skip, first_position, first_id, key, mask, cursors, block, mean, scale, receipt_key
):
    """Do the work of `deal` with columns as a tuple of arrays or a `Table`."""
    num_rows, width = _num_rows(columns), _num_columns(columns)
    tile_rows = max(MIN_TILE_ROWS, min(TILE_ROWS, TILE_VALUES // width // GROUP_ROWS * GROUP_ROWS))
    flat = block.reshape(-1)
    bypass_cache = block.ctypes.data % _CACHE_LINE_BYTES == 0
    stage = _aligned_floats(cursors.shape[0] * GROUP_ROWS * width)
    first_rows = cursors.copy()
    # Stage the rows of partly filled groups, which come from this bucket or the previous one.
    for bucket in range(cursors.shape[0]):
        first = cursors[bucket] // GROUP_ROWS * GROUP_ROWS * width
        if cursors[bucket] % GROUP_ROWS:
            # A loop: assigning a slice compiles, for over a second, the message of another shape.
            stage_at = bucket * GROUP_ROWS * width
            for i in range(min(GROUP_ROWS * width, flat.shape[0] - first)):
                stage[stage_at + i] = flat[first + i]
    values = np.empty(width * tile_rows, dtype=np.float32)
    keep = np.ones(tile_rows, dtype=np.uint8)
    digest = uint64(0)
    dealt = 0
    largest_bits = uint32(0)
    next_skip = 0
    for tile in range(0, num_rows, tile_rows):
        rows = min(tile_rows, num_rows - tile)
        keep_all = True
        while next_skip < skip.shape[0] and skip[next_skip] < tile + rows:
            keep[skip[next_skip] - tile] = uint8(0)
            next_skip += 1
            keep_all = False
        for row in range(rows):
            digest += mix(uint64(first_id + tile + row) * GOLDEN + receipt_key) * uint64(keep[row])
        for c in range(width):
            column = column_part(columns, c, tile, rows)
            out = values[c * tile_rows : (c + 1) * tile_rows]
            column_bits = _standardise(column, mean[c], scale[c], out)
            if not keep_all:
                column_bits = _largest_bits(out[:rows], keep)
            largest_bits = max(largest_bits, column_bits)
        base = uint64((first_position + tile) // 8)
        for group in range((rows + 7) // 8):
            bits = mix(key + (base + uint64(group)) * GOLDEN)
            for row in range(uint64(group * 8), uint64(min(group * 8 + 8, rows))):
                if not keep_all and not keep[row]:
                    continue
                bucket = (bits >> (uint64(8) * (row & uint64(7)))) & mask
                block_row = uint64(cursors[bucket])
                cursors[bucket] = block_row + uint64(1)
                slot = block_row % uint64(GROUP_ROWS)
                slot_at = (bucket * uint64(GROUP_ROWS) + slot) * uint64(width)
                eights = uint64(width // 8 * 8)
                for c in range(uint64(0), eights, uint64(8)):
                    for k in range(8):
                        stage[slot_at + c + uint64(k)] = values[
                            (c + uint64(k)) * uint64(tile_rows) + row
                        ]
                for c in range(eights, uint64(width)):
                    stage[slot_at + c] = values[c * uint64(tile_rows) + row]
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
    table = columns if len(columns) in UNROLLED else as_table(columns)
    return deal_columns(
        table, skip, first_position, first_id, key, mask, cursors, block, mean, scale, receipt_key
    )


def as_table(columns):
    """Return columns of one type and layout as a `Table`, which does not keep them alive."""
    itemsize = columns[0].itemsize
    return Table(
        addresses=np.array([column.ctypes.data for column in columns]),
        steps=np.array([column.strides[0] // itemsize for column in columns]),
        like=columns[0],
    )
