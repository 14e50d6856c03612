"""One batch size at its learning rate: its status and its figures, from the trials that may judge
it.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamtrain.records import RoundEnded
from streamtrain.science.crossing import automatic_target, first_crossing
from streamtrain.science.run_log import Curve, Run
from streamtrain.types import Status

#: The size at which `train.lr` is the rate of the rules that do not tune.
REFERENCE_BATCH_SIZE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A batch size at one rate. `steps_to_target` has the trials that reached the target.

    `epoch_rows`: an epoch's last minibatch may be short, so steps x batch size would overstate the
    rows.
    """

    batch_size: int
    lr: float
    status: Status
    curves: Mapping[int, Curve]
    steps_to_target: Mapping[int, float]
    epoch_rows: int | None = None

    @property
    def rows_to_target(self) -> dict[int, float]:
        return {
            trial: rows_of_steps(steps, self.batch_size, self.epoch_rows)
            for trial, steps in self.steps_to_target.items()
        }

    @property
    def is_guessed(self) -> bool:
        """True when a trial was there before the first look at more than a step: on a curve that
        bends, a line from step 0 is far off.
        """
        firsts = {
            trial: next(filter(None, self.curves[trial].steps), 0) for trial in self.steps_to_target
        }
        return any(
            0 < steps < firsts[trial] and firsts[trial] > 1
            for trial, steps in self.steps_to_target.items()
        )

    def arrival_row(self, trial: int) -> int:
        """The row at the end of the step at which a trial reached the target: its rows and weights
        repeat, so it is there again.
        """
        return round(
            rows_of_steps(math.ceil(self.steps_to_target[trial]), self.batch_size, self.epoch_rows)
        )

    @property
    def censored_rows(self) -> dict[int, float]:
        """Rows after which the trials that missed the target were last looked at: infinite for one
        that diverged or failed.
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
        """The same in steps."""
        return {
            trial: self.curves[trial].steps[-1] if math.isfinite(rows) else rows
            for trial, rows in self.censored_rows.items()
        }

    @property
    def reason(self) -> str:
        """Why a learner did not finish, in its own words."""
        return next(
            (curve.reason for curve in self.curves.values() if not curve.finished and curve.reason),
            "",
        )


def rows_of_steps(steps: float, batch_size: int, epoch_rows: int | None) -> float:
    """Rows that so many steps took, when each epoch ends with a short minibatch.

    >>> [rows_of_steps(steps, 100, 150) for steps in (3, 2.5, 1.5)], rows_of_steps(3, 100, None)
    ([250.0, 200.0, 125.0], 300.0)
    """
    if not epoch_rows:
        return float(steps * batch_size)
    whole, short = divmod(epoch_rows, batch_size)
    epochs, rest = divmod(steps, whole + (short > 0))
    return float(epochs * epoch_rows + min(rest, whole) * batch_size + max(rest - whole, 0) * short)


def rate_of_rule(rule: str, lr: float, batch_size: int) -> float:
    """The learning rate of a rule that does not tune; `lr` is that of 1,024 rows.

    `linear`: Goyal et al. 2017 (arXiv 1706.02677, §2.1); `sqrt`: Krizhevsky 2014 (arXiv 1404.5997,
    §5).

    >>> tuple(rate_of_rule(rule, 0.01, 4096) for rule in ("fixed", "linear", "sqrt"))
    (0.01, 0.04, 0.02)
    """
    ratio = batch_size / REFERENCE_BATCH_SIZE
    return float(f"{lr * {'fixed': 1.0, 'linear': ratio, 'sqrt': ratio**0.5}[rule]:.6g}")


def make_cell(
    run: Run,
    batch_size: int,
    lr: float,
    target: float | None,
    trials: Collection[int] | None = None,
) -> Cell:
    """The cell of one size and rate over `trials` (all when None).

    A learner that did not finish reaches nothing.
    """
    curves = run.curves.get((batch_size, lr), {})
    curves = {
        trial: curve for trial, curve in sorted(curves.items()) if trials is None or trial in trials
    }
    reached = {
        trial: first_crossing(c.steps, c.holdout_loss, target)
        for trial, c in curves.items()
        if target is not None and c.finished
    }
    steps = {trial: value for trial, value in reached.items() if value is not None}
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
    rates: Sequence[float],
    target: float | None,
    trials: Collection[int] | None = None,
) -> Cell:
    """The cell of the best rate: the fewest median rows to the target among the rates that reach it
    in every trial.

    Where none does: the smallest median final loss (the training loss when nothing was held out).
    """
    return min(
        (make_cell(run, batch_size, lr, target, trials) for lr in rates),
        key=lambda cell: rank(run, cell),
    )


def rank(run: Run, cell: Cell) -> tuple[bool, float, float, int, float]:
    """What `best_cell` compares: smaller is better."""
    reached = cell.status == "reached"
    rows = float(np.median(list(cell.rows_to_target.values()))) if reached else math.inf
    finals = [
        curve.final(curve.holdout_loss if run.has_holdout else curve.train_loss)
        for curve in cell.curves.values()
    ]
    # the upper median: defined with infinities
    final = sorted(finals)[len(finals) // 2] if finals else math.inf
    return (
        not reached,
        rows,
        final,
        sum(not curve.finished for curve in cell.curves.values()),
        cell.lr,
    )


def find_target(
    run: Run, rates: Mapping[int, Sequence[float]], trials: Collection[int] | None = None
) -> float | None:
    """The target under which sizes are judged when none was given: `automatic_target` over the
    rates that finished.

    A rate counts when it finished all of `trials` (all that it ran, when None). A loss that the
    weights had before the first step, or that a constant has, was not learned: None then.
    """
    if not run.has_holdout:
        return None
    used: list[Curve] = []
    curves: dict[int, list] = {}
    for size, lrs in rates.items():
        for lr in lrs:
            ran = {
                trial: curve
                for trial, curve in run.curves.get((size, lr), {}).items()
                if trials is None or trial in trials
            }
            used += ran.values()
            if (
                ran
                and all(c.finished for c in ran.values())
                and (trials is None or len(ran) == len(trials))
            ):
                curves.setdefault(size, []).append(
                    [(curve.steps, curve.holdout_loss) for curve in ran.values()]
                )
    target = automatic_target(curves)
    constant = run.baseline.constant_loss
    untrained = [curve.holdout_loss[0] for curve in used if curve.finished and curve.holdout_loss]
    ceiling = min(
        (loss for loss in [constant, *untrained] if loss is not None and math.isfinite(loss)),
        default=math.inf,
    )
    return target if target is not None and target < ceiling else None


def rows_in_common(cells: Sequence[Cell]) -> int | None:
    """The largest evaluation row reached by every cell that finished, in every trial.

    None if there is none.
    """
    seen = [
        {
            rows
            for rows, loss in zip(curve.rows, curve.holdout_loss, strict=True)
            if math.isfinite(loss)
        }
        for cell in cells
        for curve in cell.curves.values()
        if curve.finished
    ]
    seen = [rows for rows in seen if rows]
    return max(set.intersection(*seen), default=None) if seen else None


def shared_trials(cells: Sequence[Cell]) -> list[int]:
    """Return the trials in which every cell reached the target, ascending; empty without cells."""
    if not cells:
        return []
    return sorted(
        set(cells[0].steps_to_target).intersection(*(cell.steps_to_target for cell in cells))
    )


def losses_at(cell: Cell, rows: int | None, name: str = "holdout_loss") -> list[float]:
    """One value a trial, of those evaluated at exactly `rows`; nothing from learners that did not
    finish.
    """
    return [
        getattr(curve, name)[curve.rows.index(rows)]
        for curve in cell.curves.values()
        if curve.finished and rows in curve.rows
    ]


def throughput(run: Run, batch_size: int) -> tuple[list[float], list[float]]:
    """Rows per second and the share of time spent waiting for rows, one of each a timing repeat.

    In training, steps and delivery overlap: a repeat's time is the longest of the step alone, the
    stream alone, and the processor time of both over the cores that they share, each scaled to the
    same rows. On workers: `round_speeds`, and nothing of waiting.
    """
    if run.rounds:
        return round_speeds(run.rounds), []
    speeds, waits = [], []
    for repeat, (rows, step) in sorted(run.step_seconds.get(batch_size, {}).items()):
        streamed, delivery = run.delivery_seconds.get(repeat, (1, 0.0))
        delivering = run.core_seconds.get(None, {}).get(repeat, 0.0)
        cores = run.core_seconds.get(batch_size, {}).get(repeat, 0.0) + delivering * rows / streamed
        slower = max(step, delivery * rows / streamed, cores / run.cores if delivering else 0.0)
        if slower > 0:
            speeds.append(rows / slower)
            waits.append((slower - step) / slower)
    return speeds, waits


def seconds_per_row(run: Run, cell: Cell) -> dict[int, float]:
    """Seconds of a row, by trial; empty without timings.

    Timing repeats are dealt to the trials in turn, the same ones at every size, so that an interval
    over trials holds the noise of the clock too, and what slowed a repeat slows all sizes alike.

        trials   0     1     2          a trial's speed is the median of its repeats
        repeats  0, 3  1, 4  2
    """
    speeds, trials = throughput(run, cell.batch_size)[0], sorted(cell.curves)
    apart = min(len(trials), len(speeds))
    return (
        {
            trial: 1 / float(np.median(speeds[at % apart :: apart]))
            for at, trial in enumerate(trials)
        }
        if speeds
        else {}
    )


def round_speeds(rounds: Sequence[RoundEnded], workers: int | None = None) -> list[float]:
    """Rows a second of each whole round, by the clock: one of at least half the rows that the
    longest had. `workers`: with so many alone.
    """
    rows = np.diff([one.rows for one in rounds], prepend=0).tolist()
    mine = [
        (trained, one.seconds)
        for trained, one in zip(rows, rounds, strict=True)
        if workers in (None, one.workers)
    ]
    longest = max((trained for trained, _ in mine), default=0)
    return [trained / seconds for trained, seconds in mine if seconds and 2 * trained >= longest]


def seconds_to_target(run: Run, cell: Cell) -> dict[int, float]:
    """Rows to the target times the seconds of a row, by trial; empty without timings."""
    each = seconds_per_row(run, cell)
    return (
        {trial: rows * each[trial] for trial, rows in cell.rows_to_target.items()} if each else {}
    )


def _status(curves: Mapping[int, Curve], reached: Mapping[int, float]) -> Status:
    outcomes = [curve.outcome for curve in curves.values()]
    if "out_of_memory" in outcomes:
        return "out_of_memory"
    if "failed" in outcomes or not outcomes:
        return "failed"
    if all(outcome == "diverged" for outcome in outcomes):
        return "diverged"
    return "reached" if len(reached) == len(curves) else "not_reached"
