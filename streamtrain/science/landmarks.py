"""Sizes to know beside the recommended one: the laws' optimum, the fewest rows, the fewest steps, 20 % overhead (SCIENCE.md §7)."""

from collections.abc import Sequence

import numpy as np

from streamtrain.science.cells import Cell
from streamtrain.science.estimate import estimate
from streamtrain.science.judge import Judgement, is_correlated
from streamtrain.science.run import Run
from streamtrain.science.steps_law import critical_batch_size, efficient_batch_size
from streamtrain.science.throughput import throughput_law
from streamtrain.types import Record

#: Farther than this from the laws' optimum, some premise of theirs does not hold; within 10 % of the fewest steps counts as few.
#: Both are choices of this project.
FAR_APART, FEW_STEPS = 4.0, 1.1

#: Steps farther than this (root mean square of logarithms) from S_min(1 + B_crit/B) do not follow it.
MOST_MISFIT = 0.25

#: Two parameters and a residual.
_FEWEST_SIZES = 3


def landmarks(run: Run, judgement: Judgement) -> Record:
    """`{laws, fewest_rows, fewest_steps, overhead_20, premise}`; what the run cannot tell is None.

    `laws`: S_min and B_crit from the steps to the target, α, β and the roof of delivery from the timings, and `best_batch_size` and
    `best_seconds` that follow. `premise`: why the recommendation lies more than 4 x from that optimum, None where it does not.
    """
    reached = [cell for cell in judgement.cells if cell.status == "reached"]
    steps = _steps_law(reached)
    laws = _timing_law(run, judgement, steps) | steps
    return {
        "laws": laws,
        "fewest_rows": min(reached, key=lambda cell: _median(cell.rows_to_target.values())).batch_size if reached else None,
        "fewest_steps": _fewest_steps(reached),
        "overhead_20": efficient_batch_size(steps["critical_batch_size"]["value"]) if steps.get("critical_batch_size") else None,
        "premise": _premise(run, judgement, laws),
    }


def _steps_law(reached: Sequence[Cell]) -> Record:
    trials = sorted(set.intersection(*(set(cell.steps_to_target) for cell in reached))) if reached else []
    if len(reached) < _FEWEST_SIZES or not trials:
        return {"steps_min": None, "critical_batch_size": None, "misfit": None}
    steps_TM = np.array([[max(cell.steps_to_target[trial], 1e-9) for cell in reached] for trial in trials])
    return dict(critical_batch_size([cell.batch_size for cell in reached], steps_TM))


def _timing_law(run: Run, judgement: Judgement, steps: Record) -> Record:
    sizes = [cell.batch_size for cell in judgement.cells if len(run.step_seconds.get(cell.batch_size, {})) > 0]
    if len(sizes) < 2:
        return dict.fromkeys(("alpha_seconds", "beta_seconds_a_row", "rows_per_second", "kink", "best_batch_size", "best_seconds"))
    repeats = sorted(set.intersection(*(set(run.step_seconds[size]) for size in sizes)))
    seconds_RM = np.array([[_step_seconds(run, size, repeat) for size in sizes] for repeat in repeats])
    roofs = [rows / seconds for rows, seconds in (run.delivery_seconds.get(repeat, (0, 0.0)) for repeat in repeats) if seconds > 0]
    known = {name: steps[name] and steps[name]["value"] for name in ("steps_min", "critical_batch_size")}
    return throughput_law(sizes, seconds_RM, roofs, steps_min=known["steps_min"], critical=known["critical_batch_size"])


def _step_seconds(run: Run, size: int, repeat: int) -> float:
    rows, seconds = run.step_seconds[size][repeat]
    return seconds * size / rows


def _fewest_steps(reached: Sequence[Cell]) -> int | None:
    if not reached:
        return None
    steps = {cell.batch_size: _median(cell.steps_to_target.values()) for cell in reached}
    return min(size for size, value in steps.items() if value <= FEW_STEPS * min(steps.values()))


def _premise(run: Run, judgement: Judgement, laws: Record) -> str | None:
    best = (laws.get("best_batch_size") or estimate(np.nan, n=0, kind=""))["value"]
    size = judgement.choice.batch_size
    if best is None or size is None or max(best / size, size / best) <= FAR_APART:
        return None
    kink = (laws["kink"] or {}).get("value")
    if kink is not None and best >= kink * 0.999:
        return "reading, not computing, is the limit, so larger minibatches cost no less time"
    if laws["misfit"] > MOST_MISFIT:
        return f"steps do not follow S_min(1 + B_crit/B): they are off it by {laws['misfit']:.0%}"
    if is_correlated(run, size):
        return "rows of a minibatch resemble one another: the shuffle, not the size, was measured"
    if run.rules[0] == "fixed":
        return "the learning rate was the same at every size"
    fewest, most = min(run.batch_sizes), max(run.batch_sizes)
    if not fewest <= best <= most:
        return f"the optimum lies outside the sizes that were tried ({fewest:,} to {most:,})"
    return "sizes between the two are equally fast within 5 %, and the smaller is recommended"


def _median(values) -> float:
    return float(np.median(list(values)))
