"""The result as text: an aligned table with the answer, a Markdown report, flat rows for CSV."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from streamtrain.base.units import format_count
from streamtrain.base.words import plural
from streamtrain.report.analysis import Analysis, Summary, is_trained
from streamtrain.report.number_format import (
    NOTHING,
    loss_figure_text,
    loss_text,
    rate_text,
    seconds_text,
    share_text,
    size_text,
    speed_text,
    status_text,
    target_word,
)
from streamtrain.report.summary_parts import CellFigures, ReportWarning
from streamtrain.report.text.advice import INPUT_BOUND
from streamtrain.report.text.captions import confirmation_note
from streamtrain.report.text.facts import (
    confirmation_rows,
    landmark_facts,
    measure_facts,
    speed_facts,
)
from streamtrain.report.text.run_facts import cost_facts, integrity_facts
from streamtrain.report.workers import worker_facts
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
#: Columns of the table that are aligned to the right: batch sizes and waits.
_RIGHT_ALIGNED = {0, 5}


def render_table(document: Json) -> str:
    """Return a `summary.json` as plain text: the table, the reference losses and the answer.

    Batch sizes and learning rates are exact; other figures are rounded for reading (`summary.json`
    has every digit).
    """
    summary = Summary.from_json(document)
    table = _texts(summary)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [_aligned(row, widths) for row in table]
    answer = [summary.sentence, *_next_command(summary)]
    return "\n".join([*lines, "", *references(summary), intervals(summary), "", *answer])


def _texts(summary: Summary) -> list[list[str]]:
    """Return the table row by row, headings first."""
    return [headings(summary), *(row_texts(summary, cell) for cell in summary.cells)]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    columns = [
        text.rjust(width) if index in _RIGHT_ALIGNED else text.ljust(width)
        for index, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(columns).rstrip()


def headings(summary: Summary) -> list[str]:
    """Return the headings of the table's columns."""
    rows, target = summary.holdout_loss_at_rows, summary.target_loss
    return [
        "batch",
        "lr",
        "rows/s [95 %]",
        "held-out loss" if rows is None else f"loss at {_rows_text(rows)} rows",
        "to target" if target is None else f"to loss ≤ {target_word(target)}",
        "waits",
        "verdict",
    ]


def row_texts(summary: Summary, cell: CellFigures) -> list[str]:
    """Return one cell as the texts of the table's columns."""
    return [
        size_text(cell.batch_size),
        rate_text(cell.lr),
        speed_text(cell.rows_per_second),
        loss_figure_text(cell.holdout_loss),
        target_text(summary.target_loss, cell),
        share_text(cell.wait_fraction),
        verdict_text(summary, cell),
    ]


def target_text(target: float | None, cell: CellFigures) -> str:
    """Return the seconds to the target loss, or the status: a missed target stays in the table."""
    seconds, is_timed = cell.seconds_to_target, cell.seconds_to_target.value is not None
    if cell.status == "reached":
        return seconds_text(seconds) if is_timed else "reached, not timed"
    if cell.status == "not_reached" and cell.steps_to_target.n:
        median = f", median {seconds_text(seconds)}" if is_timed else ""
        return f"{plural(cell.steps_to_target.n, 'trial')} only{median}"
    if cell.status == "not_reached" and target is None:
        return NOTHING
    return status_text(cell.status)


def verdict_text(summary: Summary, cell: CellFigures) -> str:
    """Return `recommended`, `as good`, `slower`, `undecided`, or why it was not compared.

    A size that waits for rows is marked: `slower, input-bound`.
    """
    recommendation = summary.recommendation
    is_bound = is_trained(cell.status) and (cell.wait_fraction.value or 0) > INPUT_BOUND
    if summary.verb == "train" and is_trained(cell.status):
        return "input-bound" if is_bound else "trained"
    if cell.batch_size == recommendation.batch_size:
        if len(summary.cells) == 1:
            return "the only size"
        return "recommended" if recommendation.settled else "recommended (not settled)"
    if cell.batch_size in recommendation.equivalent:
        return "as good"
    if recommendation.batch_size is None or cell.status != "reached":
        verdict = status_text(cell.status)
    else:
        verdict = "slower" if (cell.slower_by.lo or 0.0) > 0 else "undecided"
    return f"{verdict}, input-bound" if is_bound else verdict


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


def intervals(summary: Summary) -> str:
    """Return the method of the table's intervals and the number of repeats."""
    trials = summary.trials or 1
    repeats = max((cell.rows_per_second.n for cell in summary.cells), default=0)
    method = "1 run, none"
    if trials > 1:
        name = "Student" if trials < BOOTSTRAP_FROM else "bootstrap"
        fresh = " with fresh seeds" if summary.fresh_seeds else ""
        method = f"{name} over {trials} trials{fresh}"
    timings = f"; rows/s: {repeats} timing repeats" if repeats > 1 else ""
    return f"95 % intervals  {method}{timings}"


def render_markdown(analysis: Analysis) -> str:
    """Return `report.md`: the answer, the table, the warnings and the run itself."""
    summary = analysis.summary
    parts = [
        "# streamtrain report",
        summary.sentence,
        *_next_command(summary, quote="`"),
        f"Why: {summary.recommendation.reason}",
        markdown_table(summary),
        _bullets([*references(summary), intervals(summary)]),
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
    if confirmed := confirmation_rows(summary):
        parts += [_confirmed_table(confirmed), confirmation_note(summary)]
    if summary.warnings:
        parts.append(f"## Warnings\n\n{_bullets(map(_warning_text, summary.warnings))}")
    run_facts = [
        ("url", summary.data.url),
        ("fingerprint", summary.data.fingerprint),
        *integrity_facts(summary),
        *cost_facts(summary),
        ("command", summary.command),
    ]
    lines = "\n".join(f"    {name}: {text}" for name, text in run_facts)
    return "\n\n".join([*parts, "## This run", lines]) + "\n"


def _next_command(summary: Summary, quote: str = "") -> list[str]:
    command = summary.recommendation.command
    return [] if command is None else [f"Next: {quote}{command}{quote}"]


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def markdown_table(summary: Summary) -> str:
    """Return the table as Markdown."""
    lines = [
        "| " + " | ".join(text.replace("|", "\\|") for text in row) + " |"
        for row in _texts(summary)
    ]
    return "\n".join([lines[0], "|---:|---|---|---|---|---:|---|", *lines[1:]])


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


def _rows_text(rows: int) -> str:
    """Return a number of rows, at three digits from a million on: `100M`, `2.1M`, `1,024`."""
    return f"{rows:,}" if rows < 1_000_000 else format_count(rows).replace(" ", "")
