"""What every chart is made of: the theme, scales and ticks, colours, marks, and a spec that stands
alone.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from streamtrain.report.axis import ends_of
from streamtrain.report.measure_data import Tables
from streamtrain.report.number_format import size_text

Spec = dict[str, Any]
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_RAMPS = {
    "light": ["#4f9be0", "#2a76c6", "#14508f", "#081f40"],
    "dark": ["#e2f0ff", "#93c8fb", "#4795e6", "#2a66b8"],
}
_INKS = {
    "light": ("#22262b", "#d9dde2", "#b4530a", "#ffffff"),
    "dark": ("#e4e7eb", "#3a4048", "#f2a65a", "#14171b"),
}
#: Sizes nearer to one another than this share of their axis have one label together.
_LABEL_SHARE = 0.06
#: First digits of ticks, from few to many.
_DIGITS = ((1,), (1, 2, 5), (1, 2, 3, 5, 7))
#: With fewer ticks an axis tells no distances.
_FEWEST_TICKS = 3


def theme(name: str) -> Spec:
    """The Vega config `light` or `dark`: colours and type only."""
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
    """The spec with its data, a size and a white background: a chart that stands alone."""
    whole = copy.deepcopy(spec)
    used = _data_names(spec)
    whole |= {
        "width": 640,
        "height": 1.06 * spec["height"],
        "datasets": {name: list(rows) for name, rows in tables.items() if name in used},
    }
    whole["config"] = theme("light") | {"background": "white", "padding": 16}
    return whole


def _data_names(spec: Any) -> set[str]:
    """The tables that a spec names, at whatever depth."""
    if isinstance(spec, dict):
        own = (
            {spec["data"]["name"]}
            if isinstance(spec.get("data"), dict) and "name" in spec["data"]
            else set()
        )
        return own.union(*map(_data_names, spec.values()))
    return set().union(*map(_data_names, spec)) if isinstance(spec, list) else set()


def chart_title(text: str, subtitle: str = "") -> alt.Title:
    """A title, with a line below it where there is something to say."""
    return alt.Title(text, subtitle=subtitle) if subtitle else alt.Title(text)


def interval_bars(base: alt.Chart) -> alt.Chart:
    """95 % intervals; one far wider than the picture is cut at its edge."""
    return base.mark_rule(clip=True, strokeWidth=1.5)


def edge_marks(base: alt.Chart, x: alt.X, color: alt.Color) -> alt.Chart:
    """Hollow triangles at the top edge for what has no value, with its status on hover."""
    tooltip = [alt.Tooltip("size:N", title="minibatch"), alt.Tooltip("status:N")]
    mark = base.mark_point(shape="triangle-up", size=90, strokeWidth=1.8, opacity=1)
    return mark.encode(x=x, y=alt.value(0), color=color, tooltip=tooltip)


def reference_layers(
    y: alt.Y, tables: Tables, marks: Sequence[tuple[float, float]]
) -> list[alt.Chart]:
    """The best linear and the best possible loss as labelled lines; below the latter there is room,
    since nothing can lie there.

    `marks` are what else is drawn, as (share of the width, loss): a line has its name at the end
    that they leave free.
    """
    base, layers = alt.Chart(alt.NamedData("references")), []
    for row in tables["references"]:
        right = _nearest(row["loss"], [loss for x, loss in marks if x < 0.4]) < _nearest(
            row["loss"], [loss for x, loss in marks if x > 0.6]
        )
        ends = {"align": "right", "dx": -4} if right else {"align": "left", "dx": 4}
        mark = base.transform_filter(f"datum.name == '{row['name']}'").mark_text(
            **ends, dy=9 if row["lowest"] else -7, fontSize=10, style="reference"
        )
        layers.append(mark.encode(x=alt.value("width" if right else 0), y=y, text="name:N"))
    return [base.mark_rule(strokeDash=[5, 4], style="reference").encode(y=y), *layers]


def _nearest(loss: float, others: Sequence[float]) -> float:
    """How far the nearest of the others is, on a log axis."""
    return min((abs(math.log(other / loss)) for other in others), default=math.inf)


def sizes_where(condition: str) -> alt.Chart:
    """The batch sizes for which a Vega expression holds."""
    return alt.Chart(alt.NamedData("cells")).transform_filter(condition)


def size_color(tables: Tables) -> alt.Color:
    """One hue, deeper with larger sizes; the ramp of the theme."""
    sizes = [cell["batch_size"] for cell in tables["cells"]]
    scale = alt.Scale(type="log", domain=[min(sizes), max(max(sizes), 2 * min(sizes))])
    return alt.Color("batch_size:Q", scale=scale, legend=None)  # lines and points carry their sizes


def log_axis(ends: tuple[float, float], format: str = "~g") -> dict[str, Any]:
    """A log scale between `ends` with round ticks: 1, 2, 5 over a short reach, else powers of
    ten.
    """
    return {
        "scale": log_scale(ends),
        "axis": alt.Axis(
            format=format, values=round_ticks(*ends), labelOverlap="greedy", labelSeparation=4
        ),
    }


def log_scale(ends: tuple[float, float]) -> alt.Scale:
    """Exactly from end to end."""
    return alt.Scale(type="log", domain=list(ends), nice=False)


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers between the ends: more digits over fewer decades.

    >>> round_ticks(0.3, 20)
    [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]
    >>> round_ticks(0.012, 5.0), round_ticks(1.02e7, 1.9e7)
    ([0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0], [12000000.0, 14000000.0, 16000000.0, 18000000.0])
    """
    decades = math.log10(high / low)
    coarsest = 2 if decades < 0.8 else 1 if decades < 2.5 else 0
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
    """Ticks at one distance, for a reach so short that hardly a round number lies in it: one tick
    tells no scale.
    """
    for power in range(math.ceil(math.log10(high)), math.floor(math.log10(high - low)) - 2, -1):
        for digit in (5, 2, 1):
            first, last = (
                math.ceil(low / (digit * 10.0**power)),
                math.floor(high / (digit * 10.0**power)),
            )
            if last - first + 1 >= _FEWEST_TICKS:
                return [float(f"{digit * k}e{power}") for k in range(first, last + 1)]
    return [low, high]


def size_axis(tables: Tables, *, title: str = "minibatch size") -> alt.X:
    """Batch sizes along x, labelled exactly; sizes as near as 1,000 and 1,024 share a label that
    names both.
    """
    cells = tables["cells"]
    ends = ends_of([cell["batch_size"] for cell in cells], 1.4)
    groups: list[list[int]] = []
    for size in (cell["batch_size"] for cell in cells if cell["label"]):
        near = groups and math.log(size / groups[-1][0]) < _LABEL_SHARE * math.log(
            ends[1] / ends[0]
        )
        groups[-1:] = [[*groups[-1], size]] if near else [*groups[-1:], [size]]
    several = [
        f"datum.value == {group[0]} ? '{' · '.join(map(size_text, group))}' : "
        for group in groups
        if len(group) > 1
    ]
    words = "".join(several) + "format(datum.value, ',d')"
    axis = alt.Axis(
        labelExpr=words, values=[group[0] for group in groups], labelOverlap="greedy", grid=False
    )
    return alt.X("batch_size:Q", title=title, scale=log_scale(ends), axis=axis)


def size_steps(tables: Tables) -> alt.X:
    """Batch sizes one beside the other, at equal distances: for what would cover its neighbour on a
    scale.
    """
    sizes = [cell["size"] for cell in tables["cells"]]
    axis = alt.Axis(
        values=[cell["size"] for cell in tables["cells"] if cell["label"]],
        labelAngle=0,
        labelOverlap="greedy",
    )
    return alt.X(
        "size:O", title="minibatch size", sort=sizes, scale=alt.Scale(domain=sizes), axis=axis
    )


def _with_halo(layer: Spec) -> list[Spec]:
    """A text stands on a rim of paper, so that the lines below it do not strike it through."""
    if layer["mark"]["type"] != "text":
        return [layer]
    rim = copy.deepcopy(layer)
    rim["mark"]["style"] = [*filter(None, [layer["mark"].get("style")]), "halo"]
    return [rim, layer]


def _depth(layer: Spec) -> int:
    """Lines lie below text, and points above all: what was measured is never covered."""
    return {"text": 1, "point": 2}.get(layer["mark"]["type"], 0)


def finish(chart: alt.LayerChart, height: int = 340) -> Spec:
    """The spec without data, as wide as its place."""
    spec = chart.to_dict()
    spec.pop("config", None)  # a theme belongs to the page or to `draw`
    spec["layer"] = sorted(
        (one for layer in spec["layer"] for one in _with_halo(layer)), key=_depth
    )
    return spec | {
        "width": "container",
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
    }
