"""A linear target with standard normal features: y = 3 + x0 − 2·x1 + x2/2 + 3·x3/2."""

import numpy as np

from data_gen.kind import Features, Kind

INTERCEPT = 3.0
WEIGHTS = (1.0, -2.0, 0.5, 1.5)


def linear(seed: int) -> Kind:
    """Return the kind; its variance |w|² = 7.5 is fully explained by a linear model."""
    variance = sum(weight**2 for weight in WEIGHTS)
    return Kind(
        name="linear", draw=_draw, function=_function, variance=variance, linear_variance=variance
    )


def _draw(generator: np.random.Generator, rows: int) -> Features:
    return tuple(generator.standard_normal(rows, dtype=np.float32) for _ in WEIGHTS)


def _function(x: Features) -> np.ndarray:
    y = np.full(len(x[0]), INTERCEPT, dtype=np.float32)
    for weight, column in zip(WEIGHTS, x, strict=True):
        y += np.float32(weight) * column
    return y
