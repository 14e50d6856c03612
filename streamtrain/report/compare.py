"""Two runs beside each other: for every batch size of both, the change of each figure from A to B
with its 95 % interval.

Runs on the same rows in the same order are paired trial by trial; others are independent samples.
Timings never pair.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from streamtrain.base.units import format_count
from streamtrain.errors import DataError
from streamtrain.report.analysis import Summary
from streamtrain.report.number_format import NOTHING, size_text, target_word
from streamtrain.report.summary import analyze
from streamtrain.science.cells import Cell, losses_at, rows_in_common, seconds_to_target, throughput
from streamtrain.science.intervals import independent_ratio, paired_ratio
from streamtrain.science.judge import arm_cells
from streamtrain.science.run_log import Run

Document = dict[str, Any]
#: Figure → (the word when it fell, the word when it rose, whether a rise is an improvement). Shown
#: in this order.
FIGURES = {
    "rows_per_second": ("slower", "faster", True),
    "holdout_loss": ("lower loss", "higher loss", False),
    "seconds_to_target": ("sooner", "later", False),
    "holdout_rmse": ("lower RMSE", "higher RMSE", False),
    "rows_to_target": ("fewer rows", "more rows", False),
    "steps_to_target": ("fewer steps", "more steps", False),
}
#: Those that the table shows, and whose words make the verdict; the others follow from them.
HEADLINES = ("rows_per_second", "holdout_loss", "seconds_to_target")
#: What runs must share, for their trials to see the same rows in the same order.
_SAME_ORDER = ("order", "eval", "data")


class Sample(NamedTuple):
    """The values of one figure: by trial where they have one, and the run's median as its summary
    would have it.
    """

    values: Mapping[int, float]
    paired: bool


def compare(a: Run, b: Run) -> Document:
    """The change from A to B, ready for strict JSON.

    Each figure of a size is `{change, lo, hi, a, b, verdict}`.

    `change` is B/A − 1; null where one of the two has no value. `verdict` is `better` or `worse`
    where the interval leaves out 0, `undecided` where it does not, `missing` (only A has a value),
    `gained` (only B), or `none` (neither). Held-out losses are compared at the largest row that
    both evaluated, seconds at A's target. Raises DataError when the runs share no batch size.
    """
    shared = [size for size in a.batch_sizes if size in b.batch_sizes]
    if not shared:
        raise DataError(
            f"no batch size is in both runs: {_sizes(a)} and {_sizes(b)}. Compare runs that have a"
            " size in common."
        )
    analyses = analyze(a), analyze(b)
    target = analyses[0].summary.target_loss
    cells = [
        {cell.batch_size: cell for cell in arm_cells(run, run.rules[0], target)} for run in (a, b)
    ]
    rows = rows_in_common(
        [
            cells[side][size]
            for side in (0, 1)
            for size in shared
            if cells[side][size].status in ("reached", "not_reached")
        ]
    )
    pairs = paired(a, b) and any(
        in_pairs(cells[0][size].curves, cells[1][size].curves) for size in shared
    )
    return {
        "schema_version": 1,
        "paired": pairs,
        "target_loss": target,
        "holdout_loss_at_rows": rows,
        "sides": [_side(analysis.summary) for analysis in analyses],
        "changed": changed_keys(a.header.config, b.header.config),
        "same_data": _fingerprint(a) == _fingerprint(b),
        "only_in_a": [size for size in a.batch_sizes if size not in shared],
        "only_in_b": [size for size in b.batch_sizes if size not in shared],
        "cells": [_cell(a, b, cells[0][size], cells[1][size], rows, pairs) for size in shared],
    }


def paired(a: Run, b: Run) -> bool:
    """Whether trial n of both runs read the same rows in the same order, and was judged on the same
    held-out rows.
    """
    configs = [run.header.config for run in (a, b)]
    same = all(
        _without_path(configs[0].get(part)) == _without_path(configs[1].get(part))
        for part in _SAME_ORDER
    )
    return same and _fingerprint(a) == _fingerprint(b) is not None


def in_pairs(a: Collection[int], b: Collection[int]) -> list[int]:
    """The trials of both; none where they are one of several: all of them, as independent ones,
    then say more.

    >>> in_pairs([3, 4, 5], [3, 4, 5, 6]), in_pairs([3, 4, 5], [2, 3]), in_pairs([0], [0, 1])
    ([3, 4, 5], [], [0])
    """
    shared = sorted(set(a) & set(b))
    return shared if len(shared) > 1 or min(len(a), len(b)) == 1 else []


def changed_keys(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Dotted keys of two configs whose values differ, as `{key, a, b}`."""
    one, other = dict(_leaves(a)), dict(_leaves(b))
    keys = list(dict.fromkeys([*one, *other]))
    return [
        {"key": key, "a": one.get(key), "b": other.get(key)}
        for key in keys
        if one.get(key) != other.get(key)
    ]


def verdict_words(cell: Mapping[str, Any]) -> str:
    """`faster, higher loss`, `no difference shown`, `diverged in B`."""
    if cell["status"][0] != cell["status"][1] and not all(
        status in ("reached", "not_reached") for status in cell["status"]
    ):
        return ", ".join(
            f"{status.replace('_', ' ')} in {side}"
            for side, status in zip("AB", cell["status"], strict=True)
            if status not in ("reached", "not_reached")
        )
    words = [_word(name, cell[name]) for name in HEADLINES]
    return ", ".join(word for word in words if word) or "no difference shown"


def render_comparison(document: Mapping[str, Any], names: tuple[str, str]) -> str:
    """The comparison as plain text: both runs, what was changed, the table, what cannot be
    compared.
    """
    rows, target = document["holdout_loss_at_rows"], document["target_loss"]
    loss = (
        "held-out loss" if rows is None else f"loss at {format_count(rows).replace(' ', '')} rows"
    )
    headings = [
        "batch",
        "rows/s",
        loss,
        "to target" if target is None else f"to loss ≤ {target_word(target)}",
        "verdict",
    ]
    lines = [
        headings,
        *(
            [
                size_text(cell["batch_size"]),
                *(change_text(cell[name]) for name in HEADLINES),
                cell["verdict"],
            ]
            for cell in document["cells"]
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = "\n".join(
        "  ".join(
            [
                line[0].rjust(widths[0]),
                *(text.ljust(width) for text, width in zip(line[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for line in lines
    )
    sides = "\n".join(
        f"{letter}  {name}: {side['sentence']}"
        for letter, name, side in zip("AB", names, document["sides"], strict=True)
    )
    how = "Changes from A to B with 95 % intervals; losses " + (
        "paired trial by trial." if document["paired"] else "of independent trials."
    )
    return "\n\n".join(
        part
        for part in (sides, _changes(document), table, how, "\n".join(remarks(document)))
        if part
    )


def remarks(document: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing the changes."""
    found = []
    if not document["same_data"]:
        found.append("warning: the runs read different data: their losses are of different rows.")
    if document["sides"][0]["machine"] != document["sides"][1]["machine"]:
        found.append("warning: the runs are of different machines: rows/s compares those too.")
    for letter in "ab":
        if sizes := document[f"only_in_{letter}"]:
            found.append(f"only in {letter.upper()}: {', '.join(map(size_text, sizes))}")
    return found


def change_text(figure: Mapping[str, Any]) -> str:
    """A change with its interval, in percent.

    >>> change_text({"change": 0.0312, "lo": -0.01, "hi": 0.075, "verdict": "undecided"})
    '+3.1 % [-1.0, +7.5]'
    >>> change_text({"change": None, "lo": None, "hi": None, "verdict": "missing"})
    'no value in B'
    >>> change_text({"change": 0.5, "lo": -0.99, "hi": 2e13, "verdict": "undecided"})
    '+50.0 % [-99.0, +2.0e+15]'
    """
    if figure["change"] is None:
        return {"missing": "no value in B", "gained": "no value in A"}.get(
            figure["verdict"], NOTHING
        )
    text = f"{_percent(figure['change'])} %"
    return (
        text
        if figure["lo"] is None
        else f"{text} [{_percent(figure['lo'])}, {_percent(figure['hi'])}]"
    )


def _percent(change: float) -> str:
    percent = 100 * change
    return (
        f"{percent:+.1f}"
        if abs(percent) < 100
        else f"{percent:+,.0f}"
        if abs(percent) < 1e6
        else f"{percent:+.1e}"
    )


def _word(name: str, figure: Mapping[str, Any]) -> str:
    fell, rose, _ = FIGURES[name]
    match figure["verdict"]:
        case "better" | "worse":
            return rose if figure["change"] > 0 else fell
        case "missing" if name == "seconds_to_target":
            return "target not reached in B"
        case "gained" if name == "seconds_to_target":
            return "target reached in B only"
    return ""


def _cell(a: Run, b: Run, one: Cell, other: Cell, rows: int | None, pairs: bool) -> Document:
    figures = {
        name: _change(first, second, pairs, name)
        for (name, first), (_, second) in zip(
            _samples(a, one, rows), _samples(b, other, rows), strict=True
        )
    }
    cell = {
        "batch_size": one.batch_size,
        "lr": [one.lr, other.lr],
        "status": [one.status, other.status],
        **figures,
    }
    return cell | {"verdict": verdict_words(cell)}


def _samples(run: Run, cell: Cell, rows: int | None) -> Iterator[tuple[str, Sample]]:
    reached = cell.status == "reached"
    trials = [
        trial for trial, curve in cell.curves.items() if curve.finished and rows in curve.rows
    ]
    for name in FIGURES:
        match name:
            case "rows_per_second":
                yield (
                    name,
                    Sample(dict(enumerate(throughput(run, cell.batch_size)[0])), paired=False),
                )
            case "holdout_loss" | "holdout_rmse":
                values = losses_at(cell, rows, name) if run.has_holdout else []
                yield (
                    name,
                    Sample(dict(zip(trials, values, strict=True)) if values else {}, paired=True),
                )
            case "seconds_to_target":
                yield name, Sample(seconds_to_target(run, cell) if reached else {}, paired=True)
            case _:
                yield name, Sample(dict(getattr(cell, name)) if reached else {}, paired=True)


def _change(a: Sample, b: Sample, pairs: bool, name: str) -> Document:
    one, other = (
        {
            trial: value
            for trial, value in side.values.items()
            if value and value > 0 and value < float("inf")
        }
        for side in (a, b)
    )
    figure: Document = {
        "a": _median(one),
        "b": _median(other),
        "change": None,
        "lo": None,
        "hi": None,
    }
    if not one or not other:
        return figure | {"verdict": "missing" if one else "gained" if other else "none"}
    shared = in_pairs(one, other) if pairs and a.paired else []
    ratio, lo, hi = (
        paired_ratio([other[trial] for trial in shared], [one[trial] for trial in shared])
        if shared
        else independent_ratio(list(other.values()), list(one.values()))
    )
    rises = FIGURES[name][2]
    verdict = (
        "undecided"
        if lo is None or hi is None or lo <= 1 <= hi
        else "better"
        if (ratio > 1) == rises
        else "worse"
    )
    bounds = {"lo": None, "hi": None} if lo is None or hi is None else {"lo": lo - 1, "hi": hi - 1}
    return figure | {"change": ratio - 1, **bounds, "verdict": verdict}


def _median(sample: Mapping[int, float]) -> float | None:
    values = sorted(sample.values())
    middle = len(values) // 2
    return (
        None
        if not values
        else values[middle]
        if len(values) % 2
        else (values[middle - 1] + values[middle]) / 2
    )


def _changes(document: Mapping[str, Any]) -> str:
    return "\n".join(
        f"changed  {item['key']}: {item['a']} → {item['b']}" for item in document["changed"]
    )


def _side(summary: Summary) -> Document:
    return {
        "version": summary.version,
        "command": summary.command,
        "sentence": summary.sentence,
        "machine": [summary.env.get(name) for name in ("cpu", "cores")],
    }


def _sizes(run: Run) -> str:
    sizes: Sequence[int] = run.batch_sizes
    return ", ".join(map(size_text, sizes[:8])) + (" …" if len(sizes) > 8 else "")


def _fingerprint(run: Run) -> Any:
    return run.header.data.fingerprint


def _without_path(part: Any) -> Any:
    return (
        {key: value for key, value in part.items() if key != "path"}
        if isinstance(part, dict)
        else part
    )


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
