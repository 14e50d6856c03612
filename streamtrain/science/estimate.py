"""An estimate with its 95 % interval, how it was had (`kind`) and from how many repeats (`n`): the
form of every measurement.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from streamtrain.types import Record


def estimate(
    value: float, lo: float | None = None, hi: float | None = None, *, n: int, kind: str
) -> Record:
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


def t_estimate(values: Sequence[float] | np.ndarray, *, kind: str = "t") -> Record:
    """The mean of independent repeats (n,) and Student's interval; no interval below two."""
    sample = np.asarray(values, dtype=float)
    if sample.size < 2:
        return estimate(float(sample.mean()) if sample.size else np.nan, n=sample.size, kind=kind)
    reach = t_quantile(sample.size - 1) * sample.std(ddof=1) / np.sqrt(sample.size)
    return estimate(
        sample.mean(), sample.mean() - reach, sample.mean() + reach, n=sample.size, kind=kind
    )


def log_estimate(value: float, repeats: Sequence[float] | np.ndarray) -> Record:
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
) -> Record:
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
