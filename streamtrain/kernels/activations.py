"""Activation functions and their derivatives over flat float32 arrays, in loops that vectorise."""

import math

import numpy as np
from llvmlite import ir
from numba import float32, int32, njit
from numba.core import types

from streamtrain.kernels.intrinsics import intrinsic

RELU, TANH, SILU, GELU, IDENTITY = range(5)

#: The fast-math flags used. Not nnan and ninf: NaN and infinity show that a replica has diverged.
FAST = {"reassoc", "contract", "nsz", "arcp"}

_SQRT_HALF = np.float32(math.sqrt(0.5))
_NORMAL_PEAK = np.float32(1 / math.sqrt(2 * math.pi))


@intrinsic
def _bits_to_float32(typingctx, value):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@njit(inline="always", error_model="numpy")
def _exp(x):
    """Return e^x in float32, to about 1 ulp, in instructions that vectorise.

    The method follows Cephes `expf`: 2^k times a polynomial.
    """
    x = min(max(x, float32(-87.0)), float32(88.0))
    k = np.floor(x * float32(1.44269504) + float32(0.5))
    r = x - k * float32(0.693359375) + k * float32(2.12194440e-4)
    p = float32(1.9875691500e-4)
    p = p * r + float32(1.3981999507e-3)
    p = p * r + float32(8.3334519073e-3)
    p = p * r + float32(4.1665795894e-2)
    p = p * r + float32(1.6666665459e-1)
    p = p * r + float32(5.0000001201e-1)
    return (p * r * r + r + float32(1.0)) * _bits_to_float32((int32(k) + int32(127)) << int32(23))


@njit(inline="always", error_model="numpy")
def _erf(x):
    """Return the error function to 1.5e-7 (Abramowitz and Stegun 7.1.26)."""
    a = abs(x)
    t = float32(1.0) / (float32(1.0) + float32(0.3275911) * a)
    p = float32(1.061405429)
    p = p * t + float32(-1.453152027)
    p = p * t + float32(1.421413741)
    p = p * t + float32(-0.284496736)
    p = p * t + float32(0.254829592)
    value = float32(1.0) - p * t * _exp(-a * a)
    return value if x >= 0 else -value


@njit(fastmath=FAST, error_model="numpy")
def activate(z, a, activation):
    """Set a = activation(z); both have one axis and do not overlap.

    The identity is not handled: its caller writes to `a` directly.
    """
    if activation == RELU:
        for k in range(z.shape[0]):
            a[k] = float32(0.0) if z[k] < float32(0.0) else z[k]
    elif activation == TANH:
        for k in range(z.shape[0]):
            a[k] = float32(1.0) - float32(2.0) / (_exp(float32(2.0) * z[k]) + float32(1.0))
    elif activation == SILU:
        for k in range(z.shape[0]):
            a[k] = z[k] / (float32(1.0) + _exp(-z[k]))
    elif activation == GELU:
        for k in range(z.shape[0]):
            a[k] = float32(0.5) * z[k] * (float32(1.0) + _erf(z[k] * _SQRT_HALF))


@njit(fastmath=FAST, error_model="numpy")
def multiply_by_derivative(d, other, activation):
    """Multiply d by the activation's derivative; both arrays have one axis and do not overlap.

    `other` is a for tanh, and z for SiLU and GELU. For ReLU, d has the activations on entry and
    `other` the values to multiply; d is overwritten with `other` where the activation is positive,
    and with 0 elsewhere.
    """
    if activation == RELU:
        for k in range(d.shape[0]):
            d[k] = other[k] if d[k] > float32(0.0) else float32(0.0)
    elif activation == TANH:
        for k in range(d.shape[0]):
            d[k] *= float32(1.0) - other[k] * other[k]
    elif activation == SILU:
        for k in range(d.shape[0]):
            gate = float32(1.0) / (float32(1.0) + _exp(-other[k]))
            d[k] *= gate * (float32(1.0) + other[k] * (float32(1.0) - gate))
    elif activation == GELU:
        for k in range(d.shape[0]):
            x = other[k]
            d[k] *= float32(0.5) * (float32(1.0) + _erf(x * _SQRT_HALF)) + x * _NORMAL_PEAK * _exp(
                float32(-0.5) * x * x
            )
