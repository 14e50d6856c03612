"""Products of small matrices in registers: what an MLP's layers need, without the copies that BLAS
makes to be fast on large ones.

A block of up to 6 rows and two vectors of columns is gathered in registers over the whole inner
length, then finished in the same breath: written, added, shifted by a bias, cut by ReLU or by its
derivative. The blocks are written as LLVM instructions, since Numba has no word for a vector; which
block goes where is ordinary Numba code below. After Goto and van de Geijn 2008 (the block in
registers), without their packing: a layer of `MOST_WEIGHTS` fits the caches as it lies.
"""

import llvmlite.binding
from llvmlite import ir
from numba import int64, njit
from numba.core import types
from numba.extending import intrinsic

#: Weights of the largest layer these are for; BLAS is faster beyond.
MOST_WEIGHTS = 2**14

#: How a block is finished: c = p, c += p, c = p + e, c = relu(p + e), c = p where e > 0 and 0
#: elsewhere; p the product. e is one row for the two shifts (a bias), a matrix like c for the last
#: (the activations).
SET, ADD, SHIFT, SHIFT_RELU, MASK = range(5)

_FLOAT, _INT = ir.FloatType(), ir.IntType(64)
_FLAGS = ("contract", "nsz", "arcp", "reassoc")

#: float32 values in a vector of this machine.
LANES = 16 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8


def _make_block(rows: int, lanes: int, vectors: int):
    """An intrinsic for one block of `rows` x (lanes · vectors).

    Its arguments: a, its offset, its step from row to row and along the inner length; b, offset,
    step along the inner length; c, offset, row step; e, offset; inner length; finish. All arrays
    float32, one axis.
    """
    # With few sums in a block, several steps of the inner length are taken side by side: an
    # addition takes four cycles.
    unroll = max(1, 8 // (rows * vectors))
    vector = ir.VectorType(_FLOAT, lanes) if lanes > 1 else _FLOAT

    def codegen(context, builder, signature, args):
        a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, e, e_at, inner, finish = (
            (
                context.make_array(kind)(context, builder, value).data
                if isinstance(kind, types.Array)
                else value
            )
            for kind, value in zip(signature.args, args, strict=True)
        )
        number = _INT
        # one copy of all blocks, wherever they are called from: the compiler's seconds
        builder.function.attributes.add("noinline")
        zero = ir.Constant(vector, [0.0] * lanes) if lanes > 1 else ir.Constant(_FLOAT, 0.0)

        def place(base, *terms):
            for term in terms:
                base = builder.gep(base, [term])
            return base

        def times(value, factor):
            return builder.mul(value, ir.Constant(number, factor))

        def load(pointer):
            return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=4)

        def store(value, pointer):
            builder.store(value, builder.bitcast(pointer, vector.as_pointer()), align=4)

        def spread(pointer):
            scalar = builder.load(pointer)
            if lanes == 1:
                return scalar
            one = builder.insert_element(
                ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0)
            )
            mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), mask)

        a, b, c = place(a, a_at), place(b, b_at), place(c, c_at)
        e = place(e, e_at)

        def loop(begin, end, step, sums):
            """`sums`: lists (one for each side-by-side step) of rows x vectors values; returns what
            they are after the loop.
            """
            before, check = builder.block, builder.append_basic_block("check")
            body, after = builder.append_basic_block("body"), builder.append_basic_block("after")
            builder.branch(check)
            builder.position_at_end(check)
            k = builder.phi(number)
            k.add_incoming(begin, before)
            phis = []
            for part in sums:
                phis.append([builder.phi(vector) for _ in part])
                for phi, value in zip(phis[-1], part, strict=True):
                    phi.add_incoming(value, before)
            builder.cbranch(builder.icmp_signed("<", k, end), body, after)
            builder.position_at_end(body)
            for side, part in enumerate(phis):
                at = builder.add(k, ir.Constant(number, side))
                b_row = place(b, builder.mul(at, b_step))
                loaded = [
                    load(place(b_row, ir.Constant(number, v * lanes))) for v in range(vectors)
                ]
                a_k = place(a, builder.mul(at, a_step))
                for row in range(rows):
                    factor = spread(place(a_k, times(a_row, row)))
                    for v in range(vectors):
                        phi = part[row * vectors + v]
                        grown = builder.fadd(
                            phi, builder.fmul(factor, loaded[v], flags=_FLAGS), flags=_FLAGS
                        )
                        phi.add_incoming(grown, builder.block)
            k.add_incoming(builder.add(k, ir.Constant(number, step)), builder.block)
            builder.branch(check)
            builder.position_at_end(after)
            return k, phis

        start = ir.Constant(number, 0)
        sums = [[zero] * (rows * vectors) for _ in range(unroll)]
        if unroll > 1:
            start, sums = loop(
                start, builder.sub(inner, ir.Constant(number, unroll - 1)), unroll, sums
            )
            sums = [[_sum(builder, parts) for parts in zip(*sums, strict=True)]]
        _, (products,) = loop(start, inner, 1, sums)

        done = builder.append_basic_block("done")
        ways = [builder.append_basic_block(f"finish{way}") for way in range(5)]
        switch = builder.switch(finish, ways[SET])
        for way, block in enumerate(ways):
            if way != SET:
                switch.add_case(ir.Constant(number, way), block)
            builder.position_at_end(block)
            for row in range(rows):
                for v in range(vectors):
                    value, shift = products[row * vectors + v], ir.Constant(number, v * lanes)
                    pointer = place(c, times(c_row, row), shift)
                    if way == ADD:
                        value = builder.fadd(load(pointer), value)
                    elif way in (SHIFT, SHIFT_RELU):
                        value = builder.fadd(value, load(place(e, shift)))
                        if way == SHIFT_RELU:  # a NaN passes, as in torch
                            value = builder.select(
                                builder.fcmp_ordered("<", value, zero), zero, value
                            )
                    elif way == MASK:
                        value = builder.select(
                            builder.fcmp_ordered(
                                ">", load(place(e, times(c_row, row), shift)), zero
                            ),
                            value,
                            zero,
                        )
                    store(value, pointer)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    @intrinsic
    def block(
        typingctx, a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, e, e_at, inner, finish
    ):
        whole = types.int64
        return (
            types.none(
                a, whole, whole, whole, b, whole, whole, c, whole, whole, e, whole, whole, whole
            ),
            codegen,
        )

    return block


def _sum(builder, parts):
    total = parts[0]
    for part in parts[1:]:
        total = builder.fadd(total, part)
    return total


_WIDE, _VECTOR, _FOUR, _ONE = 2 * LANES, LANES, 4, 1
_wide_6, _wide_4, _wide_2, _wide_1 = (_make_block(rows, LANES, 2) for rows in (6, 4, 2, 1))
_vector_6, _vector_1 = (_make_block(rows, LANES, 1) for rows in (6, 1))
_four_6, _four_1 = (_make_block(rows, 4, 1) for rows in (6, 1))
_one_6, _one_1 = (_make_block(rows, 1, 1) for rows in (6, 1))


@njit(inline="always")
def multiply(a, a_row, a_step, b, c, rows, columns, inner, e, finish):
    """C (rows, columns) from the product of a (rows, inner) and b (inner, columns), as `finish`
    says; float32, one axis each.

    Element (i, k) of a is a[i · a_row + k · a_step], so that it may be a transposed matrix, or the
    same number everywhere. b, c and a matrix e lie row after row. Each element of the product is
    one sum along the inner length, whatever the block it is in; but blocks of few rows take it in
    several strands.
    """
    # Without the casts Numba would compile it all anew for each constant it is called with.
    _multiply(
        a,
        int64(a_row),
        int64(a_step),
        b,
        c,
        int64(rows),
        int64(columns),
        int64(inner),
        e,
        int64(finish),
    )


@njit(error_model="numpy")
def _multiply(a, a_row, a_step, b, c, rows, columns, inner, e, finish):
    matrix = finish == MASK
    at = 0
    while at + _WIDE <= columns:
        row = 0
        while row + 6 <= rows:
            place = row * columns + at
            _wide_6(
                a,
                row * a_row,
                a_row,
                a_step,
                b,
                at,
                columns,
                c,
                place,
                columns,
                e,
                place if matrix else at,
                inner,
                finish,
            )
            row += 6
        if row + 4 <= rows:
            place = row * columns + at
            _wide_4(
                a,
                row * a_row,
                a_row,
                a_step,
                b,
                at,
                columns,
                c,
                place,
                columns,
                e,
                place if matrix else at,
                inner,
                finish,
            )
            row += 4
        if row + 2 <= rows:
            place = row * columns + at
            _wide_2(
                a,
                row * a_row,
                a_row,
                a_step,
                b,
                at,
                columns,
                c,
                place,
                columns,
                e,
                place if matrix else at,
                inner,
                finish,
            )
            row += 2
        if row < rows:
            place = row * columns + at
            _wide_1(
                a,
                row * a_row,
                a_row,
                a_step,
                b,
                at,
                columns,
                c,
                place,
                columns,
                e,
                place if matrix else at,
                inner,
                finish,
            )
        at += _WIDE
    while at + _VECTOR <= columns:
        row = 0
        while row + 6 <= rows:
            place = row * columns + at
            _vector_6(
                a,
                row * a_row,
                a_row,
                a_step,
                b,
                at,
                columns,
                c,
                place,
                columns,
                e,
                place if matrix else at,
                inner,
                finish,
            )
            row += 6
        while row < rows:
            place = row * columns + at
            _vector_1(
                a,
                row * a_row,
                a_row,
                a_step,
                b,
                at,
                columns,
                c,
                place,
                columns,
                e,
                place if matrix else at,
                inner,
                finish,
            )
            row += 1
        at += _VECTOR
    while at + _FOUR <= columns:
        row = 0
        while row + 6 <= rows:
            place = row * columns + at
            _four_6(
                a,
                row * a_row,
                a_row,
                a_step,
                b,
                at,
                columns,
                c,
                place,
                columns,
                e,
                place if matrix else at,
                inner,
                finish,
            )
            row += 6
        while row < rows:
            place = row * columns + at
            _four_1(
                a,
                row * a_row,
                a_row,
                a_step,
                b,
                at,
                columns,
                c,
                place,
                columns,
                e,
                place if matrix else at,
                inner,
                finish,
            )
            row += 1
        at += _FOUR
    while at < columns:
        row = 0
        while row + 6 <= rows:
            place = row * columns + at
            _one_6(
                a,
                row * a_row,
                a_row,
                a_step,
                b,
                at,
                columns,
                c,
                place,
                columns,
                e,
                place if matrix else at,
                inner,
                finish,
            )
            row += 6
        while row < rows:
            place = row * columns + at
            _one_1(
                a,
                row * a_row,
                a_row,
                a_step,
                b,
                at,
                columns,
                c,
                place,
                columns,
                e,
                place if matrix else at,
                inner,
                finish,
            )
            row += 1
        at += _ONE


@njit(error_model="numpy")
def transpose(a, rows, columns, out):
    """Out (columns, rows) = a (rows, columns) transposed; float32, one axis each."""
    for row in range(rows):
        for column in range(columns):
            out[column * rows + row] = a[row * columns + column]
