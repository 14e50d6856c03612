"""Choose the next pass of a sweep from its records alone.

A sweep tunes with successive halving, extends grids, and runs the winners again on fresh seeds.

Shallue et al. 2018 (arXiv 1811.03600, §4): the learning rate is tuned at every batch size, and when
the best one is at the edge of its grid, a better one may lie beyond. A winner is lucky as well as
good, so it is run again on seeds that had no part in choosing it, and judged by those only. Halving
(Jamieson and Talwalkar 2016, arXiv 1502.07943, §3) takes trials as its resource: after each one the
worse half of the learning rates of a size is dropped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from streamtrain.records import TargetWinners, WinningRates
from streamtrain.science.cells import (
    best_cell,
    find_target,
    learning_rate_of_rule,
    make_cell,
    rank,
)
from streamtrain.science.run_log import Run

#: A grid is extended by this many learning rates at a time, and this many times at most.
EXTENDED_BY, EXTENSIONS = 2, 3

#: Halving keeps at least this many learning rates, so that the last trial still compares some.
FEWEST_RATES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PassPlan:
    """One pass: its trial, and the learning rates of each batch size that takes part.

    `kind`: tuning, extension or fresh. `rows`: the rows that each learner trains on; None: as
    the run says.
    """

    kind: str
    trial: int
    lrs: Mapping[int, tuple[float, ...]]
    rows: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedPass:
    """A pass of a sweep before it has records: how many learning rates each batch size has in it.

    `fewest` and `most` are the limits of what the records can ask for; `fewest` is empty for a pass
    that they may not ask for at all.
    """

    kind: str
    fewest: Mapping[int, int]
    most: Mapping[int, int]


def expected_passes(run: Run) -> list[ExpectedPass]:
    """Return the passes of a sweep that has no records yet, in their order."""
    fixed = {size: len(_rates_of_rules(run, size)) for size in run.batch_sizes}
    grids = {size: len(run.learning_rates(size)) for size in run.batch_sizes}
    if "tuned" not in run.rules:
        grids = dict.fromkeys(grids, 0)
    first = {size: len(_learning_rates_to_tune(run, size, 0)) for size in run.batch_sizes}
    passes = [ExpectedPass(kind="tuning", fewest=first, most=first)]
    longest = dict(grids)
    can_extend = [size for size, rates in grids.items() if rates > 1]
    if run.header.extend and run.has_holdout and can_extend:
        most = dict.fromkeys(can_extend, EXTENDED_BY)
        passes += [ExpectedPass(kind="extension", fewest={}, most=most)] * EXTENSIONS
        longest |= {size: grids[size] + EXTENSIONS * EXTENDED_BY for size in can_extend}
    for done in range(1, run.trials):
        kept = {size: _kept(run, grids[size], done) for size in grids}
        kept_of_longest = {size: _kept(run, longest[size], done) for size in grids}
        passes.append(
            ExpectedPass(
                kind="tuning",
                fewest={size: max(kept[size], fixed[size]) for size in grids},
                most={size: kept_of_longest[size] + fixed[size] for size in grids},
            )
        )
    if run.header.rerun and is_tuned(run):
        targets = max(1, len(run.header.target_loss))
        fresh = ExpectedPass(
            kind="fresh",
            fewest=dict.fromkeys(grids, 1),
            most={size: min(targets, longest[size]) for size in grids},
        )
        passes += [fresh] * run.trials
    return passes


def next_tuning_pass(run: Run) -> PassPlan | None:
    """Return the tuning or extension pass after those that ended; None when all grids are done.

    Learning rates of rules that do not tune take part in every tuning pass. The records of a pass
    that did not end do not count.
    """
    done = sum(record.kind == "tuning" for record in run.passes)
    if done and (extension := _extension(run)):
        return extension
    if done >= run.trials:
        return None
    lrs = {size: _learning_rates_to_tune(run, size, done) for size in run.batch_sizes}
    return PassPlan(kind="tuning", trial=done, lrs=lrs)


def next_fresh_pass(run: Run) -> PassPlan | None:
    """Return the pass that reruns the winners on the next fresh seed, as trials N … 2N - 1.

    None when all are done, or nothing was tuned.
    """
    done = sum(record.kind == "fresh" for record in run.passes)
    if done >= run.trials or not run.header.rerun or not is_tuned(run):
        return None
    lrs = {
        size: tuple(sorted({winners.lrs[index] for winners in run.winners}))
        for index, size in enumerate(run.batch_sizes)
    }
    return PassPlan(kind="fresh", trial=run.trials + done, lrs=lrs)


def passes_after(run: Run, plan: PassPlan) -> list[PassPlan]:
    """Return the passes of the same kind that follow `plan`, whatever its records will be.

    Fresh trials do not depend on each other. Tuning trials do where halving drops rates, and the
    first one decides whether the grid is extended.
    """
    if plan.kind == "fresh":
        last = 2 * run.trials
    elif plan.kind == "tuning" and not _decides(run, plan.trial):
        last = run.trials
    else:
        return []
    return [replace(plan, trial=trial) for trial in range(plan.trial + 1, last)]


def last_pass(run: Run) -> PassPlan:
    """Return the pass that ended last."""
    record = run.passes[-1]
    return PassPlan(kind=record.kind, trial=record.trial, lrs=record.lrs)


def is_tuned(run: Run) -> bool:
    """True when some size chose among several learning rates.

    Its figures on the seeds used to choose would then be too optimistic.
    """
    return "tuned" in run.rules and any(
        len(run.learning_rates(size)) > 1 for size in run.batch_sizes
    )


def choose_winners(run: Run) -> WinningRates:
    """Return the `winners` record: the best learning rate of each size, for every target.

    Targets are the given ones, or else the automatic one. The record also says whether each winner
    is at an edge of the learning rates that were tried.
    """
    trials = range(run.trials)
    survivors = {size: _survivors(run, size, run.trials) for size in run.batch_sizes}
    targets: list[float | None] = list(run.header.target_loss) or [find_target(run, survivors)]
    if not run.has_holdout:
        targets = [None]
    winners: list[TargetWinners] = []
    for target in targets:
        lrs = [best_cell(run, size, survivors[size], target, trials).lr for size in run.batch_sizes]
        at_edge = [
            lr in edges_of(run.learning_rates(size))
            for size, lr in zip(run.batch_sizes, lrs, strict=True)
        ]
        winners.append(TargetWinners(target_loss=target, lrs=tuple(lrs), at_edge=tuple(at_edge)))
    return WinningRates(targets=tuple(winners))


def _learning_rates_to_tune(run: Run, size: int, done: int) -> tuple[float, ...]:
    """The learning rates of a size in the tuning pass after `done` trials, ascending."""
    lrs = set(_survivors(run, size, done)) if "tuned" in run.rules else set[float]()
    return tuple(sorted(lrs | _rates_of_rules(run, size)))


def _rates_of_rules(run: Run, size: int) -> set[float]:
    """The learning rates of a size by the rules that do not tune."""
    return {
        learning_rate_of_rule(rule, run.reference_lr, size) for rule in run.rules if rule != "tuned"
    }


def _kept(run: Run, rates: int, done: int) -> int:
    """How many of so many learning rates are still tuned after `done` trials."""
    for _ in range(done if run.header.halving else 0):
        rates = _half(rates)
    return rates


def _half(rates: int) -> int:
    """How many of so many learning rates one trial keeps."""
    return min(rates, max(FEWEST_RATES, (rates + 1) // 2))


def _decides(run: Run, trial: int) -> bool:
    """Whether the rates of later tuning passes depend on this tuning trial."""
    if "tuned" not in run.rules:
        return False
    most = max(len(run.learning_rates(size)) for size in run.batch_sizes)
    if run.header.halving and most > FEWEST_RATES:
        return True
    may_extend = bool(run.header.extend) and run.has_holdout and most > 1
    return trial == 0 and may_extend


def _survivors(run: Run, size: int, done: int) -> list[float]:
    """The learning rates of a size that are still tuned after `done` trials, ascending."""
    lrs = run.learning_rates(size)
    if not run.header.halving or len(lrs) <= FEWEST_RATES:
        return lrs
    for seen in range(1, done + 1):
        trials = range(seen)
        target = _target(run, trials)
        ranks = {lr: rank(run, make_cell(run, size, lr, target, trials)) for lr in lrs}
        ranked = sorted(lrs, key=ranks.__getitem__)
        lrs = ranked[: _half(len(ranked))] if seen < run.trials else ranked
    return sorted(lrs)


def _extension(run: Run) -> PassPlan | None:
    """A pass of trial 0 with further rates, for each size whose best one is at an edge."""
    extensions = sum(record.kind == "extension" for record in run.passes)
    tuning = sum(record.kind == "tuning" for record in run.passes)
    if tuning != 1 or extensions >= EXTENSIONS or not run.header.extend:
        return None
    if "tuned" not in run.rules or not run.has_holdout:
        return None
    target = _target(run, range(1))
    lrs: dict[int, tuple[float, ...]] = {}
    for size in run.batch_sizes:
        beyond = _learning_rates_beyond(run, size, target)
        if beyond:
            lrs[size] = beyond
    return PassPlan(kind="extension", trial=0, lrs=lrs) if lrs else None


def _learning_rates_beyond(run: Run, size: int, target: float | None) -> tuple[float, ...]:
    """Learning rates that continue a size's grid beyond the edge where its best one is, ascending.

    Empty where the best one is inside the grid.
    """
    grid = run.learning_rates(size)
    if len(grid) < 2:
        return ()
    best = best_cell(run, size, grid, target, range(1))
    if not any(curve.steps and curve.steps[-1] for curve in best.curves.values()):
        # No step was taken, so every rate has the same loss, inside the grid or beyond it.
        return ()
    if best.lr == grid[-1] and best.status in ("reached", "not_reached"):
        return _continued(grid[-1], grid[-1] / grid[-2])
    if best.lr == grid[0]:
        return _continued(grid[0], grid[0] / grid[1])
    return ()


def _continued(edge: float, ratio: float) -> tuple[float, ...]:
    """`EXTENDED_BY` terms of the geometric series after `edge`, ascending."""
    return tuple(sorted(rounded_rate(edge * ratio**k) for k in range(1, EXTENDED_BY + 1)))


def _target(run: Run, trials: Sequence[int]) -> float | None:
    """The loss by which learning rates are compared while tuning.

    It is the first one given, or else the automatic one of these trials.
    """
    if given := run.header.target_loss:
        return float(given[0]) if run.has_holdout else None
    grids = {size: run.learning_rates(size) for size in run.batch_sizes}
    return find_target(run, grids, trials)


def rounded_rate(lr: float) -> float:
    """Return a learning rate rounded to three digits, as grids have them.

    >>> rounded_rate(0.01 * 10**0.5)
    0.0316
    """
    return float(f"{lr:.3g}")


def edges_of(grid: Sequence[float]) -> set[float]:
    """Return the smallest and the largest rate of an ascending grid; none of a single rate."""
    return {grid[0], grid[-1]} if len(grid) > 1 else set()
