"""Sharpness: how much the loss can rise within a small box about the weights (Keskar et al. 2017,
arXiv 1609.04836, Metric 2.1).

C_ε = {z : |z_i| ≤ ε(|(A⁺x)_i| + 1)}, φ = 100·(max over z in C_ε of f(x + Az) - f(x))/(1 + f(x)), in
the full space (A = I) or in a random subspace. Adaptive sharpness (Kwon et al. 2021, arXiv
2102.11600) leaves out the +1, so that rescaling layers leaves it alone. Sharpness is shown, and
never enters the recommendation. 1 + f is not scale free: standardise the target.

`value_and_grad` maps x (P,) to (f, ∇f (P,)), on one fixed subset of rows for every model compared;
float64.

The generalisation gap: loss on rows held out, less loss on rows trained on.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.optimize import minimize

from streamtrain.science.intervals import Estimate, estimate, welch
from streamtrain.science.scipy_functions import t_quantile
from streamtrain.types import Json

ValueAndGrad = Callable[[np.ndarray], tuple[float, np.ndarray]]

#: The radii, dimensions and iterations of Keskar et al., §2.2.2.
EPSILONS = (1e-3, 5e-4)
SUBSPACE_DIMENSIONS = 100
ITERATIONS = 10

#: L-BFGS-B is started this often: one start ends in one local maximum.
RESTARTS = 8

#: Factors of exact rescalings in the invariance audit; powers of two, so that they are exact in
#: floating point too.
FACTORS = (0.25, 0.5, 2.0, 4.0)


def sharpness(
    value_and_grad: ValueAndGrad,
    x_P: np.ndarray,
    epsilon: float,
    *,
    basis_PD: np.ndarray | None = None,
    adaptive: bool = False,
    restarts: int = RESTARTS,
    iterations: int = ITERATIONS,
    seed: int = 0,
) -> Estimate:
    """φ in percent: the best of `restarts` searches, so a lower bound (`lo`); `basis_PD` has
    orthonormal columns, so A⁺ = Aᵀ.

    L-BFGS-B started at a minimiser would stop at once with φ = 0: starts are uniform inside the
    box, which is rescaled to [-1, 1] in every direction, and the objective to a gradient of length
    1, so that no absolute tolerance decides.
    """
    x = np.asarray(x_P, dtype=float)
    level, _ = value_and_grad(x)
    inner = x if basis_PD is None else basis_PD.T @ x
    radius = epsilon * (np.abs(inner) + (0.0 if adaptive else 1.0))
    random, best = np.random.default_rng(seed), 0.0

    def rise(unit: np.ndarray) -> tuple[float, np.ndarray]:
        move = radius * unit
        value, gradient = value_and_grad(x + (move if basis_PD is None else basis_PD @ move))
        return level - value, -radius * (gradient if basis_PD is None else basis_PD.T @ gradient)

    for _ in range(restarts):
        start = random.uniform(-1, 1, inner.size)
        first, slope = rise(start)
        length = np.linalg.norm(slope)
        best = max(best, -first)
        if not np.isfinite(length) or length == 0:
            continue
        found = minimize(
            lambda unit, length=length: tuple(part / length for part in rise(unit)),
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[(-1, 1)] * inner.size,
            options={"maxiter": iterations, "ftol": 0.0, "gtol": 0.0},
        )
        # a convex rise has its maximum in a corner, which ten iterations may just miss
        corner = np.where(found.x < 0, -1.0, 1.0)
        best = max(best, -found.fun * length, -rise(corner)[0])
    percent = 100 * best / (1 + level)
    return estimate(percent, percent, None, n=restarts, kind="lower bound: best of restarts")


def random_basis(size: int, dimensions: int = SUBSPACE_DIMENSIONS, *, seed: int = 0) -> np.ndarray:
    """Orthonormal columns (size, min(size, dimensions)) of a uniformly random subspace."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, min(size, dimensions))))[
        0
    ]


def invariance_audit(
    measure: Callable[[np.ndarray], float],
    rescale: Callable[[np.ndarray, float], np.ndarray],
    x_P: np.ndarray,
    factors: Sequence[float] = FACTORS,
) -> Json:
    """One measure of the same function written with other weights: max/min over exact rescalings; 1
    for an honest measure.

    `rescale(x, a)` returns weights of the very same function (Dinh et al. 2017, arXiv 1703.04933,
    §3).
    """
    values = {1.0: measure(x_P)} | {factor: measure(rescale(x_P, factor)) for factor in factors}
    low, high = min(values.values()), max(values.values())
    return {
        "ratio": high / low if low > 0 else None,
        "values": {f"{factor:g}": value for factor, value in values.items()},
    }


def parametric_line(
    value: Callable[[np.ndarray], float | Mapping[str, float]],
    small_P: np.ndarray,
    large_P: np.ndarray,
    points: int = 25,
) -> Json:
    """f(α·x_large + (1-α)·x_small) for α from -1 to 2 (Goodfellow et al. 2014, arXiv 1412.6544.

    Keskar's Figure 3): 0 is the small batch's model.
    """
    alphas = np.linspace(-1, 2, points)
    return {
        "alpha": alphas.tolist(),
        "loss": [value(alpha * large_P + (1 - alpha) * small_P) for alpha in alphas],
    }


def generalization_gap(train_losses_N: np.ndarray, holdout_losses_M: np.ndarray) -> Estimate:
    """mean(hold-out) - mean(training) of per-row losses of one model, with Welch's interval (Welch
    1947, Biometrika 34:28).

    The interval is of the rows drawn, not of training: for that compare the gaps of several trials.
    `n`: rows of the smaller set.
    """
    train, held = np.asarray(train_losses_N, dtype=float), np.asarray(holdout_losses_M, dtype=float)
    gap, n = held.mean() - train.mean(), min(train.size, held.size)
    if n < 2:
        return estimate(gap, n=n, kind="welch")
    variance, degrees = welch(train, held)
    reach = t_quantile(degrees) * variance**0.5
    return estimate(gap, gap - reach, gap + reach, n=n, kind="welch")
