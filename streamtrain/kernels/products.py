"""Products of small matrices in registers, for the layers of an MLP.

BLAS copies its operands first, which pays off only for large matrices. Here a block of up to 6 rows
and two vectors of columns accumulates in registers over the whole inner length. It is then stored,
added, shifted by a bias, or multiplied by a ReLU's derivative, before it leaves the registers. The
blocks are LLVM instructions, since Numba has no vector type; ordinary Numba code below places them.
The method follows Goto and van de Geijn 2008 (blocks in registers) without their packing, as the
weights of a layer of up to `MAX_WEIGHTS` fit the caches anyway.
"""

import llvmlite.binding
from llvmlite import ir
from numba import int64, njit
from numba.core import types

from streamtrain.kernels.intrinsics import intrinsic

#: The most weights of a layer that uses these products; for larger layers BLAS is faster.
MAX_WEIGHTS = 2**14

#: What is done with the product p of a block: c = p; c += p; c = p + e; c = relu(p + e); or c = p
#: where e > 0 and 0 elsewhere. For the shifts, e is one row (a bias); for MASK, a matrix like c.
SET, ADD, SHIFT, SHIFT_RELU, MASK = range(5)

_FLOAT, _INT = ir.FloatType(), ir.IntType(64)
_FLAGS = ("contract", "nsz", "arcp", "reassoc")

#: float32 values per vector on this machine.
LANES = 16 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8


def _make_block(rows: int, lanes: int, vectors: int):
    """Return an intrinsic that computes the block of `rows` x (lanes · vectors) at (i, j) of c.

    Its arguments are i, j and those of `multiply`, without the rows. All arrays are float32 with
    one axis.
    """
    # An addition takes four cycles, so a block with few sums takes several inner steps in parallel.
    unroll = max(1, 8 // (rows * vectors))
    vector = ir.VectorType(_FLOAT, lanes) if lanes > 1 else _FLOAT

    def codegen(context, builder, signature, args):
        i, j, a, a_row, a_step, b, c, columns, inner, e, finish = (
            (
                context.make_array(kind)(context, builder, value).data
                if isinstance(kind, types.Array)
                else value
            )
            for kind, value in zip(signature.args, args, strict=True)
        )
        # one copy of all blocks for all callers, which saves seconds of compile time
        builder.function.attributes.add("noinline")
        zero = ir.Constant(vector, [0.0] * lanes) if lanes > 1 else ir.Constant(_FLOAT, 0.0)

        def address(base, *offsets):
            for offset in offsets:
                base = builder.gep(base, [offset])
            return base

        def times(value, factor):
            return builder.mul(value, ir.Constant(_INT, factor))

        def load(pointer):
            return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=4)

        def store(value, pointer):
            builder.store(value, builder.bitcast(pointer, vector.as_pointer()), align=4)

        def broadcast(pointer):
            scalar = builder.load(pointer)
            if lanes == 1:
                return scalar
            undefined = ir.Constant(vector, ir.Undefined)
            first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
            from_first = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            return builder.shuffle_vector(first, undefined, from_first)

        c_at = builder.add(builder.mul(i, columns), j)
        is_mask = builder.icmp_signed("==", finish, ir.Constant(_INT, MASK))
        a, b, c = address(a, builder.mul(i, a_row)), address(b, j), address(c, c_at)
        e = address(e, builder.select(is_mask, c_at, j))  # a matrix like c, or one row

        def loop(begin, end, step, sums):
            """Emit a loop over the inner index; return the index and the sums after it.

            `sums` has one list of rows x vectors values per parallel step.
            """
            before, check = builder.block, builder.append_basic_block("check")
            body, after = builder.append_basic_block("body"), builder.append_basic_block("after")
            builder.branch(check)
            builder.position_at_end(check)
            k = builder.phi(_INT)
            k.add_incoming(begin, before)
            phis = []
            for strand in sums:
                phis.append([builder.phi(vector) for _ in strand])
                for phi, value in zip(phis[-1], strand, strict=True):
                    phi.add_incoming(value, before)
            builder.cbranch(builder.icmp_signed("<", k, end), body, after)
            builder.position_at_end(body)
            for number, strand in enumerate(phis):
                inner_index = builder.add(k, ir.Constant(_INT, number))
                b_row = address(b, builder.mul(inner_index, columns))
                loaded = [
                    load(address(b_row, ir.Constant(_INT, v * lanes))) for v in range(vectors)
                ]
                a_k = address(a, builder.mul(inner_index, a_step))
                for row in range(rows):
                    factor = broadcast(address(a_k, times(a_row, row)))
                    for v in range(vectors):
                        phi = strand[row * vectors + v]
                        product = builder.fmul(factor, loaded[v], flags=_FLAGS)
                        total = builder.fadd(phi, product, flags=_FLAGS)
                        phi.add_incoming(total, builder.block)
            k.add_incoming(builder.add(k, ir.Constant(_INT, step)), builder.block)
            builder.branch(check)
            builder.position_at_end(after)
            return k, phis

        start = ir.Constant(_INT, 0)
        sums = [[zero] * (rows * vectors) for _ in range(unroll)]
        if unroll > 1:
            end = builder.sub(inner, ir.Constant(_INT, unroll - 1))
            start, sums = loop(start, end, unroll, sums)
            sums = [[_sum(builder, strands) for strands in zip(*sums, strict=True)]]
        _, (products,) = loop(start, inner, 1, sums)

        done = builder.append_basic_block("done")
        cases = [builder.append_basic_block(f"finish{case}") for case in range(5)]
        switch = builder.switch(finish, cases[SET])
        for case, block in enumerate(cases):
            if case != SET:
                switch.add_case(ir.Constant(_INT, case), block)
            builder.position_at_end(block)
            for row in range(rows):
                for v in range(vectors):
                    value = products[row * vectors + v]
                    column = ir.Constant(_INT, v * lanes)
                    pointer = address(c, times(columns, row), column)
                    if case == ADD:
                        value = builder.fadd(load(pointer), value)
                    elif case in (SHIFT, SHIFT_RELU):
                        value = builder.fadd(value, load(address(e, column)))
                        if case == SHIFT_RELU:  # NaN is kept, as in torch
                            is_negative = builder.fcmp_ordered("<", value, zero)
                            value = builder.select(is_negative, zero, value)
                    elif case == MASK:
                        activation = load(address(e, times(columns, row), column))
                        is_active = builder.fcmp_ordered(">", activation, zero)
                        value = builder.select(is_active, value, zero)
                    store(value, pointer)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    @intrinsic
    def block(typingctx, i, j, a, a_row, a_step, b, c, columns, inner, e, finish):
        n = types.int64
        return types.none(n, n, a, n, n, b, c, n, n, e, n), codegen

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
    """Set c (rows, columns) from the product of a (rows, inner) and b (inner, columns).

    `finish` says how. All arrays are float32 with one axis. Element (i, k) of a is
    a[i · a_row + k · a_step], so that a may be transposed, or one number for all elements. b, c and
    a matrix e are stored row by row. Every element of the product is one sum over the inner index
    in any block, but blocks of few rows split it into several strands.
    """
    # Without the casts Numba would compile `_multiply` again for every constant argument.
    a_row, a_step, finish = int64(a_row), int64(a_step), int64(finish)
    _multiply(a, a_row, a_step, b, c, int64(rows), int64(columns), int64(inner), e, finish)


@njit(error_model="numpy")
def _multiply(a, a_row, a_step, b, c, rows, columns, inner, e, finish):
    """Cover c with blocks, the widest first; (i, j) is the first element of a block."""
    j = 0
    while j + _WIDE <= columns:
        i = 0
        while i + 6 <= rows:
            _wide_6(i, j, a, a_row, a_step, b, c, columns, inner, e, finish)
            i += 6
        if i + 4 <= rows:
            _wide_4(i, j, a, a_row, a_step, b, c, columns, inner, e, finish)
            i += 4
        if i + 2 <= rows:
            _wide_2(i, j, a, a_row, a_step, b, c, columns, inner, e, finish)
            i += 2
        if i < rows:
            _wide_1(i, j, a, a_row, a_step, b, c, columns, inner, e, finish)
        j += _WIDE
    while j + _VECTOR <= columns:
        i = 0
        while i + 6 <= rows:
            _vector_6(i, j, a, a_row, a_step, b, c, columns, inner, e, finish)
            i += 6
        while i < rows:
            _vector_1(i, j, a, a_row, a_step, b, c, columns, inner, e, finish)
            i += 1
        j += _VECTOR
    while j + _FOUR <= columns:
        i = 0
        while i + 6 <= rows:
            _four_6(i, j, a, a_row, a_step, b, c, columns, inner, e, finish)
            i += 6
        while i < rows:
            _four_1(i, j, a, a_row, a_step, b, c, columns, inner, e, finish)
            i += 1
        j += _FOUR
    while j < columns:
        i = 0
        while i + 6 <= rows:
            _one_6(i, j, a, a_row, a_step, b, c, columns, inner, e, finish)
            i += 6
        while i < rows:
            _one_1(i, j, a, a_row, a_step, b, c, columns, inner, e, finish)
            i += 1
        j += _ONE


@njit(error_model="numpy")
def transpose(a, rows, columns, out):
    """Set out (columns, rows) to the transpose of a (rows, columns); float32, one axis each."""
    for row in range(rows):
        for column in range(columns):
            out[column * rows + row] = a[row * columns + column]
