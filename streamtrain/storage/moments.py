"""Moments of a column that add up over spans: count, mean, sum of squared deviations, extremes."""

import math
from dataclasses import dataclass

import numpy as np

from streamtrain.storage.manifest import Statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Count, mean and sum of squared deviations of the finite values of a column; they add up
    (Chan, Golub, LeVeque 1983).
    """

    count: int = 0
    nulls: int = 0
    infinite: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = np.inf
    high: float = -np.inf

    @staticmethod
    def of(values: np.ndarray) -> "Moments":
        """The moments of a 1-D array, in float64."""
        rows, nulls = len(values), 0
        # NaN and ±Inf show in the extremes, so the usual array is not searched for them.
        if rows and not np.isfinite([values.min(), values.max()]).all():
            nulls = int(np.isnan(values).sum())
            values = values[np.isfinite(values)]
        count = len(values)
        infinite = rows - nulls - count
        if not count:
            return Moments(nulls=nulls, infinite=infinite)
        low, high = float(values.min()), float(values.max())
        with np.errstate(over="ignore", invalid="ignore"):
            # A constant column has exactly its value as mean and 0 as variance, whatever the
            # rounding of a sum.
            mean = low if low == high else float(values.mean(dtype=np.float64))
            deviations = np.subtract(values, mean, dtype=np.float64)
            squares = float(np.square(deviations, out=deviations).sum())
        return Moments(
            count=count,
            nulls=nulls,
            infinite=infinite,
            mean=mean,
            squares=squares,
            low=low,
            high=high,
        )

    def __add__(self, other: "Moments") -> "Moments":
        if not self.count or not other.count:
            one = self if self.count else other
            mean, squares = one.mean, one.squares
        else:
            gap = other.mean - self.mean
            mean = self.mean + gap * other.count / (self.count + other.count)
            squares = (
                self.squares
                + other.squares
                + gap * gap * self.count * other.count / (self.count + other.count)
            )
        return Moments(
            count=self.count + other.count,
            nulls=self.nulls + other.nulls,
            infinite=self.infinite + other.infinite,
            mean=mean,
            squares=squares,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
        )

    @property
    def variance(self) -> float:
        """Of the population; NaN of nothing."""
        return self.squares / self.count if self.count else math.nan

    def statistics(self) -> Statistics:
        """As the manifest has them; a figure beyond float64 is null."""
        figures = (
            (self.mean, self.variance**0.5, self.low, self.high) if self.count else (np.nan,) * 4
        )
        mean, sd, low, high = (float(figure) if np.isfinite(figure) else None for figure in figures)
        return Statistics(
            count=self.count,
            nulls=self.nulls,
            infinite=self.infinite,
            mean=mean,
            sd=sd,
            min=low,
            max=high,
        )
