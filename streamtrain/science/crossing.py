"""When a held-out loss curve reaches a target (Shallue et al. 2018, arXiv 1811.03600.

docs/science.md §1).
"""

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Context

import numpy as np

#: A curve: steps done at each evaluation, ascending, and the held-out loss there; None or NaN where
#: it is not finite.
Curve = tuple[Sequence[int], Sequence[float | None]]


def first_crossing(
    steps: Sequence[int], losses: Sequence[float | None], target: float
) -> float | None:
    """The steps, interpolated, at which a curve first reaches `target` and stays there for one
    evaluation more; or None.

    It is the first evaluation at or below the target whose next evaluation after at least one more
    step is too. Evaluations that saw no new step are ignored; log-loss is interpolated linearly in
    steps; so a crossing at the last evaluation counts as not reached.

        loss   1.0   0.4   0.6   0.4   0.3       target 0.5
        below         x           x     x    the first x stands alone: crossing at 0.6 to 0.4

    >>> first_crossing([0, 1, 2], [4.0, 1.0, 0.5], 2.0)
    0.5
    """
    kept, loss = _stepped(steps, losses)
    below = loss <= target
    hits = np.flatnonzero(below[:-1] & below[1:])
    if not hits.size:
        return None
    at = int(hits[0])
    if at == 0 or not np.isfinite(loss[at - 1]):
        return float(kept[at])
    before, after = np.log(loss[at - 1]), np.log(max(loss[at], np.finfo(float).tiny))
    return float(
        kept[at - 1] + (kept[at] - kept[at - 1]) * (before - np.log(target)) / (before - after)
    )


def smallest_target(steps: Sequence[int], losses: Sequence[float | None]) -> float:
    """The smallest target that `first_crossing` finds reached after training; infinity if no step
    improved the loss.
    """
    _, loss = _stepped(steps, losses)
    pairs = np.maximum(loss[:-1], loss[1:])  # NaN in either makes NaN: that pair reaches nothing
    pairs = pairs[np.isfinite(pairs)]
    reached = float(pairs.min()) if pairs.size else np.inf
    return np.inf if loss.size and reached >= loss[0] else reached


def automatic_target(cells: Mapping[int, Sequence[Sequence[Curve]]]) -> float | None:
    """The smallest loss that half of the sizes, three at least, reach in every trial, rounded up to
    three digits; None if there is none.

    `cells`: batch size → for each learning rate → one curve a trial; leave out rates that did not
    finish. A size reaches a loss with one rate in all its trials. When fewer than three sizes learn
    anything, all of those must reach it. Half rather than three: what only the luckiest three reach
    lies in the noise of the floor, where nothing can be ranked.
    """
    reached = sorted(
        min(
            (max(smallest_target(*curve) for curve in trials) for trials in rates if trials),
            default=np.inf,
        )
        for rates in cells.values()
    )
    reached = [loss for loss in reached if np.isfinite(loss) and loss > 0]
    return (
        round_up(reached[min(max(3, (len(reached) + 1) // 2), len(reached)) - 1])
        if reached
        else None
    )


def rows_to_reach(
    rows: Sequence[int], losses: Sequence[float | None], target: float, floor: float = 0.0
) -> float | None:
    """The rows at which a curve would reach `target` if it went on as the power law of its last
    factor 8 of rows.

    `floor` is the best possible loss, where known: the law is that of the excess over it. None
    where the curve does not fall, where the target is not above the floor, or where more than
    10,000 times the rows seen would be needed.
    """
    row = np.asarray(rows, dtype=float)
    excess = _floats(losses) - floor
    tail = (row > 0) & (row >= row.max(initial=0) / 8) & np.isfinite(excess) & (excess > 0)
    if target <= floor or np.unique(row[tail]).size < 3:
        return None
    slope, level = np.polyfit(np.log(row[tail]), np.log(excess[tail]), 1)
    needed = (np.log(target - floor) - level) / slope if slope < 0 else np.inf
    return float(np.exp(needed)) if needed < np.log(row.max()) + np.log(1e4) else None


def round_up(value: float, digits: int = 3) -> float:
    """`value` rounded up to so many significant decimal digits.

    >>> round_up(0.12301), round_up(0.123)
    (0.124, 0.123)
    """
    return float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(repr(float(value))))


def _stepped(steps: Sequence[int], losses: Sequence[float | None]) -> tuple[np.ndarray, np.ndarray]:
    """The evaluations that saw a new step (and the first of all)."""
    step, loss = np.asarray(steps, dtype=np.int64), _floats(losses)
    new = np.ones(step.size, dtype=bool)
    new[1:] = step[1:] > np.maximum.accumulate(step)[:-1]
    return step[new], loss[new]


def _floats(losses: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if loss is None else loss for loss in losses], dtype=float)
