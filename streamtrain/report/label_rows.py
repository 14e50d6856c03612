"""The table of the labels in charts: a row per label, with its place.

The functions `…_plot` give the axes of the charts, on which the places depend, and `…_names` the
names of the lines of reference losses, which the labels leave uncovered.
"""

import statistics
from collections.abc import Sequence

from streamtrain.report.axis import ends_of, with_intervals
from streamtrain.report.label_places import LineName, Mark, Plot, Point, line_names, place_labels
from streamtrain.report.measure_data import Row, Tables

#: What the loss curves are drawn against.
AXES = ("rows", "steps", "seconds")
#: Pixels of the vertical axis, in the picture, where it is shorter than in the page.
_CURVE_HEIGHT, _HEIGHT, _LOW_HEIGHT = 300.0, 240.0, 200.0
#: Room to the right of the lines of the frontier for their labels, as a part of the axis.
_LABEL_ROOM = 0.25
_ENDS = ("lo", "hi")


def label_rows(tables: Tables) -> list[Row]:
    """Return the labels of all charts: their chart, and the fields of `label_places.Label`.

    Sizes without a `label` in the table `cells` have none.
    """
    cells, curves, references = tables["cells"], tables["curves"], tables["references"]
    return [
        *_frontier_labels(cells, tables["frontier"]),
        *_tradeoff_labels(cells, references),
        *(row for name in AXES for row in _curve_labels(name, cells, curves, references)),
        *_line_labels(
            "sharpness",
            tables["sharpness"],
            "measure",
            "value",
            sharpness_plot(tables),
            column=False,
        ),
        *_line_labels(
            "rules", tables["arms"], "rule", "holdout_loss", rules_plot(tables), column=True
        ),
    ]


def frontier_plot(frontier: Sequence[Row]) -> Plot:
    """Return the axes of the frontier, that of losses reversed, with room for labels at its end."""
    low, high = ends_of((row["error"] for row in frontier), 1.02)
    return Plot(
        (high, low / (high / low) ** _LABEL_ROOM),
        ends_of((row["seconds"] for row in frontier), 1.6),
        _HEIGHT,
    )


def _frontier_labels(cells: Sequence[Row], frontier: Sequence[Row]) -> list[Row]:
    lines: dict[int, list[Point]] = {}
    for row in frontier:
        lines.setdefault(row["batch_size"], []).append((row["error"], row["seconds"]))
    labelled = {cell["batch_size"] for cell in cells if cell["label"]}
    marks = [
        Mark(row["error"], row["seconds"], row["size"])
        for row in frontier
        if row["last"] and row["batch_size"] in labelled
    ]
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
    names = curve_names(name, curves, references, plot)
    return _label_rows(f"loss_by_{name}", marks, plot, medians, names)


def curve_names(
    name: str, curves: Sequence[Row], references: Sequence[Row], plot: Plot
) -> list[LineName]:
    """Return the names of the lines of reference losses in the chart of loss against `name`."""
    points = [(row[name], row["loss"]) for row in curves if row[name]]
    return line_names(references, plot, points)


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
    names = tradeoff_names(cells, references, plot)
    return _label_rows("tradeoff", marks, plot, bars, names, column=False)


def tradeoff_names(cells: Sequence[Row], references: Sequence[Row], plot: Plot) -> list[LineName]:
    """Return the names of the lines of reference losses in the chart of speed against loss."""
    points = [
        (cell["rows_per_second"], cell["holdout_loss"])
        for cell in cells
        if cell["rows_per_second"] and cell["holdout_loss"]
    ]
    return line_names(references, plot, points)


def _plot_of_sizes(cells: Sequence[Row], values: Sequence[float | None], pad: float) -> Plot:
    """Return the axes of a figure against minibatch size, `pad` times beyond its values."""
    sizes = [cell["batch_size"] for cell in cells]
    return Plot(ends_of(sizes, 1.4), ends_of(filter(None, values), pad), _LOW_HEIGHT)


def sharpness_plot(tables: Tables) -> Plot:
    """Return the axes of sharpness against minibatch size."""
    return _plot_of_sizes(tables["cells"], [row["value"] for row in tables["sharpness"]], 1.6)


def rules_plot(tables: Tables) -> Plot:
    """Return the axes of the loss of each learning-rate rule against minibatch size."""
    return _plot_of_sizes(tables["cells"], [row["holdout_loss"] for row in tables["arms"]], 1.3)


def _line_labels(
    chart: str, rows: Sequence[Row], name: str, figure: str, plot: Plot, *, column: bool
) -> list[Row]:
    """Return the names of the lines of `rows` at the last point of each that has a figure."""
    lines: dict[str, list[Point]] = {}
    for row in rows:
        if (row[figure] or 0) > 0:
            lines.setdefault(row[name], []).append((row["batch_size"], row[figure]))
    marks = [Mark(*line[-1], word) for word, line in lines.items()]
    return _label_rows(chart, marks, plot, list(lines.values()), column=column)


def _within(value: float, ends: tuple[float, float]) -> float:
    return min(max(value, ends[0]), ends[1])
