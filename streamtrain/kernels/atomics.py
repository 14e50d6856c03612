"""Synchronisation of threads within a kernel: atomic int64 operations, and yielding the core.

Numba has no Python functions for these instructions.
"""

import sys

from numba import njit
from numba.core import types

from streamtrain.kernels.intrinsics import intrinsic

_sched_yield = types.ExternalFunction(
    "SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32()
)

#: Reads of a value before the core is yielded to other threads: a few microseconds.
SPINS_BEFORE_YIELD = 2000


def _pointer(context, builder, signature, args):
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return builder.gep(array.data, [args[1]])


@intrinsic
def fetch_add(typingctx, array, index, value):
    """Add `value` to array[index] atomically; return the value before.

    No two threads that add get the same value.
    """

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw(
            "add", _pointer(context, builder, signature, args), args[2], "seq_cst"
        )

    return types.int64(array, types.int64, types.int64), codegen


@intrinsic
def fetch_max(typingctx, array, index, value):
    """Set array[index] to max(array[index], value) atomically; return the value before.

    Only the first thread to raise it gets a value smaller than its own.
    """

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw(
            "max", _pointer(context, builder, signature, args), args[2], "seq_cst"
        )

    return types.int64(array, types.int64, types.int64), codegen


@intrinsic
def load(typingctx, array, index):
    """Return array[index]; what another thread wrote before its `store` of the value is visible."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(_pointer(context, builder, signature, args), "acquire", 8)

    return types.int64(array, types.int64), codegen


@intrinsic
def store(typingctx, array, index, value):
    """Set array[index] = value after everything that this thread wrote before."""

    def codegen(context, builder, signature, args):
        builder.store_atomic(args[2], _pointer(context, builder, signature, args), "release", 8)
        return context.get_dummy_value()

    return types.none(array, types.int64, types.int64), codegen


@njit(error_model="numpy")
def wait_until_above(array, index, value):
    """Wait until array[index] > value; yield the core after each read beyond SPINS_BEFORE_YIELD."""
    spins = 0
    while load(array, index) <= value:
        spins += 1
        if spins > SPINS_BEFORE_YIELD:
            _sched_yield()
