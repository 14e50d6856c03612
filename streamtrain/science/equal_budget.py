"""Losses at equal steps and at equal time, in addition to equal rows.

A budget of one kind only favours some sizes (Shallue et al. 2018, arXiv 1811.03600, §4.3).
"""

from collections.abc import Iterable, Sequence

import numpy as np

from streamtrain.science.cells import Cell, seconds_per_row
from streamtrain.science.run_log import Curve, Run

#: A curve that ends this fraction before a point still counts as reaching it, since the point may
#: be its end after rounding.
_ROUNDING = 1e-9


def equal_steps(cells: Iterable[Cell]) -> int | None:
    """Return the most steps that every curve that finished has taken.

    None where one took none, or none finished.
    """
    return min((curve.steps[-1] for _, _, curve in _curves(cells)), default=0) or None


def equal_seconds(run: Run, cells: Sequence[Cell]) -> float | None:
    """Return the longest time for which every curve that finished has trained.

    Times are rows times the timed seconds per row; None without timings.
    """
    per_row = {cell.batch_size: seconds_per_row(run, cell) for cell in cells}
    seconds = (
        curve.rows[-1] * per_row[cell.batch_size][trial]
        for cell, trial, curve in _curves(cells)
        if per_row[cell.batch_size]
    )
    return min(seconds, default=0.0) or None


def losses_at_steps(cell: Cell, steps: int | None) -> list[float]:
    """Return one loss per trial that took `steps` steps.

    Log-loss is taken as linear in steps between two evaluations.
    """
    if steps is None:
        return []
    return _losses((curve.steps, curve, steps) for _, _, curve in _curves([cell]))


def losses_at_seconds(run: Run, cell: Cell, seconds: float | None) -> list[float]:
    """Return one loss per trial that trained for `seconds` seconds.

    Log-loss is taken as linear in rows between two evaluations.
    """
    per_row = seconds_per_row(run, cell)
    if seconds is None or not per_row:
        return []
    return _losses(
        (curve.rows, curve, seconds / per_row[trial]) for _, trial, curve in _curves([cell])
    )


def _curves(cells: Iterable[Cell]) -> Iterable[tuple[Cell, int, Curve]]:
    return (
        (cell, trial, curve)
        for cell in cells
        for trial, curve in cell.curves.items()
        if curve.finished and curve.rows
    )


def _losses(points: Iterable[tuple[Sequence[int], Curve, float]]) -> list[float]:
    """The loss of each (axis, curve, point on that axis) that the curve reaches."""
    losses: list[float] = []
    for axis, curve, point in points:
        loss = np.array(curve.holdout_loss)
        if axis[-1] >= point * (1 - _ROUNDING) and np.isfinite(loss).all() and (loss > 0).all():
            losses.append(float(np.exp(np.interp(point, axis, np.log(loss)))))
    return losses
