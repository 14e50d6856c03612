"""Progress of a run on stderr: a line at every doubling of rows, and on a terminal a live bar below
them.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import psutil
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from streamtrain.base.units import format_bytes, format_count, format_seconds
from streamtrain.cli.follow import Line, ProgressTracker
from streamtrain.cli.terminal import note, plural
from streamtrain.records import (
    Confirmed,
    DeliveryTimed,
    Emit,
    Evaluation,
    MeasuringStarted,
    PassPlanned,
    Record,
    RunStarted,
    StepsTimed,
)

Mode = Literal["auto", "live", "lines", "none"]
_HEADER = (
    "trial",
    "rows",
    "loss",
    "loss since",
    "held-out",
    "at batch",
    "rows/s",
    "waiting",
    "rss",
    "left",
)
_WIDTHS = (5, 13, 9, 10, 9, 9, 8, 7, 9, 7)
_PASSES = {"tuning": "tuning", "extension": "rates beyond the grid", "fresh": "fresh seeds"}
_ONLY_SWEEP = {"trial", "at batch"}


@contextmanager
def progress(mode: Mode, *, verbose: bool = False) -> Iterator[Emit]:
    """Yields `on_record`.

    `auto` is live on a terminal and plain lines (never a carriage return) elsewhere.
    """
    if mode == "auto":
        mode = "live" if sys.stderr.isatty() else "lines"
    follow = ProgressTracker(every=verbose)
    if mode == "none":
        yield lambda record: None
    elif mode == "lines":
        yield lambda record: _print_lines(follow, record, note)
    else:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("opening", total=None, facts="")
            yield lambda record: _move(
                bar, task, follow, record, lambda text: console.print(Text(text), soft_wrap=True)
            )


def _print_lines(
    follow: ProgressTracker, record: Record, write: Callable[[str], None]
) -> Line | None:
    lines = follow.feed(record)
    if isinstance(record, RunStarted):
        if record.engine_reason:
            write(f"engine: {record.engine}, {record.engine_reason}")
        if record.compile_seconds > 1:
            write(
                f"kernels compiled in {format_seconds(record.compile_seconds)}; they are kept"
                " for next time, and this is not counted"
            )
        write(_row(follow, _HEADER))
    elif said := _said(record):
        write(said)
    for line in lines:
        write(_row(follow, _cells(line)))
    return lines[-1] if lines else None


def _move(
    bar: Progress,
    task: TaskID,
    follow: ProgressTracker,
    record: Record,
    write: Callable[[str], None],
) -> None:
    line = _print_lines(follow, record, write)
    match record:
        case RunStarted():
            bar.update(
                task, total=_whole(follow.passes_left * follow.train_rows), description="training"
            )
        case Evaluation():
            passes = follow.passes_done + follow.passes_left
            total, done = _whole(passes * follow.train_rows), follow.mean_rows
            if total is not None:
                done += follow.passes_done * follow.train_rows
            bar.update(
                task,
                total=total,
                completed=done,
                description=f"pass {follow.passes_done + 1} of {passes}",
            )
        case StepsTimed() | DeliveryTimed():
            bar.update(task, total=None, description="timing the step alone", facts="")
        case MeasuringStarted():
            bar.update(task, total=None, description="measuring", facts="")
        case Confirmed():
            bar.update(task, total=None, description="confirming", facts="")
    if line is not None and line.left_seconds is not None:
        bar.update(task, facts=f"{format_seconds(line.left_seconds)} left")


def _whole(rows: float) -> float | None:
    """What a bar is full at; None where only a clock ends the run."""
    return rows if math.isfinite(rows) else None


def _said(record: Record) -> str | None:
    """What a sweep does next, in a line."""
    if isinstance(record, PassPlanned):
        models = plural(record.replicas, "model")
        return (
            f"{_PASSES[record.kind]}: trial {record.trial + 1}, {models} of"
            f" {plural(record.batch_sizes, 'batch size')}"
        )
    if isinstance(record, MeasuringStarted) and record.skipped:
        return record.skipped
    if isinstance(record, MeasuringStarted) and record.costs:
        return "measuring: " + ", ".join(
            f"{cost['measure']} about {format_seconds(cost['seconds'])}" for cost in record.costs
        )
    return None


def _cells(line: Line) -> tuple[str, ...]:
    rate = "" if line.rows_per_second is None else format_count(line.rows_per_second)
    left = (
        ""
        if line.left_seconds is None
        else "0 s"
        if line.left_seconds < 1
        else format_seconds(line.left_seconds)
    )
    rss = format_bytes(psutil.Process().memory_info().rss)
    waiting = "" if line.waiting is None else f"{line.waiting:.0%}".replace("%", " %")
    losses = (_loss(line.loss, 2), _loss(line.loss_since, 2), _loss(line.holdout_loss))
    return (
        str(line.trial + 1),
        f"{line.rows:,}",
        *losses,
        f"{line.batch_size:,}",
        rate,
        waiting,
        rss,
        left,
    )


def _loss(loss: float | None, times: int = 1) -> str:
    """Training losses are ½r²: twice that stands beside the held-out r²."""
    loss = None if loss is None else times * loss
    return "-" if loss is None else f"{loss:.4f}" if loss < 1000 else f"{loss:.3g}"


def _row(follow: ProgressTracker, cells: tuple[str, ...]) -> str:
    columns = zip(cells, _WIDTHS, _HEADER, strict=True)
    return "  ".join(
        cell.rjust(width)
        for cell, width, name in columns
        if follow.verb == "sweep" or name not in _ONLY_SWEEP
    )
