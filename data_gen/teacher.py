"""A fixed random network as the target: 4–16–16–1, tanh.

The features are uniform with mean 0 and variance 1.
"""

import itertools
from functools import cache

import numpy as np
from numpy.polynomial.legendre import leggauss

from data_gen.kind import Features, Kind, uniform

WIDTHS = (4, 16, 16, 1)
EDGE = 3**0.5

# no span of rows has this index, so weights and rows never share random numbers
_WEIGHTS_SPAN = 2**64 - 1
_NODES = 20


@cache
def teacher(seed: int) -> Kind:
    """Return the network keyed by `seed`; weights and biases are normal with variance 1/inputs."""
    generator = np.random.Generator(
        np.random.Philox(key=np.array([seed, _WEIGHTS_SPAN], dtype=np.uint64))
    )
    layers = [
        (
            generator.standard_normal((rows, columns)) / rows**0.5,
            generator.standard_normal(columns) / rows**0.5,
        )
        for rows, columns in itertools.pairwise(WIDTHS)
    ]
    narrow = [(weights.astype(np.float32), bias.astype(np.float32)) for weights, bias in layers]
    variance, linear_variance = moments(
        [(weights.astype(np.float64), bias.astype(np.float64)) for weights, bias in narrow]
    )
    return Kind(
        name="teacher",
        draw=_draw,
        function=lambda x: network(narrow, np.stack(x, axis=1)),
        variance=variance,
        linear_variance=linear_variance,
    )


def network(layers: list[tuple[np.ndarray, np.ndarray]], x: np.ndarray) -> np.ndarray:
    """Return the output (rows,) for inputs (rows, 4), in the same type."""
    for weights, bias in layers[:-1]:
        x = np.tanh(x @ weights + bias)
    weights, bias = layers[-1]
    return (x @ weights + bias)[:, 0]


def moments(
    layers: list[tuple[np.ndarray, np.ndarray]], nodes: int = _NODES
) -> tuple[float, float]:
    """Return the variance of the output and the variance explained by the best linear model.

    The latter is Σ cov(xⱼ, f)², because every xⱼ has variance 1. Tensor Gauss–Legendre quadrature
    over the cube; it converges geometrically because tanh is analytic.
    """
    points, weights = leggauss(nodes)
    x = np.stack(np.meshgrid(*[points * EDGE] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    w = np.einsum("a,b,c,d->abcd", *[weights / 2] * 4).reshape(-1)
    f = network(layers, x)
    centred = f - w @ f
    return float(w @ centred**2), float((((w * centred) @ x) ** 2).sum())


def _draw(generator: np.random.Generator, rows: int) -> Features:
    return tuple(uniform(-EDGE, EDGE, generator, rows) for _ in range(4))
