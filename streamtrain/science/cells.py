"""One batch size at its best learning rate: its status and its figures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from streamtrain.science.crossing import automatic_target, first_crossing
from streamtrain.science.interval import measure
from streamtrain.science.run import Curve, Run
from streamtrain.types import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A batch size at its best rate. `steps_to_target` has the trials that reached the target.

    `epoch_rows`: an epoch's last minibatch may be short, so steps x batch size would overstate the rows.
    """

    batch_size: int
    lr: float
    status: Status
    curves: Mapping[int, Curve]
    steps_to_target: Mapping[int, float]
    epoch_rows: int | None = None

    @property
    def rows_to_target(self) -> dict[int, float]:
        return {trial: rows_of_steps(steps, self.batch_size, self.epoch_rows) for trial, steps in self.steps_to_target.items()}

    @property
    def reason(self) -> str:
        """Why a learner did not finish, in its own words."""
        return next((curve.reason for curve in self.curves.values() if not curve.finished and curve.reason), "")


def rows_of_steps(steps: float, batch_size: int, epoch_rows: int | None) -> float:
    """Rows that so many steps took, when each epoch ends with a short minibatch.

    >>> rows_of_steps(3, 100, 150), rows_of_steps(2.5, 100, 150), rows_of_steps(1.5, 100, 150), rows_of_steps(3, 100, None)
    (250.0, 200.0, 125.0, 300.0)
    """
    if not epoch_rows:
        return float(steps * batch_size)
    whole, short = divmod(epoch_rows, batch_size)
    epochs, rest = divmod(steps, whole + (short > 0))
    return float(epochs * epoch_rows + min(rest, whole) * batch_size + max(rest - whole, 0) * short)


def choose_target(run: Run) -> float | None:
    """The target under which sizes are judged when none was given (`automatic_target` over the rates that finished)."""
    if not run.has_holdout:
        return None
    curves: dict[int, list] = {}
    for (size, _), trials in run.curves.items():
        if all(curve.finished for curve in trials.values()):
            curves.setdefault(size, []).append([(curve.steps, curve.holdout_loss) for curve in trials.values()])
    target = automatic_target(curves)
    # A loss that the weights had before the first step, or that a constant has, was not learned.
    constant = (run.baseline.get("best_constant_loss") or {}).get("value")
    untrained = [c.holdout_loss[0] for trials in run.curves.values() for c in trials.values() if c.finished and c.holdout_loss]
    ceiling = min((loss for loss in [constant, *untrained] if loss is not None and math.isfinite(loss)), default=math.inf)
    return target if target is not None and target < ceiling else None


def make_cells(run: Run, target: float | None) -> list[Cell]:
    """One cell a batch size, in the order of the run, each at its best rate for `target`.

    Best: the fewest median rows to the target among the rates that reach it in every trial; where none does, the smallest
    median final loss (the training loss when nothing was held out). A learner that did not finish reaches nothing.
    """
    return [min((_cell(run, size, lr, target) for lr in run.rates(size)), key=lambda cell: _rank(run, cell)) for size in run.batch_sizes]


def rows_in_common(cells: list[Cell]) -> int | None:
    """The largest evaluation row reached by every cell that finished, in every trial; None if there is none."""
    seen = [
        {rows for rows, loss in zip(curve.rows, curve.holdout_loss, strict=True) if math.isfinite(loss)}
        for cell in cells for curve in cell.curves.values() if curve.finished
    ]
    seen = [rows for rows in seen if rows]
    return max(set.intersection(*seen), default=None) if seen else None


def losses_at(cell: Cell, rows: int | None, name: str = "holdout_loss") -> list[float]:
    """One value a trial, of those evaluated at exactly `rows`; nothing from learners that did not finish."""
    return [
        getattr(curve, name)[curve.rows.index(rows)] for curve in cell.curves.values() if curve.finished and rows in curve.rows
    ]


def throughput(run: Run, batch_size: int) -> tuple[list[float], list[float]]:
    """Rows per second and the share of time spent waiting for rows, one of each a timing repeat.

    A repeat's time is the longer of the step alone and the stream alone, scaled to the same rows: they overlap in training.
    """
    speeds, waits = [], []
    for repeat, (rows, step) in sorted(run.step_seconds.get(batch_size, {}).items()):
        streamed, delivery = run.delivery_seconds.get(repeat, (1, 0.0))
        delivery *= rows / streamed
        slower = max(step, delivery)
        if slower > 0:
            speeds.append(rows / slower)
            waits.append((slower - step) / slower)
    return speeds, waits


def seconds_to_target(run: Run, cell: Cell) -> dict[int, float]:
    """Rows to the target over the median rows per second, by trial; empty without timings."""
    speed = measure(throughput(run, cell.batch_size)[0])["value"]
    return {trial: rows / speed for trial, rows in cell.rows_to_target.items()} if speed else {}


def _cell(run: Run, size: int, lr: float, target: float | None) -> Cell:
    curves = run.curves.get((size, lr), {})
    reached = {trial: first_crossing(c.steps, c.holdout_loss, target) for trial, c in curves.items() if target is not None and c.finished}
    steps = {trial: value for trial, value in reached.items() if value is not None}
    return Cell(
        batch_size=size, lr=lr, status=_status(curves, steps), curves=curves, steps_to_target=steps,
        epoch_rows=run.header.get("epoch_rows"),
    )  # fmt: skip


def _status(curves: Mapping[int, Curve], reached: Mapping[int, float]) -> Status:
    outcomes = [curve.outcome for curve in curves.values()]
    if "out_of_memory" in outcomes:
        return "out_of_memory"
    if "failed" in outcomes or not outcomes:
        return "failed"
    if all(outcome == "diverged" for outcome in outcomes):
        return "diverged"
    return "reached" if len(reached) == len(curves) else "not_reached"


def _rank(run: Run, cell: Cell) -> tuple[bool, float, float, int, float]:
    reached = cell.status == "reached"
    rows = float(np.median(list(cell.rows_to_target.values()))) if reached else math.inf
    finals = [curve.final(curve.holdout_loss if run.has_holdout else curve.train_loss) for curve in cell.curves.values()]
    final = sorted(finals)[len(finals) // 2] if finals else math.inf  # the upper median: defined with infinities
    return not reached, rows, final, sum(not curve.finished for curve in cell.curves.values()), cell.lr
