"""Sharpness: how much the loss can rise within a small box around the weights.

C_ε = {z : |z_i| ≤ ε(|(A⁺x)_i| + 1)}, φ = 100·(max over z in C_ε of f(x + Az) - f(x))/(1 + f(x)), in
the full space (A = I) or in a random subspace (Keskar et al. 2017, arXiv 1609.04836, Metric 2.1).
Adaptive sharpness (Kwon et al. 2021, arXiv 2102.11600) leaves out the +1, so that rescaling layers
does not change it. Sharpness is shown, and never enters the recommendation. 1 + f depends on the
scale of f, so the target must be standardised.

`value_and_grad` maps x (P,) to (f, ∇f (P,)) in float64, on one fixed subset of rows for every model
that is compared.

The generalisation gap is the loss on held-out rows less the loss on training rows.
"""

from collections.abc import Callable, Mapping

import numpy as np

from streamtrain.science.intervals import Estimate, estimate, welch
from streamtrain.science.scipy_functions import Vector, minimize_in_unit_box, t_quantile
from streamtrain.types import Json

ValueAndGrad = Callable[[Vector], tuple[float, Vector]]

#: The radii, dimensions and iterations of Keskar et al., §2.2.2.
EPSILONS = (1e-3, 5e-4)
SUBSPACE_DIMENSIONS = 100
ITERATIONS = 10

#: L-BFGS-B is started this many times, since one start ends in one local maximum.
RESTARTS = 8

#: Factors of the rescalings in the invariance audit; powers of two, so that they are exact in
#: floating point too.
FACTORS = (0.25, 0.5, 2.0, 4.0)


def sharpness(
    value_and_grad: ValueAndGrad,
    x_P: Vector,
    epsilon: float,
    *,
    basis_PD: Vector | None = None,
    adaptive: bool = False,
    restarts: int = RESTARTS,
    iterations: int = ITERATIONS,
    seed: int = 0,
) -> Estimate:
    """Return φ in percent, the best of `restarts` searches, so a lower bound (`lo`).

    `basis_PD` has orthonormal columns, so that A⁺ = Aᵀ; the full space when None. L-BFGS-B started
    at a minimiser would stop at once with φ = 0, so starts are uniform inside the box. The box is
    rescaled to [-1, 1] in every direction, and the objective to a gradient of length 1, so that no
    absolute tolerance matters.
    """
    x = np.asarray(x_P, dtype=float)
    level, _ = value_and_grad(x)
    inner = x if basis_PD is None else basis_PD.T @ x
    radius = epsilon * (np.abs(inner) + (0.0 if adaptive else 1.0))

    def negative_rise(unit: Vector) -> tuple[float, Vector]:
        move = radius * unit
        value, gradient = value_and_grad(x + (move if basis_PD is None else basis_PD @ move))
        return level - value, -radius * (gradient if basis_PD is None else basis_PD.T @ gradient)

    random, best = np.random.default_rng(seed), 0.0
    for _ in range(restarts):
        start = random.uniform(-1, 1, inner.size)
        best = max(best, _search_rise(negative_rise, start, iterations))
    percent = 100 * best / (1 + level)
    return estimate(percent, percent, n=restarts, kind="lower bound: best of restarts")


def _search_rise(
    negative_rise: Callable[[Vector], tuple[float, Vector]], start: Vector, iterations: int
) -> float:
    """The largest rise found by one search."""
    at_start, slope = negative_rise(start)
    length = float(np.linalg.norm(slope))
    if not np.isfinite(length) or length == 0:
        return -at_start

    def scaled(unit: Vector) -> tuple[float, Vector]:
        value, gradient = negative_rise(unit)
        return value / length, gradient / length

    end, value = minimize_in_unit_box(scaled, start, iterations)
    # a convex rise has its maximum in a corner, which ten iterations may just miss
    corner = np.where(end < 0, -1.0, 1.0)
    return max(-at_start, -value * length, -negative_rise(corner)[0])


def random_basis(size: int, dimensions: int = SUBSPACE_DIMENSIONS, *, seed: int = 0) -> Vector:
    """Return orthonormal columns (size, min(size, dimensions)) of a uniformly random subspace."""
    columns = np.random.default_rng(seed).standard_normal((size, min(size, dimensions)))
    return np.linalg.qr(columns)[0]


def invariance_audit(
    measure: Callable[[Vector], float],
    rescale: Callable[[Vector, float], Vector],
    x_P: Vector,
) -> Json:
    """Return a measure of one function written with different weights, and its max/min.

    The ratio is 1 for a measure that depends on the function alone. `rescale(x, a)` returns weights
    of the very same function (Dinh et al. 2017, arXiv 1703.04933, §3).
    """
    values = {1.0: measure(x_P)} | {factor: measure(rescale(x_P, factor)) for factor in FACTORS}
    low, high = min(values.values()), max(values.values())
    return {
        "ratio": high / low if low > 0 else None,
        "values": {f"{factor:g}": value for factor, value in values.items()},
    }


def parametric_line(
    value: Callable[[Vector], float | Mapping[str, float]],
    small_P: Vector,
    large_P: Vector,
) -> Json:
    """Return f(α·x_large + (1-α)·x_small) at 25 values of α from -1 to 2.

    0 is the model of the small batch, 1 the model of the large one (Goodfellow et al. 2014, arXiv
    1412.6544; Keskar et al., Figure 3).
    """
    alphas = np.linspace(-1, 2, 25)
    return {
        "alpha": alphas.tolist(),
        "loss": [value(alpha * large_P + (1 - alpha) * small_P) for alpha in alphas],
    }


def generalization_gap(train_losses_N: Vector, holdout_losses_M: Vector) -> Estimate:
    """Return mean(hold-out) - mean(training) of per-row losses of one model.

    Welch's interval (Welch 1947, Biometrika 34:28) is over the rows that were drawn, not over
    training: for that, compare the gaps of several trials. `n`: rows of the smaller set; fewer than
    two give no interval.
    """
    train, held = np.asarray(train_losses_N, dtype=float), np.asarray(holdout_losses_M, dtype=float)
    gap, n = float(held.mean() - train.mean()), min(train.size, held.size)
    if n < 2:
        return estimate(gap, n=n, kind="welch")
    variance, degrees = welch(train, held)
    reach = t_quantile(degrees) * variance**0.5
    return estimate(gap, gap - reach, gap + reach, n=n, kind="welch")
