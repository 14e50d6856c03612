"""What the charts share: the theme, scales and ticks, colours, marks, and complete specs."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from streamtrain.report.axis import ends_of
from streamtrain.report.label_places import NAME_ABOVE, NAME_BELOW, LineName
from streamtrain.report.measure_data import Row, Tables
from streamtrain.report.number_format import size_text

Spec = dict[str, Any]
AnyChart = alt.LayerChart | alt.FacetChart
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_RAMPS = {
    "light": ["#4f9be0", "#2a76c6", "#14508f", "#081f40"],
    "dark": ["#e2f0ff", "#93c8fb", "#4795e6", "#2a66b8"],
}
_INKS = {
    "light": ("#22262b", "#d9dde2", "#b4530a", "#ffffff"),
    "dark": ("#e4e7eb", "#3a4048", "#f2a65a", "#14171b"),
}
#: Sizes nearer to one another than this fraction of their axis share a label.
_LABEL_SHARE = 0.06
#: First digits of ticks, from few ticks to many.
_DIGITS = ((1,), (1, 2, 5), (1, 2, 3, 5, 7))
#: With fewer ticks an axis does not show its scale.
_FEWEST_TICKS = 3


def theme(name: str) -> Spec:
    """Return the Vega config `light` or `dark`: colours, type and margins."""
    ink, grid, accent, paper = _INKS[name]
    axis = {
        "labelColor": ink,
        "titleColor": ink,
        "gridColor": grid,
        "domainColor": grid,
        "tickColor": grid,
        "titleFontWeight": 500,
    }
    return {
        "background": "transparent",
        # the label of a size at the end of an axis is wider than the axis goes beyond it
        "padding": {"left": 5, "top": 5, "right": 15, "bottom": 5},
        "font": _FONT,
        "view": {"stroke": None},
        "range": {"ramp": _RAMPS[name]},
        "axis": {
            **axis,
            "labelFontSize": 11,
            "titleFontSize": 12,
            "gridDash": [2, 3],
            "titlePadding": 10,
        },
        "text": {"color": ink, "fontSize": 11},
        "title": {
            "color": ink,
            "subtitleColor": ink,
            "anchor": "start",
            "fontSize": 14,
            "offset": 16,
        },
        "legend": {"labelColor": ink, "titleColor": ink},
        "style": {
            "reference": {"color": accent},
            "halo": {
                "stroke": paper,
                "strokeWidth": 4,
                "strokeJoin": "round",
                "strokeOpacity": 0.9,
            },
        },
    }


def whole_spec(spec: Spec, tables: Tables) -> Spec:
    """Return the spec with its data, a size and a white background: a complete chart."""
    used = _data_names(spec)
    return copy.deepcopy(spec) | {
        "width": 640,
        "height": 1.06 * spec["height"],
        "datasets": {name: list(rows) for name, rows in tables.items() if name in used},
        "config": theme("light") | {"background": "white", "padding": 16},
    }


def _data_names(spec: Any) -> set[str]:
    """Return the tables that a spec names, at any depth."""
    if isinstance(spec, list):
        return set().union(*map(_data_names, spec))
    if not isinstance(spec, dict):
        return set()
    data = spec.get("data")
    names = {data["name"]} if isinstance(data, dict) and "name" in data else set()
    return names.union(*map(_data_names, spec.values()))


def chart_title(text: str, subtitle: str = "") -> alt.Title:
    """Return a title, with a line below it if `subtitle` is not empty."""
    return alt.Title(text, subtitle=subtitle) if subtitle else alt.Title(text)


def interval_bars(base: alt.Chart) -> alt.Chart:
    """Return the bars of 95 % intervals; one far wider than the chart is cut at its edge."""
    return base.mark_rule(clip=True, strokeWidth=1.5)


def edge_marks(base: alt.Chart, x: alt.X, color: alt.Color) -> alt.Chart:
    """Return hollow triangles at the top edge for sizes without a value, with their status."""
    tooltip = [alt.Tooltip("size:N", title="minibatch"), alt.Tooltip("status:N")]
    mark = base.mark_point(shape="triangle-up", size=90, strokeWidth=1.8, opacity=1)
    return mark.encode(x=x, y=alt.value(0), color=color, tooltip=tooltip)


def reference_layers(y: alt.Y, names: Sequence[LineName]) -> list[alt.Chart]:
    """Return the best linear and the best possible loss as lines with their names."""
    base, layers = alt.Chart(alt.NamedData("references")), []
    for name in names:
        ends = {"align": "right", "dx": -4} if name.is_right else {"align": "left", "dx": 4}
        mark = base.transform_filter(f"datum.name == '{name.text}'").mark_text(
            **ends, dy=NAME_BELOW if name.is_below else -NAME_ABOVE, fontSize=10, style="reference"
        )
        x = alt.value("width" if name.is_right else 0)
        layers.append(mark.encode(x=x, y=y, text=alt.Text("name:N")))
    return [base.mark_rule(strokeDash=[5, 4], style="reference").encode(y=y), *layers]


def sizes_where(condition: str) -> alt.Chart:
    """Return a chart of the batch sizes for which a Vega expression holds."""
    return alt.Chart(alt.NamedData("cells")).transform_filter(condition)


def labels(chart: str, tables: Tables, x_title: str, y_title: str) -> list[alt.Chart]:
    """Return the labels of a chart at the places of the table `labels`, with their stems.

    The titles are those of the chart's axes.
    """
    rows = [row for row in tables["labels"] if row["chart"] == chart]
    if not rows:
        return []
    base = alt.Chart(alt.NamedData("labels")).transform_filter(f"datum.chart == '{chart}'")
    x = alt.X("x:Q", title=x_title)
    text = base.mark_text(align=alt.ExprRef("datum.align"), dx=alt.ExprRef("datum.dx"))
    layers = [text.encode(x=x, y=alt.Y("label_y:Q", title=y_title), text=alt.Text("text:N"))]
    if any(row["stem"] for row in rows):
        stem = base.transform_filter("datum.stem > 0").mark_rule(strokeWidth=0.8)
        y = alt.Y("y:Q", title=y_title)
        layers.append(stem.encode(x=x, y=y, y2=alt.Y2("stem:Q"), color=alt.value("#8a929c")))
    return layers


def size_color(cells: Sequence[Row]) -> alt.Color:
    """Return the colours of the sizes of `cells`: one hue, deeper with larger sizes."""
    sizes = [cell["batch_size"] for cell in cells]
    scale = alt.Scale(type="log", domain=[min(sizes), max(max(sizes), 2 * min(sizes))])
    return alt.Color("batch_size:Q", scale=scale, legend=None)  # every line and point is labelled


def log_axis(ends: tuple[float, float], format: str = "~g") -> dict[str, Any]:
    """Return a log scale between `ends` with round ticks (1, 2, 5; powers of ten if long)."""
    axis = alt.Axis(
        format=format, values=round_ticks(*ends), labelOverlap="greedy", labelSeparation=4
    )
    return {"scale": log_scale(ends), "axis": axis}


def log_scale(ends: tuple[float, float]) -> alt.Scale:
    """Return a log scale that ends exactly at `ends`."""
    return alt.Scale(type="log", domain=list(ends), nice=False)


def round_ticks(low: float, high: float) -> list[float]:
    """Return round numbers between the ends, with more digits over fewer decades.

    >>> round_ticks(0.3, 20)
    [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]
    >>> round_ticks(0.012, 5.0), round_ticks(1.02e7, 1.9e7)
    ([0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0], [12000000.0, 14000000.0, 16000000.0, 18000000.0])
    """
    decades = math.log10(high / low)
    coarsest = sum(decades < most for most in (0.8, 2.5))
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in _DIGITS[coarsest:]:
        ticks = [
            tick
            for power in powers
            for digit in digits
            if low <= (tick := float(f"{digit}e{power}")) <= high
        ]
        if len(ticks) >= _FEWEST_TICKS:
            return ticks
    return _even_ticks(low, high)


def _even_ticks(low: float, high: float) -> list[float]:
    """Return ticks at equal distances, for an axis so short that it has too few round numbers."""
    for power in range(math.ceil(math.log10(high)), math.floor(math.log10(high - low)) - 2, -1):
        for digit in (5, 2, 1):
            distance = digit * 10.0**power
            first, last = math.ceil(low / distance), math.floor(high / distance)
            if last - first + 1 >= _FEWEST_TICKS:
                return [float(f"{digit * k}e{power}") for k in range(first, last + 1)]
    return [low, high]


def size_axis(cells: Sequence[Row]) -> alt.X:
    """Return an axis of the batch sizes of `cells`, those with a label labelled exactly.

    Sizes as near to one another as 1,000 and 1,024 share a label that names both.
    """
    ends = ends_of([cell["batch_size"] for cell in cells], 1.4)
    groups: list[list[int]] = []
    near = _LABEL_SHARE * math.log(ends[1] / ends[0])
    labelled = [cell for cell in cells if cell["label"]] or cells
    for size in (cell["batch_size"] for cell in labelled):
        if groups and math.log(size / groups[-1][0]) < near:
            groups[-1].append(size)
        else:
            groups.append([size])
    several = [
        f"datum.value == {group[0]} ? '{' · '.join(map(size_text, group))}' : "
        for group in groups
        if len(group) > 1
    ]
    words = "".join(several) + "format(datum.value, ',d')"
    axis = alt.Axis(
        labelExpr=words,
        values=[group[0] for group in groups],
        labelOverlap="greedy",
        labelSeparation=4,
        grid=False,
    )
    return alt.X("batch_size:Q", title="minibatch size", scale=log_scale(ends), axis=axis)


def size_steps(tables: Tables) -> alt.X:
    """Return an axis of batch sizes at equal distances, on which wide marks do not overlap."""
    sizes = [cell["size"] for cell in tables["cells"]]
    axis = alt.Axis(
        values=[cell["size"] for cell in tables["cells"] if cell["label"]],
        labelAngle=0,
        labelOverlap="greedy",
        labelSeparation=4,
    )
    return alt.X(
        "size:O", title="minibatch size", sort=sizes, scale=alt.Scale(domain=sizes), axis=axis
    )


def _with_halo(layer: Spec) -> list[Spec]:
    """Return a layer, below it its outline in the background colour if it is text.

    The outline keeps lines from crossing the text.
    """
    if layer["mark"]["type"] != "text":
        return [layer]
    outline = copy.deepcopy(layer)
    outline["mark"]["style"] = [*filter(None, [layer["mark"].get("style")]), "halo"]
    return [outline, layer]


def _depth(layer: Spec) -> int:
    """Return the order of drawing: lines, text, then points, which nothing may cover."""
    return {"text": 1, "point": 2}.get(layer["mark"]["type"], 0)


def finish(chart: AnyChart, height: int = 340) -> Spec:
    """Return the spec without data, as wide as its container.

    It is not validated here, which takes as long as making it: the tests do, for every chart.
    """
    spec = chart.to_dict(validate=False)
    spec.pop("config", None)  # a theme belongs to the page or to `draw`
    spec["layer"] = sorted(
        (part for layer in spec["layer"] for part in _with_halo(layer)), key=_depth
    )
    return spec | {
        "width": "container",
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
    }
