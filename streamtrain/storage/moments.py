"""Moments of a column that can be added over spans."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Count, mean, sum of squared deviations and extremes of the finite values of a column.

    Two of them are added by the pairwise update of Chan, Golub and LeVeque (1983), so that no sum
    of squares of large values is formed. `nulls` counts NaN, `infinite` ±Inf.
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
        """Return the moments of a 1-D array, computed in float64."""
        rows, nulls = len(values), 0
        # NaN and ±Inf show in the extremes, so an array without them is not searched.
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
        count = self.count + other.count
        if not self.count or not other.count:
            filled = self if self.count else other
            mean, squares = filled.mean, filled.squares
        else:
            gap = other.mean - self.mean
            mean = self.mean + gap * other.count / count
            between = gap * gap * self.count * other.count / count
            squares = self.squares + other.squares + between
        return Moments(
            count=count,
            nulls=self.nulls + other.nulls,
            infinite=self.infinite + other.infinite,
            mean=mean,
            squares=squares,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
        )

    @property
    def variance(self) -> float:
        """Population variance; NaN for an empty sample."""
        return self.squares / self.count if self.count else math.nan
