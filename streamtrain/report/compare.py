"""Two runs side by side: as wholes, and how each figure changed for every batch size of both.

Runs on the same rows in the same order are paired trial by trial; others are independent samples.
Timings are never paired. Every change has a 95 % interval.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from streamtrain.base.units import format_count
from streamtrain.base.words import aligned
from streamtrain.config import with_holdout_seed
from streamtrain.report.analysis import Summary, is_trained
from streamtrain.report.change import change, change_text, in_pairs, samples
from streamtrain.report.compare_whole import compare_wholes, whole_cell, whole_table
from streamtrain.report.number_format import size_text, status_text, target_word
from streamtrain.report.summary import analyze
from streamtrain.science.cells import Cell, rows_in_common
from streamtrain.science.judge import arm_cells
from streamtrain.science.run_log import Run
from streamtrain.types import Json


class FigureWords(NamedTuple):
    """How a change of a figure is called, and whether an increase is an improvement."""

    fell: str
    rose: str
    more_is_better: bool


#: The compared figures, in the order in which they are shown.
FIGURES = {
    "rows_per_second": FigureWords("slower", "faster", True),
    "holdout_loss": FigureWords("lower loss", "higher loss", False),
    "seconds_to_target": FigureWords("sooner", "later", False),
    "holdout_rmse": FigureWords("lower RMSE", "higher RMSE", False),
    "rows_to_target": FigureWords("fewer rows", "more rows", False),
    "steps_to_target": FigureWords("fewer steps", "more steps", False),
}
#: The figures that the table shows and whose words make the verdict; the others follow from them.
HEADLINES = ("rows_per_second", "holdout_loss", "seconds_to_target")
#: Sections of the config that runs must share for their trials to see the same rows in the same
#: order.
_ORDER = ("order.", "eval.", "data.")
#: Settings that the text does not show: the table of the wholes has the first two.
_IN_TABLE = ("train.batch_size", "train.lr")


def compare(a: Run, b: Run) -> Json:
    """Return the change from A to B as a document, ready for strict JSON.

    Each figure of a size is `{change, lo, hi, a, b, verdict}`. `change` is B/A − 1, and None where
    one of the two has no value. `verdict` is `better` or `worse` where the interval excludes 0,
    `undecided` where it includes 0, `missing` (only A has a value), `gained` (only B has one) or
    `none` (neither has one). Held-out losses are compared at the largest row that both evaluated,
    seconds at A's target. `cells` has the sizes of both runs; for the keys about the runs as wholes
    see `compare_wholes`.
    """
    shared = [size for size in a.batch_sizes if size in b.batch_sizes]
    if a.stages != b.stages and max(len(a.stages), len(b.stages)) > 1:
        shared = []  # figures of a size that changes are not those of its first size
    analysis_a, analysis_b = analyze(a), analyze(b)
    target = analysis_a.summary.target_loss
    cells_a = {cell.batch_size: cell for cell in analysis_a.cells}
    cells_b = {cell.batch_size: cell for cell in arm_cells(b, b.rules[0], target)}
    trained = [
        cells[size]
        for cells in (cells_a, cells_b)
        for size in shared
        if is_trained(cells[size].status)
    ]
    rows = rows_in_common(trained)
    whole_a = whole_cell(analysis_a, list(cells_a.values()))
    whole_b = whole_cell(analysis_b, list(cells_b.values()))
    couples = [(cells_a[size], cells_b[size]) for size in shared]
    pairs = paired(a, b) and any(
        in_pairs(cell_a.curves, cell_b.curves)
        for cell_a, cell_b in [*couples, (whole_a, whole_b)]
        if cell_a is not None and cell_b is not None
    )
    wholes = compare_wholes(((a, whole_a), (b, whole_b)), pairs=pairs, target=target)
    is_comparable = wholes["incomparable"] is None
    return {
        "schema_version": 1,
        **wholes,
        "paired": pairs,
        "target_loss": target,
        "holdout_loss_at_rows": rows,
        "sides": [_side(analysis_a.summary), _side(analysis_b.summary)],
        "changed": changed_keys(a.header.config, b.header.config),
        "same_data": _fingerprint(a) == _fingerprint(b),
        "only_in_a": [size for size in a.batch_sizes if size not in shared],
        "only_in_b": [size for size in b.batch_sizes if size not in shared],
        "cells": [
            cell | {"verdict": verdict_words(cell, is_comparable=is_comparable)}
            for cell in (_figures(a, b, *couple, rows, pairs) for couple in couples)
        ],
    }


def paired(a: Run, b: Run) -> bool:
    """True when trial n of both runs read the same rows in the same order.

    The hold-out must be the same too.
    """
    changed = (item["key"] for item in changed_keys(a.header.config, b.header.config))
    other_order = any(key.startswith(_ORDER) and key != "data.path" for key in changed)
    return not other_order and _fingerprint(a) == _fingerprint(b) is not None


def changed_keys(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Json]:
    """Return the dotted keys of two configs whose values differ, as `{key, a, b}`."""
    leaves_a, leaves_b = (with_holdout_seed(dict(_leaves(config))) for config in (a, b))
    return [
        {"key": key, "a": leaves_a.get(key), "b": leaves_b.get(key)}
        for key in dict.fromkeys([*leaves_a, *leaves_b])
        if leaves_a.get(key) != leaves_b.get(key)
    ]


def verdict_words(cell: Mapping[str, Any], *, is_comparable: bool = True) -> str:
    """Return `faster, higher loss`, `no difference shown`, `not comparable` or `diverged in B`."""
    status_a, status_b = cell["status"]
    if status_a != status_b and not (is_trained(status_a) and is_trained(status_b)):
        return ", ".join(
            f"{status_text(status)} in {side}"
            for side, status in (("A", status_a), ("B", status_b))
            if not is_trained(status)
        )
    if not is_comparable:
        return "not comparable"
    words = [_word(name, cell[name]) for name in HEADLINES]
    return ", ".join(filter(None, words)) or "no difference shown"


def render_comparison(document: Mapping[str, Any], names: tuple[str, str]) -> str:
    """Return a comparison as plain text: the answer, the runs as wholes, settings, every size.

    Two paths of the same data are no change: `train --from` makes the path of a sweep absolute.
    """
    side_a, side_b = document["sides"]
    changed = "\n".join(
        f"changed  {item['key']}: {_value(item['a'])} → {_value(item['b'])}"
        for item in document["changed"]
        if item["key"] not in _IN_TABLE
        and not (item["key"] == "data.path" and document["same_data"])
        and not (item["key"].startswith("sweep.") and side_a["verb"] != side_b["verb"])
    )
    samples = "paired trial by trial" if document["paired"] else "of independent trials"
    method = (
        f"Changes from A to B with 95 % intervals; losses {samples}.\nValues are medians; changes"
        " are of geometric means, or of medians from 10 values on."
    )
    parts = (
        document["answer"],
        aligned(whole_table(document, names)),
        changed,
        _table(document) if document["cells"] else "",
        method,
        "\n".join(remarks(document)),
    )
    return "\n\n".join(filter(None, parts))


def _value(setting: Any) -> str:
    """Return the value of a setting as a flag takes it."""
    if isinstance(setting, list):
        return ",".join(map(str, setting))
    return "not set" if setting is None else str(setting)


def _table(document: Mapping[str, Any]) -> str:
    rows, target = document["holdout_loss_at_rows"], document["target_loss"]
    loss = "held-out loss"
    if rows is not None:
        loss = f"loss at {format_count(rows).replace(' ', '')} rows"
    time = "to target" if target is None else f"to loss ≤ {target_word(target)}"
    lines = [["batch", "rows/s", loss, time, "verdict"]]
    for cell in document["cells"]:
        changes = [change_text(cell[name]) for name in HEADLINES]
        size = document["wholes"][0]["sizes"] or size_text(cell["batch_size"])
        lines.append([size, *changes, cell["verdict"]])
    return aligned(lines, right=frozenset({0}))


def remarks(document: Mapping[str, Any]) -> list[str]:
    """Return what to know before relying on the changes."""
    lines = []
    if document["sides"][0]["machine"] != document["sides"][1]["machine"]:
        lines.append("warning: the runs are of different machines: rows/s compares those too.")
    for letter, whole in zip("ab", document["wholes"], strict=True):
        if sizes := document[f"only_in_{letter}"]:
            text = whole["sizes"] or ", ".join(map(size_text, sizes))
            noun = "minibatch size" if len(sizes) == 1 else "minibatch sizes"
            lines.append(f"only in {letter.upper()}: {noun} {text}")
    return lines


def _word(name: str, figure: Mapping[str, Any]) -> str:
    """Return the word for a change, empty where none was shown."""
    match figure["verdict"]:
        case "better" | "worse":
            return FIGURES[name].rose if figure["change"] > 0 else FIGURES[name].fell
        case "missing" if name == "seconds_to_target":
            return "target not reached in B"
        case "gained" if name == "seconds_to_target":
            return "target reached in B only"
    return ""


def _figures(a: Run, b: Run, cell_a: Cell, cell_b: Cell, rows: int | None, pairs: bool) -> Json:
    """Return the rates, the statuses and the change of every figure of one size."""
    samples_a, samples_b = dict(samples(a, cell_a, rows)), dict(samples(b, cell_b, rows))
    changes = {
        name: change(
            samples_a[name], samples_b[name], pairs=pairs, more_is_better=words.more_is_better
        )
        for name, words in FIGURES.items()
    }
    return {
        "batch_size": cell_a.batch_size,
        "lr": [cell_a.lr, cell_b.lr],
        "status": [cell_a.status, cell_b.status],
        **changes,
    }


def _side(summary: Summary) -> Json:
    return {
        "verb": summary.verb,
        "target": summary.data.target,
        "version": summary.version,
        "command": summary.command,
        "sentence": summary.sentence,
        "machine": [summary.env.get(name) for name in ("cpu", "cores")],
    }


def _fingerprint(run: Run) -> str | None:
    return run.header.data.fingerprint


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
