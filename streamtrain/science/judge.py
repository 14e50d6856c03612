"""Judging a run: the target, the cells of every rule, and the recommendation.

The sweep decides by it, the report shows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from streamtrain.science.cells import Cell, find_target, make_cell, rate_of_rule, seconds_to_target
from streamtrain.science.intervals import Estimate
from streamtrain.science.rule import Candidate, Recommendation, recommend
from streamtrain.science.run_log import Run
from streamtrain.science.shuffle_quality import is_bad_shuffle
from streamtrain.science.tuning import choose_winners, is_tuned


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """`cells` are of the first rule, in the order of the run, at `target`; `choice` is the rule's
    recommendation among them.

    `chosen`: where the target is from: given, automatic or none. `fresh`: the cells ran on seeds
    that did not choose their rates.
    """

    target: float | None
    chosen: str
    cells: Sequence[Cell]
    choice: Recommendation
    fresh: bool


def judge(run: Run) -> Judgement:
    """The judgement of a run, finished or not; a pure function of its records."""
    target, chosen = find_judged_target(run)
    cells = arm_cells(run, run.rules[0], target)
    candidates = [
        Candidate(
            batch_size=cell.batch_size,
            status=cell.status,
            trials=len(cell.curves),
            seconds=seconds_to_target(run, cell),
            correlated=is_correlated(run, cell.batch_size),
        )
        for cell in cells
    ]
    return Judgement(
        target=target,
        chosen=chosen,
        cells=cells,
        choice=recommend(candidates),
        fresh=bool(_fresh_trials(run, run.rules[0])),
    )


def find_judged_target(run: Run) -> tuple[float | None, str]:
    """The loss by which sizes are judged, and how it was chosen: `given`, `automatic` or `none`.

    An automatic one is chosen while tuning; fresh seeds may have missed it narrowly, so it is
    raised to what they reached too.
    """
    if not run.has_holdout:
        return None, "none"
    if given := run.header.target_loss:
        return float(given[0]), "given"
    trials = judged_trials(run, run.rules[0])
    lrs = {
        size: (lr,) for size, lr in zip(run.batch_sizes, _lrs(run, run.rules[0], 0), strict=True)
    }
    target = find_target(run, lrs, trials if run.passes else None)
    if (
        run.rules[0] == "tuned"
        and run.winners
        and target is not None
        and run.winners[0].target_loss is not None
    ):
        target = max(target, run.winners[0].target_loss)
    return target, "none" if target is None else "automatic"


def arm_cells(run: Run, rule: str, target: float | None, place: int = 0) -> list[Cell]:
    """One cell a batch size at the rate of `rule`, in the order of the run, over the trials that
    judge it.

    `place`: of the target among those given, since a winner belongs to a target. Without a hold-out
    nothing is reached.
    """
    trials = judged_trials(run, rule)
    lrs = _lrs(run, rule, place)
    return [
        make_cell(run, size, lr, target if run.has_holdout else None, trials)
        for size, lr in zip(run.batch_sizes, lrs, strict=True)
    ]


def judged_trials(run: Run, rule: str) -> range | list[int]:
    """Tuned winners: the fresh trials that ended, or those of the tuning where none did.

    Other rules: the first N.
    """
    return _fresh_trials(run, rule) or range(run.trials)


def is_correlated(run: Run, batch_size: int) -> bool:
    """True when the lower bound of the design effect says that rows of a minibatch of this size
    resemble one another.
    """
    shuffle = run.measures.get("shuffle") or {}
    deff = (shuffle.get("by_batch_size") or {}).get(str(batch_size)) or shuffle.get("deff") or {}
    return bool(deff) and is_bad_shuffle(Estimate.from_json(deff))


def _fresh_trials(run: Run, rule: str) -> list[int]:
    if rule != "tuned" or not run.header.rerun or not is_tuned(run):
        return []
    return [one.trial for one in run.passes if one.kind == "fresh"]


def _lrs(run: Run, rule: str, place: int) -> list[float]:
    """The rate of each batch size."""
    if rule != "tuned":
        return [rate_of_rule(rule, run.header.lr, size) for size in run.batch_sizes]
    winners = run.winners or choose_winners(run).targets
    return list(winners[min(place, len(winners) - 1)].lrs)
