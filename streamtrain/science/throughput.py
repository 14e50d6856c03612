"""Throughput joined to convergence: seconds of a step against minibatch size, the I/O roof, and the
fastest size (docs/science.md §3).

Seconds of a step: t_c = α + βB on the processor, t_io = B/R to deliver its rows at R rows a second;
together (t_c^γ + t_io^γ)^(1/γ) (Qiao et al. 2021, Pollux, OSDI, §3.2), γ = ∞ for reading that
overlaps wholly. With S = S_min(1 + B_crit/B): T(B) = S_min(1 + B_crit/B)·t_step, least at
√(B_crit·α/β), or at the kink t_c = t_io if that is smaller.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar, nnls

from streamtrain.science.intervals import log_estimate
from streamtrain.types import Json

#: Where a batch size is looked for.
_LARGEST = 1e12

#: A roof that makes a step less than this much slower, however little it overlaps, tells nothing of
#: its overlap.
_FELT = 1.05


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """`seconds` α a step, `seconds_a_row` β, `rows_per_second` R delivered (infinite: no roof),
    `overlap` γ ≥ 1.
    """

    seconds: float
    seconds_a_row: float
    rows_per_second: float = math.inf
    overlap: float = math.inf

    def at(self, batch_size: float) -> float:
        """Seconds of one step of `batch_size` rows."""
        computing, reading = (
            self.seconds + self.seconds_a_row * batch_size,
            batch_size / self.rows_per_second,
        )
        larger, smaller = max(computing, reading), min(computing, reading)
        return (
            larger
            if math.isinf(self.overlap)
            else larger * (1 + (smaller / larger) ** self.overlap) ** (1 / self.overlap)
        )

    @property
    def kink(self) -> float:
        """The size at which delivery becomes the slower part: infinite where it never does."""
        gap = 1 / self.rows_per_second - self.seconds_a_row
        return self.seconds / gap if gap > 0 else math.inf

    def to_target(self, batch_size: float, steps_min: float, critical: float) -> float:
        """T(B): seconds to the target."""
        return steps_min * (1 + critical / batch_size) * self.at(batch_size)

    def best_batch_size(self, critical: float) -> float:
        """B_opt, at least 1. Infinite when a row costs nothing."""
        if not math.isinf(self.overlap):
            found = minimize_scalar(
                lambda x: math.log(self.to_target(math.exp(x), 1.0, critical)),
                bounds=(0.0, math.log(_LARGEST)),
                method="bounded",
                options={"xatol": 1e-6},
            )
            return float(math.exp(found.x))
        return max(1.0, min(self.free_batch_size(critical), self.kink))

    def free_batch_size(self, critical: float) -> float:
        """√(B_crit·α/β), as if rows were there for nothing, at least 1.

        Infinite when a row costs nothing to compute.
        """
        return (
            max(1.0, math.sqrt(critical * self.seconds / self.seconds_a_row))
            if self.seconds_a_row > 0
            else math.inf
        )

    def best_seconds(self, steps_min: float, critical: float) -> float:
        """T at B_opt; without a roof that is S_min·β·(√B_crit + √(α/β))²."""
        return self.to_target(self.best_batch_size(critical), steps_min, critical)


def fit_step_time(
    batch_sizes_M: Sequence[float],
    seconds_M: Sequence[float],
    rows_per_second: float = math.inf,
    overlap: float = math.inf,
) -> StepTime:
    """α and β, neither negative, from seconds of a step at M ≥ 2 sizes: least squares on relative
    errors, as sizes span decades.
    """
    sizes, seconds = np.asarray(batch_sizes_M, dtype=float), np.asarray(seconds_M, dtype=float)
    if np.unique(sizes).size < 2:
        raise ValueError(f"a line needs at least 2 batch sizes; got {np.unique(sizes).size}")
    # both columns of like size, so that nnls' own tolerance means the same for both
    scale = sizes.max()
    (alpha, slope), _ = nnls(
        np.stack([1 / seconds, sizes / scale / seconds], axis=1) * seconds.min(),
        np.full(sizes.size, seconds.min()),
    )
    return StepTime(
        seconds=float(alpha),
        seconds_a_row=float(slope / scale),
        rows_per_second=rows_per_second,
        overlap=overlap,
    )


def fit_overlap(
    step: StepTime, batch_sizes_M: Sequence[float], joint_seconds_M: Sequence[float]
) -> StepTime:
    """The same with γ fitted to steps timed while rows were delivered; γ in [1, 64], 64 counting as
    whole overlap.
    """
    joint = np.log(np.asarray(joint_seconds_M, dtype=float))

    def misfit(log_overlap: float) -> float:
        fitted = _with_overlap(step, math.exp(log_overlap))
        return float(((np.log([fitted.at(size) for size in batch_sizes_M]) - joint) ** 2).sum())

    found = minimize_scalar(misfit, bounds=(0.0, math.log(64.0)), method="bounded").x
    return _with_overlap(step, math.inf if found > math.log(60.0) else math.exp(found))


def throughput_law(
    batch_sizes_M: Sequence[float],
    seconds_RM: Sequence[Sequence[float]] | np.ndarray,
    rows_per_second_R: Sequence[float] = (),
    *,
    steps: tuple[float, float] | None = None,
    steps_T: Sequence[tuple[float, float]] = (),
    joint: Sequence[tuple[float, Sequence[float]]] = (),
) -> Json:
    """`{alpha_seconds, beta_seconds_a_row, rows_per_second, overlap, kink, free_batch_size,
    best_batch_size, best_seconds}`.

    From R interleaved repeats: each is fitted by itself; values come from the medians, Student's
    intervals over the repeats, on logarithms. `joint`: (size, seconds of a step while rows were
    delivered, in each of some runs), from which the roof's γ is fitted; without them reading
    overlaps wholly. `free_batch_size` is √(B_crit·α/β), which knows of no roof. The last three need
    `steps`, (S_min, B_crit); where `steps_T` has those of single trials too, trials are paired with
    repeats, so that the intervals hold the noise of both, else of the timing alone. An infinite
    value is None.
    """
    seconds, roofs = (
        np.atleast_2d(np.asarray(seconds_RM, dtype=float)),
        np.asarray(rows_per_second_R, dtype=float),
    )
    roof = float(np.median(roofs)) if roofs.size else math.inf
    whole = fit_step_time(batch_sizes_M, np.median(seconds, axis=0), roof)
    overlap = _overlap(whole, joint)
    whole = _with_overlap(whole, overlap["value"] or math.inf)
    each = roofs if roofs.size == len(seconds) else np.full(len(seconds), roof)
    repeats = [
        fit_step_time(batch_sizes_M, line, one, whole.overlap)
        for line, one in zip(seconds, each, strict=True)
    ]

    def over_repeats(quantity: Callable[[StepTime], float]) -> Json:
        return log_estimate(quantity(whole), [quantity(step) for step in repeats])

    law = {
        "alpha_seconds": over_repeats(lambda step: step.seconds),
        "beta_seconds_a_row": over_repeats(lambda step: step.seconds_a_row),
        "rows_per_second": log_estimate(roof, roofs),
        "overlap": overlap,
        "kink": over_repeats(lambda step: step.kink),
        "free_batch_size": None,
        "best_batch_size": None,
        "best_seconds": None,
    }
    if steps is not None:
        paired = list(zip(repeats, steps_T or [steps] * len(repeats), strict=False))
        for name, quantity in (
            ("free_batch_size", lambda step, _, b: step.free_batch_size(b)),
            ("best_batch_size", lambda step, _, b: step.best_batch_size(b)),
            ("best_seconds", lambda step, s, b: step.best_seconds(s, b)),
        ):
            law[name] = log_estimate(
                quantity(whole, *steps), [quantity(step, *one) for step, one in paired]
            )
    return law


def _overlap(step: StepTime, joint: Sequence[tuple[float, Sequence[float]]]) -> Json:
    """γ fitted to the medians of the joint timings, its interval over their runs; None (infinite)
    for whole overlap.

    `n` is 0 where nothing was timed jointly, or where delivery is so fast that γ would make no
    difference.
    """
    runs, sizes = (
        min((len(seconds) for _, seconds in joint), default=0),
        [size for size, _ in joint],
    )
    apart = _with_overlap(step, 1.0)
    if not runs or max(apart.at(size) / step.at(size) for size in sizes) < _FELT:
        return log_estimate(math.inf, [])
    value = fit_overlap(step, sizes, [float(np.median(seconds)) for _, seconds in joint]).overlap
    return log_estimate(
        value,
        [
            fit_overlap(step, sizes, [seconds[run] for _, seconds in joint]).overlap
            for run in range(runs)
        ],
    )


def _with_overlap(step: StepTime, overlap: float) -> StepTime:
    return StepTime(
        seconds=step.seconds,
        seconds_a_row=step.seconds_a_row,
        rows_per_second=step.rows_per_second,
        overlap=overlap,
    )
