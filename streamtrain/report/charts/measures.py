"""Charts of the measurements of the trained models: noise, √m law, curvature, sharpness."""

from typing import Literal

import altair as alt

from streamtrain.report.analysis import Summary
from streamtrain.report.axis import ends_of
from streamtrain.report.charts.theme import (
    AnyChart,
    Tables,
    chart_title,
    interval_bars,
    labels,
    log_axis,
    size_axis,
    size_color,
)
from streamtrain.report.label_rows import sharpness_plot

#: Where α is, and on which side of it the name of a model is between both.
_INWARDS: tuple[tuple[str, Literal["left", "right"], int], ...] = (
    ("<", "left", 4),
    (">", "right", -4),
)


def noise_scale(summary: Summary, tables: Tables) -> AnyChart | None:
    """The noise scales and the critical batch size with the recommended one; None without one."""
    rows = tables["noise"]
    if not any(row["kind"] == "measured" for row in rows):
        return None
    values = [row["value"] for row in rows]
    bounds = [
        row[name]
        for row in rows
        for name in ("lo", "hi")
        if row[name] and min(values) / 30 < row[name] < 30 * max(values)
    ]
    ends, names = ends_of([*values, *bounds], 1.6), [row["name"] for row in rows]
    x = alt.X("value:Q", title="rows of a minibatch", **log_axis(ends, "~s"))
    y = alt.Y("name:N", title=None, sort=names, axis=alt.Axis(labelLimit=260))
    base = alt.Chart(alt.NamedData("noise"))
    tooltip = [
        alt.Tooltip("name:N"),
        *(alt.Tooltip(f"{name}:Q", format=",.4~g") for name in ("value", "lo", "hi")),
    ]
    layers = [
        interval_bars(base).encode(
            x=alt.X("lo:Q", title="rows of a minibatch"),
            x2=alt.X2("hi:Q"),
            y=y,
            color=alt.value("#2f7fd0"),
        ),
        base.transform_filter("datum.kind == 'measured'")
        .mark_point(filled=True, size=80, opacity=1, color="#2f7fd0")
        .encode(x=x, y=y, tooltip=tooltip),
        base.transform_filter("datum.kind == 'chosen'")
        .mark_point(size=200, strokeWidth=2, opacity=1, style="reference")
        .encode(x=x, y=y, tooltip=tooltip),
    ]
    title = "Noise scales"
    if any(row["kind"] == "chosen" for row in rows):
        title += " and the recommended size"
    return alt.layer(*layers).properties(title=title)


def sqrt_m(summary: Summary, tables: Tables) -> AnyChart | None:
    """The gradient's standard deviation against the rows averaged, with a line of slope −½."""
    rows = tables["sqrt_m"]
    if len(rows) < 2:
        return None
    title = "standard deviation of the gradient"
    x_ends = ends_of([row["m"] for row in rows], 1.2)
    y_ends = ends_of([row[name] for row in rows for name in ("sd", "ideal")], 1.2)
    x = alt.X("m:Q", title="rows averaged (m)", **log_axis(x_ends, "~s"))
    y = alt.Y("sd:Q", title=title, **log_axis(y_ends))
    base = alt.Chart(alt.NamedData("sqrt_m"))
    tooltip = [alt.Tooltip("m:Q", format=",d"), alt.Tooltip("sd:Q", format=".4~g")]
    layers = [
        base.mark_line(strokeDash=[5, 4], strokeWidth=1.2, style="reference").encode(
            x=x, y=alt.Y("ideal:Q", title=title)
        ),
        base.mark_point(filled=True, size=60, opacity=1, color="#2f7fd0").encode(
            x=x, y=y, tooltip=tooltip
        ),
    ]
    return alt.layer(*layers).properties(
        title=chart_title("The √m law", "dashed: slope −½ through the first point")
    )


def curvature(summary: Summary, tables: Tables) -> AnyChart | None:
    """λ_max at the end of training by batch size, with the line above which steps are unstable."""
    rows = tables["curvature"]
    if not rows:
        return None
    title = "largest curvature"
    x, color = size_axis(tables["cells"]), size_color(tables["cells"])
    values = [row[name] for row in rows for name in ("value", "line")]
    y = alt.Y("value:Q", title=title, **log_axis(ends_of(values, 1.6), "~s"))
    base = alt.Chart(alt.NamedData("curvature")).transform_filter("datum.value > 0")
    tooltip = [
        alt.Tooltip("size:N", title="minibatch"),
        alt.Tooltip("value:Q", format=".4~g"),
        alt.Tooltip("line:Q", title="stable below", format=".4~g"),
    ]
    layers = [
        interval_bars(base).encode(
            x=x, y=alt.Y("lo:Q", title=title), y2=alt.Y2("hi:Q"), color=color
        ),
        base.mark_point(filled=True, size=80, opacity=1).encode(
            x=x, y=y, color=color, tooltip=tooltip
        ),
        base.mark_line(strokeDash=[5, 4], strokeWidth=1.2, style="reference").encode(
            x=x, y=alt.Y("line:Q", title=title)
        ),
    ]
    return alt.layer(*layers).properties(
        title=chart_title("Curvature at the end of training", "dashed: stable below")
    )


def sharpness(summary: Summary, tables: Tables) -> AnyChart | None:
    """Keskar's φ and the adaptive φ by batch size; None where neither was measured."""
    rows = [row for row in tables["sharpness"] if row["value"]]
    if not rows:
        return None
    x, color = size_axis(tables["cells"]), size_color(tables["cells"])
    title = "sharpness φ, %"
    y = alt.Y("value:Q", title=title, **log_axis(sharpness_plot(tables).y))
    base = alt.Chart(alt.NamedData("sharpness")).transform_filter("datum.value > 0")
    tooltip = [
        alt.Tooltip("size:N", title="minibatch"),
        alt.Tooltip("measure:N"),
        alt.Tooltip("value:Q", format=".4~g"),
    ]
    layers = [
        base.mark_line(strokeWidth=1, strokeOpacity=0.6, color="#8a929c").encode(
            x=x, y=y, detail=alt.Detail("measure:N")
        ),
        base.mark_point(filled=True, size=80, opacity=1).encode(
            x=x, y=y, color=color, shape=alt.Shape("measure:N", legend=None), tooltip=tooltip
        ),
        *labels("sharpness", tables, "minibatch size", title),
    ]
    return alt.layer(*layers).properties(title="Sharpness of the trained models")


def line(summary: Summary, tables: Tables) -> AnyChart | None:
    """Training loss on the straight line from the smallest batch's model to the largest's."""
    rows = [row for row in tables["line"] if row["loss"]]
    if len(rows) < 2:
        return None
    x = alt.X(
        "alpha:Q",
        title="0: smallest size's model, 1: largest's",
        axis=alt.Axis(format="~g", tickCount=6, labelOverlap="greedy", labelSeparation=4),
    )
    y_ends = ends_of([row["loss"] for row in rows], 1.2)
    y = alt.Y("loss:Q", title="training loss", **log_axis(y_ends))
    base = alt.Chart(alt.NamedData("line")).transform_filter("datum.loss > 0")
    ends = base.transform_filter("datum.end != ''")
    layers = [
        base.mark_line(strokeWidth=1.8, color="#2f7fd0").encode(x=x, y=y),
        ends.mark_point(filled=True, size=80, opacity=1, style="reference").encode(x=x, y=y),
        # between the models, where the loss is low: outside the line crosses them
        *(
            ends.transform_filter(f"datum.alpha {sign} 0.5")
            .mark_text(align=align, dx=dx, dy=-12)
            .encode(x=x, y=y, text=alt.Text("end:N"))
            for sign, align, dx in _INWARDS
        ),
    ]
    return alt.layer(*layers).properties(title="Loss on the line between two trained models")
