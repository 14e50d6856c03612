"""The exact oracle: SGD on linear regression, its mean loss curve and all that follows, in closed
form (docs/science.md §8).

y = w*ᵀx + ξ, loss ½r², D = w - w*, independent features with eigenvalues λ_i = E x_i², m_i = E
D_i². A step of B fresh rows at learning rate η is m' = A m + b, A = diag(1 - 2ηλ_i + η²λ_i²(1 +
(κ_i - 2)/B)) + (η²/B)λλᵀ, b = (η²σ²/B)λ; excess loss = ½λᵀm. κ_i = E x_i⁴/λ_i² is 3 for a Gaussian
feature and 1 for a bias, the feature that is always 1. A is symmetric: one `eigh` gives the whole
curve. B may be infinite.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from streamtrain.science.steps_law import fit_steps

#: Steps to a target are sought among these, up to 2^36, and then between two of them.
_STEPS = np.concatenate([[0.0], np.unique(np.round(np.geomspace(1, 2**36, 300)))])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GaussianLinear:
    """`eigenvalues` λ (d,), `noise_variance` σ² of ξ, `start` m (d,) at step 0, `kurtosis` κ (d,)
    or one for all.
    """

    eigenvalues: np.ndarray
    noise_variance: float
    start: np.ndarray
    kurtosis: np.ndarray | float = 3.0

    def transition(self, batch_size: float, lr: float) -> tuple[np.ndarray, np.ndarray]:
        """A (d, d) and b (d,)."""
        lam = np.asarray(self.eigenvalues, dtype=float)
        diagonal = (
            1 - 2 * lr * lam + (lr * lam) ** 2 * (1 + (np.asarray(self.kurtosis) - 2) / batch_size)
        )
        return (
            np.diag(diagonal) + lr**2 / batch_size * np.outer(lam, lam),
            lr**2 * self.noise_variance / batch_size * lam,
        )

    def excess(
        self, steps_S: Sequence[int] | np.ndarray, batch_size: float, lr: float
    ) -> np.ndarray:
        """The mean excess loss after each number of steps, (S,); infinite once it overflows."""
        A, b = self.transition(batch_size, lr)
        mu, modes = np.linalg.eigh(A)
        lam, steps = (
            np.asarray(self.eigenvalues, dtype=float),
            np.asarray(steps_S, dtype=float)[:, None],
        )
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            # With a bias A may be indefinite: its own entry is (1 - ηλ)², which may vanish, and it
            # is coupled to the others.
            powers = mu**steps
            sums = np.where(np.abs(1 - mu) < 1e-13, steps, (1 - powers) / (1 - mu))
            curve = 0.5 * (powers * (modes.T @ self.start) + sums * (modes.T @ b)) @ (modes.T @ lam)
        return np.where(np.isfinite(curve), curve, np.inf)

    def spectral_radius(self, batch_size: float, lr: float) -> float:
        """Of A: below 1 the mean square shrinks."""
        return float(np.abs(np.linalg.eigvalsh(self.transition(batch_size, lr)[0])).max())

    def largest_stable_lr(self, batch_size: float) -> float:
        """η_max of mean-square stability: ηλ_i(1 + (κ_i-2)/B) < 2 and (η/B)Σλ_i/(2 - ηλ_i(1 +
        (κ_i-2)/B)) < 1.
        """
        lam = np.asarray(self.eigenvalues, dtype=float)
        gain = lam * (1 + (np.asarray(self.kurtosis) - 2) / batch_size)
        pole = 2 / gain.max() if gain.max() > 0 else 2 * batch_size / lam.sum()
        if math.isinf(batch_size):
            return float(pole)
        if gain.max() <= 0:  # a bias alone at B = 1: no pole, so the second condition alone
            pole *= 2
        top = pole * (1 - 1e-15)
        return float(
            brentq(
                lambda lr: lr / batch_size * (lam / (2 - lr * gain)).sum() - 1,
                0.0,
                top,
                xtol=1e-15,
                rtol=1e-14,
            )
        )

    def stationary_excess(self, batch_size: float, lr: float) -> float:
        """The floor: ½σ²q/(1 - q), q = (η/B)Σλ_i/(2 - ηλ_i(1 + (κ_i-2)/B)); infinite beyond
        stability.
        """
        if lr >= self.largest_stable_lr(batch_size):
            return math.inf
        lam = np.asarray(self.eigenvalues, dtype=float)
        q = (
            lr
            / batch_size
            * (lam / (2 - lr * lam * (1 + (np.asarray(self.kurtosis) - 2) / batch_size))).sum()
        )
        return 0.5 * self.noise_variance * q / (1 - q)

    def steps_to(self, target: float, batch_size: float, lr: float) -> float:
        """The first step, a whole number, whose mean excess is at most `target`; infinite if none
        is.
        """
        below = np.flatnonzero(self.excess(_STEPS, batch_size, lr) <= target)
        if not below.size or below[0] == 0:
            return 0.0 if below.size else math.inf
        low, high = _STEPS[below[0] - 1], _STEPS[below[0]]
        while high - low > 1:
            points = np.unique(np.floor(np.linspace(low, high, 66)))
            at = 1 + int(np.argmax(self.excess(points[1:], batch_size, lr) <= target))
            low, high = points[at - 1], points[at]
        return float(high)

    def interpolated_steps_to(self, target: float, batch_size: float, lr: float) -> float:
        """The same as a real number: log excess is linear between two steps, as
        `crossing.first_crossing` has it.
        """
        step = self.steps_to(target, batch_size, lr)
        if step == 0 or math.isinf(step):
            return step
        before, after = np.log(self.excess([step - 1, step], batch_size, lr))
        return float(step - 1 + (before - math.log(target)) / (before - after))

    def best(self, target: float, batch_size: float) -> tuple[float, float]:
        """(η, steps): the learning rate that needs fewest steps, interpolated, and what it
        needs.
        """
        top = self.largest_stable_lr(batch_size)
        rates = top * np.geomspace(1e-6, 0.999, 61)
        steps = [self.interpolated_steps_to(target, batch_size, lr) for lr in rates]
        at = int(np.argmin(steps))
        if math.isinf(steps[at]):  # the floor at every rate tried is above the target
            return float(rates[0]), math.inf
        ends = (np.log(rates[max(at - 1, 0)]), np.log(rates[min(at + 1, len(rates) - 1)]))
        found = minimize_scalar(
            lambda log_lr: min(
                self.interpolated_steps_to(target, batch_size, math.exp(log_lr)), 1e18
            ),
            bounds=ends,
            method="bounded",
            options={"xatol": 1e-3},
        )
        return (
            (float(math.exp(found.x)), float(found.fun))
            if found.fun < steps[at]
            else (float(rates[at]), float(steps[at]))
        )

    def critical_batch_size(self, target: float, batch_sizes: Sequence[float]) -> float:
        """B_crit of S = S_min(1 + B_crit/B), fitted to the fewest steps at these sizes."""
        return fit_steps(batch_sizes, [self.best(target, size)[1] for size in batch_sizes])[1]

    def information_limited_rows(self, excess: float) -> float:
        """Rows that any estimator needs for this excess: σ²d/(2·excess)."""
        return self.noise_variance * len(self.eigenvalues) / (2 * excess)


def gaussian_noise_scales(
    eigenvalues: np.ndarray, error: np.ndarray, noise_variance: float
) -> tuple[float, float]:
    """(B_simple, B_noise) at D = `error`, in the eigenbasis of C = H: 1 + 2L·tr C/|G|² and 1 +
    2L·tr C²/(GᵀCG), G = CD.

    L = ½(DᵀCD + σ²); Σ = 2L·C + GGᵀ, of Gaussian features (docs/science.md §2).
    """
    lam, d = np.asarray(eigenvalues, dtype=float), np.asarray(error, dtype=float)
    gradient, twice_loss = lam * d, float(lam @ d**2) + noise_variance
    return 1 + twice_loss * lam.sum() / (gradient @ gradient), 1 + twice_loss * (lam @ lam) / (
        gradient @ (lam * gradient)
    )


def isotropic_best_lr(eigenvalue: float, dimensions: int, batch_size: float) -> tuple[float, float]:
    """Noiseless and isotropic.

    (η*, contraction of the excess a step) = (B/(B+d+1)/λ, (d+1)/(B+d+1)).
    """
    share = 1 / (1 + (dimensions + 1) / batch_size)
    return share / eigenvalue, 1 - share
