"""Throughput joined to convergence: seconds per step against minibatch size, and the fastest size.

A step computes for t_c = α + βB seconds, and its rows are delivered in t_io = B/R seconds at R rows
per second. Together they take (t_c^γ + t_io^γ)^(1/γ) (Qiao et al. 2021, Pollux, OSDI, §3.2), with
γ = ∞ for reading that overlaps wholly. With S = S_min(1 + B_crit/B) steps, the seconds to the
target are T(B) = S_min(1 + B_crit/B)·t_step. T is smallest at √(B_crit·α/β), or at the size where
t_c = t_io if that is smaller (docs/science.md §3).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from streamtrain.science.intervals import Estimate, Sample, Vector, log_estimate
from streamtrain.science.scipy_functions import minimize_between, non_negative_least_squares

#: The largest batch size considered.
_LARGEST = 1e12

#: Timings determine γ only if a step without any overlap would take at least this many times as
#: long as one with whole overlap.
_FELT = 1.05

#: γ is sought up to the first; from the second on it counts as infinite.
_LARGEST_OVERLAP, _WHOLE_OVERLAP = 64.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """The time of a step: `seconds` (α) per step, `seconds_per_row` (β), and its rows' delivery.

    `delivery_rate`: R, in rows per second; infinite where delivery is not the limit. `overlap`:
    γ ≥ 1.
    """

    seconds: float
    seconds_per_row: float
    delivery_rate: float = math.inf
    overlap: float = math.inf

    def at(self, batch_size: float) -> float:
        """Return the seconds of one step of `batch_size` rows."""
        computing = self.seconds + self.seconds_per_row * batch_size
        reading = batch_size / self.delivery_rate
        larger, smaller = max(computing, reading), min(computing, reading)
        if math.isinf(self.overlap):
            return larger
        return larger * (1 + (smaller / larger) ** self.overlap) ** (1 / self.overlap)

    @property
    def crossover_batch_size(self) -> float:
        """The size from which on delivery is slower than computing; infinite if there is none."""
        gap = 1 / self.delivery_rate - self.seconds_per_row
        return self.seconds / gap if gap > 0 else math.inf

    def to_target(self, batch_size: float, steps_min: float, critical: float) -> float:
        """Return T(B), the seconds to the target."""
        return steps_min * (1 + critical / batch_size) * self.at(batch_size)

    def best_batch_size(self, critical: float) -> float:
        """Return the size with the smallest T, at least 1; infinite when a row costs nothing."""
        if math.isinf(self.overlap):
            return max(1.0, min(self.free_batch_size(critical), self.crossover_batch_size))
        log_best = minimize_between(
            lambda log_size: math.log(self.to_target(math.exp(log_size), 1.0, critical)),
            0.0,
            math.log(_LARGEST),
            tolerance=1e-6,
        )
        return math.exp(log_best)

    def free_batch_size(self, critical: float) -> float:
        """Return √(B_crit·α/β), the best size if delivery took no time; at least 1.

        Infinite when a row costs nothing to compute.
        """
        if not self.seconds_per_row > 0:
            return math.inf
        return max(1.0, math.sqrt(critical * self.seconds / self.seconds_per_row))

    def best_seconds(self, steps_min: float, critical: float) -> float:
        """Return T at the best size; S_min·β·(√B_crit + √(α/β))² where delivery takes no time."""
        return self.to_target(self.best_batch_size(critical), steps_min, critical)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputLaw:
    """The law of a run's timings; None for what could not be fitted.

    `delivery_rate` is in rows per second. `crossover_batch_size`: see `StepTime`.
    `free_batch_size`: √(B_crit·α/β). A value that is infinite is None within its Estimate.
    """

    alpha_seconds: Estimate | None = None
    beta_seconds_per_row: Estimate | None = None
    delivery_rate: Estimate | None = None
    overlap: Estimate | None = None
    crossover_batch_size: Estimate | None = None
    free_batch_size: Estimate | None = None
    best_batch_size: Estimate | None = None
    best_seconds: Estimate | None = None


def fit_step_time(
    batch_sizes_M: Sample,
    seconds_M: Sample,
    delivery_rate: float = math.inf,
    overlap: float = math.inf,
) -> StepTime:
    """Fit α ≥ 0 and β ≥ 0 to the seconds of a step at M ≥ 2 sizes.

    Least squares on relative errors, since sizes span decades. Raises ValueError below two
    distinct sizes.
    """
    sizes, seconds = np.asarray(batch_sizes_M, dtype=float), np.asarray(seconds_M, dtype=float)
    if np.unique(sizes).size < 2:
        raise ValueError(f"a line needs at least 2 batch sizes; got {np.unique(sizes).size}")
    # Both columns are scaled alike, so that the solver's own tolerance means the same for both.
    scale = sizes.max()
    alpha, slope = non_negative_least_squares(
        np.stack([1 / seconds, sizes / scale / seconds], axis=1) * seconds.min(),
        np.full(sizes.size, seconds.min()),
    )
    return StepTime(
        seconds=float(alpha),
        seconds_per_row=float(slope / scale),
        delivery_rate=delivery_rate,
        overlap=overlap,
    )


def fit_overlap(
    step: StepTime, batch_sizes_M: Sequence[float], joint_seconds_M: Sample
) -> StepTime:
    """Return `step` with γ fitted to steps that were timed while rows were delivered.

    γ is in [1, 64]; from 60 on it counts as whole overlap, which is infinite.
    """
    joint = np.log(np.asarray(joint_seconds_M, dtype=float))

    def misfit(log_overlap: float) -> float:
        fitted = replace(step, overlap=math.exp(log_overlap))
        return float(((np.log([fitted.at(size) for size in batch_sizes_M]) - joint) ** 2).sum())

    log_overlap = minimize_between(misfit, 0.0, math.log(_LARGEST_OVERLAP))
    is_whole = log_overlap > math.log(_WHOLE_OVERLAP)
    return replace(step, overlap=math.inf if is_whole else math.exp(log_overlap))


def throughput_law(
    batch_sizes_M: Sample,
    seconds_RM: Sequence[Sequence[float]] | Vector,
    delivery_rates_R: Sample = (),
    *,
    steps: tuple[float, float] | None = None,
    trial_fits: Sequence[tuple[float, float]] = (),
    joint: Sequence[tuple[float, Sequence[float]]] = (),
) -> ThroughputLaw:
    """Fit the law to R interleaved timing repeats of the seconds of a step at M sizes.

    Values come from the medians over repeats. Each repeat is also fitted separately; intervals are
    Student's over these fits, on logarithms.

    `joint`: (size, seconds of a step while rows were delivered, in each of some runs), to which γ
    is fitted; without them reading counts as wholly overlapped. `steps`: (S_min, B_crit), without
    which the last three fields are None. `trial_fits`: `steps` of single trials. Where these are
    given, trials are paired with repeats, so that the intervals include the noise of both;
    otherwise they include the noise of the timing alone.
    """
    seconds = np.atleast_2d(np.asarray(seconds_RM, dtype=float))
    rates = np.asarray(delivery_rates_R, dtype=float)
    rate = float(np.median(rates)) if rates.size else math.inf
    whole = fit_step_time(batch_sizes_M, np.median(seconds, axis=0), rate)
    overlap = _fit_joint_overlap(whole, joint)
    whole = replace(whole, overlap=overlap.value or math.inf)
    rate_of_repeat = rates if rates.size == len(seconds) else np.full(len(seconds), rate)
    repeats = [
        fit_step_time(batch_sizes_M, seconds_M, float(repeat_rate), whole.overlap)
        for seconds_M, repeat_rate in zip(seconds, rate_of_repeat, strict=True)
    ]

    def over_repeats(quantity: Callable[[StepTime], float]) -> Estimate:
        return log_estimate(quantity(whole), [quantity(step) for step in repeats])

    law = ThroughputLaw(
        alpha_seconds=over_repeats(lambda step: step.seconds),
        beta_seconds_per_row=over_repeats(lambda step: step.seconds_per_row),
        delivery_rate=log_estimate(rate, rates),
        overlap=overlap,
        crossover_batch_size=over_repeats(lambda step: step.crossover_batch_size),
    )
    if steps is None:
        return law
    steps_min, critical = steps
    fits = trial_fits or [steps] * len(repeats)
    # there may be more repeats than trials, or fewer
    paired = [(step, *fit) for step, fit in zip(repeats, fits, strict=False)]
    return replace(
        law,
        free_batch_size=log_estimate(
            whole.free_batch_size(critical), [step.free_batch_size(b) for step, _, b in paired]
        ),
        best_batch_size=log_estimate(
            whole.best_batch_size(critical), [step.best_batch_size(b) for step, _, b in paired]
        ),
        best_seconds=log_estimate(
            whole.best_seconds(steps_min, critical),
            [step.best_seconds(s, b) for step, s, b in paired],
        ),
    )


def _fit_joint_overlap(step: StepTime, joint: Sequence[tuple[float, Sequence[float]]]) -> Estimate:
    """γ fitted to the medians of the joint timings, its interval over their runs.

    None (infinite) for whole overlap. `n` is 0 where nothing was timed jointly, or where delivery
    is so fast that γ would make no difference.
    """
    num_runs = min((len(seconds) for _, seconds in joint), default=0)
    sizes = [size for size, _ in joint]
    serial = replace(step, overlap=1.0)
    if not num_runs or max(serial.at(size) / step.at(size) for size in sizes) < _FELT:
        return log_estimate(math.inf, [])
    medians = [float(np.median(seconds)) for _, seconds in joint]
    by_run = [[seconds[run] for _, seconds in joint] for run in range(num_runs)]
    return log_estimate(
        fit_overlap(step, sizes, medians).overlap,
        [fit_overlap(step, sizes, seconds_M).overlap for seconds_M in by_run],
    )
