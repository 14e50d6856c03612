"""What the budget of a sweep still allows: the rows and seconds of passes, and of timing."""

import math
from collections.abc import Mapping

from streamtrain.records import LadderInfo
from streamtrain.science.contest import mean_log_cost, timing_variance
from streamtrain.science.run_log import Curve, Run
from streamtrain.science.selection import DEFAULT_WITHIN, Selection

#: The ladder leaves time for this many trials of all sizes. Most tables need 5 to 12, the last of
#: them with fewer sizes.
TRIALS_RESERVED = 9.0

#: The fraction of the budget for the passes and timings at most. The rest is for imports, opening,
#: measuring and the report. Where these need more, the passes get what is left, but at least the
#: second part. The compilation of kernels, once per machine, is not counted: a first run would
#: settle less often than a later one with the same budget.
PASSES_SHARE, LEAST_PASSES_SHARE = 0.85, 0.25

#: Seconds of timing per size: five repeats, and finding how many steps fill a region.
TIMING_SECONDS = 0.9

#: Timings are named as the cause of a doubt where their deviation is this part of the bound.
TIMING_DOUBT = 0.3

#: Seconds that timing takes for each second in a timed region: it warms up, and rests in between.
_WITH_RESTS = 1.4

#: The part of a budget after which no more timing is started.
TIMING_SHARE = 0.1


def ladder_of_run(run: Run) -> LadderInfo:
    """Return the limits of a sweep that has a budget."""
    assert run.header.ladder is not None
    return run.header.ladder


def curves_of(run: Run, trial: int) -> list[Curve]:
    """Return the curves of all learners of a trial."""
    return [trials[trial] for trials in run.curves.values() if trial in trials]


def rung_rows(run: Run, trial: int) -> int:
    """Return the rows that the learners of a trial trained on."""
    return max((curve.rows[-1] for curve in curves_of(run, trial) if curve.rows), default=0)


def is_affordable(
    run: Run, rows: int, replicas: Mapping[int, int], *, reserve: bool = True
) -> bool:
    """Return whether a pass fits into the budget.

    With `reserve`: together with the trials after it. `replicas`: how many learning rates each size
    has in the pass.
    """
    ladder, sizes = ladder_of_run(run), run.batch_sizes
    trials = TRIALS_RESERVED if reserve else 0.0
    if ladder.budget_rows is not None:
        used = sum(rung_rows(run, record.trial) for record in run.passes)
        if used + rows * (1 + trials) > ladder.budget_rows:
            return False
    if ladder.budget_seconds is None:
        return True
    last = run.passes[-1]
    trained = rung_rows(run, last.trial) * _cost(run, {s: len(lrs) for s, lrs in last.lrs.items()})
    per_cost = last.training_seconds / max(trained, 1e-12)
    seconds = last.fill_seconds + per_cost * rows * _cost(run, replicas)
    seconds += trials * (last.fill_seconds + per_cost * rows * _cost(run, dict.fromkeys(sizes, 1)))
    seconds += TIMING_SECONDS * len(sizes) if reserve else 0.0
    return _seconds_used(run) + seconds <= passes_seconds(ladder)


def passes_seconds(ladder: LadderInfo) -> float:
    """Return the seconds that passes and timings may take together; infinite without a budget.

    >>> [passes_seconds(LadderInfo(budget_seconds=b, reserved_seconds=6)) for b in (60, 15, 4)]
    [51.0, 9.0, 1.0]
    """
    budget = ladder.budget_seconds
    if budget is None:
        return math.inf
    apart = ladder.before_seconds + ladder.reserved_seconds
    left = min(PASSES_SHARE * budget, budget - apart)
    return max(left, LEAST_PASSES_SHARE * budget)


def projected_seconds(run: Run) -> float | None:
    """Return the rest of a budget in seconds; None before the first rung has ended."""
    ladder = ladder_of_run(run)
    if ladder.budget_seconds is None or not run.passes:
        return None
    return max(0.0, ladder.budget_seconds - ladder.before_seconds - _seconds_used(run))


def is_timed(run: Run) -> bool:
    """Return whether the timings are precise enough, or enough of the budget was spent on them.

    They are when their part of a difference's deviation is a tenth of the log of `sweep.within`: it
    is then a small part of the margin, whatever the trials say.
    """
    ladder = ladder_of_run(run)
    wish = math.log1p(run.header.within or DEFAULT_WITHIN)
    limit = TIMING_SHARE * (ladder.budget_seconds or math.inf)
    return _timing_deviation(run) <= wish / 10 or _timed_seconds(run) > limit


def timing_would_tell(run: Run, selection: Selection | None) -> bool:
    """Return whether more timings are worth their time, after the trials of a sweep.

    They are where the choice is not settled, but reached the target in every trial, the timings are
    a large part of why, and a block of repeats fits into the budget. `selection`: the one after the
    last trial, if any.
    """
    ladder = ladder_of_run(run)
    if (
        ladder.budget_seconds is None
        or selection is None
        or selection.settled
        or not selection.reached
        or selection.regret.hi is None
    ):
        return False
    if _timing_deviation(run) <= TIMING_DOUBT * math.log1p(selection.regret.hi):
        return False
    block = TIMING_SECONDS * len(run.batch_sizes)
    return _seconds_used(run) + block <= passes_seconds(ladder)


def cost_per_row(run: Run, size: int) -> float:
    """Return the seconds per row of one replica. Before any size was timed, 1.

    A size that was not timed costs what the nearest one does, or as much more as it is smaller.
    """
    if not run.step_seconds:
        return 1.0
    nearest = min(run.step_seconds, key=lambda timed: abs(math.log(timed / size)))
    return math.exp(mean_log_cost(run, nearest)) * max(1.0, nearest / size)


def _timing_deviation(run: Run) -> float:
    """The standard deviation that timings add to the difference of two sizes' log seconds."""
    return math.sqrt(2 * timing_variance(run, run.batch_sizes))


def _cost(run: Run, replicas: Mapping[int, int]) -> float:
    """The seconds per row that the replicas of all sizes need together, one after another."""
    return sum(count * cost_per_row(run, size) for size, count in replicas.items())


def _seconds_used(run: Run) -> float:
    return sum(record.seconds for record in run.passes) + _timed_seconds(run)


def _timed_seconds(run: Run) -> float:
    """The seconds of timing so far."""
    regions = [*run.step_seconds.values(), run.delivery_seconds]
    return _WITH_RESTS * sum(seconds for repeats in regions for _, seconds in repeats.values())
