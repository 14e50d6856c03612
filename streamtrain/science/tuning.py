"""Which pass a sweep makes next, from its records alone: tuning with successive halving, a grid
that grows, fresh seeds.

Shallue et al. 2018 (arXiv 1811.03600, §4): the learning rate is tuned at every batch size, and a
best rate at the edge of its grid is not the best one. A winner is lucky as well as good, so it runs
again on seeds that did not choose it, and only those give its figures. Halving (Jamieson and
Talwalkar 2016, arXiv 1502.07943, §3) takes trials as its resource: after each one the worse half of
a size's rates goes no further.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streamtrain.records import TargetWinners, WinningRates
from streamtrain.science.cells import best_cell, find_target, make_cell, rank, rate_of_rule
from streamtrain.science.run_log import Run

#: A grid grows by so many rates at a time, and so often.
EXTENDED_BY, EXTENSIONS = 2, 3

#: Halving keeps at least so many rates, so that the last trial still compares.
FEWEST_RATES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PassPlan:
    """One pass: its trial, and the learning rates of each batch size that takes part.

    `kind`: tuning, extension or fresh.
    """

    kind: str
    trial: int
    lrs: Mapping[int, tuple[float, ...]]


def next_tuning_pass(run: Run) -> PassPlan | None:
    """The tuning or extension pass that follows those that ended; None when the grids are done
    with.

    Rules that do not tune have their rates in every tuning pass. The records of a pass that did not
    end do not count.
    """
    done = sum(one.kind == "tuning" for one in run.passes)
    untuned = {
        size: {rate_of_rule(rule, run.header.lr, size) for rule in run.rules if rule != "tuned"}
        for size in run.batch_sizes
    }
    tuned = {
        size: set(_survivors(run, size, done)) if "tuned" in run.rules else set()
        for size in run.batch_sizes
    }
    if done and (extension := _extension(run)):
        return extension
    if done >= run.trials:
        return None
    return PassPlan(
        kind="tuning",
        trial=done,
        lrs={size: tuple(sorted(tuned[size] | untuned[size])) for size in run.batch_sizes},
    )


def next_fresh_pass(run: Run) -> PassPlan | None:
    """The pass of the winners on the next fresh seed: trials N … 2N - 1.

    None when all are done, or nothing was tuned.
    """
    done = sum(one.kind == "fresh" for one in run.passes)
    if done >= run.trials or not run.header.rerun or not is_tuned(run):
        return None
    lrs = {
        size: tuple(sorted({one.lrs[i] for one in run.winners}))
        for i, size in enumerate(run.batch_sizes)
    }
    return PassPlan(kind="fresh", trial=run.trials + done, lrs=lrs)


def last_pass(run: Run) -> PassPlan:
    """The pass that ended last."""
    record = run.passes[-1]
    return PassPlan(kind=record.kind, trial=record.trial, lrs=record.lrs)


def is_tuned(run: Run) -> bool:
    """True when some size chose among several rates: its figures on the seeds that chose would
    flatter it.
    """
    return "tuned" in run.rules and any(len(run.rates(size)) > 1 for size in run.batch_sizes)


def choose_winners(run: Run) -> WinningRates:
    """The `winners` record: for every target (the given ones, or the automatic one) the best rate
    of each size, and whether it lies at an edge of the rates that were tried.
    """
    trials = range(run.trials)
    rates = {size: _survivors(run, size, run.trials) for size in run.batch_sizes}
    targets = list(run.header.target_loss) or [find_target(run, rates)]
    if not run.has_holdout:
        targets = [None]
    found = []
    for target in targets:
        lrs = [best_cell(run, size, rates[size], target, trials).lr for size in run.batch_sizes]
        edges = [
            lr in _edges(run.rates(size)) for size, lr in zip(run.batch_sizes, lrs, strict=True)
        ]
        found.append(TargetWinners(target_loss=target, lrs=tuple(lrs), at_edge=tuple(edges)))
    return WinningRates(targets=tuple(found))


def _survivors(run: Run, size: int, done: int) -> list[float]:
    """The rates of a size that are still tuned after `done` trials; ascending."""
    rates = run.rates(size)
    if not run.header.halving or len(rates) <= FEWEST_RATES:
        return rates
    for seen in range(1, done + 1):
        trials = range(seen)
        target = _target(run, trials)
        ranked = sorted(rates, key=lambda lr: rank(run, make_cell(run, size, lr, target, trials)))
        rates = ranked[: max(FEWEST_RATES, (len(ranked) + 1) // 2)] if seen < run.trials else ranked
    return sorted(rates)


def _extension(run: Run) -> PassPlan | None:
    """A pass of trial 0 with rates beyond the edge, for the sizes whose best rate lies at one."""
    made = sum(one.kind == "extension" for one in run.passes)
    tuned = sum(one.kind == "tuning" for one in run.passes)
    if (
        tuned != 1
        or made >= EXTENSIONS
        or not run.header.extend
        or "tuned" not in run.rules
        or not run.has_holdout
    ):
        return None
    target = _target(run, range(1))
    lrs = {}
    for size in run.batch_sizes:
        rates = run.rates(size)
        if len(rates) < 2:
            continue
        best = best_cell(run, size, rates, target, range(1))
        if not any(curve.steps and curve.steps[-1] for curve in best.curves.values()):
            # no step was taken: every rate has the same loss, and so would all that
            # lie beyond
            continue
        if best.lr == rates[-1] and best.status in ("reached", "not_reached"):
            lrs[size] = tuple(
                _rounded(rates[-1] * (rates[-1] / rates[-2]) ** k)
                for k in range(1, EXTENDED_BY + 1)
            )
        elif best.lr == rates[0]:
            lrs[size] = tuple(
                sorted(
                    _rounded(rates[0] * (rates[0] / rates[1]) ** k)
                    for k in range(1, EXTENDED_BY + 1)
                )
            )
    return PassPlan(kind="extension", trial=0, lrs=lrs) if lrs else None


def _target(run: Run, trials: Sequence[int]) -> float | None:
    """The loss by which rates are compared while tuning: the first one given, else the automatic
    one of these trials.
    """
    if given := run.header.target_loss:
        return float(given[0]) if run.has_holdout else None
    return find_target(run, {size: run.rates(size) for size in run.batch_sizes}, trials)


def _edges(rates: Sequence[float]) -> set[float]:
    return {rates[0], rates[-1]} if len(rates) > 1 else set()


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
