"""A minibatch size that grows during training: proposed from a sweep's frontier, and judged.

The useful size grows as the loss falls (Smith et al. 2018, arXiv 1711.00489; Merrill et al. 2025,
arXiv 2505.23971). One schedule is read off the frontier: between two of its losses, the size that
gets from one to the other in the fewest seconds. That says too little near the noise floor, where
the curve of a large constant size does not show what it brings after a small one. So sizes in
proportion to the rows are tried too. Whether the best of them is better than the best constant
size is then measured on seeds that chose neither.
"""

import math
from collections.abc import Mapping, Sequence

from streamtrain.plan.batch_sizes import rows_of_sizes
from streamtrain.records import BatchStage
from streamtrain.science.cells import Cell
from streamtrain.science.contest import levels, mean_log_cost, timing_variance
from streamtrain.science.crossing import first_crossing
from streamtrain.science.frontier import FrontierPoint
from streamtrain.science.intervals import Estimate, mean
from streamtrain.science.run_log import Run
from streamtrain.science.scipy_functions import t_quantile

#: A bound is exceeded with this probability on each side.
ALPHA = 0.05

#: A stage is at most this many times as large as the one before.
MOST_GROWTH = 4

#: Sizes in proportion to the rows: the recommended one begins at these fractions of its rows to the
#: target.
STARTS = (1 / 8, 1 / 16)


def candidates(
    run: Run, points: Sequence[FrontierPoint], chosen: Cell, cells: Sequence[Cell]
) -> list[tuple[BatchStage, ...]]:
    """Return the schedules worth a try beside the constant size of `chosen`, the likeliest first.

    They are of the sizes of `cells` that were timed and that no trial failed at.
    """
    sizes = [
        cell.batch_size
        for cell in cells
        if cell.status in ("reached", "not_reached") and cell.batch_size in run.step_seconds
    ]
    reached = [math.log(max(rows, 1.0)) for rows in chosen.rows_to_target.values()]
    found = [propose(run, points)]
    if reached:
        rows = math.exp(mean(reached))
        early, late = (in_proportion(sizes, chosen.batch_size, rows, start) for start in STARTS)
        found = [early, *found, late]
    return list(dict.fromkeys(stages for stages in found if stages is not None))


def in_proportion(
    sizes: Sequence[int], chosen: int, rows: float, start: float
) -> tuple[BatchStage, ...] | None:
    """Return sizes that grow in proportion to the rows; None where there is only one.

    `chosen` begins at the fraction `start` of `rows`, and each other of `sizes` at as many times
    these rows as it is larger, before row `rows`. The next smaller one comes before `chosen`. None
    is more than `MOST_GROWTH` times as large as the one before.

    >>> [(s.first_row, s.batch_size) for s in in_proportion((16, 64, 256, 1024), 64, 8000, 1 / 8)]
    [(0, 16), (1000, 64), (4000, 256)]
    """
    smaller = sorted(size for size in sizes if chosen / MOST_GROWTH <= size < chosen)
    stages: list[BatchStage] = []
    for size in sorted([*smaller[-1:], *(size for size in sizes if size >= chosen)]):
        row = round(rows * start * size / chosen) if stages else 0
        if stages and (row >= rows or not _may_follow(size, stages)):
            break
        stages.append(BatchStage(first_row=row, batch_size=size))
    return tuple(stages) if len(stages) > 1 else None


def propose(run: Run, points: Sequence[FrontierPoint]) -> tuple[BatchStage, ...] | None:
    """Return the stages of a growing size; None where one size is best all along.

    A size is kept until a larger one is faster. It grows by a factor of four at most: a larger step
    is the noise of a few evaluations. `points` go from the highest loss to the lowest.
    """
    stages: list[BatchStage] = []
    row, before = 0.0, dict.fromkeys(run.batch_sizes, 0.0)
    for point in points:
        increments = {
            size: seconds - before[size]
            for size, seconds in point.seconds.items()
            if size in before and _may_follow(size, stages)
        }
        if not increments:
            break
        best = min(increments, key=lambda size: (increments[size], size))
        if not stages or best > stages[-1].batch_size:
            stages.append(BatchStage(first_row=round(row), batch_size=best))
        row += max(0.0, increments[best]) / math.exp(mean_log_cost(run, best))
        before = dict(point.seconds)
    return tuple(stages) if len(stages) > 1 else None


def _may_follow(size: int, stages: Sequence[BatchStage]) -> bool:
    return not stages or stages[-1].batch_size <= size <= MOST_GROWTH * stages[-1].batch_size


def faster_by(run: Run, target: float | None) -> Estimate:
    """Return how much slower the growing size is than the constant one; negative: faster.

    It compares the mean log seconds to the `levels` of the target within trials, with a t interval
    of 90 %: each of its ends is false with 5 %. The error of the timings is included. None where a
    trial of the growing size missed the target, or fewer than two were made.
    """
    tried = run.growth
    if target is None or len(tried) < 2:
        return Estimate(value=None)
    differences: list[float] = []
    targets = levels(run, target)
    for record in tried:
        if first_crossing(record.rows, record.growing_loss, target) is None:
            return Estimate(value=None, n=len(tried))
        fixed = (BatchStage(first_row=0, batch_size=record.batch_size),)
        growing, constant = (
            mean_log_seconds(costs_of(run, stages), stages, record.rows, losses, targets)
            for stages, losses in (
                (record.stages, record.growing_loss),
                (fixed, record.constant_loss),
            )
        )
        differences.append(growing - constant)
    count = len(differences)
    mean = sum(differences) / count
    variance = sum((value - mean) ** 2 for value in differences) / (count - 1)
    timing = 2 * timing_variance(run, run.batch_sizes)
    margin = t_quantile(count - 1, 1 - ALPHA) * math.sqrt(variance / count + timing)
    return Estimate(
        value=math.expm1(mean),
        lo=math.expm1(mean - margin),
        hi=math.expm1(min(mean + margin, 700.0)),
        n=count,
    )


def costs_of(run: Run, stages: Sequence[BatchStage]) -> dict[int, float]:
    """Return the seconds per row of each size of `stages`: of its steps, or of slower delivery."""
    sizes = {stage.batch_size for stage in stages}
    return {size: math.exp(mean_log_cost(run, size)) for size in sizes}


def seconds_of(costs: Mapping[int, float], stages: Sequence[BatchStage], rows: float) -> float:
    """Return the seconds that the first `rows` rows take. `costs`: seconds per row by size."""
    return sum(taken * costs[size] for size, taken in rows_of_sizes(stages, rows).items())


def mean_log_seconds(
    costs: Mapping[int, float],
    stages: Sequence[BatchStage],
    rows: Sequence[int],
    losses: Sequence[float | None],
    targets: Sequence[float],
) -> float:
    """Return the mean log of the seconds in which a curve reaches `targets`.

    The last row stands for a target that it missed.
    """
    return mean(
        [math.log(seconds_of(costs, stages, _row_at(rows, losses, loss))) for loss in targets]
    )


def _row_at(rows: Sequence[int], losses: Sequence[float | None], loss: float) -> float:
    """The row at which a curve reaches a loss; the last one where it does not."""
    row = first_crossing(rows, losses, loss)
    return max(1.0, float(rows[-1]) if row is None else row)
