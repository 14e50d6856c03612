"""Losses at equal steps and at equal time, beside those at equal rows: a budget of one flatters
some sizes (Shallue et al. 2018, §4.3).
"""

from collections.abc import Iterable, Sequence

import numpy as np

from streamtrain.science.cells import Cell, seconds_per_row
from streamtrain.science.run_log import Curve, Run


def equal_steps(cells: Iterable[Cell]) -> int | None:
    """The most steps that every curve that finished has taken.

    None where one took none, or none finished.
    """
    return min((curve.steps[-1] for _, _, curve in _curves(cells)), default=0) or None


def equal_seconds(run: Run, cells: Sequence[Cell]) -> float | None:
    """The longest time for which every curve that finished has trained, at the seconds of a row
    that were timed; None without timings.
    """
    each = {cell.batch_size: seconds_per_row(run, cell) for cell in cells}
    return (
        min(
            (
                curve.rows[-1] * each[cell.batch_size][trial]
                for cell, trial, curve in _curves(cells)
                if each[cell.batch_size]
            ),
            default=0.0,
        )
        or None
    )


def losses_at_steps(cell: Cell, steps: int | None) -> list[float]:
    """One loss a trial that got that far: log-loss is linear in steps between two evaluations."""
    return (
        []
        if steps is None
        else _losses((curve.steps, curve, steps) for _, _, curve in _curves([cell]))
    )


def losses_at_seconds(run: Run, cell: Cell, seconds: float | None) -> list[float]:
    """The same at a time of training, in rows between two evaluations."""
    each = seconds_per_row(run, cell)
    if seconds is None or not each:
        return []
    return _losses(
        (curve.rows, curve, seconds / each[trial]) for _, trial, curve in _curves([cell])
    )


def _curves(cells: Iterable[Cell]) -> Iterable[tuple[Cell, int, Curve]]:
    return (
        (cell, trial, curve)
        for cell in cells
        for trial, curve in cell.curves.items()
        if curve.finished and curve.rows
    )


def _losses(points: Iterable[tuple[Sequence[int], Curve, float]]) -> list[float]:
    found = []
    for axis, curve, at in points:
        loss = np.array(curve.holdout_loss)
        if axis[-1] >= at * (1 - 1e-9) and np.isfinite(loss).all() and (loss > 0).all():
            found.append(float(np.exp(np.interp(at, axis, np.log(loss)))))
    return found
