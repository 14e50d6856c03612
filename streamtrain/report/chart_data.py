"""The tables behind every chart: `cells`, `curves`, `references`, and the tables of `measure_data`.

`cells` has a row per batch size, `curves` a row per evaluation, `references` a row per reference
loss, `frontier` a row per loss of the ladder and size that reached it. `labels` has a row per label
in a chart, with its place (`label_rows.py`).
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from streamtrain.report.analysis import Analysis, Summary
from streamtrain.report.label_rows import AXES, label_rows
from streamtrain.report.measure_data import Row, measure_tables
from streamtrain.report.number_format import cell_size_text, loss_text, size_text, status_text
from streamtrain.report.summary_parts import CellFigures
from streamtrain.science.intervals import Estimate
from streamtrain.science.run_log import Curve

#: Curves with more points than this are thinned, so that the page of 200 sizes opens at once.
_MAX_POINTS = 20_000
#: Up to this many sizes all have a label.
_ALL_LABELLED = 12


def make_tables(analysis: Analysis) -> dict[str, list[Row]]:
    """Return the rows of every table by its name; every value is finite or None.

    Without a hold-out the `loss` of a curve is the training loss as a mean of r², like the held-out
    one (twice the mean of ½r²).
    """
    summary = analysis.summary
    labelled = _labelled_sizes(summary)
    curves = _curve_table(analysis)
    cells = [
        _cell_row(summary, cell, is_labelled=cell.batch_size in labelled) for cell in summary.cells
    ]
    references = _references(summary)
    _add_ends(cells, curves)
    frontier = _frontier_table(summary)
    tables = {"cells": cells, "curves": curves, "references": references, "frontier": frontier}
    tables |= measure_tables(analysis)
    return tables | {"labels": label_rows(tables)}


def compact(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return a table by columns, with floats at six digits: a third of the bytes in the page."""
    names = list(rows[0]) if rows else []
    return {name: [_six_digits(row[name]) for row in rows] for name in names}


def _six_digits(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _cell_row(summary: Summary, cell: CellFigures, *, is_labelled: bool) -> Row:
    size = cell_size_text(cell.batch_size, summary.sizes_used)
    row: Row = {
        "batch_size": cell.batch_size,
        "size": size,
        "lr": cell.lr,
        "status": status_text(cell.status),
        "recommended": cell.batch_size == summary.recommendation.batch_size,
        "label": size if is_labelled else "",
    }
    for name in ("rows_per_second", "holdout_loss", "seconds_to_target"):
        figure: Estimate = getattr(cell, name)
        row |= {name: figure.value, f"{name}_lo": figure.lo, f"{name}_hi": figure.hi}
    return row


def _references(summary: Summary) -> list[Row]:
    losses = {"best linear": summary.best_linear_loss, "best possible": summary.best_possible_loss}
    return [
        {
            "name": f"{name} {loss_text(loss.value)}",
            "loss": loss.value,
            "lowest": name == "best possible",
        }
        for name, loss in losses.items()
        if loss is not None and (loss.value or 0) > 0
    ]


def _frontier_table(summary: Summary) -> list[Row]:
    """Return the seconds of each size to each loss; `last` is the lowest loss that it reached."""
    rows = [
        {
            "batch_size": int(size),
            "size": size_text(int(size)),
            "loss": point.loss,
            "error": point.loss if point.rmse is None else point.rmse,
            "seconds": seconds,
            "best": int(size) == point.batch_size,
            "last": False,
        }
        for point in summary.frontier
        for size, seconds in point.by_batch_size.items()
    ]
    ends = {row["size"]: row for row in rows}  # losses fall, so the last row of a size is its end
    for row in ends.values():
        row["last"] = True
    return rows


def _labelled_sizes(summary: Summary) -> set[int]:
    """Return all sizes where they are few, else ten spread ones and the recommended one.

    None where one training came to several: their names have no room beside its curve.
    """
    if len(summary.sizes_used) > 1:
        return set()
    sizes = [cell.batch_size for cell in summary.cells]
    if len(sizes) <= _ALL_LABELLED:
        return set(sizes)
    spread_sizes = {sizes[round(k * (len(sizes) - 1) / 9)] for k in range(10)}
    return spread_sizes | {summary.recommendation.batch_size or sizes[0]}


def _curve_table(analysis: Analysis) -> list[Row]:
    curves = [curve for cell in analysis.cells for curve in cell.curves.values()]
    stride = max(1, math.ceil(sum(len(curve.rows) for curve in curves) / _MAX_POINTS))
    speeds = {cell.batch_size: cell.rows_per_second.value for cell in analysis.summary.cells}
    return [
        row
        for curve in curves
        for row in _curve_rows(
            curve,
            cell_size_text(curve.batch_size, analysis.summary.sizes_used),
            speeds[curve.batch_size],
            stride,
            held_out=analysis.run.has_holdout,
        )
    ]


def _curve_rows(
    curve: Curve, size: str, speed: float | None, stride: int, *, held_out: bool
) -> list[Row]:
    """Return every `stride`-th evaluation of a curve, and the last."""
    losses = curve.holdout_loss if held_out else [2 * loss for loss in curve.train_loss]
    points = list(zip(curve.rows, curve.steps, losses, strict=True))
    return [
        {
            "batch_size": curve.batch_size,
            "size": size,
            "trial": curve.trial,
            "rows": rows,
            "steps": steps,
            "seconds": rows / speed if speed else None,
            "loss": loss,
        }
        for index, (rows, steps, loss) in enumerate(points)
        if math.isfinite(loss) and loss > 0 and (index % stride == 0 or index == len(points) - 1)
    ]


def _add_ends(cells: list[Row], curves: Sequence[Row]) -> None:
    """Add where each median curve ends."""
    points_of: dict[int, list[Row]] = {}
    for row in curves:
        points_of.setdefault(row["batch_size"], []).append(row)
    for cell in cells:
        points = points_of.get(cell["batch_size"], [])
        end = max((row["rows"] for row in points), default=None)
        last = [row for row in points if row["rows"] == end]
        for name in AXES:
            cell[f"end_{name}"] = last[0][name] if last else None
        cell["end_loss"] = statistics.median(row["loss"] for row in last) if last else None
