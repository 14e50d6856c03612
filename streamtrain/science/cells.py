"""Cells: one batch size at one learning rate, with its status and figures.

A cell is judged by the trials it covers. Speeds come from the timing repeats of a run, steps and
rows from its loss curves.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamtrain.plan.batch_sizes import rows_of_sizes
from streamtrain.records import RoundEnded
from streamtrain.science.crossing import LossCurve, automatic_target, first_crossing
from streamtrain.science.run_log import Curve, Run
from streamtrain.types import Status

#: The batch size that `train.lr` is meant for under the rules that do not tune.
REFERENCE_BATCH_SIZE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A batch size at one learning rate. `steps_to_target` has only the trials that reached it.

    `epoch_rows`: the rows of an epoch, whose last minibatch may be short, so that steps x batch
    size would overstate the rows.
    """

    batch_size: int
    lr: float
    status: Status
    curves: Mapping[int, Curve]
    steps_to_target: Mapping[int, float]
    epoch_rows: int | None = None

    @property
    def rows_to_target(self) -> dict[int, float]:
        """Rows to the target, by trial that reached it."""
        return {
            trial: rows_of_steps(steps, self.batch_size, self.epoch_rows)
            for trial, steps in self.steps_to_target.items()
        }

    @property
    def is_guessed(self) -> bool:
        """True when a trial reached the target before its first evaluation after several steps.

        Its steps are then interpolated linearly from step 0, which is far off on a curved loss.
        """
        first_steps = {
            trial: next(filter(None, self.curves[trial].steps), 0) for trial in self.steps_to_target
        }
        return any(
            0 < steps < first_steps[trial] and first_steps[trial] > 1
            for trial, steps in self.steps_to_target.items()
        )

    def row_at_target(self, trial: int) -> int:
        """Return the row at the end of the step at which a trial reached the target.

        A trial always has the same rows and weights, so training to this row reaches it again.
        """
        steps = math.ceil(self.steps_to_target[trial])
        return round(rows_of_steps(steps, self.batch_size, self.epoch_rows))

    @property
    def censored_rows(self) -> dict[int, float]:
        """The rows at the last evaluation of each trial that missed the target.

        Infinite for a trial that diverged or failed, since more rows would not help.
        """
        missed = {
            trial: curve
            for trial, curve in self.curves.items()
            if trial not in self.steps_to_target
        }
        return {
            trial: float(curve.rows[-1]) if curve.finished and curve.rows else math.inf
            for trial, curve in missed.items()
        }

    @property
    def censored_steps(self) -> dict[int, float]:
        """`censored_rows` in steps."""
        return {
            trial: self.curves[trial].steps[-1] if math.isfinite(rows) else rows
            for trial, rows in self.censored_rows.items()
        }

    @property
    def reason(self) -> str:
        """Why a learner did not finish, as it was recorded; "" where all finished."""
        reasons = (curve.reason for curve in self.curves.values() if not curve.finished)
        return next(filter(None, reasons), "")


def rows_of_steps(steps: float, batch_size: int, epoch_rows: int | None) -> float:
    """Return the rows of `steps` steps when each epoch ends with a short minibatch.

    >>> [rows_of_steps(steps, 100, 150) for steps in (3, 2.5, 1.5)], rows_of_steps(3, 100, None)
    ([250.0, 200.0, 125.0], 300.0)
    """
    if not epoch_rows:
        return float(steps * batch_size)
    whole, short = divmod(epoch_rows, batch_size)
    epochs, rest = divmod(steps, whole + (short > 0))
    return float(epochs * epoch_rows + min(rest, whole) * batch_size + max(rest - whole, 0) * short)


def learning_rate_of_rule(rule: str, lr: float, batch_size: int) -> float:
    """Return the learning rate of a rule that does not tune; `lr` is the rate at 1,024 rows.

    `linear`: Goyal et al. 2017 (arXiv 1706.02677, §2.1); `sqrt`: Krizhevsky 2014 (arXiv 1404.5997,
    §5).

    >>> tuple(learning_rate_of_rule(rule, 0.01, 4096) for rule in ("fixed", "linear", "sqrt"))
    (0.01, 0.04, 0.02)
    """
    ratio = batch_size / REFERENCE_BATCH_SIZE
    factors = {"fixed": 1.0, "linear": ratio, "sqrt": ratio**0.5}
    return float(f"{lr * factors[rule]:.6g}")


def make_cell(
    run: Run,
    batch_size: int,
    lr: float,
    target: float | None,
    trials: Collection[int] | None = None,
) -> Cell:
    """Return the cell of one size and learning rate over `trials` (all when None).

    A learner that did not finish does not count as having reached the target.
    """
    curves = {
        trial: curve
        for trial, curve in sorted(run.curves.get((batch_size, lr), {}).items())
        if trials is None or trial in trials
    }
    steps: dict[int, float] = {}
    if target is not None:
        for trial, curve in curves.items():
            crossing = (
                first_crossing(curve.steps, curve.holdout_loss, target) if curve.finished else None
            )
            if crossing is not None:
                steps[trial] = crossing
    return Cell(
        batch_size=batch_size,
        lr=lr,
        status=_status(curves, steps),
        curves=curves,
        steps_to_target=steps,
        epoch_rows=run.header.epoch_rows,
    )


def best_cell(
    run: Run,
    batch_size: int,
    learning_rates: Sequence[float],
    target: float | None,
    trials: Collection[int] | None = None,
) -> Cell:
    """Return the cell of the best learning rate.

    It is the one with the fewest median rows to the target among those that reach it in every
    trial. If none does, it is the one with the smallest median final loss (training loss if nothing
    was held out).
    """
    cells = (make_cell(run, batch_size, lr, target, trials) for lr in learning_rates)
    return min(cells, key=lambda cell: rank(run, cell))


def rank(run: Run, cell: Cell) -> tuple[bool, float, float, int, float]:
    """Return the key by which `best_cell` compares: smaller is better."""
    reached = cell.status == "reached"
    rows = float(np.median(list(cell.rows_to_target.values()))) if reached else math.inf
    finals = [
        curve.final(curve.holdout_loss if run.has_holdout else curve.train_loss)
        for curve in cell.curves.values()
    ]
    # the upper median, which is defined where some are infinite
    final = sorted(finals)[len(finals) // 2] if finals else math.inf
    unfinished = sum(not curve.finished for curve in cell.curves.values())
    return not reached, rows, final, unfinished, cell.lr


def find_target(
    run: Run, learning_rates: Mapping[int, Sequence[float]], trials: Collection[int] | None = None
) -> float | None:
    """Return the target loss when none was given: `automatic_target` of the curves that finished.

    `learning_rates`: those to consider, by batch size. A rate counts if it finished all of `trials`
    (None: all that it ran). Returns None for a target that the initial weights or a constant meet,
    since reaching it takes no learning.
    """
    if not run.has_holdout:
        return None
    untrained: list[float] = []
    curves: dict[int, list[list[LossCurve]]] = {}
    for size, lrs in learning_rates.items():
        for lr in lrs:
            by_trial = run.curves.get((size, lr), {})
            runs = [c for trial, c in by_trial.items() if trials is None or trial in trials]
            untrained += [c.holdout_loss[0] for c in runs if c.finished and c.holdout_loss]
            ran_all = trials is None or len(runs) == len(trials)
            if runs and ran_all and all(c.finished for c in runs):
                curves.setdefault(size, []).append([(c.steps, c.holdout_loss) for c in runs])
    target = automatic_target(curves)
    constant = run.baseline.constant_loss
    not_learned = [*untrained, *([] if constant is None else [constant])]
    ceiling = min(filter(math.isfinite, not_learned), default=math.inf)
    return target if target is not None and target < ceiling else None


def rows_in_common(cells: Sequence[Cell]) -> int | None:
    """Return the largest row at which every cell that finished was evaluated in every trial.

    None if there is none.
    """
    common: set[int] | None = None
    for cell in cells:
        for curve in cell.curves.values():
            evaluated = {
                rows
                for rows, loss in zip(curve.rows, curve.holdout_loss, strict=True)
                if math.isfinite(loss)
            }
            if curve.finished and evaluated:
                common = evaluated if common is None else common & evaluated
    return max(common or (), default=None)


def shared_trials(cells: Sequence[Cell]) -> list[int]:
    """Return the trials in which every cell reached the target, ascending; empty without cells."""
    if not cells:
        return []
    return sorted(
        set(cells[0].steps_to_target).intersection(*(cell.steps_to_target for cell in cells))
    )


def losses_at(cell: Cell, rows: int | None, name: str = "holdout_loss") -> list[float]:
    """Return one value per trial that finished and was evaluated at exactly `rows`.

    `name` is a field of `Curve`.
    """
    return [
        getattr(curve, name)[curve.rows.index(rows)]
        for curve in cell.curves.values()
        if curve.finished and rows in curve.rows
    ]


def throughput(
    run: Run, batch_size: int, rows: float | None = None
) -> tuple[list[float], list[float]]:
    """Return rows per second and the fraction of time spent waiting, both per timing repeat.

    In training, steps and delivery overlap. The time of a repeat is the longest of the step alone,
    the stream alone, and the processor time of both over the cores that they share, each scaled to
    the same rows. For training over workers: `round_speeds`, and no waiting times. Where the size
    changes in training, each size counts by its part of the first `rows` rows; None: of all.
    """
    if run.rounds:
        return round_speeds(run.rounds), []
    timed = timed_repeats(run, batch_size, rows).values()
    return [speed for speed, _ in timed], [waiting for _, waiting in timed]


def timed_repeats(
    run: Run, batch_size: int, rows: float | None = None
) -> dict[int, tuple[float, float]]:
    """Return rows per second and the fraction of time spent waiting, by timing repeat.

    Where the minibatch size changes in training, they are the means over its first `rows` rows, or
    over all of them where `rows` is None. Older runs timed their first size only, which then stands
    for all.
    """
    if len(run.stages) < 2:
        return _repeats_at(run, batch_size)
    taken = rows_of_sizes(run.stages, run.rows_reached if rows is None else rows)
    timed = {size: _repeats_at(run, size) for size, count in taken.items() if count}
    if not timed or not all(timed.values()):
        return _repeats_at(run, batch_size)
    means: dict[int, tuple[float, float]] = {}
    for repeat in sorted(set(timed[min(timed)]).intersection(*timed.values())):
        seconds = {size: taken[size] / repeats[repeat][0] for size, repeats in timed.items()}
        waiting = sum(seconds[size] * repeats[repeat][1] for size, repeats in timed.items())
        whole = sum(seconds.values())
        means[repeat] = sum(taken.values()) / whole, waiting / whole
    return means


def _repeats_at(run: Run, batch_size: int) -> dict[int, tuple[float, float]]:
    """Return rows per second and the fraction of time spent waiting at a size, by repeat."""
    timed: dict[int, tuple[float, float]] = {}
    for repeat, (rows, step) in sorted(run.step_seconds.get(batch_size, {}).items()):
        streamed, delivery = run.delivery_seconds.get(repeat, (1, 0.0))
        delivery_cores = run.core_seconds.get(None, {}).get(repeat, 0.0)
        step_cores = run.core_seconds.get(batch_size, {}).get(repeat, 0.0)
        core_seconds = step_cores + delivery_cores * rows / streamed
        cores_bound = core_seconds / run.cores if delivery_cores else 0.0
        slowest = max(step, delivery * rows / streamed, cores_bound)
        if slowest > 0:
            timed[repeat] = rows / slowest, (slowest - step) / slowest
    return timed


def seconds_per_row(run: Run, cell: Cell, rows: float | None = None) -> dict[int, float]:
    """Return the seconds per row, by trial; empty without timings. `rows`: as for `throughput`.

    Timing repeats are assigned to the trials in turn, in the same way at every size. So an interval
    over trials includes timing noise, and a slow repeat affects all sizes alike.

        trials   0     1     2          a trial's speed is the median of its repeats
        repeats  0, 3  1, 4  2
    """
    speeds, _ = throughput(run, cell.batch_size, rows)
    if not speeds:
        return {}
    trials = sorted(cell.curves)
    groups = min(len(trials), len(speeds))
    return {
        trial: 1 / float(np.median(speeds[index % groups :: groups]))
        for index, trial in enumerate(trials)
    }


def round_speeds(rounds: Sequence[RoundEnded], workers: int | None = None) -> list[float]:
    """Return the rows per second of each whole round, by wall-clock time.

    A round is whole when it has at least half the rows of the longest. `workers`: only rounds with
    this number of workers.
    """
    trained_rows = np.diff([record.rows for record in rounds], prepend=0).tolist()
    chosen = [
        (trained, record.seconds)
        for trained, record in zip(trained_rows, rounds, strict=True)
        if workers in (None, record.workers)
    ]
    longest = max((trained for trained, _ in chosen), default=0)
    return [trained / seconds for trained, seconds in chosen if seconds and 2 * trained >= longest]


def seconds_to_target(run: Run, cell: Cell) -> dict[int, float]:
    """Return the rows to the target times the seconds per row, by trial; empty without timings."""
    return seconds_of_rows(run, cell, cell.rows_to_target)


def seconds_of_rows(run: Run, cell: Cell, rows: Mapping[int, float]) -> dict[int, float]:
    """Return the seconds that the first `rows` rows of each trial take; empty without timings."""
    per_row = seconds_per_row(run, cell)
    if not per_row:
        return {}
    if len(run.stages) < 2:
        return {trial: count * per_row[trial] for trial, count in rows.items()}
    return {
        trial: count * seconds_per_row(run, cell, count)[trial] for trial, count in rows.items()
    }


def _status(curves: Mapping[int, Curve], reached: Mapping[int, float]) -> Status:
    outcomes = [curve.outcome for curve in curves.values()]
    if "out_of_memory" in outcomes:
        return "out_of_memory"
    if "failed" in outcomes or not outcomes:
        return "failed"
    if all(outcome == "diverged" for outcome in outcomes):
        return "diverged"
    return "reached" if len(reached) == len(curves) else "not_reached"
