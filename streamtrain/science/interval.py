"""A median with its 95 % interval, and the paired ratio of two samples."""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.special import stdtrit

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
