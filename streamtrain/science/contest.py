"""The times of a run as the selection sees them: log seconds to the target, per size and trial."""

import math
from collections.abc import Sequence

import numpy as np

from streamtrain.science.cells import Cell, throughput
from streamtrain.science.run_log import Run
from streamtrain.science.selection import Contender


def contenders(run: Run, cells: Sequence[Cell]) -> list[Contender]:
    """Return one contender per cell: log(rows to the target) plus the mean log seconds per row.

    A trial that missed the target counts as censored at its last evaluation. Cells that diverged or
    failed in any trial are left out. Without timings, rows are used instead of seconds.
    """
    found: list[Contender] = []
    for cell in cells:
        if cell.status not in ("reached", "not_reached") or not cell.curves:
            continue
        cost = mean_log_cost(run, cell.batch_size)
        # a crossing within the first step may be at row 0, which has no logarithm
        reached = {
            trial: math.log(max(rows, 1e-3)) + cost for trial, rows in cell.rows_to_target.items()
        }
        censored = {
            trial: math.log(max(rows, 1.0)) + cost
            for trial, rows in cell.censored_rows.items()
            if math.isfinite(rows)
        }
        found.append(Contender(batch_size=cell.batch_size, log_seconds=reached, censored=censored))
    return found


def mean_log_cost(run: Run, batch_size: int) -> float:
    """Return the mean of log(seconds per row) over the timing repeats; 0 without timings."""
    speeds, _ = throughput(run, batch_size)
    return -float(np.log(speeds).mean()) if speeds else 0.0


def timing_variance(run: Run, sizes: Sequence[int]) -> float:
    """Return the variance of `mean_log_cost`, pooled over sizes, without what sizes have in common.

    A slow repeat slows all sizes alike, since they take turns within it, so it does not count.
    """
    per_size = [np.log(throughput(run, size)[0]) for size in sizes]
    repeats = min((len(speeds) for speeds in per_size), default=0)
    if repeats < 2 or len(per_size) < 2:
        return 0.0
    values = np.array([speeds[:repeats] for speeds in per_size])
    left = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    degrees = (len(per_size) - 1) * (repeats - 1)
    return float((left**2).sum()) / degrees / repeats
