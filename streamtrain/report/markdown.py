"""The result as text: an aligned table with its sentence, the same as Markdown, and flat rows for
CSV.
"""

from collections.abc import Mapping
from typing import Any

from streamtrain.base.units import format_count
from streamtrain.report.number_format import (
    NOTHING,
    loss_figure_text,
    loss_text,
    rate_text,
    seconds_text,
    share_text,
    size_text,
    speed_text,
    target_word,
)
from streamtrain.report.text.advice import INPUT_BOUND
from streamtrain.report.text.captions import confirmation_note
from streamtrain.report.text.facts import (
    confirmation_rows,
    cost_facts,
    integrity_facts,
    landmark_facts,
    measure_facts,
    speed_facts,
)
from streamtrain.report.workers import worker_facts
from streamtrain.science.intervals import BOOTSTRAP_FROM

Summary = Mapping[str, Any]
_FIGURES = (
    "rows_per_second",
    "holdout_loss",
    "holdout_rmse",
    "holdout_loss_at_steps",
    "holdout_loss_at_seconds",
    "steps_to_target",
    "rows_to_target",
    "seconds_to_target",
    "wait_fraction",
)
_REFERENCES = (
    ("best constant", "best_constant_loss"),
    ("best linear", "best_linear_loss"),
    ("best possible", "best_possible_loss"),
)


def render_table(summary: Summary) -> str:
    """The table of cells, the losses to compare with, and the one-sentence answer, as plain text
    without colour.

    Batch sizes and rates are exact; other figures are rounded for reading (`summary.json` has every
    digit).
    """
    table = [headings(summary), *(row_texts(summary, cell) for cell in summary["cells"])]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    right = {0, 5}  # batch sizes and waits
    lines = [
        "  ".join(
            text.rjust(widths[at]) if at in right else text.ljust(widths[at])
            for at, text in enumerate(row)
        ).rstrip()
        for row in table
    ]
    return "\n".join(
        [*lines, "", *references(summary), intervals(summary), "", summary["sentence"]]
    )


def headings(summary: Summary) -> list[str]:
    """The headings of the table's columns."""
    rows, target = summary["holdout_loss_at_rows"], summary["target_loss"]
    return [
        "batch",
        "lr",
        "rows/s [95 %]",
        "held-out loss" if rows is None else f"loss at {_rows_text(rows)} rows",
        "to target" if target is None else f"to loss ≤ {target_word(target)}",
        "waits",
        "verdict",
    ]


def row_texts(summary: Summary, cell: Mapping[str, Any]) -> list[str]:
    """One cell as the texts of the table's columns."""
    return [
        size_text(cell["batch_size"]),
        rate_text(cell["lr"]),
        speed_text(cell["rows_per_second"]),
        loss_figure_text(cell["holdout_loss"]),
        target_text(summary, cell),
        share_text(cell["wait_fraction"]),
        verdict_text(summary, cell),
    ]


def target_text(summary: Summary, cell: Mapping[str, Any]) -> str:
    """Seconds to the target, or the status: an unreached target stays in the table."""
    if cell["status"] == "reached":
        return (
            seconds_text(cell["seconds_to_target"])
            if cell["seconds_to_target"]["value"] is not None
            else "reached, not timed"
        )
    if cell["status"] == "not_reached" and (n := cell["steps_to_target"]["n"]):
        known = (
            f", median {seconds_text(cell['seconds_to_target'])}"
            if cell["seconds_to_target"]["value"] is not None
            else ""
        )
        return f"{n} {'trial' if n == 1 else 'trials'} only{known}"
    return (
        NOTHING
        if summary["target_loss"] is None and cell["status"] == "not_reached"
        else cell["status"].replace("_", " ")
    )


def verdict_text(summary: Summary, cell: Mapping[str, Any]) -> str:
    """`recommended`, `as good`, `undecided`, `slower`, or why the size is out; and whether it waits
    for rows: `slower, input-bound`.
    """
    recommendation = summary["recommendation"]
    bound = (
        cell["status"] in ("reached", "not_reached")
        and (cell["wait_fraction"]["value"] or 0) > INPUT_BOUND
    )
    if summary["verb"] == "train" and cell["status"] in ("reached", "not_reached"):
        return "input-bound" if bound else "trained"
    if cell["batch_size"] == recommendation["batch_size"]:
        if len(summary["cells"]) == 1:
            return "the only size"
        return "recommended" if recommendation["conclusive"] else "recommended (inconclusive)"
    if cell["batch_size"] in recommendation["equivalent"]:
        return "as good"
    if recommendation["batch_size"] is None or cell["status"] != "reached":
        verdict = cell["status"].replace("_", " ")
    else:
        verdict = "undecided" if cell["batch_size"] in recommendation["undecided"] else "slower"
    return verdict + (", input-bound" if bound else "")


def references(summary: Summary) -> list[str]:
    """One line each for the best constant, the best linear and the best possible model, where
    known.
    """
    known = [
        (name, summary[key])
        for name, key in _REFERENCES
        if summary[key] and summary[key]["value"] is not None
    ]
    return [
        f"{name:<13}  loss {loss_text(one['value'])}  rmse {one['rmse']:.6g}  ({one['scored_on']})"
        for name, one in known
    ]


def intervals(summary: Summary) -> str:
    """How the table's intervals were had, and from how many repeats."""
    trials, repeats = (
        summary["trials"] or 1,
        max((cell["rows_per_second"]["n"] for cell in summary["cells"]), default=0),
    )
    fresh = " with fresh seeds" if summary["fresh_seeds"] else ""
    of = (
        f"{'Student' if trials < BOOTSTRAP_FROM else 'bootstrap'} over {trials} trials{fresh}"
        if trials > 1
        else "1 run, none"
    )
    return f"95 % intervals  {of}" + (f"; rows/s: {repeats} timing repeats" if repeats > 1 else "")


def render_markdown(summary: Summary) -> str:
    """`report.md`: the answer, the table, the warnings and what was run."""
    parts = [
        "# streamtrain report",
        summary["sentence"],
        f"Why: {summary['recommendation']['reason']}",
        markdown_table(summary),
    ]
    parts.append("\n".join(f"- {line}" for line in [*references(summary), intervals(summary)]))
    parts += summary["why"]
    told = {
        "Throughput": speed_facts,
        "Workers": worker_facts,
        "Sizes to know": landmark_facts,
        "Measured": measure_facts,
    }
    for heading, pairs in ((heading, facts(summary)) for heading, facts in told.items()):
        if pairs:
            parts.append(
                "\n".join([f"## {heading}", "", *(f"- {name}: {text}" for name, text in pairs)])
            )
    if confirmed := confirmation_rows(summary):
        parts += [_confirmed_table(confirmed), confirmation_note(summary)]
    if summary["warnings"]:
        parts.append(
            "\n".join(
                ["## Warnings", "", *(_warning_line(warning) for warning in summary["warnings"])]
            )
        )
    data = summary["data"]
    facts = [f"{name}: {data.get(name)}" for name in ("url", "fingerprint")]
    facts += [
        f"{name}: {text}" for name, text in [*integrity_facts(summary), *cost_facts(summary)]
    ] + [f"command: {summary['command']}"]
    return "\n\n".join([*parts, "## This run", "\n".join(f"    {fact}" for fact in facts)]) + "\n"


def markdown_table(summary: Summary) -> str:
    """The table as Markdown."""
    rows = [headings(summary), *(row_texts(summary, cell) for cell in summary["cells"])]
    lines = ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows]
    return "\n".join([lines[0], "|---:|---|---|---|---|---:|---|", *lines[1:]])


def _confirmed_table(rows: list[tuple[str, str, str, str]]) -> str:
    lines = [
        "| batch | predicted | measured from end to end | measured / predicted |",
        "|---:|---|---|---|",
    ]
    return "\n".join(["## Confirmation", "", *lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _warning_line(warning: Mapping[str, Any]) -> str:
    return f"- {warning['text']}" + (f" `{warning['flag']}`" if warning["flag"] else "")


def flat_rows(summary: Summary) -> list[dict[str, Any]]:
    """One flat dict a cell for `summary.csv`.

    `name`, `name_lo`, `name_hi`, `name_n` for every figure, full digits.
    """
    return [_flat(cell) for cell in summary["cells"]]


def _flat(cell: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: cell[name] for name in ("batch_size", "lr", "status")}
    for name in _FIGURES:
        row |= {name: cell[name]["value"]} | {
            f"{name}_{part}": cell[name][part] for part in ("lo", "hi", "n")
        }
    return row


def _rows_text(rows: int) -> str:
    """Exact where short, else three digits: `100M`, `2.1M`, `1,024`."""
    return f"{rows:,}" if rows < 1_000_000 else format_count(rows).replace(" ", "")
