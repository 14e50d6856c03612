"""The exact oracle: SGD on linear regression, in closed form (docs/science.md §8).

It gives the mean loss curve and all that follows from it: stability, the smallest loss reached,
steps to a target, the best learning rate and the critical batch size.

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

from streamtrain.science.intervals import Sample
from streamtrain.science.scipy_functions import Vector, find_root, minimize_between
from streamtrain.science.steps_law import fit_steps

#: Steps to a target are sought among these, up to 2^36, and then between two of them.
_STEPS = np.concatenate([[0.0], np.unique(np.round(np.geomspace(1, 2**36, 300)))])

#: Steps that stand for infinity while a minimum is sought, which needs finite values.
_NEVER = 1e18


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GaussianLinear:
    """A linear regression problem and where training starts.

    `eigenvalues`: λ (d,). `noise_variance`: σ² of ξ. `start`: m (d,) at step 0. `kurtosis`: κ (d,),
    or one value for all features.
    """

    eigenvalues: Vector
    noise_variance: float
    start: Vector
    kurtosis: Vector | float = 3.0

    def transition(self, batch_size: float, lr: float) -> tuple[Vector, Vector]:
        """Return A (d, d) and b (d,)."""
        lam = np.asarray(self.eigenvalues, dtype=float)
        diagonal = (
            1 - 2 * lr * lam + (lr * lam) ** 2 * (1 + (np.asarray(self.kurtosis) - 2) / batch_size)
        )
        return (
            np.diag(diagonal) + lr**2 / batch_size * np.outer(lam, lam),
            lr**2 * self.noise_variance / batch_size * lam,
        )

    def excess(self, steps_S: Sample, batch_size: float, lr: float) -> Vector:
        """Return the mean excess loss (S,) after each number of steps; infinite if it overflows."""
        A, b = self.transition(batch_size, lr)
        mu, modes = np.linalg.eigh(A)
        lam = np.asarray(self.eigenvalues, dtype=float)
        steps = np.asarray(steps_S, dtype=float)[:, None]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            # With a bias A may be indefinite: the entry of the bias is (1 - ηλ)², which may vanish,
            # and it is coupled to the others.
            powers = mu**steps
            sums = np.where(np.abs(1 - mu) < 1e-13, steps, (1 - powers) / (1 - mu))
            curve = 0.5 * (powers * (modes.T @ self.start) + sums * (modes.T @ b)) @ (modes.T @ lam)
        return np.where(np.isfinite(curve), curve, np.inf)

    def curve(self, batch_sizes_S: Sequence[int], lr: float, fraction: float = 0.0) -> Vector:
        """Return the mean excess loss before and after each step, (S + 1,), step by step.

        `batch_sizes_S`: the rows of each step. With a `fraction`, the curve is for the weights
        averaged over this fraction of the rows (training/averaging.py). The state is linear in
        (D, D̄), with D̄ the error of the average. Since features are independent, the excess needs
        only m_i, c_i = E D_iD̄_i and v_i = E D̄_i² of its joint second moments. A step multiplies
        c_i by 1 - ηλ_i. An update of the average by the fraction a gives v' = (1-a)²v + 2a(1-a)c +
        a²m and c' = (1-a)c + am.
        """
        lam = np.asarray(self.eigenvalues, dtype=float)
        m = c = v = np.asarray(self.start, dtype=float)
        rows = last = due = 0
        excess = [0.5 * lam @ v]
        for batch_size in batch_sizes_S:
            A, b = self.transition(batch_size, lr)
            m, c = A @ m + b, (1 - lr * lam) * c
            rows += batch_size
            if not fraction:
                v = m
            elif rows >= due:
                a = min(1.0, (rows - last) / (fraction * rows))
                v = (1 - a) ** 2 * v + 2 * a * (1 - a) * c + a**2 * m
                c = (1 - a) * c + a * m
                last, due = rows, rows + max(1, rows // 256)
            excess.append(0.5 * lam @ v)
        return np.array(excess)

    def largest_stable_lr(self, batch_size: float) -> float:
        """Return η_max of mean-square stability.

        Below it ηλ_i(1 + (κ_i-2)/B) < 2 and (η/B)Σλ_i/(2 - ηλ_i(1 + (κ_i-2)/B)) < 1.
        """
        lam = np.asarray(self.eigenvalues, dtype=float)
        gain = lam * (1 + (np.asarray(self.kurtosis) - 2) / batch_size)
        pole = 2 / gain.max() if gain.max() > 0 else 2 * batch_size / lam.sum()
        if math.isinf(batch_size):
            return float(pole)
        if gain.max() <= 0:  # a bias alone at B = 1: no pole, so the second condition alone
            pole *= 2
        return find_root(
            lambda lr: lr / batch_size * (lam / (2 - lr * gain)).sum() - 1,
            0.0,
            pole * (1 - 1e-15),
        )

    def steps_to(self, target: float, batch_size: float, lr: float) -> float:
        """Return the first whole step whose mean excess is at most `target`; infinite if none."""
        below = np.flatnonzero(self.excess(_STEPS, batch_size, lr) <= target)
        if not below.size or below[0] == 0:
            return 0.0 if below.size else math.inf
        low, high = _STEPS[below[0] - 1], _STEPS[below[0]]
        while high - low > 1:
            points = np.unique(np.floor(np.linspace(low, high, 66)))
            first = 1 + int(np.argmax(self.excess(points[1:], batch_size, lr) <= target))
            low, high = points[first - 1], points[first]
        return float(high)

    def interpolated_steps_to(self, target: float, batch_size: float, lr: float) -> float:
        """Return `steps_to` as a real number.

        Log excess is taken as linear between two steps, as `crossing.first_crossing` does.
        """
        step = self.steps_to(target, batch_size, lr)
        if step == 0 or math.isinf(step):
            return step
        before, after = np.log(self.excess([step - 1, step], batch_size, lr))
        return float(step - 1 + (before - math.log(target)) / (before - after))

    def best(self, target: float, batch_size: float) -> tuple[float, float]:
        """Return the learning rate that needs the fewest steps, and these steps, interpolated."""
        grid = self.largest_stable_lr(batch_size) * np.geomspace(1e-6, 0.999, 61)
        grid_steps = [self.interpolated_steps_to(target, batch_size, lr) for lr in grid]
        best = int(np.argmin(grid_steps))
        if math.isinf(grid_steps[best]):  # no learning rate of the grid reaches the target
            return float(grid[0]), math.inf

        def steps_at(log_lr: float) -> float:
            steps = self.interpolated_steps_to(target, batch_size, math.exp(log_lr))
            return min(steps, _NEVER)

        log_lr = minimize_between(
            steps_at,
            float(np.log(grid[max(best - 1, 0)])),
            float(np.log(grid[min(best + 1, len(grid) - 1)])),
            tolerance=1e-3,
        )
        steps = steps_at(log_lr)
        if steps < grid_steps[best]:
            return math.exp(log_lr), steps
        return float(grid[best]), grid_steps[best]

    def critical_batch_size(self, target: float, batch_sizes: Sequence[float]) -> float:
        """Return B_crit of S = S_min(1 + B_crit/B), fitted to the fewest steps at these sizes."""
        fewest = [self.best(target, size)[1] for size in batch_sizes]
        return fit_steps(batch_sizes, fewest).critical_batch_size
