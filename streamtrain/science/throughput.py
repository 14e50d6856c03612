"""Throughput joined to convergence: seconds of a step against minibatch size, the I/O roof, and the fastest size (SCIENCE.md §3).

Seconds of a step: t_c = α + βB on the processor, t_io = B/R to deliver its rows at R rows a second; together
(t_c^γ + t_io^γ)^(1/γ) (Qiao et al. 2021, Pollux, OSDI, §3.2), γ = ∞ for reading that overlaps wholly.
With S = S_min(1 + B_crit/B): T(B) = S_min(1 + B_crit/B)·t_step, least at √(B_crit·α/β), or at the kink t_c = t_io if that is smaller.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar, nnls

from streamtrain.science.estimate import estimate, t_quantile
from streamtrain.types import Record

#: Where a batch size is looked for.
_LARGEST = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """`seconds` α a step, `seconds_a_row` β, `rows_per_second` R delivered (infinite: no roof), `overlap` γ ≥ 1."""

    seconds: float
    seconds_a_row: float
    rows_per_second: float = math.inf
    overlap: float = math.inf

    def at(self, batch_size: float) -> float:
        """Seconds of one step of `batch_size` rows."""
        computing, reading = self.seconds + self.seconds_a_row * batch_size, batch_size / self.rows_per_second
        larger, smaller = max(computing, reading), min(computing, reading)
        return larger if math.isinf(self.overlap) else larger * (1 + (smaller / larger) ** self.overlap) ** (1 / self.overlap)

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
                lambda x: math.log(self.to_target(math.exp(x), 1.0, critical)), bounds=(0.0, math.log(_LARGEST)), method="bounded",
                options={"xatol": 1e-6},
            )  # fmt: skip
            return float(math.exp(found.x))
        free = math.sqrt(critical * self.seconds / self.seconds_a_row) if self.seconds_a_row > 0 else math.inf
        return max(1.0, min(free, self.kink))

    def best_seconds(self, steps_min: float, critical: float) -> float:
        """T at B_opt; without a roof that is S_min·β·(√B_crit + √(α/β))²."""
        return self.to_target(self.best_batch_size(critical), steps_min, critical)


def fit_step_time(
    batch_sizes_M: Sequence[float], seconds_M: Sequence[float], rows_per_second: float = math.inf, overlap: float = math.inf
) -> StepTime:
    """α and β, neither negative, from seconds of a step at M ≥ 2 sizes: least squares on relative errors, as sizes span decades."""
    sizes, seconds = np.asarray(batch_sizes_M, dtype=float), np.asarray(seconds_M, dtype=float)
    if np.unique(sizes).size < 2:
        raise ValueError(f"a line needs at least 2 batch sizes; got {np.unique(sizes).size}")
    scale = sizes.max()  # both columns of like size, so that nnls' own tolerance means the same for both
    (alpha, slope), _ = nnls(np.stack([1 / seconds, sizes / scale / seconds], axis=1) * seconds.min(), np.full(sizes.size, seconds.min()))
    return StepTime(seconds=float(alpha), seconds_a_row=float(slope / scale), rows_per_second=rows_per_second, overlap=overlap)


def fit_overlap(step: StepTime, batch_sizes_M: Sequence[float], joint_seconds_M: Sequence[float]) -> StepTime:
    """The same with γ fitted to steps timed while rows were delivered; γ in [1, 64], 64 counting as whole overlap."""
    joint = np.log(np.asarray(joint_seconds_M, dtype=float))

    def misfit(log_overlap: float) -> float:
        fitted = _with_overlap(step, math.exp(log_overlap))
        return float(((np.log([fitted.at(size) for size in batch_sizes_M]) - joint) ** 2).sum())

    found = minimize_scalar(misfit, bounds=(0.0, math.log(64.0)), method="bounded").x
    return _with_overlap(step, math.inf if found > math.log(60.0) else math.exp(found))


def throughput_law(
    batch_sizes_M: Sequence[float], seconds_RM: Sequence[Sequence[float]] | np.ndarray, rows_per_second_R: Sequence[float] = (), *,
    steps_min: float | None = None, critical: float | None = None,
) -> Record:  # fmt: skip
    """`{alpha_seconds, beta_seconds_a_row, rows_per_second, kink, best_batch_size, best_seconds}` from R interleaved repeats.

    Each repeat is fitted by itself; values come from the medians, Student's intervals over the repeats, on logarithms. The
    last two need `critical` (B_crit) and `steps_min`; their intervals are of the timing alone. An infinite value is None.
    """
    seconds, roofs = np.atleast_2d(np.asarray(seconds_RM, dtype=float)), np.asarray(rows_per_second_R, dtype=float)
    roof = float(np.median(roofs)) if roofs.size else math.inf
    whole = fit_step_time(batch_sizes_M, np.median(seconds, axis=0), roof)
    each = roofs if roofs.size == len(seconds) else np.full(len(seconds), roof)
    repeats = [fit_step_time(batch_sizes_M, line, one) for line, one in zip(seconds, each, strict=True)]

    def over_repeats(quantity) -> Record:
        return _log_interval(quantity(whole), [quantity(step) for step in repeats])

    law = {
        "alpha_seconds": over_repeats(lambda step: step.seconds), "beta_seconds_a_row": over_repeats(lambda step: step.seconds_a_row),
        "rows_per_second": _log_interval(roof, roofs.tolist()), "kink": over_repeats(lambda step: step.kink),
        "best_batch_size": None, "best_seconds": None,
    }  # fmt: skip
    if critical is not None:
        law["best_batch_size"] = over_repeats(lambda step: step.best_batch_size(critical))
        if steps_min is not None:
            law["best_seconds"] = over_repeats(lambda step: step.best_seconds(steps_min, critical))
    return law


def _log_interval(value: float, repeats: Sequence[float]) -> Record:
    logs = np.log([one for one in repeats if 0 < one < math.inf])
    if logs.size < max(2, len(repeats)) or not 0 < value < math.inf:
        return estimate(value, n=len(repeats), kind="repeats")
    reach = t_quantile(logs.size - 1) * logs.std(ddof=1) / math.sqrt(logs.size)
    ends = np.exp([logs.mean() - reach, logs.mean() + reach])
    return estimate(value, min(ends[0], value), max(ends[1], value), n=logs.size, kind="t on logarithms")


def _with_overlap(step: StepTime, overlap: float) -> StepTime:
    return StepTime(seconds=step.seconds, seconds_a_row=step.seconds_a_row, rows_per_second=step.rows_per_second, overlap=overlap)
