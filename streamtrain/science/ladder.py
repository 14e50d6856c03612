"""Choose the next pass of a sweep that finds its own rows, rates and trials within a budget.

A ladder of tuning passes comes first. Each rung has fresh seeds and up to four times the rows of
the one before, and tries every size at the learning rates around its best one so far. Where the
sizes were not given and the fastest is the smallest or the largest, one more is added beyond it.
The ladder ends when the loss is flat (science/flatness.py), or when a longer rung would leave no
time for the comparison. Then every size runs at its best rate in trials on further seeds
(science/selection.py). After each look, sizes that are certainly slower are dropped. The trials end
when the regret of the chosen size is at most `sweep.within`, or when the budget is spent.

Every decision is a function of the records before it, including their seconds, so a resumed sweep
decides as the interrupted one would have.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from streamtrain.records import PassEnded, TargetWinners, WinningRates
from streamtrain.science.cells import Cell, make_cell, rank
from streamtrain.science.contest import (
    below_references,
    contenders,
    held_target,
    margin,
    select_among,
)
from streamtrain.science.flatness import best_loss, halfway, hardly_gains
from streamtrain.science.run_log import Run
from streamtrain.science.selection import LOOKS, Contender, Selection, next_look
from streamtrain.science.spending import (
    cost_per_row,
    curves_of,
    is_affordable,
    ladder_of_run,
    rung_rows,
)
from streamtrain.science.tuning import PassPlan, edges_of, rounded_rate

#: Rows of the first rung, or a minibatch of the largest size if that is more. Rungs grow by the
#: first factor that the budget allows.
FIRST_ROWS = 65_536
FACTORS = (4, 2)

#: Whether the loss is flat is judged on this rung at the earliest.
FEWEST_RUNGS = 3

#: A trial ends at this many times the rows that the best size needed to reach the target.
TRIAL_LENGTH = 4

#: The last rung is extended this many times at most, where a best rate is at an edge.
EXTENSIONS = 2

#: Sizes within this factor of the fastest one may have their rates extended.
SIZE_RATIO = 4

#: A size is added at this ratio to the fastest one, where that one is the smallest or the largest
#: and the next is slower by the growth ratio, until there are MOST_SIZES sizes.
SIZE_STEP = 4
GROWTH_RATIO = 1.25
LOSS_GROWTH_RATIO = 1.01
MOST_SIZES = 8


def next_rung(run: Run) -> PassPlan | None:
    """Return the next pass of the ladder; None when it has ended."""
    ladder = ladder_of_run(run)
    rungs = _passes_of(run, "tuning")
    if not rungs:
        lrs = {
            size: tuple(rates)
            for size, rates in zip(run.header.batch_sizes, run.header.lrs, strict=True)
        }
        rows = max(FIRST_ROWS, *lrs)
        rows = min(rows, ladder.most_rows or rows)
        return PassPlan(kind="tuning", trial=0, lrs=lrs, rows=rows)
    trial = rungs[-1].trial
    rows = rung_rows(run, trial)
    longer = _next_rows(run, rungs, rows)
    grown = _size_beyond(run, trial)
    if longer is None:
        done = sum(record.trial == trial for record in _passes_of(run, "extension"))
        beyond = _beyond_edges(run, trial) if done < EXTENSIONS else {}
        beyond |= grown
        replicas = {size: len(rates) for size, rates in beyond.items()}
        if not beyond or not is_affordable(run, rows, replicas):
            return None
        return PassPlan(kind="extension", trial=trial, lrs=dict(sorted(beyond.items())), rows=rows)
    best = _best_rates(run, trial)
    ratio = 10**0.5 if len(rungs) < FEWEST_RUNGS else 2.0
    tunes = any(len(rates) > 1 for rates in run.header.lrs)
    lrs = {size: _around(lr, ratio) if tunes else (lr,) for size, lr in best.items()}
    lrs |= grown
    return PassPlan(kind="tuning", trial=trial + 1, lrs=dict(sorted(lrs.items())), rows=longer)


def choose_contest(run: Run) -> WinningRates:
    """Return the `winners` record: the rate of each size, and the target of the trials."""
    trial = _last_rung(run).trial
    best = _best_rates(run, trial)
    target = contest_target(run)
    sizes = run.batch_sizes
    tried = _tried_rates(run, trial)
    at_edge = tuple(best[size] in edges_of(tried[size]) for size in sizes)
    lrs = tuple(best[size] for size in sizes)
    return WinningRates(targets=(TargetWinners(target_loss=target, lrs=lrs, at_edge=at_edge),))


def next_trial(run: Run) -> PassPlan | None:
    """Return the next trial of the sizes still compared; None when the comparison has ended."""
    winners = run.winners[0]
    fresh = _passes_of(run, "fresh")
    if winners.target_loss is None or len(fresh) >= LOOKS[-1]:
        return None
    if len(fresh) == len(run.header.batch_sizes) == 1:
        return None
    active, selection = compared_sizes(run, winners.target_loss)
    if selection is not None and selection.settled:
        return None
    rows = rung_rows(run, fresh[-1].trial) if fresh else _trial_rows(run, winners.target_loss)
    # Two trials are the fewest with any interval.
    replicas = dict.fromkeys(active, 1)
    if len(fresh) >= 2 and not is_affordable(run, rows, replicas, reserve=False):
        return None
    rates = dict(zip(run.batch_sizes, winners.lrs, strict=True))
    lrs = {size: (rates[size],) for size in active}
    trial = _last_rung(run).trial + 1 + len(fresh)
    return PassPlan(kind="fresh", trial=trial, lrs=lrs, rows=rows)


def trials_after(run: Run, plan: PassPlan) -> list[PassPlan]:
    """Return the trials that follow the trial `plan` up to the next look, if all are affordable.

    Between two looks only the budget can end them, which `next_trial` decides at each one's turn.
    """
    if plan.kind != "fresh" or plan.rows is None or len(run.header.batch_sizes) == 1:
        return []
    done = len(_passes_of(run, "fresh"))
    replicas = {size: len(lrs) for size, lrs in plan.lrs.items()}
    ahead: list[PassPlan] = []
    for more in range(1, (next_look(done) or done) - done):
        # two trials are run in any case
        if done + more >= 2 and not is_affordable(
            run, plan.rows * (1 + more), replicas, reserve=False
        ):
            break
        ahead.append(replace(plan, trial=plan.trial + more))
    return ahead


def compared_sizes(run: Run, target: float) -> tuple[tuple[int, ...], Selection | None]:
    """Return the sizes still compared, ascending, and the selection at the last look, if any.

    Looks are repeated in order, since each one sees only the sizes that those before it kept.
    """
    trials = [record.trial for record in _passes_of(run, "fresh")]
    active: tuple[int, ...] = tuple(sorted(run.batch_sizes))
    selection: Selection | None = None
    for look in LOOKS:
        if look > len(trials):
            break
        selection = select_after(run, target, trials[:look])
        active = tuple(size for size in active if size not in selection.dropped)
    return active, selection


def last_selection(run: Run) -> Selection | None:
    """Return the selection at the last look, if there was one."""
    target = run.winners[0].target_loss if run.winners else None
    return None if target is None else compared_sizes(run, target)[1]


def select_after(run: Run, target: float, trials: Sequence[int]) -> Selection:
    """Return the selection among all sizes after `trials`, at the target or what they held."""
    rates = dict(zip(run.batch_sizes, run.winners[0].lrs, strict=True))
    if not run.header.target_loss:
        target = held_target(run, target, rates, trials)
    cells = [make_cell(run, size, rates[size], target, trials) for size in run.batch_sizes]
    return select_among(run, cells, target)


def contest_target(run: Run) -> float | None:
    """Return the loss that the trials must reach; None where nothing was learned.

    It is a `margin` above the smallest loss of the last rung, or the loss at half of its rows if
    that is higher, so that a size that needs twice the rows of the best still reaches it. If the
    loss of a linear model is between the smallest loss and this target, the target is set below
    that loss.
    """
    if given := run.header.target_loss:
        return float(given[0])
    if not run.has_holdout or not run.passes:
        return None
    trial = _last_rung(run).trial
    target = _rung_target(run, trial)
    if target is None:
        return None
    target = below_references(run, best_loss(curves_of(run, trial)), target)
    constant = run.baseline.constant_loss or math.inf
    return target if target < constant else None


def _passes_of(run: Run, kind: str) -> list[PassEnded]:
    return [record for record in run.passes if record.kind == kind]


def _last_rung(run: Run) -> PassEnded:
    return _passes_of(run, "tuning")[-1]


def _next_rows(run: Run, rungs: Sequence[PassEnded], rows: int) -> int | None:
    """The rows of the next rung; None where this one is the last."""
    ladder = ladder_of_run(run)
    if len(rungs) >= FEWEST_RUNGS and _has_arrived(run, rungs[-1].trial, rows):
        return None
    # the rates around the best one of each size
    replicas = dict.fromkeys(run.batch_sizes, 3)
    for factor in FACTORS:
        longer = min(rows * factor, ladder.most_rows or rows * factor)
        if longer > rows and is_affordable(run, longer, replicas):
            return longer
    return None


def _has_arrived(run: Run, trial: int, rows: int) -> bool:
    """Whether longer rungs hardly gain anything, and a given target was reached halfway."""
    given = run.header.target_loss
    curves = curves_of(run, trial)
    if given and best_loss(curves, halfway(rows)) > given[0]:
        return False
    return hardly_gains(curves)


def _rung_target(run: Run, trial: int) -> float | None:
    """The loss that one learner reached by half of the rows, or `margin` above the best loss.

    The higher of the two.
    """
    curves = curves_of(run, trial)
    at_half = best_loss(curves, halfway(rung_rows(run, trial)))
    best = best_loss(curves)
    target = max(best + margin(best), at_half)
    return target if math.isfinite(target) else None


def rung_contenders(run: Run, trial: int) -> list[Contender]:
    """Return the sizes of a rung at their best rates, with their log seconds to its target."""
    target = _rung_target(run, trial)
    return contenders(run, _rung_cells(run, trial, target), target)


def _values_of_rung(run: Run, trial: int) -> dict[int, float]:
    """The seconds to the target of a rung, of each size that reached it at its best rate.

    Steps are timed roughly before a size's first rung. Where the goal of the run is a loss: the
    loss of each size.
    """
    if run.goal != "time-to-loss":
        return {
            contender.batch_size: math.exp(contender.log_seconds[trial])
            for contender in rung_contenders(run, trial)
        }
    cells = _rung_cells(run, trial, _rung_target(run, trial))
    return {
        cell.batch_size: cell.rows_to_target[trial] * cost_per_row(run, cell.batch_size)
        for cell in cells
        if trial in cell.rows_to_target
    }


def _rung_cells(run: Run, trial: int, target: float | None) -> list[Cell]:
    """The cells of a trial of the ladder, each size at its best rate."""
    return [
        make_cell(run, size, lr, target, (trial,)) for size, lr in _best_rates(run, trial).items()
    ]


def _best_rates(run: Run, trial: int) -> dict[int, float]:
    """The best learning rate of each size in a trial of the ladder, extensions included.

    Where the goal of the run is a loss, it is the one with the smallest loss at the end.
    """
    target = _rung_target(run, trial) if run.goal == "time-to-loss" else None
    return {
        size: min(lrs, key=lambda lr: rank(run, make_cell(run, size, lr, target, (trial,))))
        for size, lrs in _tried_rates(run, trial).items()
    }


def _tried_rates(run: Run, trial: int) -> dict[int, list[float]]:
    """The learning rates of each size in a trial of the ladder, both ascending."""
    tried: dict[int, set[float]] = {}
    for record in run.passes:
        if record.trial == trial:
            for size, lrs in record.lrs.items():
                tried.setdefault(size, set()).update(lrs)
    return {size: sorted(lrs) for size, lrs in sorted(tried.items())}


def _beyond_edges(run: Run, trial: int) -> dict[int, tuple[float, ...]]:
    """Rates beyond the edge where the best one is, for the sizes near the fastest one."""
    best, values = _best_rates(run, trial), _values_of_rung(run, trial)
    tried = _tried_rates(run, trial)
    if not values:
        return {}
    fastest = min(values, key=values.__getitem__)
    lrs: dict[int, tuple[float, ...]] = {}
    for size, lr in best.items():
        near = max(size, fastest) <= SIZE_RATIO * min(size, fastest)
        if near and lr in edges_of(tried[size]):
            factor = 2.0 if lr == tried[size][-1] else 0.5
            lrs[size] = tuple(sorted(rounded_rate(lr * factor**k) for k in (1, 2)))
    return lrs


def _size_beyond(run: Run, trial: int) -> dict[int, tuple[float, ...]]:
    """The next size beyond the edge where the fastest one is, with rates around that one's best.

    Empty where the sizes were given, or there are enough of them.
    """
    largest = ladder_of_run(run).largest_size
    sizes = sorted(run.batch_sizes)
    if largest is None or len(sizes) >= MOST_SIZES:
        return {}
    values = _values_of_rung(run, trial)
    if not values:
        return {}
    fastest = min(values, key=values.__getitem__)
    others = [value for size, value in values.items() if size != fastest]
    ratio = GROWTH_RATIO if run.goal == "time-to-loss" else LOSS_GROWTH_RATIO
    if others and ratio * values[fastest] > min(others):
        return {}
    if fastest == sizes[-1] and fastest * SIZE_STEP <= largest:
        size = fastest * SIZE_STEP
    elif fastest == sizes[0] and fastest >= SIZE_STEP:
        size = fastest // SIZE_STEP
    else:
        return {}
    lr = _best_rates(run, trial)[fastest]
    return {size: _around(lr, 10**0.5)}


def _around(lr: float, ratio: float) -> tuple[float, ...]:
    return tuple(rounded_rate(lr * ratio**k) for k in (-1, 0, 1))


def _trial_rows(run: Run, target: float) -> int:
    """The rows of a trial: four times what the fastest size needed, at most the last rung's.

    There is at least one minibatch of the largest size, which could take no step otherwise. Sizes
    that miss the target within these rows are slower, with a bound.
    """
    rung = _last_rung(run)
    rows = rung_rows(run, rung.trial)
    if run.goal != "time-to-loss":
        return rows
    needed = [
        cell.rows_to_target[rung.trial]
        for size, lr in _best_rates(run, rung.trial).items()
        if (cell := make_cell(run, size, lr, target, (rung.trial,))).rows_to_target
    ]
    if not needed:
        return rows
    return min(rows, max(round(TRIAL_LENGTH * min(needed)), *run.batch_sizes))
