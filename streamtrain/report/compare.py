"""Two runs side by side: how each figure changed from A to B, for every batch size of both.

Runs on the same rows in the same order are paired trial by trial; others are independent samples.
Timings are never paired. Every change has a 95 % interval.
"""

import math
import statistics
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from streamtrain.base.units import format_count
from streamtrain.errors import DataError
from streamtrain.report.analysis import Summary, is_trained
from streamtrain.report.number_format import NOTHING, size_text, status_text, target_word
from streamtrain.report.summary import analyze
from streamtrain.science.cells import Cell, losses_at, rows_in_common, seconds_to_target, throughput
from streamtrain.science.intervals import independent_ratio, paired_ratio
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
_SAME_ORDER = ("order", "eval", "data")


class Sample(NamedTuple):
    """The values of one figure by trial, or by timing repeat where they cannot be paired."""

    values: Mapping[int, float]
    paired: bool


def compare(a: Run, b: Run) -> Json:
    """Return the change from A to B as a document, ready for strict JSON.

    Each figure of a size is `{change, lo, hi, a, b, verdict}`. `change` is B/A − 1, and None where
    one of the two has no value. `verdict` is `better` or `worse` where the interval excludes 0,
    `undecided` where it includes 0, `missing` (only A has a value), `gained` (only B has one) or
    `none` (neither has one). Held-out losses are compared at the largest row that both evaluated,
    seconds at A's target. Raises DataError when the runs share no batch size.
    """
    shared = [size for size in a.batch_sizes if size in b.batch_sizes]
    if not shared:
        raise DataError(
            f"no batch size is in both runs: {_sizes(a)} and {_sizes(b)}. Compare runs that have a"
            " size in common."
        )
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
    pairs = paired(a, b) and any(
        in_pairs(cells_a[size].curves, cells_b[size].curves) for size in shared
    )
    return {
        "schema_version": 1,
        "paired": pairs,
        "target_loss": target,
        "holdout_loss_at_rows": rows,
        "sides": [_side(analysis_a.summary), _side(analysis_b.summary)],
        "changed": changed_keys(a.header.config, b.header.config),
        "same_data": _fingerprint(a) == _fingerprint(b),
        "only_in_a": [size for size in a.batch_sizes if size not in shared],
        "only_in_b": [size for size in b.batch_sizes if size not in shared],
        "cells": [_cell(a, b, cells_a[size], cells_b[size], rows, pairs) for size in shared],
    }


def paired(a: Run, b: Run) -> bool:
    """True when trial n of both runs read the same rows in the same order.

    The hold-out must be the same too.
    """
    config_a, config_b = a.header.config, b.header.config
    same_order = all(
        _without_path(config_a.get(name)) == _without_path(config_b.get(name))
        for name in _SAME_ORDER
    )
    return same_order and _fingerprint(a) == _fingerprint(b) is not None


def in_pairs(a: Collection[int], b: Collection[int]) -> list[int]:
    """Return the trials of both runs.

    There are none where the runs share one trial of several: all of them as independent samples say
    more then.

    >>> in_pairs([3, 4, 5], [3, 4, 5, 6]), in_pairs([3, 4, 5], [2, 3]), in_pairs([0], [0, 1])
    ([3, 4, 5], [], [0])
    """
    shared = sorted(set(a) & set(b))
    return shared if len(shared) > 1 or min(len(a), len(b)) == 1 else []


def changed_keys(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Json]:
    """Return the dotted keys of two configs whose values differ, as `{key, a, b}`."""
    leaves_a, leaves_b = dict(_leaves(a)), dict(_leaves(b))
    return [
        {"key": key, "a": leaves_a.get(key), "b": leaves_b.get(key)}
        for key in dict.fromkeys([*leaves_a, *leaves_b])
        if leaves_a.get(key) != leaves_b.get(key)
    ]


def verdict_words(cell: Mapping[str, Any]) -> str:
    """Return `faster, higher loss`, `no difference shown` or `diverged in B`."""
    status_a, status_b = cell["status"]
    if status_a != status_b and not (is_trained(status_a) and is_trained(status_b)):
        return ", ".join(
            f"{status_text(status)} in {side}"
            for side, status in (("A", status_a), ("B", status_b))
            if not is_trained(status)
        )
    words = [_word(name, cell[name]) for name in HEADLINES]
    return ", ".join(filter(None, words)) or "no difference shown"


def render_comparison(document: Mapping[str, Any], names: tuple[str, str]) -> str:
    """Return a comparison as plain text: both runs, the changed settings, the table, remarks."""
    sides = "\n".join(
        f"{letter}  {name}: {side['sentence']}"
        for letter, name, side in zip("AB", names, document["sides"], strict=True)
    )
    changed = "\n".join(
        f"changed  {item['key']}: {item['a']} → {item['b']}" for item in document["changed"]
    )
    samples = "paired trial by trial" if document["paired"] else "of independent trials"
    method = f"Changes from A to B with 95 % intervals; losses {samples}."
    parts = (sides, changed, _table(document), method, "\n".join(remarks(document)))
    return "\n\n".join(filter(None, parts))


def _table(document: Mapping[str, Any]) -> str:
    rows, target = document["holdout_loss_at_rows"], document["target_loss"]
    loss = "held-out loss"
    if rows is not None:
        loss = f"loss at {format_count(rows).replace(' ', '')} rows"
    time = "to target" if target is None else f"to loss ≤ {target_word(target)}"
    lines = [["batch", "rows/s", loss, time, "verdict"]]
    for cell in document["cells"]:
        changes = [change_text(cell[name]) for name in HEADLINES]
        lines.append([size_text(cell["batch_size"]), *changes, cell["verdict"]])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_aligned(line, widths) for line in lines)


def _aligned(line: list[str], widths: list[int]) -> str:
    columns = [text.ljust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
    return "  ".join([line[0].rjust(widths[0]), *columns]).rstrip()


def remarks(document: Mapping[str, Any]) -> list[str]:
    """Return what to know before relying on the changes."""
    lines = []
    if not document["same_data"]:
        lines.append("warning: the runs read different data: their losses are of different rows.")
    if document["sides"][0]["machine"] != document["sides"][1]["machine"]:
        lines.append("warning: the runs are of different machines: rows/s compares those too.")
    for letter in "ab":
        if sizes := document[f"only_in_{letter}"]:
            lines.append(f"only in {letter.upper()}: {', '.join(map(size_text, sizes))}")
    return lines


def change_text(figure: Mapping[str, Any]) -> str:
    """Return a change with its interval, in percent.

    >>> change_text({"change": 0.0312, "lo": -0.01, "hi": 0.075, "verdict": "undecided"})
    '+3.1 % [-1.0, +7.5]'
    >>> change_text({"change": None, "lo": None, "hi": None, "verdict": "missing"})
    'no value in B'
    >>> change_text({"change": 0.5, "lo": -0.99, "hi": 2e13, "verdict": "undecided"})
    '+50.0 % [-99.0, +2.0e+15]'
    """
    if figure["change"] is None:
        missing = {"missing": "no value in B", "gained": "no value in A"}
        return missing.get(figure["verdict"], NOTHING)
    text = f"{_percent(figure['change'])} %"
    if figure["lo"] is None:
        return text
    return f"{text} [{_percent(figure['lo'])}, {_percent(figure['hi'])}]"


def _percent(change: float) -> str:
    percent = 100 * change
    if abs(percent) < 100:
        return f"{percent:+.1f}"
    return f"{percent:+,.0f}" if abs(percent) < 1e6 else f"{percent:+.1e}"


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


def _cell(a: Run, b: Run, cell_a: Cell, cell_b: Cell, rows: int | None, pairs: bool) -> Json:
    samples_a, samples_b = dict(_samples(a, cell_a, rows)), dict(_samples(b, cell_b, rows))
    cell = {
        "batch_size": cell_a.batch_size,
        "lr": [cell_a.lr, cell_b.lr],
        "status": [cell_a.status, cell_b.status],
        **{name: _change(samples_a[name], samples_b[name], pairs, name) for name in FIGURES},
    }
    return cell | {"verdict": verdict_words(cell)}


def _samples(run: Run, cell: Cell, rows: int | None) -> Iterator[tuple[str, Sample]]:
    """Yield the sample of each figure; losses are those at `rows`."""
    speeds, _ = throughput(run, cell.batch_size)
    yield "rows_per_second", Sample(dict(enumerate(speeds)), paired=False)
    evaluated = [
        trial for trial, curve in cell.curves.items() if curve.finished and rows in curve.rows
    ]
    for name in ("holdout_loss", "holdout_rmse"):
        losses = losses_at(cell, rows, name) if run.has_holdout else []
        by_trial = dict(zip(evaluated, losses, strict=True)) if losses else {}
        yield name, Sample(by_trial, paired=True)
    to_target = {
        "seconds_to_target": seconds_to_target(run, cell),
        "rows_to_target": cell.rows_to_target,
        "steps_to_target": cell.steps_to_target,
    }
    for name, by_trial in to_target.items():
        yield name, Sample(by_trial if cell.status == "reached" else {}, paired=True)


def _change(a: Sample, b: Sample, pairs: bool, name: str) -> Json:
    values_a, values_b = _positive(a.values), _positive(b.values)
    figure: Json = {
        "a": _median(values_a),
        "b": _median(values_b),
        "change": None,
        "lo": None,
        "hi": None,
    }
    if not values_a or not values_b:
        verdict = "gained" if values_b else "none"
        return figure | {"verdict": "missing" if values_a else verdict}
    trials = in_pairs(values_a, values_b) if pairs and a.paired else []
    if trials:
        ratio = paired_ratio(
            [values_b[trial] for trial in trials], [values_a[trial] for trial in trials]
        )
    else:
        ratio = independent_ratio(list(values_b.values()), list(values_a.values()))
    value, lo, hi = ratio.value or 0.0, ratio.lo, ratio.hi
    figure["change"] = value - 1
    if lo is None or hi is None:
        return figure | {"verdict": "undecided"}
    is_better = (value > 1) == FIGURES[name].more_is_better
    verdict = "better" if is_better else "worse"
    return figure | {
        "lo": lo - 1,
        "hi": hi - 1,
        "verdict": "undecided" if lo <= 1 <= hi else verdict,
    }


def _positive(values: Mapping[int, float]) -> dict[int, float]:
    """Return the values that are positive and finite."""
    return {
        trial: value
        for trial, value in values.items()
        if value and value > 0 and not math.isinf(value)
    }


def _median(values: Mapping[int, float]) -> float | None:
    return statistics.median(values.values()) if values else None


def _side(summary: Summary) -> Json:
    return {
        "version": summary.version,
        "command": summary.command,
        "sentence": summary.sentence,
        "machine": [summary.env.get(name) for name in ("cpu", "cores")],
    }


def _sizes(run: Run) -> str:
    sizes = run.batch_sizes
    return ", ".join(map(size_text, sizes[:8])) + (" …" if len(sizes) > 8 else "")


def _fingerprint(run: Run) -> str | None:
    return run.header.data.fingerprint


def _without_path(values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    return {key: value for key, value in values.items() if key != "path"}


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
