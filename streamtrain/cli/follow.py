"""From Records, as they come, to lines of progress. Pure arithmetic: no clock, no terminal."""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from streamtrain.records import (
    Evaluation,
    PassEnded,
    PassPlanned,
    Record,
    ReplicaEnded,
    RunStarted,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Where a pass stood at `rows`: the losses are those of the learner with the smallest held-out
    loss there.

    `loss` is the mean training loss from row 0 on, `loss_since` since the evaluation before.
    `rows_per_second` is of the pass since its first row, however many learners take the rows, and
    `waiting` the share of that time in which they waited for rows; `left_seconds` reaches to the
    end of the last pass that is foreseen.
    """

    trial: int
    rows: int
    loss: float | None
    loss_since: float | None
    holdout_loss: float | None
    batch_size: int
    rows_per_second: float | None
    waiting: float | None
    left_seconds: float | None


class _Point(NamedTuple):
    evaluation: Evaluation
    mean_loss: float


class ProgressTracker:
    """Collects the evaluations of all learners at a row into one line: at row 0, at every doubling,
    and at the end.

    `every`: a line at every evaluation point. `train_rows` of a pass: infinite where only a clock
    ends it. Used from one thread.
    """

    def __init__(self, *, every: bool = False) -> None:
        self._every = every
        self.verb, self.trials, self._learners = "", 1, 0
        self.train_rows: float = 0
        self.passes_done, self.passes_left = 0, 1
        self._start_trial()

    def _start_trial(self) -> None:
        self._live, self._last_line = self._learners, 0
        self._points: dict[int, list[_Point]] = defaultdict(list)
        # (batch size, rate) → rows, summed training loss
        self._totals: dict[tuple[int, float], tuple[int, float]] = {}
        # seconds and seconds waited when it came: opening and the first window are not the pace
        self._first_row = (0.0, 0.0)

    @property
    def mean_rows(self) -> float:
        """Rows a learner has trained on in this trial, the mean over learners: what a bar shows."""
        return sum(rows for rows, _ in self._totals.values()) / max(
            self._live, len(self._totals), 1
        )

    def feed(self, record: Record) -> list[Line]:
        """The lines that this record completes, in order of rows."""
        match record:
            case RunStarted():
                self.verb, self.trials = record.verb, record.trials
                self.train_rows = math.inf if record.train_rows is None else record.train_rows
                self._learners = sum(map(len, record.lrs))
                self.passes_left = self.trials
                self._start_trial()
            case PassPlanned():
                self._learners, self.passes_left = record.replicas, record.passes_left
                self._start_trial()
            case Evaluation():
                self._add(record)
                return self._complete()
            case ReplicaEnded(outcome="failed" | "out_of_memory"):
                self._live -= 1
                return self._complete()
            case PassEnded():
                lines = self._complete(all_points=True)
                self.passes_done, self.passes_left = self.passes_done + 1, self.passes_left - 1
                self._start_trial()
                return lines
        return []

    def _add(self, record: Evaluation) -> None:
        learner = record.batch_size, record.lr
        rows, total = self._totals.get(learner, (0, 0.0))
        loss = math.nan if record.train_loss is None else record.train_loss
        total += loss * (record.rows - rows) if record.rows > rows else 0.0
        self._totals[learner] = record.rows, total
        mean_loss = total / record.rows if record.rows else math.nan
        self._points[record.rows].append(_Point(record, mean_loss))

    def _complete(self, *, all_points: bool = False) -> list[Line]:
        """Points at which every learner that is still alive has reported."""
        lines = []
        for rows in sorted(self._points):
            if len(self._points[rows]) < self._live and not all_points:
                break
            points = self._points.pop(rows)
            if self._every or rows == 0 or rows >= 2 * self._last_line or rows >= self.train_rows:
                self._last_line = rows
                lines.append(self._line(points))
        return lines

    def _line(self, points: list[_Point]) -> Line:
        best, mean_loss = min(points, key=lambda point: _loss_order(point.evaluation))
        # Learners take turns on a block: when the last one reports this point, the others are
        # ahead, by `mean_rows`.
        latest = max((point.evaluation for point in points), key=lambda one: one.seconds)
        rows, waited = self.mean_rows, latest.wait_seconds
        if best.rows == 0:
            self._first_row = latest.seconds, waited or 0.0
        seconds = latest.seconds - self._first_row[0]
        rate = rows / seconds if rows and seconds > 0 else None
        ahead = self.passes_left * self.train_rows - rows
        return Line(
            trial=best.trial,
            rows=best.rows,
            loss=None if math.isnan(mean_loss) else mean_loss,
            loss_since=best.train_loss,
            holdout_loss=best.holdout_loss,
            batch_size=best.batch_size,
            rows_per_second=rate,
            waiting=(
                None
                if rate is None or waited is None
                else max(0.0, waited - self._first_row[1]) / seconds
            ),
            left_seconds=max(0, ahead) / rate if rate and math.isfinite(ahead) else None,
        )


def _loss_order(one: Evaluation) -> tuple[float, float, int, float]:
    """Return what the best of several evaluations has the least of."""
    return _or_inf(one.holdout_loss), _or_inf(one.train_loss), one.batch_size, one.lr


def _or_inf(loss: float | None) -> float:
    return math.inf if loss is None else loss
