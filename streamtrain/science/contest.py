"""The comparison of a run: its target, and the log seconds to it per size and trial."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from streamtrain.science.cells import Cell, rows_of_steps, throughput, timed_repeats
from streamtrain.science.crossing import first_crossing, round_up, smallest_target
from streamtrain.science.intervals import mean, value_of
from streamtrain.science.run_log import Curve, Run
from streamtrain.science.selection import DEFAULT_WITHIN, Contender, Selection, select
from streamtrain.types import Goal

#: The target exceeds the smallest loss by this fraction of it, or of the explained variance where
#: that is smaller; by more if the last doubling of the rows improved the loss by more.
TARGET_MARGIN = 0.02

#: A raised target exceeds the smallest loss by at most this fraction, however noisy the loss.
MOST_MARGIN = 0.1

#: A raised target explains at least this fraction of what it explained before.
LEAST_EXPLAINED = 0.1

#: `sweep.within` where the goal is a loss: 1 % of it, which is half a percent of the RMSE.
DEFAULT_LOSS_WITHIN = 0.01

#: Log times are averaged over this many losses, from the target up by this fraction of it, or of
#: the way to the loss of a constant where that is less.
LEVELS, LEVELS_WIDTH = 4, 0.05


def contenders(run: Run, cells: Sequence[Cell], target: float | None) -> list[Contender]:
    """Return one contender per cell: its mean log seconds to the `levels` of a target.

    Where the goal of the run is a loss, the log loss takes their place. The seconds are log(rows to
    the level), averaged over the levels, plus the mean log seconds per row. A trial that missed the
    target counts as censored: its last evaluation stands for the levels that it missed. Cells that
    diverged or failed in any trial are left out. Without timings, rows are used instead of seconds.
    """
    trained = [cell for cell in cells if cell.status in ("reached", "not_reached") and cell.curves]
    if run.goal != "time-to-loss":
        return _by_loss(run, trained)
    found: list[Contender] = []
    for cell in trained:
        if target is None:
            continue
        cost = mean_log_cost(run, cell.batch_size)
        logs = {
            trial: _mean_log_rows(cell, curve, levels(run, target)) + cost
            for trial, curve in cell.curves.items()
            if curve.finished and curve.rows
        }
        reached = {trial: value for trial, value in logs.items() if trial in cell.steps_to_target}
        censored = {trial: value for trial, value in logs.items() if trial not in reached}
        found.append(Contender(batch_size=cell.batch_size, log_seconds=reached, censored=censored))
    return found


def _by_loss(run: Run, cells: Sequence[Cell]) -> list[Contender]:
    """Contenders by log loss after equal rows, or after equal seconds by the timings.

    The loss is averaged over the last half of the rows or seconds: at a half, at 1/√2 of them, and
    at their end. What the curves have in common is what the shortest one has.
    """
    costs = {cell.batch_size: mean_log_cost(run, cell.batch_size) for cell in cells}
    if run.goal == "loss-at-rows":
        costs = dict.fromkeys(costs, 0.0)
    ends = [
        math.log(curve.rows[-1]) + costs[cell.batch_size]
        for cell in cells
        for curve in cell.curves.values()
        if curve.finished and curve.rows and curve.rows[-1]
    ]
    end = min(ends, default=0.0)
    found: list[Contender] = []
    for cell in cells:
        rows = [math.exp(end - costs[cell.batch_size] - k * math.log(2) / 2) for k in range(3)]
        values = {
            trial: value
            for trial, curve in cell.curves.items()
            if (value := _mean_log_loss(curve, rows)) is not None
        }
        if values:
            found.append(Contender(batch_size=cell.batch_size, log_seconds=values))
    return found


def _mean_log_loss(curve: Curve, rows: Sequence[float]) -> float | None:
    """The mean log loss at `rows`, interpolated in log rows; None where a loss is not positive."""
    loss = np.array(curve.holdout_loss, dtype=float)
    at = np.array(curve.rows, dtype=float)
    known = (at > 0) & np.isfinite(loss) & (loss > 0)
    if not curve.finished or not known.any() or not known[at > 0].all():
        return None
    return float(np.interp(np.log(rows), np.log(at[known]), np.log(loss[known])).mean())


def levels(run: Run, target: float) -> list[float]:
    """Return the losses over which the log time is averaged: from the target to 5 % above it.

    The time to one level depends on the noise of a few evaluations. The mean over levels has half
    of its deviation or less (docs/science.md §13), and is the time to about the same loss. Where
    less than half of the variance is explained, the losses end 5 % of the way to the loss of a
    constant.
    """
    width = LEVELS_WIDTH * target
    if (constant := run.baseline.constant_loss) is not None:
        width = min(width, LEVELS_WIDTH * max(0.0, constant - target))
    return [target + width * k / (LEVELS - 1) for k in range(LEVELS)]


def _mean_log_rows(cell: Cell, curve: Curve, losses: Sequence[float]) -> float:
    """The mean log of the rows to `losses`; those of the last evaluation for a missed one."""
    logs: list[float] = []
    for loss in losses:
        steps = first_crossing(curve.steps, curve.holdout_loss, loss)
        if steps is None:
            rows = max(float(curve.rows[-1]), 1.0)
        else:
            # a crossing within the first step may be at row 0, which has no logarithm
            rows = max(rows_of_steps(steps, cell.batch_size, cell.epoch_rows), 1e-3)
        logs.append(math.log(rows))
    return mean(logs)


def select_among(run: Run, cells: Sequence[Cell], target: float | None) -> Selection:
    """Return the selection among `cells`, with the timings and `sweep.within` of the run."""
    is_timed = run.goal == "time-to-loss"
    return select(
        contenders(run, cells, target),
        within=run.header.within or default_within(run.goal),
        timing_variance=(
            timing_variance(run, [cell.batch_size for cell in cells]) if is_timed else 0.0
        ),
    )


def default_within(goal: Goal) -> float:
    """Return how much slower than the best, or larger in loss, a settled choice may be."""
    return DEFAULT_WITHIN if goal == "time-to-loss" else DEFAULT_LOSS_WITHIN


def held_target(
    run: Run, target: float, rates: Mapping[int, float], trials: Sequence[int]
) -> float:
    """Return `target`, or a higher loss that a size has reached in every trial.

    A target is chosen on other seeds, and fresh ones can miss it all. It is then raised to
    `margin` above the smallest loss that a size held in each of `trials`, or `_noise` where that is
    more, for all sizes alike. `rates`: the learning rate of each size. Sizes that ran fewer trials
    than others do not count. `target` stays where no size held a loss below that of the best
    constant in every trial, or the raised target would explain less than a tenth (a choice of this
    project) of what `target` does: nearly every model would meet it.
    """
    curves = {
        size: [found[trial] for trial in trials if trial in found]
        for size, rate in rates.items()
        if (found := run.curves.get((size, rate)))
    }
    most = max(map(len, curves.values()), default=0)
    held = [
        [smallest_target(curve.steps, curve.holdout_loss) for curve in ran]
        for ran in curves.values()
        if len(ran) == most > 0 and all(curve.finished for curve in ran)
    ]
    best = min(map(max, held), default=math.inf)
    constant = run.baseline.constant_loss or math.inf
    if not best < constant:
        return target
    # at most halfway to the loss of the constant, however noisy the loss
    noise = min(_noise(held) * best, (constant - best) / 2)
    raised = below_references(run, best, best + max(margin(best), noise))
    if math.isfinite(constant) and constant - raised < LEAST_EXPLAINED * (constant - target):
        return target
    return max(target, raised)


def margin(best: float) -> float:
    """Return how far a target is above the smallest loss: 2 % of it, or of the explained variance.

    The smaller one counts, because 2 % of a loss of 0.97 is two thirds of the 3 % explained: every
    size would soon meet such a target. Where less than 2 % of the variance is explained, 2 % is
    assumed, because smaller differences may be noise.

    >>> round(margin(0.05), 6), round(margin(0.97), 6), round(margin(0.999), 6)
    (0.001, 0.0006, 0.0004)
    """
    return TARGET_MARGIN * min(best, max(1 - best, TARGET_MARGIN))


def _noise(held: Sequence[Sequence[float]]) -> float:
    """Return three standard deviations of the log loss over trials, at most 10 %.

    Whether a size reaches a target closer to its best loss is a matter of luck. `held`: the
    smallest loss of each size and trial. The variance is the median over sizes, since the largest
    sizes, which are far from the best loss, vary most.
    """
    variances = [
        float(np.log(losses).var(ddof=1))
        for losses in held
        if len(losses) > 1 and all(0 < loss < math.inf for loss in losses)
    ]
    if not variances:
        return 0.0
    return min(MOST_MARGIN, 3 * math.sqrt(float(np.median(variances))))


def below_references(run: Run, best: float, target: float) -> float:
    """Return `target` rounded up, or a loss below those of simple models where `best` is below it.

    These are the best linear model and the best constant. `best` is the smallest loss reached. A
    target that one of them meets is no use. It has three significant digits, or as many as keep it
    below them.
    """
    references = [run.baseline.constant_loss, value_of(run.baseline.best_linear_loss)]
    limit = min((loss for loss in references if loss is not None and best < loss), default=math.inf)
    if round_up(target) < limit:
        return round_up(target)
    target = min(target, max(0.995 * limit, best + (limit - best) / 2))
    rounded = (round_up(target, digits) for digits in range(3, 17))
    return next((loss for loss in rounded if loss < limit), target)


def mean_log_cost(run: Run, batch_size: int) -> float:
    """Return the mean of log(seconds per row) over the timing repeats; 0 without timings.

    A repeat that other sizes lack is left out, where there are others: a machine that is slow for
    one repeat would count against this size alone.
    """
    if run.rounds:
        speeds, _ = throughput(run, batch_size)
        return -float(np.log(speeds).mean()) if speeds else 0.0
    timed = timed_repeats(run, batch_size)
    shared = _shared_repeats(run, run.step_seconds)
    repeats = [repeat for repeat in timed if repeat in shared] or list(timed)
    if not repeats:
        return 0.0
    return -float(np.log([timed[repeat][0] for repeat in repeats]).mean())


def timing_variance(run: Run, sizes: Sequence[int]) -> float:
    """Return the variance of `mean_log_cost`, pooled over sizes, without what sizes have in common.

    A slow repeat slows all sizes alike, since they take turns within it, so it does not count.
    Sizes that were dropped count: they are timed in the same repeats, and what is left is the noise
    of the machine. Without them few degrees of freedom would remain, which the margins, that take
    this variance as known, would not show. In four sweeps on a busy machine the deviation without
    them was 0.5 to 1.2 times that with them. Sizes that are no longer timed do not count.
    """
    shared = _shared_repeats(run, sizes)
    speeds = [
        [timed[repeat][0] for repeat in sorted(shared)]
        for size in sizes
        if shared <= (timed := timed_repeats(run, size)).keys()
    ]
    if len(speeds) < 2 or len(shared) < 2:
        return 0.0
    values = np.log(speeds)
    left = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    degrees = (len(values) - 1) * (len(shared) - 1)
    return float((left**2).sum()) / degrees / len(shared)


def _shared_repeats(run: Run, sizes: Iterable[int]) -> set[int]:
    """Return the timing repeats of all `sizes` that are still timed.

    All of these are timed in every repeat, but for the one in which a sweep was interrupted. A size
    that failed, or took no step, has those before its first rung at most.
    """
    repeats = [run.step_seconds[size].keys() for size in sizes if run.step_seconds.get(size)]
    most = max(map(len, repeats), default=0)
    still_timed = [found for found in repeats if len(found) >= most - 1]
    return set[int]().union(*still_timed).intersection(*still_timed)
