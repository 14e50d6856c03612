"""From Records, as they come, to lines of progress. Pure arithmetic: no clock, no terminal."""

import math
from collections import defaultdict
from dataclasses import dataclass

from streamtrain.types import Record


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
        self._points: dict[int, list[Record]] = defaultdict(list)
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
        match record["event"]:
            case "run":
                self.verb, self.trials = record["verb"], record["trials"]
                self.train_rows = math.inf if record["train_rows"] is None else record["train_rows"]
                self._learners = sum(len(rates) for rates in record["lrs"])
                self.passes_left = self.trials
                self._start_trial()
            case "next_pass":
                self._learners, self.passes_left = record["replicas"], record["passes_left"]
                self._start_trial()
            case "evaluation":
                self._add(record)
                return self._complete()
            case "outcome" if record["outcome"] in ("failed", "out_of_memory"):
                self._live -= 1
                return self._complete()
            case "pass":
                lines = self._complete(all_points=True)
                self.passes_done, self.passes_left = self.passes_done + 1, self.passes_left - 1
                self._start_trial()
                return lines
        return []

    def _add(self, record: Record) -> None:
        learner = record["batch_size"], record["lr"]
        rows, total = self._totals.get(learner, (0, 0.0))
        loss = math.nan if record["train_loss"] is None else record["train_loss"]
        total += loss * (record["rows"] - rows) if record["rows"] > rows else 0.0
        self._totals[learner] = record["rows"], total
        self._points[record["rows"]].append(
            record | {"mean_loss": total / record["rows"] if record["rows"] else math.nan}
        )

    def _complete(self, *, all_points: bool = False) -> list[Line]:
        """Points at which every learner that is still alive has reported."""
        lines = []
        for rows in sorted(self._points):
            if len(self._points[rows]) < self._live and not all_points:
                break
            records = self._points.pop(rows)
            if self._every or rows == 0 or rows >= 2 * self._last_line or rows >= self.train_rows:
                self._last_line = rows
                lines.append(self._line(records))
        return lines

    def _line(self, records: list[Record]) -> Line:
        best = min(
            records,
            key=lambda r: (
                _or_inf(r["holdout_loss"]),
                _or_inf(r["train_loss"]),
                r["batch_size"],
                r["lr"],
            ),
        )
        # Learners take turns on a block: when the last one reports this point, the others are
        # ahead, by `mean_rows`.
        rows, latest = self.mean_rows, max(records, key=lambda r: r["seconds"])
        now = latest["seconds"], latest.get("wait_seconds")
        if best["rows"] == 0:
            self._first_row = now[0], now[1] or 0.0
        seconds = now[0] - self._first_row[0]
        rate = rows / seconds if rows and seconds > 0 else None
        ahead = self.passes_left * self.train_rows - rows
        return Line(
            trial=best["trial"],
            rows=best["rows"],
            loss=None if math.isnan(best["mean_loss"]) else best["mean_loss"],
            loss_since=best["train_loss"],
            holdout_loss=best["holdout_loss"],
            batch_size=best["batch_size"],
            rows_per_second=rate,
            waiting=(
                None
                if rate is None or now[1] is None
                else max(0.0, now[1] - self._first_row[1]) / seconds
            ),
            left_seconds=max(0, ahead) / rate if rate and math.isfinite(ahead) else None,
        )


def _or_inf(loss: float | None) -> float:
    return math.inf if loss is None else loss
