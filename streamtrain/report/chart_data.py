"""The tables behind every chart: `cells`, `curves`, `references`, and the tables of `measure_data`.

`cells` has a row per batch size, `curves` a row per evaluation, `references` a row per reference
loss, `frontier` a row per loss of the ladder and size that reached it. `labels` has a row per label
of a size in a chart, with its place (`label_places.py`). The functions `…_plot` give the axes of
those charts, which the places depend on.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from streamtrain.report.analysis import Analysis, Summary
from streamtrain.report.axis import ends_of, with_intervals
from streamtrain.report.label_places import LineName, Mark, Plot, Point, line_names, place_labels
from streamtrain.report.measure_data import Row, measure_tables
from streamtrain.report.number_format import cell_size_text, loss_text, size_text, status_text
from streamtrain.report.summary_parts import CellFigures
from streamtrain.science.intervals import Estimate
from streamtrain.science.run_log import Curve

#: Curves with more points than this are thinned, so that the page of 200 sizes opens at once.
_MAX_POINTS = 20_000
#: Up to this many sizes all have a label.
_ALL_LABELLED = 12
#: Pixels of the axis of losses or seconds, in the picture, where it is shorter than in the page.
_CURVE_HEIGHT, _HEIGHT = 300.0, 240.0
#: Room to the right of the lines of the frontier for their labels, as a part of the axis.
_LABEL_ROOM = 0.25
_ENDS = ("lo", "hi")
#: What the loss curves are drawn against.
AXES = ("rows", "steps", "seconds")


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
    tables = {
        "cells": cells,
        "curves": curves,
        "references": references,
        "frontier": frontier,
        "labels": [
            *_frontier_labels([row for row in frontier if row["batch_size"] in labelled], frontier),
            *_tradeoff_labels(cells, references),
            *(row for name in AXES for row in _curve_labels(name, cells, curves, references)),
        ],
    }
    return tables | measure_tables(analysis)


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


def frontier_plot(frontier: Sequence[Row]) -> Plot:
    """Return the axes of the frontier, that of losses reversed, with room for labels at its end."""
    low, high = ends_of((row["error"] for row in frontier), 1.02)
    return Plot(
        (high, low / (high / low) ** _LABEL_ROOM),
        ends_of((row["seconds"] for row in frontier), 1.6),
        _HEIGHT,
    )


def _frontier_labels(labelled: Sequence[Row], frontier: Sequence[Row]) -> list[Row]:
    lines: dict[int, list[Point]] = {}
    for row in frontier:
        lines.setdefault(row["batch_size"], []).append((row["error"], row["seconds"]))
    marks = [Mark(row["error"], row["seconds"], row["size"]) for row in labelled if row["last"]]
    return _label_rows("frontier", marks, frontier_plot(frontier), list(lines.values()))


def _label_rows(
    chart: str,
    marks: Sequence[Mark],
    plot: Plot,
    lines: Sequence[Sequence[Point]],
    names: Sequence[LineName] = (),
    *,
    column: bool = True,
) -> list[Row]:
    labels = place_labels(marks, plot, lines=lines, names=names, column=column)
    return [{"chart": chart} | label._asdict() for label in labels]


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
    for cell in cells:
        points = [row for row in curves if row["batch_size"] == cell["batch_size"]]
        end = max((row["rows"] for row in points), default=None)
        last = [row for row in points if row["rows"] == end]
        for name in AXES:
            cell[f"end_{name}"] = last[0][name] if last else None
        cell["end_loss"] = statistics.median(row["loss"] for row in last) if last else None


def curve_plot(name: str, curves: Sequence[Row], references: Sequence[Row]) -> Plot:
    """Return the axes of the loss curves against `name` of AXES.

    A curve that diverges leaves them at the top.
    """
    rows = [row for row in curves if row[name]]
    starts = [row["loss"] for row in curves if row["rows"] == 0]
    start = max(starts or [row["loss"] for row in rows], default=1.0)
    losses = [min(row["loss"], 1.5 * start) for row in rows]
    return Plot(
        ends_of((row[name] for row in rows), 1.0),
        ends_of([*losses, *(row["loss"] for row in references)], 1.15),
        _CURVE_HEIGHT,
    )


def _curve_labels(
    name: str, cells: Sequence[Row], curves: Sequence[Row], references: Sequence[Row]
) -> list[Row]:
    plot = curve_plot(name, curves, references)
    marks = [
        Mark(cell[f"end_{name}"], cell["end_loss"], cell["label"])
        for cell in cells
        if cell["label"] and cell[f"end_{name}"] and cell["end_loss"] <= plot.y[1]
    ]
    losses: dict[int, dict[float, list[float]]] = {}
    for row in curves:
        if row[name] and row["loss"] <= plot.y[1]:
            losses.setdefault(row["batch_size"], {}).setdefault(row[name], []).append(row["loss"])
    medians = [
        [(place, statistics.median(found)) for place, found in sorted(line.items())]
        for line in losses.values()
    ]
    names = curve_names(name, curves, references)
    return _label_rows(f"loss_by_{name}", marks, plot, medians, names)


def curve_names(name: str, curves: Sequence[Row], references: Sequence[Row]) -> list[LineName]:
    """Return the names of the lines of reference losses in the chart of loss against `name`."""
    points = [(row[name], row["loss"]) for row in curves if row[name]]
    return line_names(references, curve_plot(name, curves, references), points)


def tradeoff_plot(cells: Sequence[Row], references: Sequence[Row]) -> Plot:
    """Return the axes of speed against loss; intervals far beyond all values leave them."""
    timed = [cell for cell in cells if cell["rows_per_second"]]
    losses = [*with_intervals(timed, "holdout_loss"), *(row["loss"] for row in references)]
    speeds = with_intervals(timed, "rows_per_second")
    return Plot(ends_of(speeds, 1.25), ends_of(losses, 1.3), _HEIGHT)


def _tradeoff_labels(cells: Sequence[Row], references: Sequence[Row]) -> list[Row]:
    plot = tradeoff_plot(cells, references)
    shown = [cell for cell in cells if cell["rows_per_second"] and cell["holdout_loss"]]
    marks = [
        Mark(cell["rows_per_second"], cell["holdout_loss"], cell["label"])
        for cell in shown
        if cell["label"]
    ]
    bars: list[list[Point]] = []
    for cell in shown:
        x, y = cell["rows_per_second"], cell["holdout_loss"]
        if cell["rows_per_second_lo"] and cell["rows_per_second_hi"]:
            bars.append([(_within(cell[f"rows_per_second_{end}"], plot.x), y) for end in _ENDS])
        if cell["holdout_loss_lo"] and cell["holdout_loss_hi"]:
            bars.append([(x, _within(cell[f"holdout_loss_{end}"], plot.y)) for end in _ENDS])
    names = tradeoff_names(cells, references)
    return _label_rows("tradeoff", marks, plot, bars, names, column=False)


def tradeoff_names(cells: Sequence[Row], references: Sequence[Row]) -> list[LineName]:
    """Return the names of the lines of reference losses in the chart of speed against loss."""
    points = [
        (cell["rows_per_second"], cell["holdout_loss"])
        for cell in cells
        if cell["rows_per_second"] and cell["holdout_loss"]
    ]
    return line_names(references, tradeoff_plot(cells, references), points)


def _within(value: float, ends: tuple[float, float]) -> float:
    return min(max(value, ends[0]), ends[1])
