"""Numbers for JSON, which has neither NaN nor infinity."""

import math


def finite_or_none(value: float | None) -> float | None:
    """Return the value as a Python float; None where it is unknown or not finite.

    >>> finite_or_none(2), finite_or_none(float("nan")), finite_or_none(None)
    (2.0, None, None)
    """
    return None if value is None or not math.isfinite(value) else float(value)
