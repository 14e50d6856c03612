"""The main charts: speed against loss, seconds to the target, and the loss curves."""

from collections.abc import Sequence

import altair as alt

from streamtrain.report.analysis import Summary
from streamtrain.report.axis import ends_of, with_intervals
from streamtrain.report.charts.theme import (
    AnyChart,
    Tables,
    chart_title,
    edge_marks,
    interval_bars,
    labels,
    log_axis,
    log_scale,
    reference_layers,
    size_axis,
    size_color,
    sizes_where,
)
from streamtrain.report.label_rows import curve_names, curve_plot, tradeoff_names, tradeoff_plot
from streamtrain.report.measure_data import Row
from streamtrain.report.number_format import target_word

AXES = {"rows": "rows trained on", "steps": "steps", "seconds": "seconds of training alone"}

#: The tooltip of a size's mark.
_TOOLTIP = [
    alt.Tooltip("size:N", title="minibatch"),
    alt.Tooltip("lr:Q", title="learning rate", format="~g"),
    alt.Tooltip("status:N"),
    alt.Tooltip("rows_per_second:Q", title="rows/s", format=".3~s"),
    alt.Tooltip("holdout_loss:Q", title="held-out loss", format=".4~g"),
    alt.Tooltip("seconds_to_target:Q", title="seconds to target", format=".3~g"),
]


def tradeoff(summary: Summary, tables: Tables) -> AnyChart | None:
    """Rows per second against held-out loss at equal rows.

    None without a loss, and with a single size.
    """
    cells = [cell for cell in tables["cells"] if cell["rows_per_second"]]
    losses = [cell["holdout_loss"] for cell in cells if cell["holdout_loss"]]
    if not losses or len(tables["cells"]) < 2:
        return None
    plot = tradeoff_plot(tables["cells"], tables["references"])
    x_title = "rows per second"
    x = alt.X("rows_per_second:Q", title=x_title, **log_axis(plot.x, "~s"))
    title = f"held-out loss at {summary.holdout_loss_at_rows:,} rows"
    y = alt.Y("holdout_loss:Q", title=title, **log_axis(plot.y))
    base = sizes_where("datum.rows_per_second > 0 && datum.holdout_loss > 0")
    color = size_color(tables["cells"])
    names = tradeoff_names(tables["cells"], tables["references"], plot)
    edge = sizes_where("datum.rows_per_second > 0 && !(datum.holdout_loss > 0)")
    layers = [
        *reference_layers(alt.Y("loss:Q", title=title, scale=log_scale(plot.y)), names),
        interval_bars(base).encode(
            x=x,
            y=alt.Y("holdout_loss_lo:Q", title=title),
            y2=alt.Y2("holdout_loss_hi:Q"),
            color=color,
        ),
        interval_bars(base).encode(
            x=alt.X("rows_per_second_lo:Q", title=x_title),
            x2=alt.X2("rows_per_second_hi:Q"),
            y=y,
            color=color,
        ),
        *_points(base, x, y, color),
        *labels("tradeoff", tables, x_title, title),
        edge_marks(edge, x, color),
    ]
    missing = [f"{cell['size']} ({cell['status']})" for cell in cells if not cell["holdout_loss"]]
    subtitle = f"{_ring(tables)}right is faster, down is better"
    if 0 < len(missing) <= 4:
        subtitle = f"no loss, at the edge: {', '.join(missing)}"
    return alt.layer(*layers).properties(
        title=chart_title("Speed against loss at equal rows", subtitle)
    )


def seconds_to_target(summary: Summary, tables: Tables) -> AnyChart | None:
    """Seconds to the target against batch size, with the curve of the laws and confirmations.

    None without a target, without timings, and with a single size.
    """
    cells, target = tables["cells"], summary.target_loss
    if target is None or len(cells) < 2 or not any(cell["rows_per_second"] for cell in cells):
        return None
    reached = [cell["seconds_to_target"] for cell in cells if cell["seconds_to_target"]]
    budgets = [
        summary.train_rows / cell["rows_per_second"] for cell in cells if cell["rows_per_second"]
    ]
    x = size_axis(tables["cells"])
    title = f"seconds to loss ≤ {target_word(target)}"
    confirmed = [row["seconds"] for row in tables.get("confirmed", ()) if row["seconds"]]
    longest = 30 * max([*reached, *confirmed], default=0.0)
    predicted = [row["seconds"] for row in tables.get("law", ()) if row["seconds"]]
    others = [*confirmed, *(seconds for seconds in predicted if seconds < longest)]
    measured = with_intervals(cells, "seconds_to_target") or budgets
    ends = ends_of([*measured, *others], 2.0)
    y = alt.Y("seconds_to_target:Q", title=title, **log_axis(ends))
    base = sizes_where("datum.seconds_to_target > 0 && datum.status == 'reached'")
    color = size_color(tables["cells"])
    censored = sizes_where("datum.seconds_to_target > 0 && datum.status != 'reached'")
    layers = [
        sizes_where("datum.seconds_to_target > 0")
        .mark_line(strokeWidth=1, strokeOpacity=0.5, color="#8a929c")
        .encode(x=x, y=y),
        censored.mark_point(filled=False, size=80, opacity=1, strokeWidth=1.8).encode(
            x=x, y=y, color=color, tooltip=_TOOLTIP
        ),
        interval_bars(base).encode(
            x=x,
            y=alt.Y("seconds_to_target_lo:Q", title=title),
            y2=alt.Y2("seconds_to_target_hi:Q"),
            color=color,
        ),
        *_points(base, x, y, color),
        edge_marks(sizes_where("!(datum.seconds_to_target > 0)"), x, color),
    ]
    seconds = alt.Y("seconds:Q", title=title)
    if tables.get("law"):
        layers.insert(0, _law_line(x, seconds, ends))
    if tables.get("confirmed"):
        layers.append(_confirmed_squares(x, seconds))
    return alt.layer(*layers).properties(
        title=chart_title("Seconds to the target", f"{_ring(tables)}{_hollow(cells)}down is better")
    )


def _law_line(x: alt.X, y: alt.Y, ends: tuple[float, float]) -> alt.Chart:
    """Return the curve of the fitted laws, within the `ends` of the axis of seconds."""
    law = alt.Chart(alt.NamedData("law")).transform_filter(
        f"datum.seconds > 0 && datum.seconds <= {ends[1]} && datum.seconds >= {ends[0]}"
    )
    return law.mark_line(strokeDash=[4, 4], strokeWidth=1.2, style="reference").encode(x=x, y=y)


def _confirmed_squares(x: alt.X, y: alt.Y) -> alt.Chart:
    """Return a square per size that was trained to the target from start to end."""
    square = alt.Chart(alt.NamedData("confirmed")).mark_point(
        shape="square", size=130, strokeWidth=1.8, opacity=1, style="reference"
    )
    tooltip = [
        alt.Tooltip("size:N", title="minibatch"),
        alt.Tooltip("seconds:Q", title="measured, start to end", format=".3~g"),
    ]
    return square.encode(x=x, y=y, tooltip=tooltip)


def curves(name: str, summary: Summary, tables: Tables) -> AnyChart | None:
    """Loss against `rows`, `steps` or `seconds`: medians, and every trial as a thin line.

    None without points.
    """
    rows = [row for row in tables["curves"] if row[name]]
    if not rows:
        return None
    plot = curve_plot(name, tables["curves"], tables["references"])
    ends, reach, scale = plot.y, plot.x, log_scale(plot.y)
    held_out = summary.data.holdout_source != "none"
    x = alt.X(f"{name}:Q", title=AXES[name], **log_axis(reach, "~g" if name == "seconds" else "~s"))
    names = curve_names(name, tables["curves"], tables["references"], plot)
    y_title = "held-out loss" if held_out else "training loss (mean of r²)"
    y = alt.Y("loss:Q", title=y_title, **log_axis(ends))
    median = alt.Y("median(loss):Q", title=y_title, scale=scale)
    drawn = f"datum.{name} > 0 && datum.loss <= {ends[1]}"
    base = alt.Chart(alt.NamedData("curves")).transform_filter(drawn)
    color = size_color(tables["cells"])
    last = sizes_where(f"datum.end_{name} > 0 && datum.end_loss <= {ends[1]} && datum.label != ''")
    end_x = alt.X(f"end_{name}:Q", title=AXES[name])
    tooltip = [alt.Tooltip("size:N", title="minibatch")]
    is_one = len(tables["cells"]) == 1
    width = 2 if is_one or all(cell["label"] for cell in tables["cells"]) else 1
    layers = [
        *reference_layers(alt.Y("loss:Q", title=y_title, scale=scale), names),
        base.mark_line(strokeWidth=0.8, strokeOpacity=0.45, opacity=1).encode(
            x=x, y=y, color=color, detail=alt.Detail("trial:N")
        ),
        base.mark_line(strokeWidth=width, opacity=1).encode(
            x=x, y=median, color=color, detail=alt.Detail("batch_size:O"), tooltip=tooltip
        ),
        last.mark_point(filled=True, size=28, opacity=1).encode(
            x=end_x, y=alt.Y("end_loss:Q", title=y_title), color=color
        ),
        *labels(f"loss_by_{name}", tables, AXES[name], y_title),
    ]
    return alt.layer(*layers).properties(
        title=f"{y_title[0].upper()}{y_title[1:]} against {AXES[name]}"
    )


def _ring(tables: Tables) -> str:
    return "ring: recommended; " if any(cell["recommended"] for cell in tables["cells"]) else ""


def _hollow(cells: Sequence[Row]) -> str:
    all_reached = all(cell["status"] == "reached" for cell in cells)
    return "" if all_reached else "hollow: not in every trial; "


def _points(base: alt.Chart, x: alt.X, y: alt.Y, color: alt.Color) -> list[alt.Chart]:
    """Return a filled mark per size, and a ring around the recommended one."""
    return [
        base.mark_point(size=260, strokeWidth=2, opacity=1, style="reference")
        .transform_filter("datum.recommended")
        .encode(x=x, y=y),
        base.mark_point(filled=True, size=80, opacity=1).encode(
            x=x, y=y, color=color, tooltip=_TOOLTIP
        ),
    ]
