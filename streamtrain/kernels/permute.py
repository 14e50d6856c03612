"""The second pass of the shuffle: permute each bucket of a block in place (shuffle.py)."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, uint64
from numba.core import types
from numba.extending import overload

from streamtrain.kernels.intrinsics import intrinsic
from streamtrain.kernels.shuffle import GOLDEN, LINE_FLOATS, UNROLLED, mix
from streamtrain.kernels.sources import SOURCES

_LOW_32 = uint64(0xFFFFFFFF)


@njit(inline="always")
def draw_below(bound, state):
    """Return a random index below `bound`, uint64 up to 2^32, and the next `state`, uint64.

    Indices are exactly uniform (Lemire, arXiv 1805.10941, algorithm 5).
    """
    state += GOLDEN
    product = (mix(state) >> uint64(32)) * bound
    if (product & _LOW_32) < bound:
        threshold = (uint64(0x100000000) - bound) % bound
        while (product & _LOW_32) < threshold:
            state += GOLDEN
            product = (mix(state) >> uint64(32)) * bound
    return np.int64(product >> uint64(32)), state


def permute(block, starts, ends, key):
    """Shuffle each bucket in place, then close the gaps between buckets; return the number of rows.

    Args:
        block: float32 (rows, width).
        starts: First row of each bucket, int64 (buckets,).
        ends: End of each bucket, exclusive, int64 (buckets,).
        key: Key of the window, uint64.
    """
    width = block.shape[1]
    return permute_width(block, starts, ends, key, (0,) * width if width in UNROLLED else width)


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


def _swap_of(count):
    """Return a function that swaps `count` floats at two places, all loads before all stores."""

    @intrinsic
    def swap(typingctx, flat, left, right):
        def codegen(context, builder, signature, args):
            floats = ir.VectorType(ir.FloatType(), count).as_pointer()
            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            pointers = [builder.bitcast(builder.gep(data, [place]), floats) for place in args[1:]]
            values = [builder.load(pointer, align=4) for pointer in pointers]
            builder.store(values[1], pointers[0], align=4)
            builder.store(values[0], pointers[1], align=4)
            return context.get_dummy_value()

        return types.void(flat, left, right), codegen

    return swap


_swap_1, _swap_2, _swap_4, _swap_8 = map(_swap_of, (1, 2, 4, 8))


def _swap_rows(flat, left, right, width):
    """Swap the rows that begin at two places; `width` as in `_number`."""


@overload(_swap_rows, inline="always")
def _overload_swap_rows(flat, left, right, width):
    if not isinstance(width, types.Integer):
        # One vector of a whole row: all loads before all stores, since a load that follows a store
        # waits for it. With vectors of 4 and 1 floats, rows of 5 take 1.15 times as long.
        swap = _swap_of(len(width))
        return lambda flat, left, right, width: swap(flat, left, right)

    def swap_vectors(flat, left, right, width):
        end = left + width // 8 * 8
        while left < end:
            _swap_8(flat, left, right)
            left += 8
            right += 8
        if width & 4:
            _swap_4(flat, left, right)
            left += 4
            right += 4
        if width & 2:
            _swap_2(flat, left, right)
            left += 2
            right += 2
        if width & 1:
            _swap_1(flat, left, right)

    return swap_vectors


def _number(width) -> Any:
    """Return a width as a number; a tuple of as many elements makes it a constant of the kernel."""


@overload(_number)
def _overload_number(width):
    if isinstance(width, types.Integer):
        return lambda width: width
    return lambda width: len(width)


def _kernel(sources):
    """Return the kernel with the hash `sources` in its closure (sources.py)."""

    @njit(nogil=True, cache=True, boundscheck=False)
    def permute_width(block, starts, ends, key, width):
        """Do the work of `permute`; `width` as in `_number`."""
        sources  # noqa: B018
        flat = block.reshape(-1)
        w = _number(width)
        filled = 0
        for bucket in range(starts.shape[0]):
            first = starts[bucket]
            # Per row of this bucket, prefetch a row of the next bucket, in sequence. The rows of a
            # bucket are then accessed in random order, which the hardware cannot prefetch.
            next_bucket = flat[:0]
            if bucket + 1 < starts.shape[0]:
                next_bucket = flat[starts[bucket + 1] * w : ends[bucket + 1] * w]
            state = mix(key ^ (uint64(bucket + 1) * GOLDEN))
            for i in range(ends[bucket] - first - 1, 0, -1):
                for k in range(0, w, LINE_FLOATS):
                    _prefetch(next_bucket, min(i * w + k, next_bucket.shape[0] - 1))
                drawn, state = draw_below(uint64(i + 1), state)
                _swap_rows(flat, (first + i) * w, (first + drawn) * w, width)
            if filled == first:
                filled = ends[bucket]
            else:
                for flat_at in range(first * w, ends[bucket] * w):
                    flat[filled * w + flat_at - first * w] = flat[flat_at]
                filled += ends[bucket] - first
        return filled

    return permute_width


permute_width = _kernel(SOURCES)
