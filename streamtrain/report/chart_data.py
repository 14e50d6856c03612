"""The tables behind every chart.

`cells` (a row a batch size), `curves` (a row an evaluation), `references` (a row a known loss).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from streamtrain.report.axis import ends_of, spread, with_intervals
from streamtrain.report.measure_data import measure_tables
from streamtrain.report.number_format import loss_text, size_text
from streamtrain.science.cells import Cell
from streamtrain.science.run_log import Curve, Run

Row = dict[str, Any]
#: More points than this are thinned, so that a sweep of 200 sizes stays a page that opens at once.
_MAX_POINTS = 20_000
_ALL_LABELLED = 12


def make_tables(
    run: Run, cells: Sequence[Cell], summary: Mapping[str, Any]
) -> dict[str, list[Row]]:
    """`{"cells": [...], "curves": [...], "references": [...], …}` for the charts; every value is
    finite or None.

    Without a hold-out `loss` of a curve is the training loss, as a mean of r² like the held-out one
    (twice ½r²).
    """
    points = sum(len(curve.rows) for cell in cells for curve in cell.curves.values())
    stride = max(1, math.ceil(points / _MAX_POINTS))
    speeds = {cell["batch_size"]: cell["rows_per_second"]["value"] for cell in summary["cells"]}
    curves = [
        row
        for cell in cells
        for curve in cell.curves.values()
        for row in _curve_rows(run, curve, speeds[cell.batch_size], stride)
    ]
    labelled = _labelled(summary)
    rows = [_cell_row(cell, cell["batch_size"] in labelled, summary) for cell in summary["cells"]]
    _add_ends(rows, curves)
    references = _references(summary)
    _add_picture_labels(rows, references)
    return {"cells": rows, "curves": curves, "references": references} | measure_tables(
        run, summary
    )


def compact(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The same table by columns, floats at six digits: a third of the bytes in the page."""
    names = list(rows[0]) if rows else []
    return {
        name: [float(f"{v:.6g}") if isinstance(v := row[name], float) else v for row in rows]
        for name in names
    }


def _cell_row(cell: Mapping[str, Any], labelled: bool, summary: Mapping[str, Any]) -> Row:
    row: Row = {
        "batch_size": cell["batch_size"],
        "size": size_text(cell["batch_size"]),
        "lr": cell["lr"],
    }
    row["status"] = cell["status"].replace("_", " ")
    row["recommended"] = cell["batch_size"] == summary["recommendation"]["batch_size"]
    row["label"] = row["size"] if labelled else ""
    for name in ("rows_per_second", "holdout_loss", "seconds_to_target"):
        row[name] = cell[name]["value"]
        row[f"{name}_lo"], row[f"{name}_hi"] = cell[name]["lo"], cell[name]["hi"]
    return row


def _references(summary: Mapping[str, Any]) -> list[Row]:
    known = (
        ("best linear", summary["best_linear_loss"]),
        ("best possible", summary["best_possible_loss"]),
    )
    return [
        {
            "name": f"{name} {loss_text(one['value'])}",
            "loss": one["value"],
            "lowest": name == "best possible",
        }
        for name, one in known
        if one and (one["value"] or 0) > 0
    ]


def _labelled(summary: Mapping[str, Any]) -> set[int]:
    """All sizes where they are few; else ten spread ones and the recommended one."""
    sizes = [cell["batch_size"] for cell in summary["cells"]]
    if len(sizes) <= _ALL_LABELLED:
        return set(sizes)
    return {sizes[round(k * (len(sizes) - 1) / 9)] for k in range(10)} | {
        summary["recommendation"]["batch_size"] or sizes[0]
    }


def _curve_rows(run: Run, curve: Curve, speed: float | None, stride: int) -> list[Row]:
    losses = curve.holdout_loss if run.has_holdout else [2 * loss for loss in curve.train_loss]
    last = len(curve.rows) - 1
    return [
        {
            "batch_size": curve.batch_size,
            "size": size_text(curve.batch_size),
            "trial": curve.trial,
            "rows": rows,
            "steps": steps,
            "seconds": rows / speed if speed else None,
            "loss": loss,
        }
        for at, (rows, steps, loss) in enumerate(zip(curve.rows, curve.steps, losses, strict=True))
        if math.isfinite(loss) and loss > 0 and (at % stride == 0 or at == last)
    ]


def _add_ends(cells: list[Row], curves: Sequence[Row]) -> None:
    """Where each median curve ends, and a height for its label at which labels do not cover each
    other.
    """
    for cell in cells:
        mine = [row for row in curves if row["batch_size"] == cell["batch_size"]]
        end = max((row["rows"] for row in mine), default=None)
        last = [row for row in mine if row["rows"] == end]
        for name in ("rows", "steps", "seconds"):
            cell[f"end_{name}"] = last[0][name] if last else None
        cell["end_loss"] = cell["label_loss"] = (
            statistics.median(row["loss"] for row in last) if last else None
        )
    shown = sorted(
        (cell for cell in cells if cell["label"] and cell["end_loss"]),
        key=lambda cell: cell["end_loss"],
    )
    if shown:
        top = max(row["loss"] for row in curves)
        # a line of text, on an axis of 18 lines
        gap = max(math.log(top / shown[0]["end_loss"]), 0.5) / 18
        heights = spread([math.log(cell["end_loss"]) for cell in shown], gap)
        for cell, height in zip(shown, heights, strict=True):
            cell["label_loss"] = math.exp(height)


def _add_picture_labels(cells: list[Row], references: Sequence[Row]) -> None:
    """Heights for the labels beside the points of the picture, at which labels of like speed do not
    cover each other.
    """
    for cell in cells:
        cell["label_holdout_loss"] = cell["holdout_loss"]
    shown = sorted(
        (cell for cell in cells if cell["label"] and cell["holdout_loss"]),
        key=lambda cell: cell["holdout_loss"],
    )
    if shown:
        low, high = ends_of(
            [*with_intervals(cells, "holdout_loss"), *(row["loss"] for row in references)], 1.3
        )
        gap = math.log(high / low) / 16  # a line of text, on an axis of 16 lines
        for cell, height in zip(
            shown, spread([math.log(cell["holdout_loss"]) for cell in shown], gap), strict=True
        ):
            cell["label_holdout_loss"] = math.exp(height)
