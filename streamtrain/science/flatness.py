"""When a loss is flat: another doubling of the rows hardly improves it.

`train` ends by this rule (training/until_flat.py), and a sweep's ladder (science/ladder.py) by a
stricter one where little of the variance is explained.
"""

import math
from collections.abc import Iterable

from streamtrain.science.crossing import smallest_target
from streamtrain.science.run_log import Curve

#: A loss is flat when twice the rows improve it by less than this.
FLAT = 0.01


def best_loss(curves: Iterable[Curve], rows: int | None = None) -> float:
    """Return the smallest loss that any finished learner reached and held, up to `rows`.

    Infinity if none did.
    """
    losses = [
        smallest_target(*_until(curve, rows)) for curve in curves if curve.finished and curve.rows
    ]
    return min(losses, default=math.inf)


def halfway(rows: int) -> int:
    """Return the last row of the first half, rounded up because points at r·2^(k/2) are rounded.

    >>> halfway(11_585), halfway(8192)
    (5793, 4096)
    """
    return (rows + 1) // 2


def fall_per_doubling(curves: Iterable[Curve]) -> float | None:
    """Return the fraction by which the second half of the rows improved the best loss.

    None where the first half reached nothing that it held.
    """
    before, after = _best_losses(curves)
    if not math.isfinite(before):
        return None
    return 1 - after / before if before > 0 else 0.0


def is_flat(fall: float | None) -> bool:
    """Return whether a `fall_per_doubling` is that of a flat loss."""
    return fall is not None and fall < FLAT


def hardly_gains(curves: Iterable[Curve]) -> bool:
    """Return whether more rows are of little use, also where the target is mostly noise.

    They are where the second half of the rows improved the best loss by less than `FLAT` of it, and
    of the explained part of the variance, if that is smaller. A loss of 0.97 that falls to 0.965
    has improved by half a per cent, and a sixth more is explained. Less than `FLAT` of the variance
    counts as that much, since changes so small may be noise.
    """
    before, after = _best_losses(curves)
    if not math.isfinite(before):
        return False
    if before == 0:
        return True
    return before - after < FLAT * min(before, max(1 - after, FLAT))


def _best_losses(curves: Iterable[Curve]) -> tuple[float, float]:
    """Return the best losses after the first half of the rows, and after all of them."""
    curves = list(curves)
    rows = max((curve.rows[-1] for curve in curves if curve.rows), default=0)
    return best_loss(curves, halfway(rows)), best_loss(curves)


def _until(curve: Curve, rows: int | None) -> tuple[list[int], list[float | None]]:
    """The steps and losses of a curve up to `rows`."""
    count = sum(row <= rows for row in curve.rows) if rows is not None else len(curve.rows)
    return curve.steps[:count], list(curve.holdout_loss[:count])
