"""Steps against minibatch size: S = S_min(1 + B_crit/B), what follows from it, and what an adaptive
batch could save.

McCandlish et al. 2018 (arXiv 1812.06162), §2.3: (S/S_min - 1)(E/E_min - 1) = 1 for E = B·S
examples, so B_crit = E_min/S_min.

How the useful batch grows along a run: the steps law fitted to one stretch of the loss after
another (docs/science.md §7, rule 6).

From loss L_k to L_{k+1} a size needs ΔS(B) = ΔS_min(1 + b_k/B) steps: b_k is the local B_crit
(McCandlish et al. 2018, arXiv 1812.06162, §2.3 and appendix D). Crossings of several targets are
all it takes, so nothing more is measured.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import minimize_scalar

from streamtrain.science.cells import Cell
from streamtrain.science.crossing import first_crossing
from streamtrain.science.intervals import log_estimate
from streamtrain.types import Json


def fit_steps(
    batch_sizes_M: Sequence[float] | np.ndarray, steps_M: Sequence[float] | np.ndarray
) -> tuple[float, float, float]:
    """(S_min, B_crit, root mean square of the residuals of log S) by least squares on log S; three
    sizes at least.

    B_crit is sought between a thousandth of the smallest size and a thousand times the largest: at
    an edge the curve is flat, or is still in perfect scaling, and only a bound is known.
    """
    sizes, log_steps = (
        np.asarray(batch_sizes_M, dtype=float),
        np.log(np.asarray(steps_M, dtype=float)),
    )
    if sizes.size < 3:
        raise ValueError(
            f"two parameters need at least 3 batch sizes to be fitted and judged; got {sizes.size}"
        )

    def residuals(log_critical: np.ndarray) -> np.ndarray:
        rest = log_steps - np.log1p(np.exp(np.atleast_1d(log_critical))[:, None] / sizes)
        return rest - rest.mean(axis=1, keepdims=True)

    def squares(log_critical: np.ndarray) -> np.ndarray:
        return (residuals(log_critical) ** 2).sum(axis=1)

    grid, apart = np.linspace(
        np.log(sizes.min() / 1e3), np.log(sizes.max() * 1e3), 200, retstep=True
    )
    near = grid[np.argmin(squares(grid))]
    bounds = (max(grid[0], near - apart), min(grid[-1], near + apart))
    found = minimize_scalar(
        lambda point: float(squares(point)[0]),
        bounds=bounds,
        method="bounded",
        options={"xatol": 1e-9},
    ).x
    critical = float(np.exp(found))
    return (
        float(np.exp((log_steps - np.log1p(critical / sizes)).mean())),
        critical,
        float(np.sqrt(squares(found)[0] / sizes.size)),
    )


def critical_batch_size(
    batch_sizes_M: Sequence[float], steps_TM: Sequence[Sequence[float]] | np.ndarray
) -> Mapping[str, Json | float]:
    """`{steps_min, critical_batch_size, misfit, steps_T}` from steps to a target in T independent
    trials at M sizes.

    Value: the fit to the mean of log S. Interval: Student's, in log space, over the fits of single
    trials; none for one trial. `misfit`: root mean square residual of log S; 0.1 is 10 % off the
    law. `steps_T`: (S_min, B_crit) of each trial.
    """
    steps = np.atleast_2d(np.asarray(steps_TM, dtype=float))
    smallest, critical, misfit = fit_steps(batch_sizes_M, np.exp(np.log(steps).mean(axis=0)))
    fits = np.array([fit_steps(batch_sizes_M, line)[:2] for line in steps])
    return {
        "steps_min": log_estimate(smallest, fits[:, 0]),
        "critical_batch_size": log_estimate(critical, fits[:, 1]),
        "misfit": misfit,
        "steps_T": fits.tolist(),
    }


def goodput(rows_per_second: float, batch_size: float, critical: float) -> float:
    """Rows a second that count: throughput times statistical efficiency 1/(1 + B/B_crit) (Qiao et
    al. 2021, Pollux, OSDI, §3.1).
    """
    return rows_per_second / (1 + batch_size / critical)


def efficient_batch_size(critical: float, overhead: float = 0.2) -> float:
    """The largest size that wastes no more than `overhead` of its rows: E/E_min = 1 + B/B_crit."""
    return overhead * critical


def adaptive_batch_bound(steps_S: Sequence[float], critical_S: Sequence[float]) -> float:
    """γ = (∫√B ds)²/(∫ds·∫B ds) ≤ 1, of B_crit along a run (McCandlish et al. 2018, appendix D):
    the trade-off's constant with a batch that grows.

    "Growing the batch could save at most 100·(1 - γ) % of the rows"; at a fixed size B it is that
    over 1 + B_crit/B (`adaptive_saving`). Trapezoids over `steps_S`, ascending.
    """
    steps, critical = np.asarray(steps_S, dtype=float), np.asarray(critical_S, dtype=float)
    smallest, examples = steps[-1] - steps[0], np.trapezoid(critical, steps)
    # A trapezoid of √B is not the root of B's: Cauchy and Schwarz hold for each rule only up to
    # rounding, hence the minimum.
    return float(min(np.trapezoid(np.sqrt(critical), steps) ** 2 / (smallest * examples), 1.0))


def adaptive_saving(gamma: float, batch_size: float, critical: float) -> float:
    """The share of rows that the best growing batch saves against the fixed `batch_size` at the
    same number of steps.
    """
    return (1 - gamma) / (1 + critical / batch_size)


#: Stretches of the loss, equal on a logarithm from a start below every untrained loss.
STRETCHES, START = 4, 0.8

#: A local B_crit that grows by more than this is worth a growing batch: a choice of this project.
MUCH_GROWTH = 4.0

#: A size that gains a stretch in no measurable step still took this many.
_FEWEST_STEPS = 1e-3


def local_growth(reached: Sequence[Cell], target: float) -> Json | None:
    """`{losses, local_critical, growth, gamma, doublings}` of cells that reached `target` in every
    trial; None below three sizes.

    `losses`: the ends of the stretches. `local_critical`: b_k of each, between one row and ten
    times the largest size, beyond which it is not known. `growth`: last over first, Student's
    interval on logarithms over trials. `gamma` ≤ 1: at most 100(1 - gamma) % of the rows could be
    saved by a batch that follows b_k. `doublings`: how often it would double, where the growth is
    more than 4 times and its interval, if it has one, leaves out 1; else 0.
    """
    sizes = np.array([cell.batch_size for cell in reached], dtype=float)
    trials = (
        sorted(set.intersection(*(set(cell.steps_to_target) for cell in reached)))
        if reached
        else []
    )
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
    smallest_K, critical_K = _fits(sizes, np.exp(np.log(taken_TKM).mean(axis=0)))
    each = [
        critical[-1] / critical[0]
        for critical in (_fits(sizes, taken_KM)[1] for taken_KM in taken_TKM)
    ]
    growth = log_estimate(float(critical_K[-1] / critical_K[0]), each)
    much = growth["value"] > MUCH_GROWTH and (growth["lo"] is None or growth["lo"] > 1)
    edges = np.concatenate([[0.0], np.cumsum(smallest_K)])
    return {
        "losses": losses.tolist(),
        "local_critical": critical_K.tolist(),
        "growth": growth,
        # A staircase, by trapezoids: each height twice, at both ends of its step.
        "gamma": adaptive_batch_bound(np.repeat(edges, 2)[1:-1], np.repeat(critical_K, 2)),
        "doublings": round(math.log2(growth["value"])) if much else 0,
    }


def _crossing(cell: Cell, trial: int, loss: float) -> float:
    curve = cell.curves[trial]
    return first_crossing(curve.steps, curve.holdout_loss, loss) or 0.0


def _fits(sizes_M: np.ndarray, taken_KM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(ΔS_min, b) of each stretch, (K,) both."""
    smallest, critical, _ = np.array([fit_steps(sizes_M, taken_M) for taken_M in taken_KM]).T
    return smallest, np.clip(critical, 1.0, 10 * sizes_M.max())
