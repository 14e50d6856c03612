"""The ratio of two independent samples, for runs that share no trial."""

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from streamtrain.science.interval import BOOTSTRAP_FROM

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
