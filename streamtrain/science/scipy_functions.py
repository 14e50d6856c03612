"""The functions of SciPy that `science/` uses, with types: SciPy ships no type information.

Nothing else in `science/` imports SciPy.
"""
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, special

Vector = NDArray[np.float64]


def t_quantile(degrees: float) -> float:
    """Return the 97.5 % quantile of Student's t; Welch's degrees of freedom are not whole."""
    return float(special.stdtrit(degrees, 0.975))


def minimize_between(
    function: Callable[[float], float], lower: float, upper: float, tolerance: float = 1e-5
) -> float:
    """Return where `function` is smallest in [lower, upper], to `tolerance` (Brent's method)."""
    result: Any = optimize.minimize_scalar(
        function, bounds=(lower, upper), method="bounded", options={"xatol": tolerance}
    )
    return float(result.x)


def minimize_in_unit_box(
    value_and_gradient: Callable[[Vector], tuple[float, Vector]], start: Vector, iterations: int
) -> tuple[Vector, float]:
    """Return the point and value that L-BFGS-B reaches within [-1, 1] in each coordinate.

    It stops after `iterations` or at an exact minimum: every tolerance is zero.
    """
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
    return optimize.nnls(matrix, target)[0]


def tridiagonal_eigenpairs(diagonal: Vector, off_diagonal: Vector) -> tuple[Vector, Vector]:
    """Return the eigenvalues of a symmetric tridiagonal matrix, ascending, and its eigenvectors.

    Eigenvectors are columns.
    """
    values, vectors = linalg.eigh_tridiagonal(diagonal, off_diagonal)
    return values, vectors
