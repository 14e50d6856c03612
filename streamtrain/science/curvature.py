"""The largest eigenvalue of a Hessian from Hessian-vector products, and the largest stable one.

`largest_eigenvalue` gives a bracket with a certificate. `stable_curvature` is the curvature above
which a full-batch step of a given learning rate no longer shrinks an error; for SGD on the Gaussian
linear model `oracle.py` has the exact mean-square boundary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from streamtrain.errors import ConfigError
from streamtrain.science.intervals import Estimate, estimate, t_estimate
from streamtrain.science.scipy_functions import Vector, tridiagonal_eigenpairs

#: Maps v (P,) to H v (P,).
Hvp = Callable[[Vector], Vector]

#: Lanczos stops when the next vector is shorter than this fraction of the largest eigenvalue: the
#: Krylov space is then the whole space that the start reaches.
_EXHAUSTED = 1e-14


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bracket:
    """`ritz` ≤ the largest eigenvalue; some eigenvalue is within `residual` of it.

    `vector`: its unit Ritz vector (P,). `smallest`: an upper bound for the smallest eigenvalue.
    `steps`: the number of Hessian-vector products.
    """

    ritz: float
    residual: float
    smallest: float
    vector: Vector
    steps: int

    def to_estimate(self) -> Estimate:
        """Return `ritz` with the interval of the certificate, [ritz, ritz + residual].

        The interval is of linear algebra, not of sampling.
        """
        return estimate(
            self.ritz,
            self.ritz,
            self.ritz + self.residual,
            n=self.steps,
            kind="lanczos certificate",
        )


def largest_eigenvalue(
    hvp: Hvp, size: int, *, steps: int = 30, seed: int = 0, tolerance: float = 1e-10
) -> Bracket:
    """Return a bracket of the largest eigenvalue of the symmetric `hvp` of (size,) vectors.

    Lanczos with full reorthogonalisation (Golub and Van Loan 2013, §10.3; Parlett 1998, §13.2) of
    `steps` ≥ 1 steps. Certificate: |λ - θ| ≤ β_k|s_k| for some eigenvalue λ. It stops early when
    that is below `tolerance` of |θ|, or when the Krylov space is the whole space reached by the
    start. The certificate does not exclude an eigenvector to which the random start is orthogonal.
    """
    start = np.random.default_rng(seed).standard_normal(size)
    basis = np.zeros((min(steps, size), size))
    alpha: list[float] = []
    beta: list[float] = []
    values, vectors, residual = np.zeros(0), np.zeros((0, 0)), np.inf
    vector = start / np.linalg.norm(start)
    for k in range(len(basis)):
        basis[k] = vector
        image = np.asarray(hvp(vector), dtype=float)
        alpha.append(float(vector @ image))
        for _ in range(2):  # once is not enough when θ has converged (Parlett §6.9)
            image = image - basis[: k + 1].T @ (basis[: k + 1] @ image)
        beta.append(float(np.linalg.norm(image)))
        values, vectors = tridiagonal_eigenpairs(np.array(alpha), np.array(beta[:-1]))
        residual = beta[-1] * abs(vectors[-1, -1])
        largest = abs(values).max()
        is_converged = residual <= tolerance * max(largest, np.finfo(float).tiny)
        if is_converged or beta[-1] <= _EXHAUSTED * largest:
            break
        vector = image / beta[-1]
    ritz = basis[: len(alpha)].T @ vectors[:, -1]
    return Bracket(
        ritz=float(values[-1]),
        residual=float(residual),
        smallest=float(values[0]),
        vector=ritz / np.linalg.norm(ritz),
        steps=len(alpha),
    )


def rayleigh_on_independent_rows(hvps: Sequence[Hvp], vector_P: Vector) -> Estimate:
    """Return vᵀHv with Student's interval over blocks of rows not used to find `vector_P`.

    A sample's λ_max is biased upwards, since its eigenvector was fitted to the sample. This is an
    unbiased estimate of a lower bound of the population's λ_max. Show both.
    """
    unit = vector_P / np.linalg.norm(vector_P)
    return t_estimate([float(unit @ hvp(unit)) for hvp in hvps])


def stable_curvature(
    optimizer: str, lr: float, *, momentum: float = 0.0, nesterov: bool = False, beta1: float = 0.9
) -> float:
    """Return the largest stable λ of full-batch training on a quadratic.

    Gradient descent: 2/η. Heavy ball: (2 + 2β)/η (Polyak 1964), with Nesterov's look ahead
    (2 + 2β)/((1 + 2β)η) (both: Cohen et al. 2021, arXiv 2103.00065, appendix B). Adam, for the
    preconditioned Hessian: (2 + 2β₁)/((1 - β₁)η), which is 38/η at β₁ = 0.9 (Cohen et al. 2022,
    arXiv 2207.14484, §3).

    Raises ConfigError for other optimizers.

    >>> stable_curvature("sgd", 0.5), stable_curvature("sgd", 0.5, momentum=0.5)
    (4.0, 6.0)
    >>> round(stable_curvature("adam", 1.0), 9)
    38.0
    """
    if optimizer == "sgd":
        return (2 + 2 * momentum) / ((1 + 2 * momentum if nesterov else 1) * lr)
    if optimizer in ("adam", "adamw"):
        return (2 + 2 * beta1) / ((1 - beta1) * lr)
    raise ConfigError(
        f"optimizer {optimizer!r} has no known stability line; sgd, adam and adamw have."
    )
