"""How the best minibatch size changes with the rows to train on, from the rungs of a sweep.

Each rung trains every size at its own best learning rate on more rows than the rung before it, and
its target is near the smallest loss that these rows reach. So its fastest size is the answer for
its rows. A line through the fastest sizes, in log size over log rows, predicts the one for all rows
of a table that is larger than any rung. The last rung tests the line: the rungs before it predict
its fastest size, and where that is wrong, nothing is predicted beyond it.

Larger minibatches pay late in training (McCandlish et al. 2018, arXiv 1812.06162, §2.2; Merrill et
al. 2025, arXiv 2505.23971), so the fastest size usually grows with the rows. docs/science.md §13.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamtrain.science.contest import contenders
from streamtrain.science.intervals import Estimate
from streamtrain.science.judge import Judgement
from streamtrain.science.ladder import rung_contenders
from streamtrain.science.run_log import Run
from streamtrain.science.scipy_functions import Vector, t_quantile
from streamtrain.science.selection import Contender
from streamtrain.science.spending import rung_rows

#: Two rungs give the line, and the third tests it.
FEWEST_RUNGS = 3

#: Trials on fresh seeds that measure the last rung's fastest size, and the noise of all of them.
FEWEST_TRIALS = 3

#: Logarithms beyond this have no exponential in a float.
_MOST_LOG = 700.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The fastest size by rows, and its prediction for all rows.

    Attributes:
        fastest: The fastest size of each rung, by its rows, ascending; between the sizes tried.
        per_doubling: The factor by which it grows when the rows double.
        expected: The fastest size of the last rung as the rungs before it predict it.
        is_confirmed: Whether the last rung's is within that interval.
        epoch_rows: The rows of an epoch.
        predicted: The fastest size for these rows; without a value where the line is not confirmed,
            or the last rung has as many.
    """

    fastest: Mapping[int, float]
    per_doubling: Estimate
    expected: Estimate
    is_confirmed: bool
    epoch_rows: int
    predicted: Estimate


def drift(run: Run, judgement: Judgement) -> Drift | None:
    """Return how the fastest size changes with the rows; None without enough rungs and trials."""
    epoch_rows = run.header.epoch_rows
    if run.header.ladder is None or not run.winners or not epoch_rows:
        return None
    points: list[tuple[int, float]] = []
    for record in run.passes:
        if record.kind == "tuning":
            log_size = fastest(rung_contenders(run, record.trial), record.trial)
            if log_size is not None:
                points.append((rung_rows(run, record.trial), log_size))
    judged = contenders(run, judgement.cells, judgement.target)
    trials = sorted({trial for contender in judged for trial in contender.values})
    found = [fastest(judged, trial) for trial in trials]
    repeats = [log_size for log_size in found if log_size is not None]
    return fit(points, repeats, epoch_rows)


def fastest(sizes: Sequence[Contender], trial: int) -> float | None:
    """Return the log of the fastest size of a trial, between the sizes tried.

    Seconds follow k + a·B + b/B where rows to a loss grow linearly in the size B beyond the
    critical one, and the cost of a row falls as 1/B towards that of a large minibatch. The curve
    goes through the fastest size and its two neighbours, and is lowest at √(b/a). A neighbour that
    missed the target counts with the lower bound of its time. None where the fastest size has no
    neighbour on one side.
    """
    values = sorted(
        (contender.batch_size, contender.values[trial])
        for contender in sizes
        if trial in contender.values
    )
    times = [time for _, time in values]
    if len(times) < 3:
        return None
    middle = times.index(min(times))
    if not 0 < middle < len(times) - 1:
        return None
    (low, before), (size, time), (high, after) = values[middle - 1 : middle + 2]
    # how much longer the neighbours take, in units of the fastest size's time
    left = math.expm1(min(before - time, _MOST_LOG))
    right = math.expm1(min(after - time, _MOST_LOG))
    longest = max(left, right)
    if longest == 0:
        return math.log(size)
    left, right = left / longest, right / longest  # only their ratio counts; tiny ones underflow
    # a·(low - size) + b·(1/low - 1/size) = left, and the same with `high` and `right`
    determinant = (low - size) * (1 / high - 1 / size) - (high - size) * (1 / low - 1 / size)
    a = (left * (1 / high - 1 / size) - right * (1 / low - 1 / size)) / determinant
    b = ((low - size) * right - (high - size) * left) / determinant
    return math.log(b / a) / 2


def fit(
    rungs: Sequence[tuple[int, float]], repeats: Sequence[float], epoch_rows: int
) -> Drift | None:
    """Fit log size = a + b·log rows by least squares.

    `rungs`: (rows, log of the fastest size), ascending. `repeats`: the log of the fastest size to
    the last rung's target, on further seeds; its variance is that of every point. All intervals are
    Student's at 95 %.
    """
    if len(rungs) < FEWEST_RUNGS or len(repeats) < FEWEST_TRIALS:
        return None
    rows = np.log2([rows for rows, _ in rungs] + [rungs[-1][0]] * len(repeats))
    sizes = np.array([size for _, size in rungs] + list(repeats))
    before = len(rungs) - 1
    last = sizes[before:]
    last_rows = float(rows[-1])
    # the rungs before the last are too few for a variance of their own
    variance = float(last.var(ddof=1))
    line = _Line.through(rows[:before], sizes[:before])
    margin = t_quantile(len(last) - 1) * math.sqrt(
        variance * (line.leverage(last_rows) + 1 / len(last))
    )
    expected, measured = line.at(last_rows), float(last.mean())
    # a difference of rounding is none
    is_confirmed = abs(measured - expected) <= margin + 1e-9

    line = _Line.through(rows, sizes)
    degrees = len(sizes) - 2
    residuals = sizes - (line.height + line.slope * (rows - line.center))
    variance = float((residuals**2).sum()) / degrees
    quantile = t_quantile(degrees)
    slope_margin = quantile * math.sqrt(variance / line.spread)
    predicted = Estimate(value=None)
    if is_confirmed and epoch_rows > rungs[-1][0]:
        all_rows = math.log2(epoch_rows)
        width = quantile * math.sqrt(variance * line.leverage(all_rows))
        predicted = _exponential(line.at(all_rows), width, len(sizes))
    return Drift(
        fastest={
            **{rows: math.exp(size) for rows, size in rungs[:-1]},
            rungs[-1][0]: math.exp(measured),
        },
        per_doubling=_exponential(line.slope, slope_margin, len(sizes)),
        expected=_exponential(expected, margin, before),
        is_confirmed=is_confirmed,
        epoch_rows=epoch_rows,
        predicted=predicted,
    )


@dataclass(frozen=True, slots=True)
class _Line:
    """A least-squares line, `height + slope·(x - center)`; `spread` is Σ(x - center)²."""

    height: float
    slope: float
    center: float
    spread: float
    count: int

    @classmethod
    def through(cls, x: Vector, y: Vector) -> "_Line":
        center = float(x.mean())
        spread = float(((x - center) ** 2).sum())
        slope = float(((x - center) * y).sum()) / spread
        return cls(float(y.mean()), slope, center, spread, len(x))

    def at(self, x: float) -> float:
        return self.height + self.slope * (x - self.center)

    def leverage(self, x: float) -> float:
        """The variance of `at(x)` over that of one point."""
        return 1 / self.count + (x - self.center) ** 2 / self.spread


def _exponential(log_value: float, margin: float, count: int) -> Estimate:
    return Estimate(
        value=math.exp(min(log_value, _MOST_LOG)),
        lo=math.exp(min(log_value - margin, _MOST_LOG)),
        hi=math.exp(min(log_value + margin, _MOST_LOG)),
        n=count,
    )
