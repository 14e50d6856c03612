"""When a held-out loss curve reaches a target, and which target to choose.

Shallue et al. 2018 (arXiv 1811.03600); docs/science.md §1.
"""

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Context

import numpy as np
from numpy.typing import NDArray

from streamtrain.science.scipy_functions import Vector

#: A curve: the steps at each evaluation, ascending, and the held-out loss there; None or NaN where
#: it is not finite.
LossCurve = tuple[Sequence[int], Sequence[float | None]]

#: `rows_to_reach` fits the last factor of this many in rows, and does not extrapolate further than
#: this many times the rows seen.
_FITTED_FACTOR, _FARTHEST = 8, 1e4


def first_crossing(
    steps: Sequence[int], losses: Sequence[float | None], target: float
) -> float | None:
    """Return the steps at which a curve first reaches `target` and stays there; None if never.

    It stays there when the next evaluation after at least one more step is at or below the target
    too, so a crossing at the last evaluation does not count. Evaluations without a new step are
    ignored. The steps are interpolated between two evaluations, where log-loss is taken as linear.

        loss   1.0   0.4   0.6   0.4   0.3       target 0.5
        below         x           x     x    the first x is alone: the crossing is from 0.6 to 0.4

    >>> first_crossing([0, 1, 2], [4.0, 1.0, 0.5], 2.0)
    0.5
    """
    step, loss = _with_new_steps(steps, losses)
    below = loss <= target
    hits = np.flatnonzero(below[:-1] & below[1:])
    if not hits.size:
        return None
    hit = int(hits[0])
    if hit == 0 or not np.isfinite(loss[hit - 1]):
        return float(step[hit])
    before, after = np.log(loss[hit - 1]), np.log(max(loss[hit], np.finfo(float).tiny))
    steps_above = (step[hit] - step[hit - 1]) * (before - np.log(target)) / (before - after)
    return float(step[hit - 1] + steps_above)


def smallest_target(steps: Sequence[int], losses: Sequence[float | None]) -> float:
    """Return the smallest target that `first_crossing` finds reached after training.

    Infinity if no step improved the loss.
    """
    _, loss = _with_new_steps(steps, losses)
    pairs = np.maximum(loss[:-1], loss[1:])  # NaN in either gives NaN: that pair reaches nothing
    pairs = pairs[np.isfinite(pairs)]
    reached = float(pairs.min()) if pairs.size else np.inf
    return np.inf if loss.size and reached >= loss[0] else reached


def automatic_target(curves: Mapping[int, Sequence[Sequence[LossCurve]]]) -> float | None:
    """Return the smallest loss that half of the sizes, but at least three, reach in every trial.

    It is rounded up to three digits; None if there is none. `curves`: by batch size, for each
    learning rate that finished, one curve per trial. A size reaches a loss with one learning rate
    in all its trials. When fewer than three sizes learn anything, all of those must reach it. It is
    half rather than three because a loss that only the luckiest three reach is within the noise of
    the smallest losses, where sizes cannot be ranked.
    """
    smallest = [_smallest_of_size(learning_rates) for learning_rates in curves.values()]
    reached = sorted(loss for loss in smallest if np.isfinite(loss) and loss > 0)
    if not reached:
        return None
    needed = min(max(3, (len(reached) + 1) // 2), len(reached))
    return round_up(reached[needed - 1])


def _smallest_of_size(learning_rates: Sequence[Sequence[LossCurve]]) -> float:
    return min(
        (max(smallest_target(*curve) for curve in trials) for trials in learning_rates if trials),
        default=np.inf,
    )


def rows_to_reach(
    rows: Sequence[int], losses: Sequence[float | None], target: float, floor: float = 0.0
) -> float | None:
    """Return the rows at which a curve would reach `target` if it continued as a power law.

    The law is fitted to the last factor 8 of rows. `floor` is the best possible loss, where known:
    the law is then fitted to the excess over it. None where the curve does not fall, where the
    target is not above the floor, or where more than 10,000 times the rows seen would be needed.
    """
    row = np.asarray(rows, dtype=float)
    excess = _floats(losses) - floor
    in_tail = row >= row.max(initial=0) / _FITTED_FACTOR
    tail = (row > 0) & in_tail & np.isfinite(excess) & (excess > 0)
    if target <= floor or np.unique(row[tail]).size < 3:
        return None
    slope, level = np.polyfit(np.log(row[tail]), np.log(excess[tail]), 1)
    needed = (np.log(target - floor) - level) / slope if slope < 0 else np.inf
    return float(np.exp(needed)) if needed < np.log(row.max()) + np.log(_FARTHEST) else None


def round_up(value: float, digits: int = 3) -> float:
    """Return `value` rounded up to `digits` significant decimal digits.

    >>> round_up(0.12301), round_up(0.123)
    (0.124, 0.123)
    """
    return float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(repr(float(value))))


def _with_new_steps(
    steps: Sequence[int], losses: Sequence[float | None]
) -> tuple[NDArray[np.int64], Vector]:
    """The first evaluation and those after at least one more step."""
    step, loss = np.asarray(steps, dtype=np.int64), _floats(losses)
    is_new = np.ones(step.size, dtype=bool)
    is_new[1:] = step[1:] > np.maximum.accumulate(step)[:-1]
    return step[is_new], loss[is_new]


def _floats(losses: Sequence[float | None]) -> Vector:
    return np.array([np.nan if loss is None else loss for loss in losses], dtype=float)
