"""The frontier: the fastest minibatch size to each of a ladder of losses, down to the target.

Which size is fastest depends on how good the model must be: small minibatches are ahead early, and
larger ones near the noise floor.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streamtrain.science.cells import Cell, rows_of_steps
from streamtrain.science.contest import mean_log_cost
from streamtrain.science.crossing import first_crossing, round_up, smallest_target
from streamtrain.science.intervals import mean
from streamtrain.science.run_log import Run

#: The losses are those of the chosen size at its rows to the target, and at a half, a quarter … of
#: them.
HALVINGS = 5

#: Losses above this fraction of the loss of a constant are left out: little was learned there.
MOST_OF_CONSTANT = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPoint:
    """One loss, and the seconds of training to it.

    Attributes:
        loss: The held-out loss, in standardised target units.
        batch_size: The fastest size to this loss, by the mean of log seconds.
        seconds: The seconds of each size that reached it in all of its trials.
    """

    loss: float
    batch_size: int
    seconds: Mapping[int, float]


def frontier(
    run: Run, cells: Sequence[Cell], chosen: int | None, target: float | None
) -> list[FrontierPoint]:
    """Return the points from the highest loss to `target`; empty where no size was `chosen`.

    Seconds are geometric means over trials. A size that ran fewer trials than the chosen one is
    compared with it in the trials that both ran. By chance that can have it reach a lower loss
    before a higher one: the seconds to such losses are then pooled.
    """
    chosen_cell = next((cell for cell in cells if cell.batch_size == chosen), None)
    if chosen_cell is None or target is None or not chosen_cell.steps_to_target:
        return []
    trained = [cell for cell in cells if cell.status in ("reached", "not_reached")]
    losses = _losses(run, chosen_cell, target)
    ladder = [_seconds(run, trained, chosen_cell, loss) for loss in losses]
    for size in (cell.batch_size for cell in trained):
        rungs = [rung for rung in ladder if size in rung]
        for rung, pooled in zip(rungs, _in_order([rung[size] for rung in rungs]), strict=True):
            rung[size] = pooled
    points: list[FrontierPoint] = []
    for loss, seconds in zip(losses, ladder, strict=True):
        if seconds:
            best = min(seconds, key=lambda size: (seconds[size], size))
            points.append(FrontierPoint(loss=loss, batch_size=best, seconds=seconds))
    return points


def _in_order(seconds: Sequence[float]) -> list[float]:
    """Return the seconds with neighbours that fall replaced by their geometric mean.

    It is the non-decreasing sequence nearest in log seconds (pool adjacent violators, Ayer et al.
    1955).
    """
    pools: list[list[float]] = []
    for value in seconds:
        pools.append([value])
        while len(pools) > 1 and _geometric(pools[-2]) > _geometric(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    return [_geometric(pool) for pool in pools for _ in pool]


def _geometric(values: Sequence[float]) -> float:
    if len(values) == 1:
        return values[0]
    return math.exp(mean([math.log(max(value, 1e-12)) for value in values]))


def _losses(run: Run, cell: Cell, target: float) -> list[float]:
    """The losses of a cell at fractions of its rows to the target, from the highest to `target`."""
    rows = math.exp(mean([math.log(max(rows, 1.0)) for rows in cell.rows_to_target.values()]))
    most = MOST_OF_CONSTANT * (run.baseline.constant_loss or math.inf)
    losses = [target]
    for k in range(1, HALVINGS + 1):
        held = [
            smallest_target(curve.steps[:count], curve.holdout_loss[:count])
            for curve in cell.curves.values()
            if (count := sum(row <= rows / 2**k for row in curve.rows))
        ]
        if not held or not all(0 < loss < math.inf for loss in held):
            break
        loss = round_up(math.exp(mean([math.log(loss) for loss in held])))
        if losses[-1] < loss < most:
            losses.append(loss)
    return losses[::-1]


def _seconds(run: Run, cells: Sequence[Cell], chosen: Cell, loss: float) -> dict[int, float]:
    logs = {cell.batch_size: _log_rows(cell, loss) for cell in cells}
    reference = logs[chosen.batch_size]
    if not reference:
        return {}
    cost = mean_log_cost(run, chosen.batch_size)
    seconds: dict[int, float] = {}
    for cell in cells:
        own = logs[cell.batch_size]
        shared = own.keys() & reference.keys()
        if len(own) < len(cell.curves) or not shared:
            continue
        ratio = mean_log_cost(run, cell.batch_size) - cost
        ratio += mean([own[trial] - reference[trial] for trial in shared])
        seconds[cell.batch_size] = math.exp(mean(list(reference.values())) + cost + ratio)
    return seconds


def _log_rows(cell: Cell, loss: float) -> dict[int, float]:
    """The log of the rows to a loss, by trial that reached it."""
    found: dict[int, float] = {}
    for trial, curve in cell.curves.items():
        steps = first_crossing(curve.steps, curve.holdout_loss, loss) if curve.finished else None
        if steps is not None:
            rows = rows_of_steps(steps, cell.batch_size, cell.epoch_rows)
            found[trial] = math.log(max(rows, 1e-3))
    return found
