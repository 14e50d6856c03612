"""A median with its 95 % interval, and the paired ratio of two samples.

An estimate with its 95 % interval, how it was had (`kind`) and from how many repeats (`n`): the
form of every measurement.

The ratio of two independent samples, for runs that share no trial.

The ratio of two means, with Fieller's interval (Fieller 1954, J.

R. Statist. Soc. B 16:175; docs/science.md §2).

Times of which some were not seen to the end: a trial that missed its target says only "longer
than this".
"""

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from scipy.special import stdtrit

from streamtrain.types import Json

#: From this many values on, a percentile bootstrap covers what it promises; below it (67 % at n =
#: 3) a t interval does.
BOOTSTRAP_FROM = 10
_RESAMPLES = 2000


def measure(values: Iterable[float | None], *, log: bool = False) -> dict[str, float | int | None]:
    """The median of the finite values and its 95 % interval, as `{value, n, lo, hi}`.

    `log=True` is for positive quantities: the t interval is taken on logarithms. None, NaN and
    infinite values are left out. Below two values `lo` and `hi` are None; likewise when an interval
    is too wide for a float. Always lo ≤ value ≤ hi. The t interval is for 2 ≤ n < 10, a percentile
    bootstrap with a fixed seed from n = 10.

    >>> measure([3.0, 1.0, None, 2.0])["value"], measure([5.0])
    (2.0, {'value': 5.0, 'n': 1, 'lo': None, 'hi': None})
    """
    sample = np.array([value for value in values if value is not None], dtype=float)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return {"value": None, "n": 0, "lo": None, "hi": None}
    value = float(np.median(sample))
    lo, hi = _interval(sample, log=log and bool((sample > 0).all()))
    if lo is not None and hi is not None:
        if log:
            # of a sample with a zero no logarithm is taken; it is not negative all the same
            lo = max(lo, 0.0)
        # a t interval is about the mean, which the median can leave
        lo, hi = (min(lo, value), max(hi, value))
    return {"value": value, "n": int(sample.size), "lo": lo, "hi": hi}


def paired_ratio(
    a: Sequence[float], b: Sequence[float]
) -> tuple[float, float | None, float | None]:
    """The ratio a/b of two positive samples paired element by element, with its 95 % interval
    `(ratio, lo, hi)`.

    Below 10 pairs: geometric mean of a/b and a paired t interval on log(a/b). From 10: median of
    a/b, the middle of an even number on logarithms, and a paired percentile bootstrap
    (docs/science.md §7). What both samples of a trial share, its seed, is in neither. A pair of
    zeros has ratio 1. One pair: `lo` and `hi` are None.
    """
    top, bottom = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if top.shape != bottom.shape or not top.size:
        raise ValueError(
            f"paired samples must have the same length of at least 1; got {top.size} and"
            f" {bottom.size}"
        )
    zero = (top == 0) & (bottom == 0)
    top, bottom = np.where(zero, 1.0, top), np.where(zero, 1.0, bottom)
    if top.size < BOOTSTRAP_FROM:
        lo, hi = _interval(top / bottom, log=True)
        return float(np.exp(np.mean(np.log(top / bottom)))), lo, hi
    # a time of zero against another: no end is known
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(top / bottom)
        ends = np.exp(np.percentile(np.median(logs[_draw(logs.size)], axis=1), [2.5, 97.5]))
    lo, hi = (float(end) for end in ends) if np.isfinite(ends).all() else (None, None)
    return float(np.exp(np.median(logs))), lo, hi


def _interval(sample: np.ndarray, *, log: bool) -> tuple[float | None, float | None]:
    if sample.size < 2:
        return None, None
    if sample.size >= BOOTSTRAP_FROM:
        lo, hi = np.percentile(np.median(sample[_draw(sample.size)], axis=1), [2.5, 97.5])
        return float(lo), float(hi)
    scale = np.log(sample) if log else sample
    # a diverging loss can be 1e300
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        reach = stdtrit(sample.size - 1, 0.975) * scale.std(ddof=1) / np.sqrt(sample.size)
        ends = np.array([scale.mean() - reach, scale.mean() + reach])
        ends = np.exp(ends) if log else ends
    return (float(ends[0]), float(ends[1])) if np.isfinite(ends).all() else (None, None)


def _draw(size: int) -> np.ndarray:
    """Bootstrap indices, the same for the same size, so that a report is a pure function of its
    records.
    """
    return np.random.default_rng(0).integers(0, size, (_RESAMPLES, size))


def estimate(
    value: float, lo: float | None = None, hi: float | None = None, *, n: int, kind: str
) -> Json:
    """`{value, lo, hi, n, kind}`; JSON has no NaN or infinity, so None stands for an end that is
    not known or not finite.

    >>> estimate(2.0, 1.0, float("inf"), n=8, kind="fieller")
    {'value': 2.0, 'lo': 1.0, 'hi': None, 'n': 8, 'kind': 'fieller'}
    """
    return {
        "value": _finite(value),
        "lo": _finite(lo),
        "hi": _finite(hi),
        "n": int(n),
        "kind": kind,
    }


def t_estimate(values: Sequence[float] | np.ndarray, *, kind: str = "t") -> Json:
    """The mean of independent repeats (n,) and Student's interval; no interval below two."""
    sample = np.asarray(values, dtype=float)
    if sample.size < 2:
        return estimate(float(sample.mean()) if sample.size else np.nan, n=sample.size, kind=kind)
    reach = t_quantile(sample.size - 1) * sample.std(ddof=1) / np.sqrt(sample.size)
    return estimate(
        sample.mean(), sample.mean() - reach, sample.mean() + reach, n=sample.size, kind=kind
    )


def log_estimate(value: float, repeats: Sequence[float] | np.ndarray) -> Json:
    """A positive value had from all repeats (n,) together, and Student's interval over the repeats'
    own values, on logarithms.

    None below two, and where the value or a repeat is not positive and finite: such an interval
    would be of the others only.
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
    logs = np.log(sample)
    reach = t_quantile(logs.size - 1) * logs.std(ddof=1) / np.sqrt(logs.size)
    with np.errstate(over="ignore"):
        lo, hi = np.exp([logs.mean() - reach, logs.mean() + reach])
    return estimate(value, min(lo, value), max(hi, value), n=logs.size, kind="t on logarithms")


def jackknife(
    whole: float, without: Sequence[float] | np.ndarray, *, kind: str = "jackknife"
) -> Json:
    """An estimate from all n parts and its interval from the n estimates `without` one part each
    (Efron and Tibshirani 1993, §11.5).

    The value is the whole's own, not the pseudo-values' mean; the interval is Student's with n - 1
    degrees of freedom.
    """
    left = np.asarray(without, dtype=float)
    n = left.size
    if n < 2:
        return estimate(whole, n=n, kind=kind)
    reach = t_quantile(n - 1) * np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum())
    return estimate(whole, whole - reach, whole + reach, n=n, kind=kind)


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t."""
    return float(stdtrit(degrees, 0.975))


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


_RESAMPLES = 2000


def independent_ratio(
    a: Sequence[float], b: Sequence[float]
) -> tuple[float, float | None, float | None]:
    """The ratio a/b of two positive, independent samples with its 95 % interval `(ratio, lo, hi)`.

    Where a sample has fewer than 10 values: geometric means and Welch's t interval on logarithms
    (B. L. Welch, Biometrika 34, 1947). Else the ratio of medians and a percentile bootstrap. A
    sample of one value gives no interval.

    >>> independent_ratio([2.0], [4.0])
    (0.5, None, None)
    """
    top, bottom = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if not top.size or not bottom.size or not (top > 0).all() or not (bottom > 0).all():
        raise ValueError(
            f"ratios are of positive samples with at least one value; got {top.size} and"
            f" {bottom.size} values"
        )
    if min(top.size, bottom.size) >= BOOTSTRAP_FROM:
        # the same for the same samples: a comparison is a pure function of two runs
        draw = np.random.default_rng(0)
        ratios = _medians(draw, top) / _medians(draw, bottom)
        lo, hi = np.percentile(ratios, [2.5, 97.5])
        return float(np.median(top) / np.median(bottom)), float(lo), float(hi)
    top, bottom = np.log(top), np.log(bottom)
    difference = top.mean() - bottom.mean()
    if min(top.size, bottom.size) < 2:
        return float(np.exp(difference)), None, None
    parts = np.array([top.var(ddof=1) / top.size, bottom.var(ddof=1) / bottom.size])
    if not parts.sum():
        return (float(np.exp(difference)),) * 3
    freedom = parts.sum() ** 2 / (parts**2 / np.array([top.size - 1, bottom.size - 1])).sum()
    reach = stdtrit(freedom, 0.975) * np.sqrt(parts.sum())
    with np.errstate(over="ignore"):
        ends = np.exp([difference - reach, difference + reach])
    return (
        float(np.exp(difference)),
        *((float(ends[0]), float(ends[1])) if np.isfinite(ends).all() else (None, None)),
    )


def _medians(draw: np.random.Generator, sample: np.ndarray) -> np.ndarray:
    return np.median(sample[draw.integers(0, sample.size, (_RESAMPLES, sample.size))], axis=1)


def fieller(
    numerators: Sequence[float] | np.ndarray, denominators: Sequence[float] | np.ndarray
) -> Json:
    """mean(numerators)/mean(denominators) of T independent replicates, both (T,), for a ratio known
    to be positive.

    The interval holds every R at which mean(numerators - R·denominators) does not differ from 0 by
    a t test, so it is exact for normal pairs, however they are correlated. `kind` is "fieller".
    Where the denominator is not significantly positive no upper end exists: `hi` is None, `kind` is
    "fieller lower bound", and `value` is None when the denominator's mean is not even positive.
    """
    top, bottom = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    if top.shape != bottom.shape or top.ndim != 1 or not top.size:
        raise ValueError(
            f"replicates must be two lines of the same length of at least 1; got shapes {top.shape}"
            f" and {bottom.shape}"
        )
    replicates = top.size
    a, b = top.mean(), bottom.mean()
    value = a / b if b > 0 else np.nan
    if replicates < 2:
        return estimate(value, n=replicates, kind="fieller")
    (aa, ab), (_, bb) = np.cov(top, bottom) / replicates * t_quantile(replicates - 1) ** 2
    # R is inside when (a - R b)² <= t² (s_aa - 2 R s_ab + R² s_bb): a quadratic in R.
    square, half, constant = b * b - bb, a * b - ab, a * a - aa
    root = np.sqrt(max(half * half - square * constant, 0.0))
    if b > 0 and square > 0:
        return estimate(
            value,
            max((half - root) / square, 0.0),
            (half + root) / square,
            n=replicates,
            kind="fieller",
        )
    # The set lies outside of its two roots, or is the whole line; its positive part begins at the
    # larger root.
    lower = (half - root) / square if square < 0 and constant > 0 else 0.0
    return estimate(value, max(lower, 0.0), n=replicates, kind="fieller lower bound")


def kaplan_meier_median(reached: Collection[float], censored: Collection[float]) -> float | None:
    """The smallest time by which half of the trials are there (Kaplan and Meier 1958, J.

    Am. Stat. Assoc. 53:457, §2).

    `reached`: times of those that arrived; `censored`: how long the others were watched, infinity
    for one that never can. The share still on its way is Π(1 - arrivals/at risk); None where it
    stays above a half. Without censored ones it is the (lower) median.

    >>> kaplan_meier_median([3.0, 1.0, 2.0], [9.0, 9.0]), kaplan_meier_median([1.0], [9.0, 9.0])
    (3.0, None)
    """
    times, away = (
        np.sort(np.asarray(list(reached), dtype=float)),
        np.asarray(list(censored), dtype=float),
    )
    share = 1.0
    for time in np.unique(times):
        at_risk = np.count_nonzero(times >= time) + np.count_nonzero(away >= time)
        share *= 1 - np.count_nonzero(times == time) / at_risk
        if share <= 0.5 + 1e-12:
            return float(time)
    return None
