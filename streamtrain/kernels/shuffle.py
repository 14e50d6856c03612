"""The two-pass shuffle: deal rows of decoded columns into buckets of the block, then permute inside
each bucket.

A random scatter over a window of 40 MB misses the cache on every row. Dealing each row to one of up
to 256 random buckets writes to 256 streams instead, and a bucket then fits the cache while it is
permuted in place (Rao 1961; Sandelius 1962; Bacher et al., MergeShuffle, arXiv 1508.03167, §1).
Buckets drawn independently and uniformly, with a Fisher-Yates shuffle in each, give every
permutation of the window the same probability.

A store of 20 bytes to memory costs a read of its whole line first. So 16 rows of a bucket, which
are whole lines, are gathered in the cache and then written past it at once (software
write-combining: Balkesen et al., ICDE 2013, §4.2).

Legend: row positions count the rows of a window in reading order; each span starts at a multiple of
8, because one hash deals 8 rows. `flat` is the block as one line: row r begins at r * width. A
group is 16 rows of the block, counted from its first.
"""

import numpy as np
from llvmlite import ir
from numba import njit, uint8, uint32, uint64
from numba.core import types
from numba.extending import intrinsic

GOLDEN = uint64(0x9E3779B97F4A7C15)
MIX_1 = uint64(0xBF58476D1CE4E5B9)
MIX_2 = uint64(0x94D049BB133111EB)

#: Rows dealt at a time: what their values become stays in the first-level cache.
TILE_ROWS = 512

#: Rows of a group: 16 of any width are whole cache lines of 64 bytes, 16 floats each.
GROUP_ROWS = 16
LINE_FLOATS = 16
_LINE_BYTES = 64

_INFINITY_BITS = uint32(0x7F800000)
_SIGN_OFF = uint32(0x7FFFFFFF)
_LOW_32 = uint64(0xFFFFFFFF)


@intrinsic
def _float32_bits(typingctx, value):
    """The bits of a float32, as uint32: one instruction, where a check of finiteness would stop
    vectorisation.
    """

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@intrinsic
def _write_line(typingctx, to, at, of, begin):
    """Store 16 floats of `of[begin:]` at `to[at:]` past the cache; both begin at a whole line.

    The thread itself reads them in order, and handing the block to another thread takes a lock,
    which waits for such stores.
    """

    def codegen(context, builder, signature, args):
        line = ir.VectorType(ir.FloatType(), LINE_FLOATS).as_pointer()
        places = []
        for which in (0, 2):
            array = context.make_array(signature.args[which])(context, builder, args[which])
            places.append(builder.bitcast(builder.gep(array.data, [args[which + 1]]), line))
        store = builder.store(
            builder.load(places[1], align=_LINE_BYTES), places[0], align=_LINE_BYTES
        )
        store.set_metadata(
            "nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        )
        return context.get_dummy_value()

    return types.void(to, at, of, begin), codegen


@intrinsic
def _prefetch(typingctx, of, at):
    """Ask for the line of `of[at]` in the second-level cache; whatever `at` is, nothing else
    happens.
    """

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        place = builder.bitcast(builder.gep(array.data, [args[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch",
            [place.type],
            ir.FunctionType(ir.VoidType(), [place.type] + [number] * 3),
        )
        builder.call(
            function,
            [place, ir.Constant(number, 1), ir.Constant(number, 2), ir.Constant(number, 1)],
        )
        return context.get_dummy_value()

    return types.void(of, at), codegen


@njit(inline="always")
def _mix(z):
    z = (z ^ (z >> uint64(30))) * MIX_1
    z = (z ^ (z >> uint64(27))) * MIX_2
    return z ^ (z >> uint64(31))


@njit(nogil=True, cache=True)
def count_buckets(key, first_position, num_rows, skip, mask, counts):
    """Add to `counts` (int64, up to 256) how many rows of a span each bucket will get.

    `skip` are ascending positions within the span that are not dealt; `mask` is the number of
    buckets minus one.
    """
    # four tables: no increment waits for the one before it
    partial = np.zeros((4, 256), dtype=np.int32)
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
    """Deal the rows of one span into their buckets; returns (rows dealt, digest of their ids, all
    of them finite).

    `columns`: tuple of 1-D arrays of one type, any stride. `skip`: ascending positions that are
    stepped over. `cursors` (int64): the next free row of each bucket, moved on. `block`: float32
    (rows, len(columns)); written past the cache where it begins at a whole line. What it holds
    beyond the cursors is undefined. Values are `(value - mean) * scale` in float64, then cast.
    """
    num_rows, width = columns[0].shape[0], len(columns)
    flat = block.reshape(-1)
    past_cache = block.ctypes.data % _LINE_BYTES == 0
    stage = _lines(cursors.shape[0] * GROUP_ROWS * width)
    began = cursors.copy()
    for bucket in range(cursors.shape[0]):  # the rows that a group has already, of whatever bucket
        first = cursors[bucket] // GROUP_ROWS * GROUP_ROWS * width
        if cursors[bucket] % GROUP_ROWS:
            some = flat[first : first + GROUP_ROWS * width]
            stage[bucket * GROUP_ROWS * width : bucket * GROUP_ROWS * width + some.shape[0]] = some
    values = np.empty(width * TILE_ROWS, dtype=np.float32)
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
        for row in range(rows):
            digest += _mix(uint64(first_id + tile + row) * GOLDEN + receipt_key) * uint64(keep[row])
        for c in range(width):
            largest = _standardise(
                columns[c][tile : tile + rows],
                mean[c],
                scale[c],
                values[c * TILE_ROWS : (c + 1) * TILE_ROWS],
            )
            worst = max(
                worst,
                largest if every else _largest(values[c * TILE_ROWS : c * TILE_ROWS + rows], keep),
            )
        base = uint64((first_position + tile) // 8)
        for group in range((rows + 7) // 8):
            bits = _mix(key + (base + uint64(group)) * GOLDEN)
            for row in range(uint64(group * 8), uint64(min(group * 8 + 8, rows))):
                if not every and not keep[row]:
                    continue
                bucket = (bits >> (uint64(8) * (row & uint64(7)))) & mask
                place = uint64(cursors[bucket])
                cursors[bucket] = place + uint64(1)
                slot = place % uint64(GROUP_ROWS)
                begin = (bucket * uint64(GROUP_ROWS) + slot) * uint64(width)
                for c in range(width):
                    stage[begin + uint64(c)] = values[uint64(c * TILE_ROWS) + row]
                if slot == uint64(GROUP_ROWS - 1):
                    _write_group(
                        stage,
                        bucket * uint64(GROUP_ROWS * width),
                        flat,
                        (place - slot) * uint64(width),
                        width,
                        past_cache,
                    )
        if every:
            dealt += rows
        else:
            for row in range(rows):
                dealt += keep[row]
            keep[:] = uint8(1)
    # groups that are not full; of neighbours that share one, each writes its own rows
    for bucket in range(cursors.shape[0]):
        last = cursors[bucket] // GROUP_ROWS * GROUP_ROWS
        for place in range(max(last, began[bucket]) * width, cursors[bucket] * width):
            flat[place] = stage[bucket * GROUP_ROWS * width + place - last * width]
    return dealt, digest, worst < _INFINITY_BITS


@njit(nogil=True, boundscheck=False)
def _lines(count):
    """float32 (count,) that begins at a whole cache line."""
    raw = np.empty(count + LINE_FLOATS, dtype=np.float32)
    first = (-(raw.ctypes.data // 4)) % LINE_FLOATS
    return raw[first : first + count]


@njit(nogil=True, boundscheck=False)
def _standardise(column, mean, scale, out):
    """Put a column's values into `out`, in model units; returns the largest of their bits without
    sign.
    """
    worst = uint32(0)
    for row in range(column.shape[0]):
        value = np.float32((np.float64(column[row]) - mean) * scale)
        out[row] = value
        worst = max(worst, _float32_bits(value) & _SIGN_OFF)
    return worst


@njit(nogil=True, boundscheck=False)
def _largest(values, keep):
    """The largest bits without sign of the values that are kept."""
    worst = uint32(0)
    for row in range(values.shape[0]):
        worst = max(worst, (_float32_bits(values[row]) & _SIGN_OFF) * uint32(keep[row]))
    return worst


@njit(nogil=True, boundscheck=False)
def _write_group(stage, begin, flat, first, width, past_cache):
    """A full group: `width` lines from `stage[begin:]` to `flat[first:]`."""
    if past_cache:
        for line in range(width):
            _write_line(
                flat, first + uint64(line * LINE_FLOATS), stage, begin + uint64(line * LINE_FLOATS)
            )
    else:
        for i in range(uint64(width * LINE_FLOATS)):
            flat[first + i] = stage[begin + i]


@njit(nogil=True, cache=True, boundscheck=False)
def permute(block, starts, ends, key, width):
    """Shuffle rows `[starts[b], ends[b])` of each bucket in place, then close the gaps; returns the
    number of rows.

    `block`: float32 (rows, len(width)). `width` is a tuple of any values: its length is known to
    the compiler. Random indices are exactly uniform (Lemire, arXiv 1805.10941, algorithm 5).
    """
    flat = block.reshape(-1)
    w = len(width)
    filled = 0
    for bucket in range(starts.shape[0]):
        first = starts[bucket]
        # One row of this bucket, one line of the next: in order, memory is ahead of use; at random
        # it is not.
        ahead = (
            flat[starts[bucket + 1] * w : ends[bucket + 1] * w]
            if bucket + 1 < starts.shape[0]
            else flat[:0]
        )
        state = _mix(key ^ (uint64(bucket + 1) * GOLDEN))
        for i in range(ends[bucket] - first - 1, 0, -1):
            bound = uint64(i + 1)
            _prefetch(ahead, min(i * w, ahead.shape[0] - 1))
            state += GOLDEN
            product = (_mix(state) >> uint64(32)) * bound
            if (product & _LOW_32) < bound:
                threshold = (uint64(0x100000000) - bound) % bound
                while (product & _LOW_32) < threshold:
                    state += GOLDEN
                    product = (_mix(state) >> uint64(32)) * bound
            one = (first + i) * w
            other = (first + np.int64(product >> uint64(32))) * w
            # four features: all loads before all stores; the loop below waits for each store
            if w == 5:
                a, b, c, d, e = (
                    flat[one],
                    flat[one + 1],
                    flat[one + 2],
                    flat[one + 3],
                    flat[one + 4],
                )
                v, x, y, z, t = (
                    flat[other],
                    flat[other + 1],
                    flat[other + 2],
                    flat[other + 3],
                    flat[other + 4],
                )
                flat[one], flat[one + 1], flat[one + 2], flat[one + 3], flat[one + 4] = (
                    v,
                    x,
                    y,
                    z,
                    t,
                )
                flat[other], flat[other + 1], flat[other + 2], flat[other + 3], flat[other + 4] = (
                    a,
                    b,
                    c,
                    d,
                    e,
                )
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
