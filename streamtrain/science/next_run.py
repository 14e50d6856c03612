"""What `train --from` does after a sweep: its rows, and the loss to expect of it.

Training ends at the rows where the chosen size had its smallest held-out loss: on a small table
more rows make the loss worse. The loss of one further seed is expected within the spread of the
seeds of the sweep.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from streamtrain.science.cells import Cell
from streamtrain.science.flatness import fall_per_doubling, hardly_gains
from streamtrain.science.intervals import Estimate
from streamtrain.science.run_log import Curve, Run
from streamtrain.science.scipy_functions import t_quantile


@dataclass(frozen=True, slots=True, kw_only=True)
class NextRun:
    """The rows to train on, and the loss at their end.

    Attributes:
        rows: Rows to train on.
        loss: The held-out loss of one further seed, with an interval at 95 %; no ends where fewer
            than two seeds were trained.
        fall_per_doubling: What the second half of the rows of the longest training improved the
            loss by, relatively: see `flatness.fall_per_doubling`.
        is_flat: Whether more rows are of little use (`flatness.hardly_gains`), or the loss was
            smallest before the end of the longest training.
    """

    rows: int
    loss: Estimate
    fall_per_doubling: float | None
    is_flat: bool


def next_run(run: Run, cell: Cell) -> NextRun | None:
    """Return what to expect of training at a cell's size and rate; None without a finite loss.

    Numbers of rows are compared seed by seed, since only one seed may have the most rows: see
    `_change_by_rows`. The loss there is the geometric mean over all seeds that have them. The
    deviation of seeds is that of the log loss at the most rows that all trials of the cell have.
    Where the learning rate follows a schedule, the rows are those of the whole schedule: a curve
    cut short is then no run of its own.
    """
    trained = run.curves.get((cell.batch_size, cell.lr), {})
    curves = [curve for curve in trained.values() if curve.finished and curve.rows]
    by_rows = _losses_by_rows(curves)
    if not by_rows:
        return None
    most = max(by_rows)
    longest = [curve for curve in curves if curve.rows[-1] == most]
    if run.header.config.get("train", {}).get("schedule", "constant") == "constant":
        changes = _change_by_rows(curves, sorted(by_rows))
        rows = min(by_rows, key=lambda rows: (changes[rows], rows))
    else:
        rows = most
    return NextRun(
        rows=rows,
        loss=_expected_loss(cell, by_rows[rows]),
        fall_per_doubling=fall_per_doubling(longest),
        is_flat=rows < most or hardly_gains(longest),
    )


def _expected_loss(cell: Cell, logs: Sequence[float]) -> Estimate:
    """Return the loss of one further seed, from the log losses of those that have its rows."""
    mean = float(np.mean(logs))
    seeds = _losses_by_rows([curve for curve in cell.curves.values() if curve.finished])
    common = [rows for rows, values in seeds.items() if len(values) == len(cell.curves) > 1]
    if not common:
        return Estimate(value=math.exp(mean), n=len(logs))
    deviation = float(np.std(seeds[max(common)], ddof=1))
    margin = t_quantile(len(cell.curves) - 1) * deviation * math.sqrt(1 + 1 / len(logs))
    return Estimate(
        value=math.exp(mean),
        lo=math.exp(mean - margin),
        hi=math.exp(min(mean + margin, 700.0)),
        n=len(logs),
    )


def _change_by_rows(curves: Sequence[Curve], rows: Sequence[int]) -> dict[int, float]:
    """Return the change of the log loss from the first of `rows`, ascending, to each of them.

    The change from one to the next is the mean over the seeds that trained on both. So a seed whose
    losses are small at all rows does not make those rows look best that it alone has. Between its
    evaluations the log loss of a seed is linear in the logarithm of the rows.
    """
    seeds: list[tuple[list[float], list[float]]] = []
    for curve in curves:
        known = [
            (math.log(row), math.log(loss))
            for row, loss in zip(curve.rows, curve.holdout_loss, strict=True)
            if row and 0 < loss < math.inf
        ]
        if known:
            seeds.append(([place for place, _ in known], [loss for _, loss in known]))
    changes, level = {rows[0]: 0.0}, 0.0
    for pair in pairwise(rows):
        ends = [math.log(row) for row in pair]  # as above: NumPy may round the last bit otherwise
        falls = [
            float(np.diff(np.interp(ends, places, logs))[0])
            for places, logs in seeds
            if places[0] <= ends[0] and ends[1] <= places[-1]
        ]
        level += float(np.mean(falls)) if falls else 0.0
        changes[pair[1]] = level
    return changes


def _losses_by_rows(curves: Sequence[Curve]) -> dict[int, list[float]]:
    """The log losses of the curves at each number of rows above 0 that one of them has."""
    found: dict[int, list[float]] = {}
    for curve in curves:
        for rows, loss in zip(curve.rows, curve.holdout_loss, strict=True):
            if rows and 0 < loss < math.inf:
                found.setdefault(rows, []).append(math.log(loss))
    return found
