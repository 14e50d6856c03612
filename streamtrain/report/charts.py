"""The charts as Vega-Lite specs; one definition gives the page's interactive chart, the SVG and the PNG.

Specs name their data (see `tables.py`) and hold none, so that the page embeds each table once.
Batch sizes are ordered by one hue and labelled exactly; what did not reach its target is a hollow mark at the edge.
"""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from streamtrain.report.figures import target_word
from streamtrain.report.tables import Row

Spec = dict[str, Any]
Tables = Mapping[str, Sequence[Row]]
_AXES = {"rows": "rows trained on", "steps": "steps", "seconds": "seconds of training alone"}
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_RAMPS = {"light": ["#6fb1ea", "#2f7fd0", "#14508f", "#081f40"], "dark": ["#e2f0ff", "#93c8fb", "#4795e6", "#2a66b8"]}
_INKS = {"light": ("#22262b", "#d9dde2", "#b4530a"), "dark": ("#e4e7eb", "#3a4048", "#f2a65a")}


def chart_specs(summary: Mapping[str, Any], tables: Tables) -> dict[str, Spec]:
    """The specs by name: `tradeoff`, `seconds_to_target`, `loss_by_rows`, `loss_by_steps`, `loss_by_seconds`.

    A chart without a single point to show is left out.
    """
    charts: dict[str, alt.LayerChart | None] = {"tradeoff": _tradeoff(summary, tables), "seconds_to_target": _seconds(summary, tables)}
    for name in _AXES:
        charts[f"loss_by_{name}"] = _curves(name, summary, tables)
    return {name: _finish(chart) for name, chart in charts.items() if chart is not None}


def theme(name: str) -> Spec:
    """The Vega config `light` or `dark`: colours and type only."""
    ink, grid, accent = _INKS[name]
    axis = {"labelColor": ink, "titleColor": ink, "gridColor": grid, "domainColor": grid, "tickColor": grid, "titleFontWeight": 500}
    return {
        "background": "transparent", "font": _FONT, "view": {"stroke": None}, "range": {"ramp": _RAMPS[name]},
        "axis": {**axis, "labelFontSize": 11, "titleFontSize": 12, "gridDash": [2, 3], "titlePadding": 10},
        "text": {"color": ink, "fontSize": 11},
        "title": {"color": ink, "subtitleColor": ink, "anchor": "start", "fontSize": 14, "offset": 16},
        "legend": {"labelColor": ink, "titleColor": ink}, "style": {"reference": {"color": accent}},
    }


def whole_spec(spec: Spec, tables: Tables) -> Spec:
    """The spec with its data, a size and a white background: a chart that stands alone."""
    whole = copy.deepcopy(spec)
    whole |= {"width": 640, "height": 360, "datasets": {name: list(rows) for name, rows in tables.items()}}
    whole["config"] = theme("light") | {"background": "white", "padding": 16}
    return whole


def _tradeoff(summary: Mapping[str, Any], tables: Tables) -> alt.LayerChart | None:
    cells = [cell for cell in tables["cells"] if cell["rows_per_second"]]
    losses = [cell["holdout_loss"] for cell in cells if cell["holdout_loss"]]
    if not losses:
        return None
    reach = _reach((cell["rows_per_second"] for cell in cells), 1.25)
    x = alt.X("rows_per_second:Q", title="rows per second", **_log(reach, "~s"))
    ends = _reach([*losses, *(row["loss"] for row in tables["references"])], 1.3)
    scale = _scale(ends)
    title = f"held-out loss at {summary['holdout_loss_at_rows']:,} rows"
    y = alt.Y("holdout_loss:Q", title=title, **_log(ends))
    base, color = _cells("datum.rows_per_second > 0 && datum.holdout_loss > 0"), _color(tables)
    edge = _cells("datum.rows_per_second > 0 && !(datum.holdout_loss > 0)")
    layers = [
        *_reference_layers(alt.Y("loss:Q", title=title, scale=scale)),
        _bars(base).encode(x=x, y=alt.Y("holdout_loss_lo:Q", title=title), y2="holdout_loss_hi:Q", color=color),
        _bars(base).encode(x=alt.X("rows_per_second_lo:Q", title="rows per second"), x2="rows_per_second_hi:Q", y=y, color=color),
        *_points(base, x, y, color),
        *_sides(base, x, y, math.sqrt(reach[0] * reach[1])),
        _edge_marks(edge, x, color),
    ]
    missing = [f"{cell['size']} ({cell['status']})" for cell in cells if not cell["holdout_loss"]]
    subtitle = f"no loss, at the edge: {', '.join(missing)}" if 0 < len(missing) <= 4 else ""
    return alt.layer(*layers).properties(title=_title("Speed against held-out loss at equal rows (ring: recommended)", subtitle))


def _seconds(summary: Mapping[str, Any], tables: Tables) -> alt.LayerChart | None:
    cells, target = tables["cells"], summary["target_loss"]
    if target is None or len(cells) < 2 or not any(cell["rows_per_second"] for cell in cells):
        return None
    reached = [cell["seconds_to_target"] for cell in cells if cell["seconds_to_target"]]
    budgets = [summary["train_rows"] / cell["rows_per_second"] for cell in cells if cell["rows_per_second"]]
    sizes = [cell["batch_size"] for cell in cells]
    shown = [cell["batch_size"] for cell in cells if cell["label"]]
    axis = alt.Axis(format=",d", values=shown, labelOverlap="greedy", grid=False)
    x = alt.X("batch_size:Q", title="minibatch size", scale=_scale(_reach(sizes, 1.4)), axis=axis)
    title = f"seconds to loss ≤ {target_word(target)}"
    y = alt.Y("seconds_to_target:Q", title=title, **_log(_reach(reached or budgets, 2.0)))
    base, color = _cells("datum.seconds_to_target > 0"), _color(tables)
    layers = [
        base.mark_line(strokeWidth=1, strokeOpacity=0.5, color="#8a929c").encode(x=x, y=y),
        _bars(base).encode(x=x, y=alt.Y("seconds_to_target_lo:Q", title=title), y2="seconds_to_target_hi:Q", color=color),
        *_points(base, x, y, color),
        _edge_marks(_cells("!(datum.seconds_to_target > 0)"), x, color),
    ]
    return alt.layer(*layers).properties(title="Seconds to the target (ring: recommended; hollow at the edge: not reached)")


def _curves(name: str, summary: Mapping[str, Any], tables: Tables) -> alt.LayerChart | None:
    rows = [row for row in tables["curves"] if row[name]]
    if not rows:
        return None
    start = max((row["loss"] for row in tables["curves"] if row["rows"] == 0), default=max(row["loss"] for row in rows))
    losses = [min(row["loss"], 1.5 * start) for row in rows]  # a diverging curve leaves the picture at the top
    ends = _reach([*losses, *(row["loss"] for row in tables["references"])], 1.15)
    scale = _scale(ends)
    held_out = summary["data"].get("holdout_source") != "none"
    x = alt.X(f"{name}:Q", title=_AXES[name], **_log(_reach((row[name] for row in rows), 1.0), "~g" if name == "seconds" else "~s"))
    y_title = "held-out loss" if held_out else "training loss (mean of r²)"
    y = alt.Y("loss:Q", title=y_title, **_log(ends))
    median = alt.Y("median(loss):Q", title=y_title, scale=scale)
    base, color = alt.Chart(alt.NamedData("curves")).transform_filter(f"datum.{name} > 0 && datum.loss <= {ends[1]}"), _color(tables)
    last = _cells(f"datum.end_{name} > 0 && datum.end_loss <= {ends[1]} && datum.label != ''")
    end_x = alt.X(f"end_{name}:Q", title=_AXES[name])
    label_y = "end_loss" if name == "steps" else "label_loss"
    tooltip = [alt.Tooltip("size:N", title="minibatch")]
    width = 2 if all(cell["label"] for cell in tables["cells"]) else 1
    layers = [
        *_reference_layers(alt.Y("loss:Q", title=y_title, scale=scale)),
        base.mark_line(strokeWidth=0.8, strokeOpacity=0.45, opacity=1).encode(x=x, y=y, color=color, detail="trial:N"),
        base.mark_line(strokeWidth=width, opacity=1).encode(x=x, y=median, color=color, detail="batch_size:O", tooltip=tooltip),
        last.mark_point(filled=True, size=28, opacity=1).encode(x=end_x, y=alt.Y("end_loss:Q", title=y_title), color=color),
        last.mark_text(align="left", dx=8).encode(x=end_x, y=alt.Y(f"{label_y}:Q", title=y_title), text="label:N"),
    ]
    return alt.layer(*layers).properties(title=f"{y_title[0].upper()}{y_title[1:]} against {_AXES[name]}")


def _points(base: alt.Chart, x: alt.X, y: alt.Y, color: alt.Color) -> list[alt.Chart]:
    """A filled mark a size, and a ring round the recommended one."""
    tooltip = [
        alt.Tooltip("size:N", title="minibatch"),
        alt.Tooltip("lr:Q", title="learning rate", format="~g"),
        alt.Tooltip("status:N"),
        alt.Tooltip("rows_per_second:Q", title="rows/s", format=".3~s"),
        alt.Tooltip("holdout_loss:Q", title="held-out loss", format=".4~g"),
        alt.Tooltip("seconds_to_target:Q", title="seconds to target", format=".3~g"),
    ]
    return [
        base.mark_point(size=260, strokeWidth=2, opacity=1, style="reference").transform_filter("datum.recommended").encode(x=x, y=y),
        base.mark_point(filled=True, size=80, opacity=1).encode(x=x, y=y, color=color, tooltip=tooltip),
    ]


def _sides(base: alt.Chart, x: alt.X, y: alt.Y, middle: float) -> list[alt.Chart]:
    """Exact sizes beside their points, on the side that faces the middle, so that none leaves the picture."""
    sides = (("<=", "left", 9), (">", "right", -9))
    return [
        base.transform_filter(f"datum.rows_per_second {sign} {middle}")
        .mark_text(align=align, dx=dx, dy=-9)
        .encode(x=x, y=y, text="label:N")
        for sign, align, dx in sides
    ]


def _title(text: str, subtitle: str = "") -> alt.Title:
    return alt.Title(text, subtitle=subtitle) if subtitle else alt.Title(text)


def _bars(base: alt.Chart) -> alt.Chart:
    """95 % intervals; one wider than the picture is cut at its edge."""
    return base.mark_rule(clip=True, strokeWidth=1.5)


def _edge_marks(base: alt.Chart, x: alt.X, color: alt.Color) -> alt.Chart:
    """Hollow triangles at the top edge for what has no value, with its status on hover."""
    tooltip = [alt.Tooltip("size:N", title="minibatch"), alt.Tooltip("status:N")]
    mark = base.mark_point(shape="triangle-up", size=90, strokeWidth=1.8, opacity=1)
    return mark.encode(x=x, y=alt.value(0), color=color, tooltip=tooltip)


def _reference_layers(y: alt.Y) -> list[alt.Chart]:
    """The best linear and the best possible loss as labelled lines."""
    base = alt.Chart(alt.NamedData("references"))
    return [
        base.mark_rule(strokeDash=[5, 4], style="reference").encode(y=y),
        base.mark_text(align="left", dx=4, dy=-7, fontSize=10, style="reference").encode(x=alt.value(0), y=y, text="name:N"),
    ]


def _cells(condition: str) -> alt.Chart:
    return alt.Chart(alt.NamedData("cells")).transform_filter(condition)


def _color(tables: Tables) -> alt.Color:
    sizes = [cell["batch_size"] for cell in tables["cells"]]
    scale = alt.Scale(type="log", domain=[min(sizes), max(max(sizes), 2 * min(sizes))])
    return alt.Color("batch_size:Q", scale=scale, legend=None)  # lines and points carry their sizes


def _log(ends: tuple[float, float], format: str = "~g") -> dict[str, Any]:
    """A log scale between `ends` with round ticks: 1, 2, 5 over a short reach, else powers of ten."""
    return {"scale": _scale(ends), "axis": alt.Axis(format=format, values=_ticks(*ends))}


def _scale(ends: tuple[float, float]) -> alt.Scale:
    return alt.Scale(type="log", domain=list(ends), nice=False)


def _ticks(low: float, high: float) -> list[float]:
    decades = math.log10(high / low)
    digits = (1, 2, 3, 5, 7) if decades < 0.8 else (1, 2, 5) if decades < 2.5 else (1,)
    ticks = [float(f"{digit}e{power}") for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for digit in digits]
    return [tick for tick in ticks if low <= tick <= high]


def _reach(values: Iterable[float], pad: float) -> tuple[float, float]:
    """A log axis' ends around positive values; never empty."""
    known = [value for value in values if value and value > 0 and math.isfinite(value)] or [1.0]
    low, high = min(known) / pad, max(known) * pad
    return (low, high) if high > 1.01 * low else (low / 1.5, high * 1.5)


def _finish(chart: alt.LayerChart) -> Spec:
    spec = chart.to_dict()
    spec.pop("config", None)  # a theme belongs to the page or to `draw`
    return spec | {"width": "container", "height": 340, "autosize": {"type": "fit", "contains": "padding"}}
