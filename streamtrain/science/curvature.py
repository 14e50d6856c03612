"""The largest eigenvalue of a Hessian, as a bracket with a certificate, from Hessian-vector
products only.

Stability of training: the curvature above which a step of a given learning rate no longer
shrinks an error.

Lines of curvature for full batches; for SGD on the Gaussian linear model the exact mean-square
boundary stands in `oracle.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh_tridiagonal

from streamtrain.errors import ConfigError
from streamtrain.science.intervals import Estimate, estimate, t_estimate

Hvp = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bracket:
    """`ritz` ≤ the largest eigenvalue; some eigenvalue lies within `residual` of it.

    `vector`: its unit Ritz vector (P,).

    `smallest` is the other end of the spectrum, from above. `steps` Hessian-vector products were
    taken.
    """

    ritz: float
    residual: float
    smallest: float
    vector: np.ndarray
    steps: int

    def record(self) -> Estimate:
        """The value with the certificate's interval [ritz, ritz + residual]: of linear algebra, not
        of sampling.
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
    """Lanczos with full reorthogonalisation (Golub and Van Loan 2013, §10.3; Parlett 1998, §13.2)
    on the symmetric `hvp` of (P,) vectors.

    Certificate: |λ - θ| ≤ β_k|s_k| for some eigenvalue λ. Stops early when that is below
    `tolerance` of |θ|, or when the Krylov space is the whole space reached by the start. The
    certificate does not exclude an eigenvector that the random start never met.
    """
    start = np.random.default_rng(seed).standard_normal(size)
    basis = np.zeros((min(steps, size), size))
    alpha, beta = [], []
    vector = start / np.linalg.norm(start)
    for k in range(len(basis)):
        basis[k] = vector
        image = np.asarray(hvp(vector), dtype=float)
        alpha.append(float(vector @ image))
        for _ in range(2):  # once is not enough when θ has converged (Parlett §6.9)
            image = image - basis[: k + 1].T @ (basis[: k + 1] @ image)
        beta.append(float(np.linalg.norm(image)))
        values, vectors = eigh_tridiagonal(np.array(alpha), np.array(beta[:-1]))
        residual = beta[-1] * abs(vectors[-1, -1])
        if (
            residual <= tolerance * max(abs(values).max(), np.finfo(float).tiny)
            or beta[-1] <= 1e-14 * abs(values).max()
        ):
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


def rayleigh_on_independent_rows(hvps: Sequence[Hvp], vector_P: np.ndarray) -> Estimate:
    """vᵀHv on T blocks of rows that had no part in finding `vector_P`, with Student's interval.

    A sample's λ_max is biased up, since its eigenvector was fitted to the sample; this is an
    unbiased estimate of a lower bound of the population's. Print both.
    """
    unit = vector_P / np.linalg.norm(vector_P)
    return t_estimate([float(unit @ hvp(unit)) for hvp in hvps])


def stable_curvature(
    optimizer: str, lr: float, *, momentum: float = 0.0, nesterov: bool = False, beta1: float = 0.9
) -> float:
    """The largest stable λ of full-batch training on a quadratic; Adam's is of the preconditioned
    Hessian.

    Gradient descent 2/η; heavy ball (2 + 2β)/η (Polyak 1964), with Nesterov's look ahead (2 +
    2β)/((1 + 2β)η) (both: Cohen et al. 2021, arXiv 2103.00065, appendix B); Adam (2 + 2β₁)/((1 -
    β₁)η), which is 38/η at β₁ = 0.9 (Cohen et al. 2022, arXiv 2207.14484, §3).

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
