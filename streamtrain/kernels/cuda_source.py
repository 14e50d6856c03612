"""Device functions from generated source, and 16-byte accesses of shared memory.

All places in shared memory that they access are multiples of 4 values (cuda_layout.py), and its
start is a multiple of 16 bytes (cuda_launch.py: ready).

Patches of registers are straight-line code: an array of them could go to local memory.
"""

# pyright: reportAttributeAccessIssue=false, reportRedeclaration=false

import os
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import cuda, float32, float64

#: Numba chooses the simulator when it is imported.
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")

#: What the generated functions may use.
_SCOPE: dict[str, Any] = {"cuda": cuda, "float32": float32, "float64": float64}


def device(function: Callable) -> Any:
    """Return a device function, inlined where it is called."""
    options = {} if SIMULATED else {"forceinline": True}
    return cuda.jit(device=True, **options)(function)


def device_source(name: str, lines: list[str], **scope: Any) -> Any:
    """Return the device function `name` that the lines define; `scope` is what they refer to."""
    names = {**_SCOPE, "load4": load4, "store4": store4, **scope}
    exec(compile("\n".join(lines), f"<{name}>", "exec"), names)
    return device(names[name])


if SIMULATED:

    def load4(array, at):
        """Return four neighbours from a multiple of 4 on."""
        return array[at], array[at + 1], array[at + 2], array[at + 3]

    def store4(array, at, a, b, c, d):
        """Write four neighbours from a multiple of 4 on."""
        array[at], array[at + 1], array[at + 2], array[at + 3] = a, b, c, d

else:
    try:
        from numba.cuda import types
        from numba.cuda.extending import intrinsic
    except ImportError:  # Numba's own target, without the extra [cuda]
        from numba.core import types
        from numba.extending import intrinsic

    def _pointer(context, builder, signature, array, at):
        data = context.make_array(signature.args[0])(context, builder, array).data
        place = builder.gep(data, [at], inbounds=True)
        kind = ir.VectorType(ir.FloatType(), 4)
        return builder.bitcast(place, ir.PointerType(kind, addrspace=place.type.addrspace))

    @intrinsic
    def load4(typingctx, array, at):
        """Return four neighbours by one 16-byte access, from a multiple of 4 on."""

        def codegen(context, builder, signature, args):
            vector = builder.load(_pointer(context, builder, signature, *args))
            vector.align = 16
            values = [
                builder.extract_element(vector, ir.Constant(ir.IntType(32), i)) for i in range(4)
            ]
            return context.make_tuple(builder, signature.return_type, values)

        return types.UniTuple(types.float32, 4)(array, types.int64), codegen

    @intrinsic
    def store4(typingctx, array, at, a, b, c, d):
        """Write four neighbours by one 16-byte access, from a multiple of 4 on."""

        def codegen(context, builder, signature, args):
            vector = ir.Constant(ir.VectorType(ir.FloatType(), 4), ir.Undefined)
            for i, value in enumerate(args[2:]):
                vector = builder.insert_element(vector, value, ir.Constant(ir.IntType(32), i))
            stored = builder.store(vector, _pointer(context, builder, signature, *args[:2]))
            stored.align = 16
            return context.get_dummy_value()

        number = types.float32
        return types.none(array, types.int64, number, number, number, number), codegen
