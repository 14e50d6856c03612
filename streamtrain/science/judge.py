"""Judging a run: its target, the cells of every rule, and the recommendation.

The sweep uses it for its decisions, and the report shows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from streamtrain.science.cells import (
    Cell,
    find_target,
    learning_rate_of_rule,
    make_cell,
    throughput,
)
from streamtrain.science.contest import held_target, select_among
from streamtrain.science.intervals import Estimate
from streamtrain.science.run_log import Run
from streamtrain.science.selection import Selection
from streamtrain.science.shuffle_quality import is_bad_shuffle
from streamtrain.science.tuning import choose_winners, is_tuned
from streamtrain.types import Json, TargetOrigin


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The target, the cells that were judged by it, and the recommendation among them.

    Attributes:
        target: The loss that the cells were judged by; None when there is none.
        chosen: The origin of the target: given, automatic or none.
        cells: The cells of the first rule, in the order of the run.
        choice: The recommended size, and how much slower each other one is.
        fresh: Whether the cells ran on seeds that were not used to choose their learning rates.
    """

    target: float | None
    chosen: TargetOrigin
    cells: Sequence[Cell]
    choice: Selection
    fresh: bool


def judge(run: Run) -> Judgement:
    """Return the judgement of a run, finished or not; a pure function of its records."""
    target, chosen = find_judged_target(run)
    cells = arm_cells(run, run.rules[0], target)
    # A size without timings has no seconds. Correlated minibatches say little of a size, but where
    # no other can be recommended, they say more than nothing.
    timed = [cell for cell in cells if throughput(run, cell.batch_size)[0]]
    comparable = [cell for cell in timed if not is_correlated(run, cell.batch_size)]
    choice = select_among(run, comparable, target)
    if choice.batch_size is None and len(comparable) < len(timed):
        choice = replace(select_among(run, timed, target), settled=False)
    return Judgement(
        target=target,
        chosen=chosen,
        cells=cells,
        choice=choice,
        fresh=bool(_fresh_trials(run, run.rules[0])),
    )


def find_judged_target(run: Run) -> tuple[float | None, TargetOrigin]:
    """Return the loss by which sizes are judged, and how it was chosen.

    It is `given`, `automatic` or `none`. An automatic one is chosen while tuning. Fresh seeds may
    have missed it narrowly, so it is raised to a loss that they reached too.
    """
    if not run.has_holdout:
        return None, "none"
    if given := run.header.target_loss:
        return float(given[0]), "given"
    if run.header.ladder is not None and run.winners:
        chosen = run.winners[0].target_loss
        if chosen is None:
            return None, "none"
        rates = dict(zip(run.batch_sizes, run.winners[0].lrs, strict=True))
        return held_target(run, chosen, rates, _fresh_trials(run, run.rules[0])), "automatic"
    rule = run.rules[0]
    trials = judged_trials(run, rule)
    lrs = {size: (lr,) for size, lr in zip(run.batch_sizes, _lrs(run, rule, 0), strict=True)}
    target = find_target(run, lrs, trials if run.passes else None)
    if target is None:
        return None, "none"
    if rule == "tuned" and run.winners and run.winners[0].target_loss is not None:
        target = max(target, run.winners[0].target_loss)
    return target, "automatic"


def arm_cells(run: Run, rule: str, target: float | None, target_index: int = 0) -> list[Cell]:
    """Return one cell per batch size at the learning rate of `rule`, in the order of the run.

    Each covers the trials that judge it. `target_index`: the place of the target among those given,
    since each target has its own winners. Without a hold-out no target is reached.
    """
    trials = judged_trials(run, rule)
    lrs = _lrs(run, rule, target_index)
    return [
        make_cell(run, size, lr, target if run.has_holdout else None, trials)
        for size, lr in zip(run.batch_sizes, lrs, strict=True)
    ]


def judged_trials(run: Run, rule: str) -> range | list[int]:
    """Return the trials by which a rule is judged.

    For tuned winners these are the completed fresh trials, or the tuning trials if there are none.
    For other rules they are the first N trials.
    """
    return _fresh_trials(run, rule) or range(run.trials)


def is_correlated(run: Run, batch_size: int) -> bool:
    """True when the design effect shows that rows of a minibatch of this size are correlated."""
    shuffle: Json = run.measures.get("shuffle") or {}
    by_size: Json = shuffle.get("by_batch_size") or {}
    effect = by_size.get(str(batch_size)) or shuffle.get("deff")
    return bool(effect) and is_bad_shuffle(Estimate.from_json(effect))


def _fresh_trials(run: Run, rule: str) -> list[int]:
    if rule != "tuned" or not run.header.rerun or not is_tuned(run):
        return []
    return [record.trial for record in run.passes if record.kind == "fresh"]


def _lrs(run: Run, rule: str, target_index: int) -> list[float]:
    """The learning rate of each batch size."""
    if rule != "tuned":
        return [learning_rate_of_rule(rule, run.reference_lr, size) for size in run.batch_sizes]
    winners = run.winners or choose_winners(run).targets
    return list(winners[min(target_index, len(winners) - 1)].lrs)
