"""Notable batch sizes besides the recommended one (docs/science.md §7).

They are the optimum of the laws, the size with the fewest rows, the one with the fewest steps, and
the largest that wastes at most 20 % of its rows.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from streamtrain.base.units import format_percent
from streamtrain.science.cells import Cell, shared_trials, throughput
from streamtrain.science.intervals import Estimate, paired_ratio, value_of
from streamtrain.science.judge import Judgement, is_correlated
from streamtrain.science.landmarks_json import LandmarksJson, LawsJson, StabilityJson
from streamtrain.science.oracle import GaussianLinear
from streamtrain.science.run_log import Run
from streamtrain.science.steps_law import (
    LocalGrowth,
    StepsLaw,
    efficient_batch_size,
    fit_steps_law,
    goodput,
    local_growth,
)
from streamtrain.science.throughput import ThroughputLaw, throughput_law
from streamtrain.types import Json

#: A recommendation that is farther than this factor from the laws' optimum means that some premise
#: of theirs does not hold; steps within this factor of S_min count as fewest. Both are choices of
#: this project.
FAR_APART, FEW_STEPS = 4.0, 1.1

#: Steps whose misfit (root mean square of logarithms) is above this do not follow
#: S_min(1 + B_crit/B).
MOST_MISFIT = 0.25

#: In a confirmation shorter than this many seconds most of the time is its start, which does not
#: show how reading and computing overlap.
LEAST_JOINT_SECONDS = 0.2

#: Two parameters and a residual.
_FEWEST_SIZES = 3

#: A trial that reached the target in no measurable step counts as having taken this many.
_FEWEST_STEPS = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Laws:
    """The law of steps and the law of throughput, as far as the run determines them."""

    steps: StepsLaw = field(default_factory=StepsLaw)
    throughput: ThroughputLaw = field(default_factory=ThroughputLaw)

    def to_json(self) -> LawsJson:
        """Return both laws as one document, without the fits of single trials."""
        time, steps = self.throughput, self.steps
        return {
            "alpha_seconds": _optional_json(time.alpha_seconds),
            "beta_seconds_a_row": _optional_json(time.beta_seconds_per_row),
            "rows_per_second": _optional_json(time.delivery_rate),
            "overlap": _optional_json(time.overlap),
            "kink": _optional_json(time.crossover_batch_size),
            "free_batch_size": _optional_json(time.free_batch_size),
            "best_batch_size": _optional_json(time.best_batch_size),
            "best_seconds": _optional_json(time.best_seconds),
            "steps_min": _optional_json(steps.steps_min),
            "critical_batch_size": _optional_json(steps.critical_batch_size),
            "misfit": steps.misfit,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Stability:
    """The mean-square stability limit of plain SGD.

    `eigenvalues`: the eigenvalues of the features' correlations, and 1 for the bias, last.
    `learning_rates`: η_max by batch size.
    """

    eigenvalues: tuple[float, ...]
    learning_rates: Mapping[int, float]

    def to_json(self) -> StabilityJson:
        """Return the boundary in the form of `summary.json`."""
        return {
            "eigenvalues": list(self.eigenvalues),
            "batch_sizes": list(self.learning_rates),
            "lrs": list(self.learning_rates.values()),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Landmarks:
    """Batch sizes to know, and the laws they follow from; None for what the run cannot determine.

    Attributes:
        laws: The laws of steps and of time.
        fewest_rows: The size that needs the fewest rows.
        fewest_rows_tied: Sizes that are not shown to need more rows than `fewest_rows`.
        fewest_steps: The smallest size tried within 10 % of S_min; where S_min is not determined,
            of the fewest steps.
        ten_percent_steps: The size at which the law gives 10 % more steps than S_min.
        overhead_20: The largest size that wastes at most 20 % of its rows.
        goodput: Rows per second times statistical efficiency, by size.
        growth: The growth of B_crit along the run.
        stability: The mean-square boundary of SGD.
        premise: Why the recommendation is more than `FAR_APART` from √(B_crit·α/β); None where it
            is not.
    """

    laws: Laws
    fewest_rows: int | None
    fewest_rows_tied: tuple[int, ...]
    fewest_steps: int | None
    ten_percent_steps: float | None
    overhead_20: float | None
    goodput: Mapping[int, float]
    growth: LocalGrowth | None
    stability: Stability | None
    premise: str | None

    def to_json(self) -> LandmarksJson:
        """Return the landmarks as `summary.json` has them."""
        return {
            "laws": self.laws.to_json(),
            "fewest_rows": self.fewest_rows,
            "fewest_rows_tied": list(self.fewest_rows_tied),
            "fewest_steps": self.fewest_steps,
            "steps_10": self.ten_percent_steps,
            "overhead_20": self.overhead_20,
            "goodput": [
                {"batch_size": size, "rows_per_second": rate} for size, rate in self.goodput.items()
            ],
            "growth": None if self.growth is None else self.growth.to_json(),
            "stability": None if self.stability is None else self.stability.to_json(),
            "premise": self.premise,
        }


def landmarks(run: Run, judgement: Judgement) -> Landmarks:
    """Return the landmarks of a judged run.

    The law of steps is fitted to sizes at which the steps to the target were seen and not guessed.
    """
    reached = sorted(
        (cell for cell in judgement.cells if cell.status == "reached"),
        key=lambda cell: cell.batch_size,
    )
    steps = _steps_law([cell for cell in reached if not cell.is_guessed])
    laws = Laws(steps=steps, throughput=_throughput_law(run, judgement, steps))
    steps_min, critical = steps.known or (None, None)
    fewest = min(reached, key=lambda cell: _median(cell.rows_to_target.values()), default=None)
    return Landmarks(
        laws=laws,
        fewest_rows=None if fewest is None else fewest.batch_size,
        fewest_rows_tied=() if fewest is None else _tied_sizes(reached, fewest),
        fewest_steps=_fewest_steps(reached, steps_min),
        ten_percent_steps=critical / (FEW_STEPS - 1) if critical else None,
        overhead_20=efficient_batch_size(critical) if critical else None,
        goodput=_goodput(run, judgement, critical) if critical else {},
        growth=local_growth(reached, judgement.target) if judgement.target else None,
        stability=mean_square_stability(run),
        premise=_premise(run, judgement, laws),
    )


def mean_square_stability(run: Run) -> Stability | None:
    """Return η_max of plain SGD at each size, exact for a linear model of Gaussian features.

    The features of the run are taken as Gaussian. At a small B single runs can converge above
    η_max, although their mean square grows. None for other optimizers, where features were not
    standardised, and where Huber's loss or clipping bounds a step.
    """
    config, eigenvalues = run.header.config, run.baseline.feature_eigenvalues
    train: Json = config.get("train") or {}
    if not eigenvalues or not config["data"]["standardize"]:
        return None
    if train["optimizer"] != "sgd" or train["momentum"]:
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
    return Stability(
        eigenvalues=tuple(spectrum.tolist()),
        learning_rates={size: linear.largest_stable_lr(size) for size in sorted(run.batch_sizes)},
    )


def _steps_law(reached: Sequence[Cell]) -> StepsLaw:
    trials = shared_trials(reached)
    if len(reached) < _FEWEST_SIZES or not trials:
        return StepsLaw()
    steps_TM = [
        [max(cell.steps_to_target[trial], _FEWEST_STEPS) for cell in reached] for trial in trials
    ]
    return fit_steps_law([cell.batch_size for cell in reached], steps_TM)


def _throughput_law(run: Run, judgement: Judgement, steps: StepsLaw) -> ThroughputLaw:
    sizes = [cell.batch_size for cell in judgement.cells if run.step_seconds.get(cell.batch_size)]
    if len(sizes) < 2:
        return ThroughputLaw()
    repeats = sorted(
        set(run.step_seconds[sizes[0]]).intersection(*(run.step_seconds[size] for size in sizes))
    )
    seconds_RM = np.array(
        [[_step_seconds(run, size, repeat) for size in sizes] for repeat in repeats]
    )
    delivered = [run.delivery_seconds.get(repeat, (0, 0.0)) for repeat in repeats]
    return throughput_law(
        sizes,
        seconds_RM,
        [rows / seconds for rows, seconds in delivered if seconds > 0],
        steps=steps.known,
        trial_fits=steps.trial_fits,
        joint=_joint_timings(run),
    )


def _step_seconds(run: Run, size: int, repeat: int) -> float:
    rows, seconds = run.step_seconds[size][repeat]
    return seconds * size / rows


def _joint_timings(run: Run) -> list[tuple[float, list[float]]]:
    """(size, seconds of a step in each confirmation), ascending by size.

    In confirmations steps are taken while rows are delivered. Only sizes with at least two
    confirmations that lasted long enough are returned.
    """
    by_size: dict[int, list[float]] = {}
    for confirmed in run.confirmations:
        if confirmed.seconds >= LEAST_JOINT_SECONDS and confirmed.rows:
            step_seconds = confirmed.seconds * confirmed.batch_size / confirmed.rows
            by_size.setdefault(confirmed.batch_size, []).append(step_seconds)
    return sorted((size, seconds) for size, seconds in by_size.items() if len(seconds) > 1)


def _tied_sizes(reached: Sequence[Cell], fewest: Cell) -> tuple[int, ...]:
    return tuple(
        cell.batch_size
        for cell in reached
        if cell is not fewest and not _needs_more_rows(cell, fewest)
    )


def _needs_more_rows(cell: Cell, fewest: Cell) -> bool:
    """True when the interval shows that a size needs more rows than `fewest`."""
    trials = sorted(set(cell.rows_to_target) & set(fewest.rows_to_target))
    if not trials:
        return False
    ratio = paired_ratio(
        [cell.rows_to_target[trial] for trial in trials],
        [fewest.rows_to_target[trial] for trial in trials],
    )
    return ratio.lo is not None and ratio.lo > 1


def _fewest_steps(reached: Sequence[Cell], steps_min: float | None) -> int | None:
    steps = {cell.batch_size: _median(cell.steps_to_target.values()) for cell in reached}
    least = min(steps.values(), default=math.nan) if steps_min is None else steps_min
    return min((size for size, value in steps.items() if value <= FEW_STEPS * least), default=None)


def _goodput(run: Run, judgement: Judgement, critical: float) -> dict[int, float]:
    """Rows per second times 1/(1 + B/B_crit), by size, of every size that was timed."""
    speeds = {cell.batch_size: throughput(run, cell.batch_size)[0] for cell in judgement.cells}
    return {
        size: goodput(float(np.median(repeats)), size, critical)
        for size, repeats in speeds.items()
        if repeats
    }


def _premise(run: Run, judgement: Judgement, laws: Laws) -> str | None:
    free, size = laws.throughput.free_batch_size, judgement.choice.batch_size
    if free is None or size is None:
        return None
    # where a row costs nothing, the largest size is the best
    best = math.inf if free.value is None else free.value
    if max(best / size, size / best) <= FAR_APART:
        return None
    crossover = value_of(laws.throughput.crossover_batch_size)
    if crossover is not None and best >= crossover * 0.999:
        return (
            "reading, not computing, is the limit (I/O-bound), so larger minibatches cost no less"
            " time"
        )
    # any size but the recommended one, which would not have been eligible
    if any(is_correlated(run, other) for other in run.batch_sizes):
        return "rows of a minibatch resemble one another: the shuffle, not the size, was measured"
    if run.rules[0] == "fixed":
        return "the learning rate was the same at every size (no scaling of η)"
    misfit = laws.steps.misfit
    if misfit is not None and misfit > MOST_MISFIT:
        return (
            "steps do not follow S_min(1 + B_crit/B) (lack of fit): they deviate by"
            f" {format_percent(misfit)}"
        )
    fewest, most = min(run.batch_sizes), max(run.batch_sizes)
    if not fewest <= best <= most:
        return f"the optimum lies outside the sizes that were tried ({fewest:,} to {most:,})"
    return "time changes little between the two sizes"


def _optional_json(estimate: Estimate | None) -> Json | None:
    return None if estimate is None else estimate.to_json()


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))
