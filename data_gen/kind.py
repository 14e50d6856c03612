"""A kind of synthetic data: features, a noiseless target, and its exact variances."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streamtrain.types import Truth

#: The 4 features of a span: one 1-D float32 array each.
Features = tuple[np.ndarray, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A distribution of the features and a noiseless target.

    Attributes:
        name: Key in `KINDS`.
        draw: `draw(generator, rows)` returns the features.
        function: `function(features)` returns the noiseless target, float32.
        variance: Variance of the noiseless target over the distribution of the features.
        linear_variance: The part of it that the best linear model explains; None if unknown.
    """

    name: str
    draw: Callable[[np.random.Generator, int], Features]
    function: Callable[[Features], np.ndarray]
    variance: float
    linear_variance: float | None

    def truth(self, noise: float) -> Truth:
        """Return the truth for noise of `noise` standard deviations of the noiseless target."""
        noise_variance = noise**2 * self.variance
        target_variance = self.variance + noise_variance
        unexplained = (
            None
            if self.linear_variance is None
            else max(self.variance - self.linear_variance, 0.0) + noise_variance
        )
        return Truth(
            kind=self.name,
            noise_variance=noise_variance,
            noiseless_variance=self.variance,
            target_variance=target_variance,
            best_loss=noise_variance / target_variance,
            best_linear_loss=None if unexplained is None else unexplained / target_variance,
        )


def uniform(low: float, high: float, generator: np.random.Generator, rows: int) -> np.ndarray:
    """Return `rows` uniform float32 values in `[low, high)`."""
    values = generator.random(rows, dtype=np.float32)
    values *= np.float32(high - low)
    values += np.float32(low)
    return values
