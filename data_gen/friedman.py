"""Friedman's second and third problems: impedance and phase of a circuit.

Source: Friedman 1991, Annals of Statistics 19, §4.3.

x0 ∈ [0, 100], x1 ∈ [40π, 560π], x2 ∈ [0, 1], x3 ∈ [1, 11], uniform and independent; u = x1·x2 −
1/(x1·x3). friedman2: √(x0² + u²). friedman3: atan(u / x0).
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.polynomial.legendre import leggauss

from data_gen.kind import Features, Kind, uniform

RANGES = ((0.0, 100.0), (40 * np.pi, 560 * np.pi), (0.0, 1.0), (1.0, 11.0))

# Number of quadrature nodes for x1 and x3, where the integrand is smooth; for x0 and u, graded
# towards the corner x0 = u = 0; and the exponent of the grading.
_SMOOTH, _GRADED, _GRADING = 24, 40, 4


def friedman2(seed: int) -> Kind:
    """Return the impedance problem; the target ranges from about 0 to 1,760."""
    return _kind("friedman2", np.hypot)


def friedman3(seed: int) -> Kind:
    """Return the phase problem; the target ranges from −π/2 to π/2."""
    return _kind("friedman3", lambda x0, u: np.arctan2(u, x0))


@cache
def _kind(name: str, response: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Kind:
    def function(x: Features) -> np.ndarray:
        return response(x[0], _reactance(*x[1:]))

    variance, linear_variance = moments(response)
    return Kind(
        name=name, draw=_draw, function=function, variance=variance, linear_variance=linear_variance
    )


def _draw(generator: np.random.Generator, rows: int) -> Features:
    return tuple(uniform(low, high, generator, rows) for low, high in RANGES)


def _reactance(x1: np.ndarray, x2: np.ndarray, x3: np.ndarray) -> np.ndarray:
    u = x1 * x2
    u -= 1 / (x1 * x3)
    return u


def moments(
    response: Callable[[np.ndarray, np.ndarray], np.ndarray], refine: float = 1
) -> tuple[float, float]:
    """Return the variance of `response(x0, u)` and the variance explained by the best linear model.

    Tensor Gauss–Legendre quadrature with a relative error below 1e-10. The only singularity of both
    responses is at x0 = u = 0, inside the range of x2. The x2 axis is therefore split where u = 0,
    and the nodes of both sides, like the nodes of x0, are graded towards the singularity (t → t⁴).
    The features are independent, so the explained variance is Σ cov(xⱼ, f)² / var(xⱼ).
    """
    (x0, w0), (x1, w1), (x3, w3) = (
        _graded(refine, RANGES[0][1]),
        _smooth(refine, *RANGES[1]),
        _smooth(refine, *RANGES[3]),
    )
    root = 1 / (x1[:, None] ** 2 * x3)  # x2 where u = 0
    above, below = _graded(refine, 1.0), _graded(refine, 1.0)
    x2 = np.concatenate(
        [root[..., None] + (1 - root[..., None]) * above[0], root[..., None] * (1 - below[0])],
        axis=-1,
    )
    w2 = np.concatenate([(1 - root[..., None]) * above[1], root[..., None] * below[1]], axis=-1)
    weights_123 = w1[:, None, None] * w3[:, None] * w2
    u = x1[:, None, None] * (x2 - root[..., None])
    f = response(x0, u[..., None])
    mean_123 = f @ w0
    mean = float((weights_123 * mean_123).sum())
    variance = float((weights_123 * ((f - mean) ** 2 @ w0)).sum())
    centred = mean_123 - mean
    covariances = [float((weights_123 * ((f - mean) @ (w0 * (x0 - 50)))).sum())]
    covariances += [
        float((weights_123 * centred * x).sum()) for x in (x1[:, None, None], x2, x3[:, None])
    ]
    return variance, sum(
        c**2 * 12 / (high - low) ** 2 for c, (low, high) in zip(covariances, RANGES, strict=True)
    )


def _smooth(refine: float, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights for the mean over `[low, high]`."""
    nodes, weights = leggauss(round(_SMOOTH * refine))
    return (low + high) / 2 + (high - low) / 2 * nodes, weights / 2


def _graded(refine: float, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights for the mean over `[0, length]`, graded towards 0."""
    nodes, weights = leggauss(round(_GRADED * refine))
    t = (1 + nodes) / 2
    return length * t**_GRADING, _GRADING * t ** (_GRADING - 1) * weights / 2
