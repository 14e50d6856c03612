"""Values with their 95 % intervals: medians, means, ratios of samples, and censored times.

Every function returns an `Estimate`, apart from `kaplan_meier_median`, which has no interval.
docs/science.md says which interval is used where.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from streamtrain.base.finite import finite_or_none
from streamtrain.records import OPTIONAL, json_values
from streamtrain.science.scipy_functions import t_quantile
from streamtrain.types import Json

#: From this many values on, the interval of a median is a percentile bootstrap; below it, where
#: resampling has too few distinct values to draw from, it is Student's t.
BOOTSTRAP_FROM = 10
_RESAMPLES = 2000
#: The kind of a ratio that has no upper end, since its denominator may be zero.
LOWER_BOUND = "fieller lower bound"

Vector = NDArray[np.float64]
Sample = Sequence[float] | Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value, such as a median, with its 95 % interval.

    None means unknown or not finite, since JSON has neither NaN nor infinity.

    Attributes:
        value: The value.
        lo: Lower end of the interval; None without repeats.
        hi: Upper end of the interval; None without repeats.
        n: Values, trials or other repeats that it is from.
        kind: Name of the interval where it is not the interval of a plain sample.
    """

    value: float | None
    lo: float | None = None
    hi: float | None = None
    n: Annotated[int, Field(ge=0)] = 0
    kind: str = field(default="", metadata=OPTIONAL)

    def to_json(self) -> Json:
        """Return the estimate in the form of `summary.json`; `kind` only where there is one.

        >>> Estimate(value=2.0, lo=1.0, n=8, kind="fieller").to_json()
        {'value': 2.0, 'lo': 1.0, 'hi': None, 'n': 8, 'kind': 'fieller'}
        """
        return json_values(self)

    @classmethod
    def from_json(cls, values: Json) -> "Estimate":
        """Return the estimate that `to_json` gave; keys that are missing keep their defaults."""
        return cls(
            value=values.get("value"),
            lo=values.get("lo"),
            hi=values.get("hi"),
            n=values.get("n", 0),
            kind=values.get("kind", ""),
        )


class HasValue(Protocol):
    """What has a value, or None where it is not known: an estimate, or a loss."""

    @property
    def value(self) -> float | None:
        """The value."""
        ...


def value_of(figure: HasValue | None) -> float | None:
    """Return the value of a figure, or None where there is no figure."""
    return None if figure is None else figure.value


def mean(values: Sequence[float]) -> float:
    """Return the mean of values, added in their order.

    >>> mean([1.0, 2.0])
    1.5
    """
    return sum(values) / len(values)


def estimate(
    value: float, lo: float | None = None, hi: float | None = None, *, n: int, kind: str = ""
) -> Estimate:
    """Return an Estimate with None for each number that is not finite.

    >>> estimate(2.0, 1.0, float("inf"), n=8, kind="fieller")
    Estimate(value=2.0, lo=1.0, hi=None, n=8, kind='fieller')
    """
    return Estimate(
        value=finite_or_none(value),
        lo=finite_or_none(lo),
        hi=finite_or_none(hi),
        n=int(n),
        kind=kind,
    )


def measure(values: Iterable[float | None], *, log: bool = False) -> Estimate:
    """Return the median of the finite values and its 95 % interval; `n` counts these values.

    None, NaN and infinite values are left out. The interval is Student's t for 2 ≤ n < 10 and a
    percentile bootstrap with a fixed seed from n = 10. `log=True` is for positive quantities: the t
    interval is taken on logarithms. There is no interval for fewer than two values, or where it
    would be too wide for a float. Always lo ≤ value ≤ hi.

    >>> measure([3.0, 1.0, None, 2.0]).value, measure([5.0])
    (2.0, Estimate(value=5.0, lo=None, hi=None, n=1, kind=''))
    """
    sample = np.array([value for value in values if value is not None], dtype=float)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return Estimate(value=None)
    value = float(np.median(sample))
    lo, hi = _median_interval(sample, log=log and bool((sample > 0).all()))
    if lo is None or hi is None:
        return Estimate(value=value, n=sample.size)
    if log:
        # a sample with a zero has no logarithms, but its interval must not be negative either
        lo = max(lo, 0.0)
    # a t interval is about the mean, and the median can lie outside it
    return Estimate(value=value, lo=min(lo, value), hi=max(hi, value), n=sample.size)


def t_estimate(values: Sample) -> Estimate:
    """Return the mean of independent repeats (n,) and Student's interval; none below two."""
    sample = np.asarray(values, dtype=float)
    if sample.size < 2:
        value = float(sample.mean()) if sample.size else np.nan
        return estimate(value, n=sample.size, kind="t")
    lo, hi = _t_interval(sample)
    return estimate(float(sample.mean()), lo, hi, n=sample.size, kind="t")


def log_estimate(value: float, repeats: Sample) -> Estimate:
    """Return a positive `value` with Student's interval, on logarithms, over its `repeats` (n,).

    `value` comes from all repeats together and need not be their mean; the interval is widened to
    include it. There is no interval for fewer than two repeats, or where `value` or any repeat is
    not positive and finite: leaving such repeats out would describe only the others.
    """
    sample = np.asarray(repeats, dtype=float)
    usable = (
        sample.size > 1
        and bool(np.isfinite(sample).all())
        and bool((sample > 0).all())
        and 0 < value < np.inf
    )
    if not usable:
        return estimate(value, n=sample.size, kind="1 run" if sample.size == 1 else "repeats")
    lo, hi = _t_interval(sample, log=True)
    return estimate(value, min(lo, value), max(hi, value), n=sample.size, kind="t on logarithms")


def jackknife(whole: float, without: Sample) -> Estimate:
    """Return an estimate from n parts, its interval from the n estimates `without` one part each.

    The value is `whole` itself, not the mean of the pseudo-values; the interval is Student's with
    n - 1 degrees of freedom, and there is none below two parts (Efron and Tibshirani 1993, An
    Introduction to the Bootstrap, §11.5).
    """
    left = np.asarray(without, dtype=float)
    n = left.size
    if n < 2:
        return estimate(whole, n=n, kind="jackknife")
    reach = t_quantile(n - 1) * np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum())
    return estimate(whole, float(whole - reach), float(whole + reach), n=n, kind="jackknife")


def paired_ratio(a: Sample, b: Sample) -> Estimate:
    """Return the ratio a/b of two positive samples paired element by element; `n` counts pairs.

    Below 10 pairs: the geometric mean of a/b and a paired t interval on log(a/b). From 10: the
    median of a/b, where the middle of an even number is taken on logarithms, and a paired
    percentile bootstrap (docs/science.md §7). What both samples of a trial share, such as its
    seed, cancels. A pair of zeros has ratio 1. One pair has no interval.

    Raises ValueError for samples that are empty or of unlike length.
    """
    top, bottom = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if top.shape != bottom.shape or not top.size:
        raise ValueError(
            f"paired samples must have the same length of at least 1; got {top.size} and"
            f" {bottom.size}"
        )
    zero = (top == 0) & (bottom == 0)
    top, bottom = np.where(zero, 1.0, top), np.where(zero, 1.0, bottom)
    n = top.size
    if n < BOOTSTRAP_FROM:
        lo, hi = _median_interval(top / bottom, log=True)
        return Estimate(value=float(np.exp(np.mean(np.log(top / bottom)))), lo=lo, hi=hi, n=n)
    # a time of zero against another one: its ratio is infinite, and the interval may have no end
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(top / bottom)
        ends = np.exp(np.percentile(np.median(logs[_draw(n)], axis=1), [2.5, 97.5]))
    lo, hi = _both_finite(ends[0], ends[1])
    return Estimate(value=float(np.exp(np.median(logs))), lo=lo, hi=hi, n=n)


def independent_ratio(a: Sample, b: Sample) -> Estimate:
    """Return the ratio a/b of two positive, independent samples, for runs that share no trial.

    Where a sample has fewer than 10 values: the ratio of geometric means and Welch's t interval
    on logarithms (B. L. Welch, Biometrika 34, 1947). Otherwise the ratio of medians and a
    percentile bootstrap. A sample of one value gives no interval. `n` is the size of the smaller
    sample.

    Raises ValueError for samples that are empty or not positive.

    >>> independent_ratio([2.0], [4.0])
    Estimate(value=0.5, lo=None, hi=None, n=1, kind='')
    """
    top, bottom = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if not top.size or not bottom.size or not (top > 0).all() or not (bottom > 0).all():
        raise ValueError(
            f"ratios are of positive samples with at least one value; got {top.size} and"
            f" {bottom.size} values"
        )
    n = min(top.size, bottom.size)
    if n >= BOOTSTRAP_FROM:
        # the seed is fixed, so that a comparison is a pure function of two runs
        random = np.random.default_rng(0)
        ratios = _resampled_medians(random, top) / _resampled_medians(random, bottom)
        lo, hi = np.percentile(ratios, [2.5, 97.5])
        value = float(np.median(top) / np.median(bottom))
        return Estimate(value=value, lo=float(lo), hi=float(hi), n=n)
    top, bottom = np.log(top), np.log(bottom)
    difference = top.mean() - bottom.mean()
    value = float(np.exp(difference))
    if n < 2:
        return Estimate(value=value, n=n)
    variance, degrees = welch(top, bottom)
    if not variance:
        return Estimate(value=value, lo=value, hi=value, n=n)
    reach = t_quantile(degrees) * np.sqrt(variance)
    with np.errstate(over="ignore"):
        ends = np.exp([difference - reach, difference + reach])
    lo, hi = _both_finite(ends[0], ends[1])
    return Estimate(value=value, lo=lo, hi=hi, n=n)


def welch(a: Vector, b: Vector) -> tuple[float, float]:
    """Return the variance of mean(a) - mean(b) of independent samples, and its degrees of freedom.

    Samples have two values at least (B. L. Welch, Biometrika 34, 1947).
    """
    parts = np.array([a.var(ddof=1) / a.size, b.var(ddof=1) / b.size])
    variance = parts.sum()
    if not variance > 0:
        return float(variance), 1.0
    return variance, variance**2 / (parts**2 / np.array([a.size - 1, b.size - 1])).sum()


def fieller(numerators: Sample, denominators: Sample) -> Estimate:
    """Return mean(numerators)/mean(denominators) of T independent replicates, both (T,).

    For a ratio known to be positive. The interval holds every R at which
    mean(numerators - R·denominators) does not differ from 0 by a t test, so it is exact for normal
    pairs, however they are correlated (Fieller 1954, J. R. Statist. Soc. B 16:175; docs/science.md
    §2). `kind` is "fieller". Where the denominator is not significantly positive there is no upper
    end: `hi` is None, `kind` is "fieller lower bound", and `value` is None when the denominator's
    mean is not even positive.

    Raises ValueError for replicates that are empty or of unlike shape.
    """
    top, bottom = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    if top.shape != bottom.shape or top.ndim != 1 or not top.size:
        raise ValueError(
            f"replicates must be two lines of the same length of at least 1; got shapes {top.shape}"
            f" and {bottom.shape}"
        )
    n = top.size
    a, b = float(top.mean()), float(bottom.mean())
    value = a / b if b > 0 else np.nan
    if n < 2:
        return estimate(value, n=n, kind="fieller")
    (aa, ab), (_, bb) = np.cov(top, bottom) / n * t_quantile(n - 1) ** 2
    # R is inside when (a - R b)² ≤ t² (s_aa - 2 R s_ab + R² s_bb): a quadratic in R.
    square, half, constant = b * b - bb, a * b - ab, a * a - aa
    root = np.sqrt(max(half * half - square * constant, 0.0))
    if b > 0 and square > 0:
        lo = max((half - root) / square, 0.0)
        return estimate(value, lo, (half + root) / square, n=n, kind="fieller")
    # The set lies outside its two roots, or is the whole line. Its positive part starts at the
    # larger root.
    lower = (half - root) / square if square < 0 and constant > 0 else 0.0
    return estimate(value, max(lower, 0.0), n=n, kind=LOWER_BOUND)


def kaplan_meier_median(reached: Collection[float], censored: Collection[float]) -> float | None:
    """Return the smallest time by which half of the trials arrived; None where fewer do.

    `reached`: the times of those that arrived. `censored`: how long each of the others was
    watched, infinity for one that can never arrive. The fraction still on its way is
    Π(1 - arrivals/at risk) (Kaplan and Meier 1958, J. Am. Stat. Assoc. 53:457, §2); None where it
    stays above a half. Without censored trials it is the (lower) median.

    >>> kaplan_meier_median([3.0, 1.0, 2.0], [9.0, 9.0]), kaplan_meier_median([1.0], [9.0, 9.0])
    (3.0, None)
    """
    times = np.sort(np.asarray(list(reached), dtype=float))
    watched = np.asarray(list(censored), dtype=float)
    fraction = 1.0
    for time in np.unique(times):
        at_risk = np.count_nonzero(times >= time) + np.count_nonzero(watched >= time)
        fraction *= 1 - np.count_nonzero(times == time) / at_risk
        if fraction <= 0.5 + 1e-12:
            return float(time)
    return None


def _median_interval(sample: Vector, *, log: bool) -> tuple[float | None, float | None]:
    """The interval of a median: t below ten values, a bootstrap from there.

    None for both ends where one is not known.
    """
    if sample.size < 2:
        return None, None
    if sample.size >= BOOTSTRAP_FROM:
        lo, hi = np.percentile(np.median(sample[_draw(sample.size)], axis=1), [2.5, 97.5])
        return float(lo), float(hi)
    return _both_finite(*_t_interval(sample, log=log))


def _t_interval(sample: Vector, *, log: bool = False) -> tuple[float, float]:
    """Student's interval of a mean; with `log` of a geometric mean. An end may be infinite."""
    scale = np.log(sample) if log else sample
    # a diverging loss can be 1e300
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        reach = t_quantile(sample.size - 1) * scale.std(ddof=1) / np.sqrt(sample.size)
        ends = np.array([scale.mean() - reach, scale.mean() + reach])
        ends = np.exp(ends) if log else ends
    return float(ends[0]), float(ends[1])


def _draw(size: int) -> NDArray[np.int64]:
    """Bootstrap indices.

    They are always the same for one size, so that a report is a pure function of its records.
    """
    return np.random.default_rng(0).integers(0, size, (_RESAMPLES, size))


def _resampled_medians(random: np.random.Generator, sample: Vector) -> Vector:
    indices = random.integers(0, sample.size, (_RESAMPLES, sample.size))
    return np.median(sample[indices], axis=1)


def _both_finite(lo: float, hi: float) -> tuple[float | None, float | None]:
    return (float(lo), float(hi)) if np.isfinite([lo, hi]).all() else (None, None)
