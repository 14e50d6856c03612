"""Lines of progress computed from records as they are emitted; no clock, no terminal."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
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

#: Seconds of training before which none are announced as left: in the first milliseconds the
#: machine is still warming up, and a second of training was announced as 23 s. A choice of this
#: project.
LEAST_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The progress of a pass at an evaluation point.

    The losses and `batch_size` belong to the replica with the smallest held-out loss at `rows`.
    `loss` is its mean training loss since row 0, `loss_since` since the evaluation before.
    `rows_per_second` is the speed of the pass since its first row, however many learners train on
    the rows, and `waiting` the fraction of that time in which they waited for rows. `left_seconds`
    is the time until the end of the last pass that is foreseen. In a sweep with a budget it is what
    remains of the budget, of which much may stay unused; None for a budget of rows.
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
    """Combines the evaluations of all replicas at a row into one line.

    There is a line at row 0, whenever the rows have doubled, and at the end of a pass. In a sweep
    with a budget, whose passes are short and many, there is one at the end of a pass only. With
    `every`, there is a line at every evaluation point. `plan` is the pass that the lines belong to,
    in a sweep, and `number` its number among those of its kind. `train_rows`: the rows of a pass,
    infinite where a clock or a flat loss ends it. `budget_seconds`: the budget of a sweep that has
    one in seconds, and `budget_left` what is left of it at the last evaluation. Used from one
    thread.
    """

    def __init__(self, *, every: bool = False) -> None:
        self._every = every
        self.verb = ""
        self.train_rows: float = 0
        self.passes_done, self.passes_left = 0, 1
        self.budget_seconds: float | None = None
        self.budget_left: float | None = None
        self.plan: PassPlanned | None = None
        self.number = 0
        self._has_ladder = False
        self._counts: Counter[str] = Counter()
        self._left_at_start: float | None = None
        self._replicas = 0
        self._start_pass()

    def _start_pass(self) -> None:
        self._live_replicas, self._last_line = self._replicas, 0
        self._points: dict[int, list[_Point]] = defaultdict(list)
        self._left_out: list[_Point] = []  # of the last evaluation, if it had no line
        # (batch size, learning rate) → rows, sum of training losses
        self._totals: dict[tuple[int, float], tuple[int, float]] = {}
        # (rows, seconds) of each evaluation after row 0
        self._marks: list[tuple[float, float]] = []
        # The seconds of the pass, and the seconds of waiting, when it was at row 0. The speed is
        # measured from there, because opening and the first window come before.
        self._first_row = (0.0, 0.0)

    @property
    def is_by_pass(self) -> bool:
        """Whether there is one line per pass."""
        return self._has_ladder and not self._every

    @property
    def mean_rows(self) -> float:
        """Rows that a replica has trained on in this pass, the mean over replicas; for a bar."""
        total = sum(rows for rows, _ in self._totals.values())
        return total / max(self._live_replicas, len(self._totals), 1)

    def update(self, record: Record) -> list[Line]:
        """Take the next record, and return the lines that it completes, in order of rows."""
        match record:
            case RunStarted():
                self.verb = record.verb
                self.train_rows = math.inf if record.train_rows is None else record.train_rows
                self._replicas = sum(map(len, record.lrs))
                self.passes_left = record.trials
                if record.ladder is not None:
                    self._has_ladder = True
                    self.budget_seconds = self._left_at_start = record.ladder.budget_seconds
                self._start_pass()
            case PassPlanned():
                self.plan = record
                self._counts[record.kind] += 1
                self.number = self._counts[record.kind]
                self._replicas, self.passes_left = record.replicas, record.passes_left
                if record.rows is not None:
                    self.train_rows = record.rows
                if record.seconds_left is not None:
                    self._left_at_start = record.seconds_left
                self._start_pass()
            case Evaluation():
                self._add(record)
                return self._complete()
            case ReplicaEnded(outcome="failed" | "out_of_memory"):
                self._live_replicas -= 1
                return self._complete()
            case PassEnded():
                lines = self._complete(all_points=True)
                if self._left_out:
                    lines.append(self._line(self._left_out))
                self.passes_done += 1
                self.passes_left -= 1
                self._start_pass()
                return lines
        return []

    def _add(self, record: Evaluation) -> None:
        replica = record.batch_size, record.lr
        rows, total = self._totals.get(replica, (0, 0.0))
        loss = math.nan if record.train_loss is None else record.train_loss
        total += loss * (record.rows - rows) if record.rows > rows else 0.0
        self._totals[replica] = record.rows, total
        mean_loss = total / record.rows if record.rows else math.nan
        self._points[record.rows].append(_Point(record, mean_loss))

    def _complete(self, *, all_points: bool = False) -> list[Line]:
        """Return the lines of the points at which every live replica has been evaluated."""
        lines = []
        for rows in sorted(self._points):
            if len(self._points[rows]) < self._live_replicas and not all_points:
                break
            points = self._points.pop(rows)
            line = self._line(points)
            doubled = not self._has_ladder and (rows == 0 or rows >= 2 * self._last_line)
            if self._every or doubled or rows >= self.train_rows:
                self._last_line, self._left_out = rows, []
                lines.append(line)
            else:
                self._left_out = points
        return lines

    def _line(self, points: list[_Point]) -> Line:
        best, mean_loss = min(points, key=lambda point: _loss_order(point.evaluation))
        # Learners take turns on a block. When the last of them is evaluated at this point, the
        # others are ahead of it, so the rows that were trained on are `mean_rows`.
        latest = max(
            (point.evaluation for point in points), key=lambda evaluation: evaluation.seconds
        )
        rows, waited = self.mean_rows, latest.wait_seconds
        if best.rows == 0:
            self._first_row = latest.seconds, waited or 0.0
        first_seconds, first_waited = self._first_row
        seconds = latest.seconds - first_seconds
        rows_per_second = waiting = left_seconds = None
        if rows and seconds > 0:
            rows_per_second = rows / seconds
            rows_left = self.passes_left * self.train_rows - rows
            if waited is not None:
                waiting = max(0.0, waited - first_waited) / seconds
            if math.isfinite(rows_left):
                left_seconds = max(0, rows_left) / rows_per_second
                if self.verb == "train":  # a learner of its own, with nothing between evaluations
                    self._marks.append((rows, seconds))
                    left_seconds = None
                    if seconds >= LEAST_SECONDS or rows_left <= 0:
                        left_seconds = seconds_left(self._marks, self.train_rows)
        if self._has_ladder:  # how many passes are to come is not known
            left_seconds = None
        if self._left_at_start is not None:
            left_seconds = self.budget_left = max(0.0, self._left_at_start - latest.seconds)
        return Line(
            trial=best.trial,
            rows=best.rows,
            loss=None if math.isnan(mean_loss) else mean_loss,
            loss_since=best.train_loss,
            holdout_loss=best.holdout_loss,
            batch_size=best.batch_size,
            rows_per_second=rows_per_second,
            waiting=waiting,
            left_seconds=left_seconds,
        )


def seconds_left(marks: Sequence[tuple[float, float]], last_row: float) -> float:
    """Return the seconds until `last_row`, from the (rows, seconds) at each evaluation so far.

    There are two evaluations per doubling of the rows, so they take most of the time at first, and
    little of it later. The last two doublings give the seconds per row and per evaluation.

    >>> marks = [(2**n, 3.0 * 2**n + 5.0 * 2 * n) for n in (4.0, 4.5, 5.0, 5.5, 6.0)]
    >>> seconds_left(marks, 256), 3.0 * (256 - 64) + 5.0 * 4
    (596.0, 596.0)
    """
    rows, seconds = marks[-1]
    if rows >= last_row:
        return 0.0
    simple = (last_row - rows) / rows * seconds
    if len(marks) < 5:
        return simple
    (rows_before, before), (first_rows, first) = marks[-3], marks[-5]
    growth = (rows - rows_before) - (rows_before - first_rows)
    if growth <= 0:
        return simple
    later, earlier = seconds - before, before - first
    per_row = (later - earlier) / growth
    per_row = min(max(per_row, 0.0), later / (rows - rows_before))
    per_look = (later - per_row * (rows - rows_before)) / 2
    return (last_row - rows) * per_row + 2 * math.log2(last_row / rows) * per_look


def _loss_order(evaluation: Evaluation) -> tuple[float, float, int, float]:
    """Return a sort key: by held-out loss, then training loss, then size and learning rate."""
    return (
        _or_inf(evaluation.holdout_loss),
        _or_inf(evaluation.train_loss),
        evaluation.batch_size,
        evaluation.lr,
    )


def _or_inf(loss: float | None) -> float:
    return math.inf if loss is None else loss
