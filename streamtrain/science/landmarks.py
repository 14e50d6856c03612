"""Sizes to know beside the recommended one: the laws' optimum, the fewest rows, the fewest steps,
20 % overhead (docs/science.md §7).
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from streamtrain.science.cells import Cell, throughput
from streamtrain.science.intervals import paired_ratio
from streamtrain.science.judge import Judgement, is_correlated
from streamtrain.science.oracle import GaussianLinear
from streamtrain.science.run_log import Run
from streamtrain.science.steps_law import (
    critical_batch_size,
    efficient_batch_size,
    goodput,
    local_growth,
)
from streamtrain.science.throughput import throughput_law
from streamtrain.types import Json

#: Farther than this from the laws' optimum, some premise of theirs does not hold; within 10 % of
#: S_min counts as fewest steps. Both are choices of this project.
FAR_APART, FEW_STEPS = 4.0, 1.1

#: Steps farther than this (root mean square of logarithms) from S_min(1 + B_crit/B) do not follow
#: it.
MOST_MISFIT = 0.25

#: A confirmation shorter than this is mostly its beginning: it says nothing of how reading and
#: computing overlap.
LEAST_JOINT_SECONDS = 0.2

#: Two parameters and a residual.
_FEWEST_SIZES = 3


def landmarks(run: Run, judgement: Judgement) -> Json:
    """`{laws, fewest_rows, fewest_rows_tied, fewest_steps, steps_10, overhead_20, goodput, growth,
    stability, premise}`; what the run cannot tell is None.

    `laws`: S_min and B_crit from the steps to the target (of sizes at which these were seen, not
    guessed), α, β and the roof of delivery from the timings, and `free_batch_size` (√(B_crit·α/β)),
    `best_batch_size` and `best_seconds` that follow. `fewest_rows_tied`: sizes whose rows are not
    shown to be more. `fewest_steps`: the smallest size tried within 10 % of S_min; `steps_10`:
    where the law has that. `goodput`: rows a second that count, by size. `growth`: of B_crit along
    the run. `stability`: the mean-square boundary of SGD. `premise`: why the recommendation lies
    more than 4 x from √(B_crit·α/β), None where it does not.
    """
    reached = sorted(
        (cell for cell in judgement.cells if cell.status == "reached"),
        key=lambda cell: cell.batch_size,
    )
    steps = _steps_law([cell for cell in reached if not cell.is_guessed])
    fits_T, (smallest, critical) = (
        steps.pop("steps_T"),
        ((steps[name] or {}).get("value") for name in ("steps_min", "critical_batch_size")),
    )
    laws = _timing_law(run, judgement, (smallest, critical) if critical else None, fits_T) | steps
    fewest = min(reached, key=lambda cell: _median(cell.rows_to_target.values()), default=None)
    return {
        "laws": laws,
        "fewest_rows": fewest.batch_size if fewest else None,
        "fewest_rows_tied": (
            [
                cell.batch_size
                for cell in reached
                if cell is not fewest and not _more_rows(cell, fewest)
            ]
            if fewest
            else []
        ),
        "fewest_steps": _fewest_steps(reached, smallest),
        "steps_10": critical / (FEW_STEPS - 1) if critical else None,
        "overhead_20": efficient_batch_size(critical) if critical else None,
        "goodput": _goodput(run, judgement, critical),
        "growth": local_growth(reached, judgement.target) if judgement.target else None,
        "stability": mean_square_stability(run),
        "premise": _premise(run, judgement, laws),
    }


def mean_square_stability(run: Run) -> Json | None:
    """`{eigenvalues, batch_sizes, lrs}`: η_max of plain SGD at each size, exact for a linear model
    of these features, were they Gaussian.

    `eigenvalues`: of the features' correlations, then 1 for the bias. At a small B single runs can
    shrink beyond it, although the mean square grows. None for other optimizers, where features were
    not standardised, and where Huber's loss or clipping bounds a step.
    """
    config, eigenvalues = run.header.config, run.baseline.feature_eigenvalues
    train = config.get("train") or {}
    if (
        not eigenvalues
        or not config["data"]["standardize"]
        or train["optimizer"] != "sgd"
        or train["momentum"]
    ):
        return None
    if train.get("loss") == "huber" or train.get("clip_norm"):
        return None
    spectrum = np.append(eigenvalues, 1.0)
    linear = GaussianLinear(
        eigenvalues=spectrum,
        noise_variance=0.0,
        start=np.zeros(len(spectrum)),
        kurtosis=np.append(np.full(len(eigenvalues), 3.0), 1.0),
    )
    sizes = sorted(run.batch_sizes)
    return {
        "eigenvalues": spectrum.tolist(),
        "batch_sizes": sizes,
        "lrs": [linear.largest_stable_lr(size) for size in sizes],
    }


def _steps_law(reached: Sequence[Cell]) -> Json:
    trials = (
        sorted(set.intersection(*(set(cell.steps_to_target) for cell in reached)))
        if reached
        else []
    )
    if len(reached) < _FEWEST_SIZES or not trials:
        return {"steps_min": None, "critical_batch_size": None, "misfit": None, "steps_T": ()}
    steps_TM = np.array(
        [[max(cell.steps_to_target[trial], 1e-9) for cell in reached] for trial in trials]
    )
    return dict(critical_batch_size([cell.batch_size for cell in reached], steps_TM))


def _timing_law(
    run: Run,
    judgement: Judgement,
    steps: tuple[float, float] | None,
    steps_T: Sequence[tuple[float, float]],
) -> Json:
    sizes = [
        cell.batch_size
        for cell in judgement.cells
        if len(run.step_seconds.get(cell.batch_size, {})) > 0
    ]
    if len(sizes) < 2:
        return dict.fromkeys(
            (
                "alpha_seconds",
                "beta_seconds_a_row",
                "rows_per_second",
                "overlap",
                "kink",
                "free_batch_size",
                "best_batch_size",
                "best_seconds",
            )
        )
    repeats = sorted(set.intersection(*(set(run.step_seconds[size]) for size in sizes)))
    seconds_RM = np.array(
        [[_step_seconds(run, size, repeat) for size in sizes] for repeat in repeats]
    )
    roofs = [
        rows / seconds
        for rows, seconds in (run.delivery_seconds.get(repeat, (0, 0.0)) for repeat in repeats)
        if seconds > 0
    ]
    return throughput_law(sizes, seconds_RM, roofs, steps=steps, steps_T=steps_T, joint=_joint(run))


def _step_seconds(run: Run, size: int, repeat: int) -> float:
    rows, seconds = run.step_seconds[size][repeat]
    return seconds * size / rows


def _joint(run: Run) -> list[tuple[float, list[float]]]:
    """(size, seconds of a step in each confirmation), where steps were taken while rows were
    delivered for long enough.
    """
    each: dict[int, list[float]] = {}
    for one in run.confirmations:
        if one.seconds >= LEAST_JOINT_SECONDS and one.rows:
            each.setdefault(one.batch_size, []).append(one.seconds * one.batch_size / one.rows)
    return sorted((size, seconds) for size, seconds in each.items() if len(seconds) > 1)


def _more_rows(cell: Cell, fewest: Cell) -> bool:
    """True when a size is shown to need more rows."""
    shared = sorted(set(cell.rows_to_target) & set(fewest.rows_to_target))
    lo = (
        paired_ratio(
            [cell.rows_to_target[t] for t in shared], [fewest.rows_to_target[t] for t in shared]
        )[1]
        if shared
        else None
    )
    return lo is not None and lo > 1


def _fewest_steps(reached: Sequence[Cell], steps_min: float | None) -> int | None:
    steps = {cell.batch_size: _median(cell.steps_to_target.values()) for cell in reached}
    least = min(steps.values(), default=math.nan) if steps_min is None else steps_min
    return min((size for size, value in steps.items() if value <= FEW_STEPS * least), default=None)


def _goodput(run: Run, judgement: Judgement, critical: float | None) -> list[Json]:
    """Of every size that was timed: rows a second times 1/(1 + B/B_crit)."""
    speeds = (
        {cell.batch_size: throughput(run, cell.batch_size)[0] for cell in judgement.cells}
        if critical
        else {}
    )
    return [
        {"batch_size": size, "rows_per_second": goodput(float(np.median(each)), size, critical)}
        for size, each in speeds.items()
        if each
    ]


def _premise(run: Run, judgement: Judgement, laws: Json) -> str | None:
    free, size = laws.get("free_batch_size"), judgement.choice.batch_size
    if free is None or size is None:
        return None
    # a row that costs nothing: the more the better
    best = math.inf if free["value"] is None else free["value"]
    if max(best / size, size / best) <= FAR_APART:
        return None
    kink = (laws["kink"] or {}).get("value")
    if kink is not None and best >= kink * 0.999:
        return (
            "reading, not computing, is the limit (I/O-bound), so larger minibatches cost no less"
            " time"
        )
    # never the recommended one, which would not be eligible
    if any(is_correlated(run, other) for other in run.batch_sizes):
        return "rows of a minibatch resemble one another: the shuffle, not the size, was measured"
    if run.rules[0] == "fixed":
        return "the learning rate was the same at every size (no scaling of η)"
    if laws["misfit"] > MOST_MISFIT:
        return (
            "steps do not follow S_min(1 + B_crit/B) (lack of fit): they are off it by"
            f" {laws['misfit']:.0%}"
        )
    fewest, most = min(run.batch_sizes), max(run.batch_sizes)
    if not fewest <= best <= most:
        return f"the optimum lies outside the sizes that were tried ({fewest:,} to {most:,})"
    return "sizes between the two are equally fast within 5 %, and the smaller is recommended"


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))
