"""The first chart of a sweep: seconds to each loss of a ladder, for every minibatch size."""

import altair as alt

from streamtrain.report.analysis import Summary
from streamtrain.report.charts.theme import (
    AnyChart,
    Tables,
    chart_title,
    labels,
    log_axis,
    log_scale,
    size_color,
)
from streamtrain.report.label_rows import frontier_plot


def loss_ladder(summary: Summary, tables: Tables) -> AnyChart | None:
    """Seconds to a loss against that loss, a line per size, the fastest one ringed.

    The axis of losses is reversed: better models are to the right. None for fewer than two losses.
    """
    rows = tables.get("frontier", [])
    losses = {row["error"] for row in rows}
    if len(losses) < 2 or len(tables["cells"]) < 2:
        return None
    has_rmse = summary.frontier[0].rmse is not None
    title = f"RMSE ({summary.data.target})" if has_rmse else "held-out loss"
    plot = frontier_plot(rows)
    high, low = plot.x
    axis = log_axis((low, high), ",~g")  # an RMSE may be in thousands, as in the table
    axis["scale"] = log_scale(plot.x)
    x_title, y_title = f"{title}: better to the right", "seconds of training"
    x = alt.X("error:Q", title=x_title, **axis)
    y = alt.Y("seconds:Q", title=y_title, **log_axis(plot.y))
    base, color = alt.Chart(alt.NamedData("frontier")), size_color(tables["cells"])
    tooltip = [
        alt.Tooltip("size:N", title="minibatch"),
        alt.Tooltip("loss:Q", format=".4~g"),
        alt.Tooltip("seconds:Q", format=".3~g"),
    ]
    layers = [
        base.mark_line(strokeWidth=1.8, opacity=1).encode(
            x=x, y=y, color=color, detail=alt.Detail("batch_size:O")
        ),
        base.transform_filter("datum.best")
        .mark_point(size=260, strokeWidth=2, opacity=1, style="reference")
        .encode(x=x, y=y),
        base.mark_point(filled=True, size=50, opacity=1).encode(
            x=x, y=y, color=color, tooltip=tooltip
        ),
        *labels("frontier", tables, x_title, y_title),
    ]
    return alt.layer(*layers).properties(
        title=chart_title("The fastest size to each loss", "ring: the fastest; down is faster")
    )
