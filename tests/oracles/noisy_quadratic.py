"""The noisy quadratic model: SGD with momentum on independent parabolas.

Zhang et al. 2019, arXiv 1907.04164, §3.

Risk ½Σ h_i E θ_i²; the gradient of a minibatch is h_iθ_i plus normal noise of variance c_i/B.
Defaults h_i = c_i = 1/i. With heavy ball v' = βv + g, θ' = θ - ηv', the second moments (E θ², E θv,
E v²) of a dimension follow a 3 x 3 linear recursion.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from streamtrain.science.scipy_functions import Vector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NoisyQuadratic:
    """A model of d parabolas.

    `curvature`: h (d,). `noise`: c (d,). `start`: E θ_i² at step 0, (d,) or one value for all.
    """

    curvature: Vector
    noise: Vector
    start: Vector | float = 1.0

    @staticmethod
    def harmonic(dimensions: int, groups: int | None = None) -> "NoisyQuadratic":
        """Return the model with h_i = c_i = 1/i and E θ_i² = 1 at the start.

        `groups`: replace the dimensions by this many groups of similar curvature, on a log scale.
        n equal dimensions have n times the risk of one, which is the risk of one dimension with n
        times the noise and start.
        """
        law = 1 / np.arange(1.0, dimensions + 1)
        if groups is None:
            return NoisyQuadratic(curvature=law, noise=law)
        edges = np.unique(np.round(np.geomspace(1, dimensions + 1, groups + 1)).astype(int)) - 1
        sizes = np.diff(edges)
        lumped = np.add.reduceat(law, edges[:-1]) / sizes
        return NoisyQuadratic(curvature=lumped, noise=lumped * sizes, start=sizes.astype(float))

    def risk(
        self, steps_S: ArrayLike, batch_size: float, lr: float, momentum: float = 0.0
    ) -> Vector:
        """Return the expected risk (S,) after each number of steps; infinite if it overflows."""
        matrices, shift = self._recursion(batch_size, lr, momentum)
        steps = np.asarray(steps_S, dtype=np.int64)
        state = np.zeros((len(steps), len(self.curvature), 4))
        state[..., 0], state[..., 3] = self.start, 1.0
        augmented = np.zeros((len(self.curvature), 4, 4))
        augmented[:, :3, :3], augmented[:, :3, 3], augmented[:, 3, 3] = matrices, shift, 1.0
        with np.errstate(over="ignore", invalid="ignore"):
            # matrix powers by squaring, all numbers of steps at once
            for bit in range(int(steps.max(initial=0)).bit_length()):
                on = (steps >> bit & 1).astype(bool)
                state[on] = np.einsum("dij,sdj->sdi", augmented, state[on])
                augmented = augmented @ augmented
            risk = 0.5 * state[..., 0] @ self.curvature
        return np.where(np.isfinite(risk), risk, np.inf)

    def steps_to(
        self,
        target: float,
        batch_size: float,
        lr: float,
        momentum: float = 0.0,
        *,
        most: int = 2**20,
    ) -> float:
        """Return the first step at or below the target; infinite if there is none up to `most`.

        It is exact to half a percent: a log grid is refined once.
        """
        low, high = 1, most
        for points in (60, 60):
            grid = np.unique(np.round(np.geomspace(low, high, points)).astype(np.int64))
            below = np.flatnonzero(self.risk(grid, batch_size, lr, momentum) <= target)
            if not below.size:
                return math.inf
            low, high = int(grid[max(below[0] - 1, 0)]), int(grid[below[0]])
        return float(high)

    def best_steps(
        self, target: float, batch_size: float, momentum: float = 0.0, rates: int = 60
    ) -> float:
        """Return the steps to the target at the best learning rate of a log grid.

        The grid has `rates` learning rates below the stability limit 2(1 + β)/h_max.
        """
        top = 2 * (1 + momentum) / float(np.max(self.curvature))
        return min(
            self.steps_to(target, batch_size, lr, momentum)
            for lr in top * np.geomspace(1e-5, 0.99, rates)
        )

    def _recursion(self, batch_size: float, lr: float, momentum: float) -> tuple[Vector, Vector]:
        """M (d, 3, 3) and s (d, 3) of the recursion (θ², θv, v²)' = M(θ², θv, v²) + s.

        It follows from v' = βv + hθ + n and θ' = θ - ηv'.
        """
        h = np.asarray(self.curvature, dtype=float)
        variance = np.asarray(self.noise, dtype=float) / batch_size
        a = np.stack(
            [
                np.stack([1 - lr * h, np.full_like(h, -lr * momentum)], -1),
                np.stack([h, np.full_like(h, momentum)], -1),
            ],
            -2,
        )
        p, q, r, s = a[:, 0, 0], a[:, 0, 1], a[:, 1, 0], a[:, 1, 1]
        rows = [
            np.stack([p * p, 2 * p * q, q * q], -1),
            np.stack([p * r, p * s + q * r, q * s], -1),
            np.stack([r * r, 2 * r * s, s * s], -1),
        ]
        return np.stack(rows, -2), np.stack([lr**2 * variance, -lr * variance, variance], -1)
