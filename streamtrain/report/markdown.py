"""The result as text: an aligned table with the answer, a Markdown report, flat rows for CSV."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from streamtrain.base.words import aligned, plural
from streamtrain.report.analysis import Analysis, Summary
from streamtrain.report.number_format import error_text, loss_text
from streamtrain.report.summary_parts import CellFigures, ReportWarning
from streamtrain.report.table import (
    answer_headings,
    answer_texts,
    frontier_table,
    headings,
    row_texts,
)
from streamtrain.report.text.captions import confirmation_note
from streamtrain.report.text.facts import (
    confirmation_rows,
    landmark_facts,
    measure_facts,
    speed_facts,
)
from streamtrain.report.text.run_facts import cost_facts, integrity_facts
from streamtrain.report.text.sentence import next_note
from streamtrain.report.workers import worker_facts
from streamtrain.science.contest import LEVELS_WIDTH
from streamtrain.science.intervals import BOOTSTRAP_FROM, Estimate
from streamtrain.types import Json

_FIGURES = (
    "rows_per_second",
    "holdout_loss",
    "holdout_rmse",
    "holdout_loss_at_steps",
    "holdout_loss_at_seconds",
    "steps_to_target",
    "rows_to_target",
    "seconds_to_target",
    "slower_by",
    "wait_fraction",
)


def render_table(document: Json) -> str:
    """Return a `summary.json` as plain text: the table, the reference losses and the answer.

    Batch sizes and learning rates are exact; other figures are rounded for reading (`summary.json`
    has every digit).
    """
    summary = Summary.from_json(document)
    table = aligned(answer_table(summary), right=frozenset({0}))
    notes = [
        reference_line(summary),
        intervals(summary, timings=summary.verb == "train"),
        order_note(summary),
    ]
    answer = [summary.sentence, *_next_command(summary)]
    return "\n".join([data_line(summary), "", table, "", *filter(None, notes), "", *answer])


def answer_table(summary: Summary) -> list[list[str]]:
    """Return the table of the answer row by row, headings first."""
    return [answer_headings(summary), *(answer_texts(summary, cell) for cell in summary.cells)]


def data_line(summary: Summary) -> str:
    """Return the data, its target, features and rows: `hours: cnt from temp, hum; 17,379 rows`."""
    data = summary.data
    names = ", ".join(data.features)
    rows = "rows not counted" if data.num_rows is None else plural(data.num_rows, "row")
    held_out = ""
    if data.holdout_rows and data.holdout_source == "rows":
        held_out = f", {data.holdout_rows:,} of them held out"
    return f"{data.url}: {data.target} from {names}; {rows}{held_out}"


def reference_line(summary: Summary) -> str:
    """Return the RMSE of the models to compare with, on one line; "" where none is known."""
    models = (
        ("the mean", summary.best_constant_loss),
        ("a linear model", summary.best_linear_loss),
        ("the best possible", summary.best_possible_loss),
    )
    known = [
        f"{name} {error_text(loss.rmse)}"
        for name, loss in models
        if loss is not None and loss.rmse is not None
    ]
    return f"RMSE of others  {', '.join(known)}" if known else ""


def references(summary: Summary) -> list[str]:
    """Return a line per reference model whose loss is known: constant, linear, best possible."""
    losses = {
        "best constant": summary.best_constant_loss,
        "best linear": summary.best_linear_loss,
        "best possible": summary.best_possible_loss,
    }
    return [
        f"{name:<13}  loss {loss_text(loss.value)}  rmse {loss.rmse:.6g}  ({loss.scored_on})"
        for name, loss in losses.items()
        if loss is not None and loss.value is not None
    ]


def intervals(summary: Summary, *, timings: bool = True) -> str:
    """Return the method of the intervals, and with `timings` the repeats behind the speeds."""
    trials = summary.trials or 1
    repeats = max((cell.rows_per_second.n for cell in summary.cells), default=0)
    method = "1 run, none"
    if trials > 1:
        name = "Student" if trials < BOOTSTRAP_FROM else "bootstrap"
        fresh = " with fresh seeds" if summary.fresh_seeds else ""
        method = f"{name} over {trials} trials{fresh}"
    timed = f"; rows/s: {repeats} timing repeats" if timings and repeats > 1 else ""
    return f"95 % intervals  {method}{timed}"


def order_note(summary: Summary) -> str:
    """Return why a size with a shorter time is called slower; "" where none is.

    Times are to the target itself; `slower_by` is over several losses near it
    (`science.contest.levels`).
    """
    seconds = {cell.batch_size: cell.seconds_to_target.value for cell in summary.cells}
    chosen = seconds.get(summary.recommendation.batch_size or 0)
    if summary.goal != "time-to-loss" or chosen is None:
        return ""
    if not any(
        (cell.slower_by.value or 0) > 0 and (seconds[cell.batch_size] or chosen) < chosen
        for cell in summary.cells
    ):
        return ""
    return (
        f"`slower by` is an average over the losses from the target to {100 * LEVELS_WIDTH:g} %"
        " above it, so its order can differ from that of the times."
    )


def render_markdown(analysis: Analysis) -> str:
    """Return `report.md`: the answer, the table, the warnings and the run itself."""
    summary = analysis.summary
    parts = [
        "# streamtrain report",
        summary.sentence,
        *_next_command(summary, quote="`"),
        *([f"Why: {summary.recommendation.reason}"] if summary.verb == "sweep" else []),
        as_markdown(answer_table(summary)),
        _bullets(filter(None, [*references(summary), intervals(summary), order_note(summary)])),
        *summary.why,
    ]
    facts = {
        "Throughput": speed_facts(analysis),
        "Workers": worker_facts(summary.workers),
        "Sizes to know": landmark_facts(analysis),
        "Measured": measure_facts(summary.measures),
    }
    for heading, pairs in facts.items():
        if pairs:
            parts.append(f"## {heading}\n\n{_bullets(f'{name}: {text}' for name, text in pairs)}")
    parts.append(f"## Every size\n\n{markdown_table(summary)}")
    if summary.frontier and summary.verb == "sweep":
        parts.append(f"## The best size for each loss\n\n{as_markdown(frontier_table(summary))}")
    if confirmed := confirmation_rows(summary):
        parts += [_confirmed_table(confirmed), confirmation_note(summary)]
    if summary.warnings:
        parts.append(f"## Warnings\n\n{_bullets(map(_warning_text, summary.warnings))}")
    if summary.data.notices:
        parts.append(f"## Noticed in the data\n\n{_bullets(summary.data.notices)}")
    run_facts = [
        ("url", summary.data.url),
        ("fingerprint", summary.data.fingerprint),
        *integrity_facts(summary),
        *cost_facts(summary),
        ("command", summary.command),
    ]
    lines = "\n".join(f"    {name}: {text}" for name, text in run_facts)
    text = "\n\n".join([*parts, "## This run", lines]) + "\n"
    # no HTML and no link or picture comes from a name
    return text.replace("<", "&lt;").replace("](", "]\\(")


def _next_command(summary: Summary, quote: str = "") -> list[str]:
    command = summary.recommendation.command
    if command is None:
        return []
    return [f"Next: {quote}{command}{quote}", *filter(None, [next_note(summary)])]


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def markdown_table(summary: Summary) -> str:
    """Return the table of every size's speed and loss as Markdown."""
    return as_markdown([headings(summary), *(row_texts(summary, cell) for cell in summary.cells)])


def as_markdown(table: Sequence[Sequence[str]]) -> str:
    """Return a table, headings first, as Markdown; its first column is aligned to the right."""
    first, *rows = (
        "| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in table
    )
    return "\n".join([first, "|---:" + "|---" * (len(table[0]) - 1) + "|", *rows])


def _confirmed_table(rows: Sequence[Sequence[str]]) -> str:
    lines = [
        "## Confirmation",
        "",
        "| batch | predicted | measured from start to end | measured / predicted |",
        "|---:|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines)


def _warning_text(warning: ReportWarning) -> str:
    return f"{warning.text} `{warning.flag}`" if warning.flag else warning.text


def flat_rows(summary: Summary) -> list[Mapping[str, Any]]:
    """Return one flat row per cell for `summary.csv`, with every digit.

    Every figure has the columns `name`, `name_lo`, `name_hi` and `name_n`.
    """
    return [_flat(cell) for cell in summary.cells]


def _flat(cell: CellFigures) -> dict[str, Any]:
    row: dict[str, Any] = {"batch_size": cell.batch_size, "lr": cell.lr, "status": cell.status}
    for name in _FIGURES:
        figure: Estimate = getattr(cell, name)
        row |= {name: figure.value, f"{name}_lo": figure.lo, f"{name}_hi": figure.hi}
        row[f"{name}_n"] = figure.n
    return row
