"""A kind of generated data: features, a noiseless target, and what is exactly known of it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streamtrain.types import Truth

#: A span's 4 features: float32, one 1-D array each.
Features = tuple[np.ndarray, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """`draw(generator, rows)` → features; `function(features)` → the noiseless target, float32.

    `variance` is the noiseless target's, over the features' distribution; `linear_variance` is the
    part that the best linear model explains, where it is known.
    """

    name: str
    draw: Callable[[np.random.Generator, int], Features]
    function: Callable[[Features], np.ndarray]
    variance: float
    linear_variance: float | None

    def truth(self, noise: float) -> Truth:
        """What is known of the data with noise of `noise` sd of the noiseless target."""
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
    """`rows` uniform float32 values of `[low, high)`."""
    values = generator.random(rows, dtype=np.float32)
    values *= np.float32(high - low)
    values += np.float32(low)
    return values
