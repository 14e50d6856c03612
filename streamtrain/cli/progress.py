"""Progress of a run on stderr.

There is a line whenever the rows have doubled, and on a terminal a live bar below the lines.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import psutil
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from streamtrain.base.units import format_bytes, format_count, format_percent, format_seconds
from streamtrain.base.words import plural
from streamtrain.cli.follow import Line, ProgressTracker
from streamtrain.cli.terminal import note
from streamtrain.records import (
    Confirmed,
    DeliveryTimed,
    Emit,
    Evaluation,
    LadderInfo,
    MeasuringStarted,
    PassPlanned,
    Record,
    RunStarted,
    StepsTimed,
    stages_text,
)
from streamtrain.report.number_format import loss_text

Mode = Literal["auto", "live", "lines", "none"]
#: Column → width.
_COLUMNS = {
    "trial": 5,
    "rows": 13,
    "loss": 9,
    "loss since": 10,
    "held-out": 9,
    "at batch": 9,
    "rows/s": 8,
    "waiting": 7,
    "rss": 10,
    "left": 7,
}
_ONLY_SWEEP = {"trial", "at batch"}

#: The last column of a sweep with a budget. It is no forecast: most sweeps end earlier, when their
#: choice is settled.
_BUDGET_LEFT = "budget left"

#: Column → width for a sweep with a budget, which has a line per pass.
_PASS_COLUMNS = {
    "pass": 16,
    "models": 6,
    "rows": 13,
    "held-out": 9,
    "at batch": 9,
    "rows/s": 8,
    _BUDGET_LEFT: 11,
}
_PASSES = {"tuning": "tuning", "extension": "rates beyond the grid", "fresh": "fresh seeds"}
_SHORT_PASSES = {"tuning": "rung", "extension": "wider rates", "fresh": "trial"}

_OPENING = "opening"
#: Said where opening takes longer than so many seconds: without it, a first run seems to hang.
_SLOW_OPENING = (3.0, "the first run also compiles its kernels: about 20 s, once")


class _Facts(ProgressColumn):
    """The text beside the bar; while a run opens slowly, what may take so long."""

    def render(self, task: Task) -> Text:
        patience, reason = _SLOW_OPENING
        is_slow = task.description == _OPENING and (task.elapsed or 0.0) > patience
        return Text(reason if is_slow else task.fields["facts"])


@contextmanager
def progress(mode: Mode, *, verbose: bool = False) -> Iterator[Emit]:
    """Yield a function that shows the progress of a run when it is given the run's records.

    `auto` is `live` on a terminal, and elsewhere `lines`, which have no carriage returns.
    `verbose`: a line at every evaluation.
    """
    if mode == "auto":
        mode = "live" if sys.stderr.isatty() else "lines"
    tracker = ProgressTracker(every=verbose)
    if mode == "none":
        yield lambda record: None
    elif mode == "lines":
        yield lambda record: _print_lines(tracker.update(record), tracker, record, note)
    else:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), _Facts())

        def write(text: str) -> None:
            console.print(Text(text), soft_wrap=True)

        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(_OPENING, total=None, facts="")

            def on_record(record: Record) -> None:
                lines = tracker.update(record)
                _print_lines(lines, tracker, record, write)
                _move_bar(bar, task, tracker, record)
                if lines and lines[-1].left_seconds is not None:
                    what = "left" if tracker.budget_seconds is None else "of the budget left"
                    bar.update(task, facts=f"{_time_left(lines[-1].left_seconds)} {what}")

            yield on_record


def _print_lines(
    lines: list[Line], tracker: ProgressTracker, record: Record, write: Callable[[str], None]
) -> None:
    """Write the announcement of a record, and the lines that it completed."""
    if isinstance(record, RunStarted):
        if record.engine_reason:
            write(f"engine: {record.engine}, {record.engine_reason}")
        if record.compile_seconds > 1:
            write(
                f"kernels compiled in {format_seconds(record.compile_seconds)}; they are cached for"
                " later runs, and this time does not count"
            )
        if record.ladder is not None:
            write(_budget_text(record.ladder))
        if record.stages is not None:
            write(f"batch sizes: --batch-schedule {stages_text(record.stages)}")
        if record.until_flat is not None:
            write(f"trains {record.until_flat.text}")
        write(_row(tracker, tuple(_columns(tracker))))
    elif announcement := _announcement(record, tracker):
        write(announcement)
    for line in lines:
        cells = _pass_cells(tracker, line) if tracker.is_by_pass else _cells(line)
        write(_row(tracker, cells))


def _move_bar(bar: Progress, task: TaskID, tracker: ProgressTracker, record: Record) -> None:
    match record:
        case RunStarted():
            total = _finite(tracker.passes_left * tracker.train_rows)
            bar.update(task, total=total, description="training")
        case Evaluation() if tracker.budget_seconds is not None:
            left = tracker.budget_left
            done = 0.0 if left is None else tracker.budget_seconds - left
            bar.update(
                task,
                total=tracker.budget_seconds,
                completed=done,
                description=f"pass {tracker.passes_done + 1}",
            )
        case Evaluation():
            passes = tracker.passes_done + tracker.passes_left
            total, done = _finite(passes * tracker.train_rows), tracker.mean_rows
            if total is not None:
                done += tracker.passes_done * tracker.train_rows
            bar.update(
                task,
                total=total,
                completed=done,
                description=f"pass {tracker.passes_done + 1} of {passes}",
            )
        case StepsTimed() | DeliveryTimed():
            bar.update(task, total=None, description="timing the step alone", facts="")
        case MeasuringStarted():
            bar.update(task, total=None, description="measuring", facts="")
        case Confirmed():
            bar.update(task, total=None, description="confirming", facts="")


def _budget_text(ladder: LadderInfo) -> str:
    """Return the line that says how long a sweep with a budget takes, and why it may end sooner."""
    if ladder.announced_seconds is not None:
        limit = f"at most about {format_seconds(ladder.announced_seconds)}"
    else:
        limit = f"at most {format_count(ladder.budget_rows or 0)} rows"
    return f"{limit}: rows grow until the loss is flat, then trials until the choice is settled"


def _finite(rows: float) -> float | None:
    """Return the total of a bar; None where only a clock ends the run."""
    return rows if math.isfinite(rows) else None


def _announcement(record: Record, tracker: ProgressTracker) -> str | None:
    """Return a line that announces the next part of a sweep.

    The line of a pass says it where there is one per pass.
    """
    if isinstance(record, PassPlanned) and not tracker.is_by_pass:
        models = plural(record.replicas, "model")
        sizes = plural(record.batch_sizes, "batch size")
        return f"{_PASSES[record.kind]}: trial {record.trial + 1}, {models} of {sizes}"
    if isinstance(record, MeasuringStarted) and record.skipped:
        return record.skipped
    if isinstance(record, MeasuringStarted) and record.costs:
        return "measuring: " + ", ".join(
            f"{cost['measure']} about {format_seconds(cost['seconds'])}" for cost in record.costs
        )
    return None


def _cells(line: Line) -> tuple[str, ...]:
    return (
        str(line.trial + 1),
        f"{line.rows:,}",
        # A training loss is the mean of ½r²; twice that compares with the held-out mean of r².
        _loss(line.loss, 2),
        _loss(line.loss_since, 2),
        _loss(line.holdout_loss),
        f"{line.batch_size:,}",
        "" if line.rows_per_second is None else format_count(line.rows_per_second),
        "" if line.waiting is None else format_percent(line.waiting),
        format_bytes(psutil.Process().memory_info().rss),
        _time_left(line.left_seconds),
    )


def _pass_cells(tracker: ProgressTracker, line: Line) -> tuple[str, ...]:
    """Return the cells of `_PASS_COLUMNS`; rungs and trials are each counted from 1."""
    plan = tracker.plan
    name = "" if plan is None else f"{_SHORT_PASSES[plan.kind]} {tracker.number}"
    return (
        name,
        "" if plan is None else f"{plan.replicas:,}",
        f"{line.rows:,}",
        _loss(line.holdout_loss),
        f"{line.batch_size:,}",
        "" if line.rows_per_second is None else format_count(line.rows_per_second),
        _time_left(line.left_seconds),
    )


def _time_left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return "0 s" if seconds < 1 else format_seconds(seconds)


def _loss(loss: float | None, factor: int = 1) -> str:
    if loss is None:
        return "-"
    loss *= factor
    # three digits in powers of ten where a run diverges, or the column would be too narrow
    return loss_text(loss) if 1e-6 <= loss < 1000 else f"{loss:.3g}"


def _columns(tracker: ProgressTracker) -> dict[str, int]:
    """Return the widths of the columns of a run, by name."""
    if tracker.is_by_pass:
        return _PASS_COLUMNS
    if tracker.budget_seconds is None:
        return _COLUMNS
    others = {name: width for name, width in _COLUMNS.items() if name != "left"}
    return {**others, _BUDGET_LEFT: _PASS_COLUMNS[_BUDGET_LEFT]}


def _row(tracker: ProgressTracker, cells: tuple[str, ...]) -> str:
    columns = _columns(tracker)
    return "  ".join(
        cell.rjust(width)
        for cell, (name, width) in zip(cells, columns.items(), strict=True)
        if tracker.verb == "sweep" or name not in _ONLY_SWEEP
    )
