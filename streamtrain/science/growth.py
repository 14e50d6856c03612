"""How the useful batch grows along a run: the steps law fitted to one stretch of the loss after
another (docs/science.md §7, rule 6).

From loss L_k to L_{k+1} a size needs ΔS(B) = ΔS_min(1 + b_k/B) steps: b_k is the local B_crit
(McCandlish et al. 2018, arXiv 1812.06162, §2.3 and appendix D). Crossings of several targets are
all it takes, so nothing more is measured.
"""

import math
from collections.abc import Sequence

import numpy as np

from streamtrain.science.cells import Cell
from streamtrain.science.crossing import first_crossing
from streamtrain.science.estimate import log_estimate
from streamtrain.science.steps_law import adaptive_batch_bound, fit_steps
from streamtrain.types import Record

#: Stretches of the loss, equal on a logarithm from a start below every untrained loss.
STRETCHES, START = 4, 0.8

#: A local B_crit that grows by more than this is worth a growing batch: a choice of this project.
MUCH_GROWTH = 4.0

#: A size that gains a stretch in no measurable step still took this many.
_FEWEST_STEPS = 1e-3


def local_growth(reached: Sequence[Cell], target: float) -> Record | None:
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
