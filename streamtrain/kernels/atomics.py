"""What threads inside one kernel say to one another: atomic sums, reads and writes of int64, and
giving up the core.

Instructions that Numba has no Python words for.
"""

import sys

from numba import njit
from numba.core import types
from numba.extending import intrinsic

_give_way = types.ExternalFunction(
    "SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32()
)

#: Looks at a value before the core is offered to others: a few microseconds.
LOOKS = 2000


def _pointer(context, builder, signature, args):
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return builder.gep(array.data, [args[1]])


@intrinsic
def fetch_add(typingctx, array, index, value):
    """array[index] += value, and what was there before: one instruction, so no two threads get the
    same.
    """

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw(
            "add", _pointer(context, builder, signature, args), args[2], "seq_cst"
        )

    return types.int64(array, types.int64, types.int64), codegen


@intrinsic
def fetch_max(typingctx, array, index, value):
    """array[index] = max(array[index], value), and what was there before: the first to raise it
    sees a smaller one.
    """

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw(
            "max", _pointer(context, builder, signature, args), args[2], "seq_cst"
        )

    return types.int64(array, types.int64, types.int64), codegen


@intrinsic
def load(typingctx, array, index):
    """array[index], with everything that was written before the `store` that put it there."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(_pointer(context, builder, signature, args), "acquire", 8)

    return types.int64(array, types.int64), codegen


@intrinsic
def store(typingctx, array, index, value):
    """array[index] = value, after everything written before it."""

    def codegen(context, builder, signature, args):
        builder.store_atomic(args[2], _pointer(context, builder, signature, args), "release", 8)
        return context.get_dummy_value()

    return types.none(array, types.int64, types.int64), codegen


@njit(error_model="numpy")
def wait_beyond(array, index, value):
    """Wait until array[index] > value; after `LOOKS` looks the core is offered to others between
    two of them.
    """
    looks = 0
    while load(array, index) <= value:
        looks += 1
        if looks > LOOKS:
            _give_way()
