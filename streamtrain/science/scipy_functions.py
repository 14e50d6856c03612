"""The functions of SciPy that `science/` uses, with types: SciPy ships no type information.

Nothing else in `science/` imports SciPy. Importing `special` takes 0.2 s, `optimize` and `linalg`
0.4 s, and most commands need none of them: the functions that do import them.
"""
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def t_quantile(degrees: float, probability: float = 0.975) -> float:
    """Return a quantile of Student's t; Welch's degrees of freedom are not whole."""
    from scipy import special

    return float(special.stdtrit(degrees, probability))


def chi_squared_tail(degrees: int, statistic: float) -> float:
    """Return the probability that a chi-squared variable exceeds `statistic`."""
    from scipy import special

    return float(special.chdtrc(degrees, statistic))


def f_tail(numerator_degrees: int, degrees: int, statistic: Vector) -> Vector:
    """Return the probabilities that a variable of Fisher's F exceeds `statistic`."""
    from scipy import special

    return np.asarray(special.fdtrc(numerator_degrees, degrees, statistic))


def minimize_between(
    function: Callable[[float], float], lower: float, upper: float, tolerance: float = 1e-5
) -> float:
    """Return where `function` is smallest in [lower, upper], to `tolerance` (Brent's method)."""
    from scipy import optimize

    result: Any = optimize.minimize_scalar(
        function, bounds=(lower, upper), method="bounded", options={"xatol": tolerance}
    )
    return float(result.x)


def find_root(function: Callable[[float], float], lower: float, upper: float) -> float:
    """Return where `function` is zero in [lower, upper], to rounding (Brent's method).

    Raises ValueError unless its signs at both ends differ.
    """
    from scipy import optimize

    root: Any = optimize.brentq(function, lower, upper, xtol=1e-15, rtol=np.float64(1e-14))
    return float(root)


def minimize_in_unit_box(
    value_and_gradient: Callable[[Vector], tuple[float, Vector]], start: Vector, iterations: int
) -> tuple[Vector, float]:
    """Return the point and value that L-BFGS-B reaches within [-1, 1] in each coordinate.

    It stops after `iterations` or at an exact minimum: every tolerance is zero.
    """
    from scipy import optimize

    result: Any = optimize.minimize(
        value_and_gradient,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(-1, 1)] * start.size,
        options={"maxiter": iterations, "ftol": 0.0, "gtol": 0.0},
    )
    return result.x, float(result.fun)


def non_negative_least_squares(matrix: Vector, target: Vector) -> Vector:
    """Return x ≥ 0 with the smallest |matrix @ x - target|."""
    from scipy import optimize

    return optimize.nnls(matrix, target)[0]


def tridiagonal_eigenpairs(diagonal: Vector, off_diagonal: Vector) -> tuple[Vector, Vector]:
    """Return the eigenvalues of a symmetric tridiagonal matrix, ascending, and its eigenvectors.

    Eigenvectors are columns.
    """
    from scipy import linalg

    values, vectors = linalg.eigh_tridiagonal(diagonal, off_diagonal)
    return values, vectors
