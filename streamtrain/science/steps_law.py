"""Steps against minibatch size: the law S = S_min(1 + B_crit/B) and what follows from it.

McCandlish et al. 2018 (arXiv 1812.06162), §2.3: (S/S_min - 1)(E/E_min - 1) = 1 for E = B·S
examples, so B_crit = E_min/S_min.

`local_growth` fits the same law to successive stretches of the loss, which shows how the useful
minibatch grows along a run (docs/science.md §7, rule 6): from loss L_k to L_{k+1} a size needs
ΔS(B) = ΔS_min(1 + b_k/B) steps, where b_k is the local B_crit (ibid., appendix D). It needs no
measurement beyond the steps at which each curve crosses several losses.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from streamtrain.science.cells import Cell, shared_trials
from streamtrain.science.crossing import first_crossing
from streamtrain.science.intervals import Estimate, Sample, Vector, log_estimate
from streamtrain.science.landmarks_json import GrowthJson
from streamtrain.science.scipy_functions import minimize_between

#: The number of stretches of the loss, equal on a logarithmic scale. The first starts at the
#: fraction `START` of the smallest untrained loss, and so below every curve's untrained loss.
STRETCHES, START = 4, 0.8

#: A growing minibatch is considered worthwhile if the local B_crit grows by more than this factor.
MUCH_GROWTH = 4.0

#: B_crit is known if the upper end of its interval is at most this many times the lower.
WIDEST_CRITICAL = 100.0

#: A size whose curve crosses both ends of a stretch at the same step counts as taking this many.
_FEWEST_STEPS = 1e-3

#: Points at which the fit looks for B_crit before it refines the best one.
_GRID_POINTS = 200


class StepsFit(NamedTuple):
    """S_min and B_crit of one fit; `misfit` is the root mean square residual of log S."""

    steps_min: float
    critical_batch_size: float
    misfit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsLaw:
    """S_min and B_crit over several trials; None where there is too little to fit.

    `misfit`: the root mean square residual of log S; 0.1 is 10 % off the law. `trial_fits`:
    (S_min, B_crit) of each trial.
    """

    steps_min: Estimate | None = None
    critical_batch_size: Estimate | None = None
    misfit: float | None = None
    trial_fits: tuple[tuple[float, float], ...] = ()

    @property
    def known(self) -> tuple[float, float] | None:
        """S_min and B_crit; None where B_crit's interval is too wide, or there is no fit."""
        steps, critical = self.steps_min, self.critical_batch_size
        if steps is None or critical is None or not (steps.value and critical.value):
            return None
        # one trial has no interval
        if critical.lo and critical.hi and critical.hi > WIDEST_CRITICAL * critical.lo:
            return None
        return steps.value, critical.value


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalGrowth:
    """How B_crit grows along a run.

    `losses`: the ends of the stretches. `local_critical`: b_k of each stretch, between one row and
    ten times the largest size; beyond that it is not known. `growth`: the last b_k over the first.
    `gamma` ≤ 1: a minibatch that follows b_k saves at most 100(1 - gamma) % of the rows.
    `doublings`: how many times such a minibatch doubles; 0 unless the growth is more than
    `MUCH_GROWTH` and its interval, if it has one, is above 1.
    """

    losses: tuple[float, ...]
    local_critical: tuple[float, ...]
    growth: Estimate
    gamma: float
    doublings: int

    def to_json(self) -> GrowthJson:
        """Return the growth as it is written to `summary.json`."""
        return {
            "losses": list(self.losses),
            "local_critical": list(self.local_critical),
            "growth": self.growth.to_json(),
            "gamma": self.gamma,
            "doublings": self.doublings,
        }


def fit_steps(batch_sizes_M: Sample, steps_M: Sample) -> StepsFit:
    """Fit S_min and B_crit to the steps at M ≥ 3 sizes by least squares on log S.

    B_crit is sought between a thousandth of the smallest size and a thousand times the largest. At
    the ends of that range the curve is flat or is still in perfect scaling, and the fitted value
    is only a bound.

    Raises ValueError for fewer than three sizes.
    """
    sizes = np.asarray(batch_sizes_M, dtype=float)
    log_steps = np.log(np.asarray(steps_M, dtype=float))
    if sizes.size < 3:
        raise ValueError(
            f"two parameters need at least 3 batch sizes to be fitted and judged; got {sizes.size}"
        )

    def residuals(log_critical: Vector) -> Vector:
        rest = log_steps - np.log1p(np.exp(log_critical)[:, None] / sizes)
        return rest - rest.mean(axis=1, keepdims=True)

    def squares(log_critical: Vector) -> Vector:
        return (residuals(log_critical) ** 2).sum(axis=1)

    def square(log_critical: float) -> float:
        return float(squares(np.array([log_critical]))[0])

    lowest, highest = float(np.log(sizes.min() / 1e3)), float(np.log(sizes.max() * 1e3))
    grid = np.linspace(lowest, highest, _GRID_POINTS)
    spacing = (highest - lowest) / (_GRID_POINTS - 1)
    nearest = float(grid[np.argmin(squares(grid))])
    log_critical = minimize_between(
        square,
        max(float(grid[0]), nearest - spacing),
        min(float(grid[-1]), nearest + spacing),
        tolerance=1e-9,
    )
    critical = float(np.exp(log_critical))
    return StepsFit(
        steps_min=float(np.exp((log_steps - np.log1p(critical / sizes)).mean())),
        critical_batch_size=critical,
        misfit=float(np.sqrt(square(log_critical) / sizes.size)),
    )


def fit_steps_law(batch_sizes_M: Sample, steps_TM: Sequence[Sequence[float]] | Vector) -> StepsLaw:
    """Fit the law to the steps to a target in T independent trials at M sizes.

    Values come from the fit to the mean of log S. Intervals are Student's, on logarithms, over the
    fits of single trials; with one trial there are none.
    """
    steps = np.atleast_2d(np.asarray(steps_TM, dtype=float))
    joint = fit_steps(batch_sizes_M, np.exp(np.log(steps).mean(axis=0)))
    fits = [fit_steps(batch_sizes_M, steps_M) for steps_M in steps]
    return StepsLaw(
        steps_min=log_estimate(joint.steps_min, [fit.steps_min for fit in fits]),
        critical_batch_size=log_estimate(
            joint.critical_batch_size, [fit.critical_batch_size for fit in fits]
        ),
        misfit=joint.misfit,
        trial_fits=tuple((fit.steps_min, fit.critical_batch_size) for fit in fits),
    )


def goodput(rows_per_second: float, batch_size: float, critical: float) -> float:
    """Return throughput times statistical efficiency, 1/(1 + B/B_crit), in rows per second.

    Qiao et al. 2021, Pollux, OSDI, §3.1.
    """
    return rows_per_second / (1 + batch_size / critical)


def efficient_batch_size(critical: float) -> float:
    """Return the largest size that needs at most 20 % more rows: E/E_min = 1 + B/B_crit."""
    return 0.2 * critical


def adaptive_batch_bound(steps_S: Sample, critical_S: Sample) -> float:
    """Return γ = (∫√B ds)²/(∫ds·∫B ds) ≤ 1 of B_crit along a run, by trapezoids over `steps_S`.

    γ is the constant of the trade-off between steps and rows with a minibatch that grows
    (McCandlish et al. 2018, appendix D): growing the minibatch could save at most 100·(1 - γ) % of
    the rows. Compared with a fixed size B, the saving is divided by 1 + B_crit/B. `steps_S` is
    ascending.
    """
    steps, critical = np.asarray(steps_S, dtype=float), np.asarray(critical_S, dtype=float)
    smallest, examples = steps[-1] - steps[0], np.trapezoid(critical, steps)
    # the trapezoid rule keeps the Cauchy-Schwarz inequality only up to rounding, hence the minimum
    return float(min(np.trapezoid(np.sqrt(critical), steps) ** 2 / (smallest * examples), 1.0))


def local_growth(reached: Sequence[Cell], target: float) -> LocalGrowth | None:
    """Return how B_crit grows along the curves of cells that reached `target` in every trial.

    None for fewer than three sizes, without a trial that all sizes ran, or if the losses start too
    close to the target. The interval of the growth is Student's, on logarithms, over trials.
    """
    sizes = np.array([cell.batch_size for cell in reached], dtype=float)
    trials = shared_trials(reached)
    if sizes.size < 3 or not trials:
        return None
    start = START * min(cell.curves[trial].holdout_loss[0] for cell in reached for trial in trials)
    if not start > 1.5 * target:
        return None
    losses = np.geomspace(start, target, STRETCHES + 1)
    steps_TLM = np.array(
        [
            [[_crossing(cell, trial, loss) for cell in reached] for loss in losses]
            for trial in trials
        ]
    )
    taken_TKM = np.maximum(np.diff(steps_TLM, axis=1), _FEWEST_STEPS)
    smallest_K, critical_K = _fit_stretches(sizes, np.exp(np.log(taken_TKM).mean(axis=0)))
    growth_T: list[float] = []
    for taken_KM in taken_TKM:
        _, trial_critical_K = _fit_stretches(sizes, taken_KM)
        growth_T.append(float(trial_critical_K[-1] / trial_critical_K[0]))
    growth = log_estimate(float(critical_K[-1] / critical_K[0]), growth_T)
    edges = np.concatenate([[0.0], np.cumsum(smallest_K)])
    # b_k is piecewise constant: the trapezoid rule gets each value at both ends of its stretch
    gamma = adaptive_batch_bound(np.repeat(edges, 2)[1:-1], np.repeat(critical_K, 2))
    return LocalGrowth(
        losses=tuple(losses.tolist()),
        local_critical=tuple(critical_K.tolist()),
        growth=growth,
        gamma=gamma,
        doublings=_doublings(growth),
    )


def _doublings(growth: Estimate) -> int:
    if growth.value is None or growth.value <= MUCH_GROWTH:
        return 0
    is_shown = growth.lo is None or growth.lo > 1
    return round(math.log2(growth.value)) if is_shown else 0


def _crossing(cell: Cell, trial: int, loss: float) -> float:
    curve = cell.curves[trial]
    return first_crossing(curve.steps, curve.holdout_loss, loss) or 0.0


def _fit_stretches(sizes_M: Vector, taken_KM: Vector) -> tuple[Vector, Vector]:
    """ΔS_min and b of each stretch, both (K,)."""
    fits = [fit_steps(sizes_M, taken_M) for taken_M in taken_KM]
    smallest_K = np.array([fit.steps_min for fit in fits])
    critical_K = np.array([fit.critical_batch_size for fit in fits])
    return smallest_K, np.clip(critical_K, 1.0, 10 * sizes_M.max())
