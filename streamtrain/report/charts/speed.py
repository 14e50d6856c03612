"""Charts of throughput: timing repeats with the law of a step's time, and the stream's time."""

from collections.abc import Sequence

import altair as alt

from streamtrain.report.analysis import Summary
from streamtrain.report.axis import ends_of
from streamtrain.report.charts.theme import (
    AnyChart,
    Tables,
    chart_title,
    log_axis,
    size_axis,
    size_color,
)
from streamtrain.report.measure_data import Row

#: The width of the chart of bars, in lengths of its longest bar: a quarter is left for its figure.
_ROOM_OF_LABEL = 1.35


def throughput(summary: Summary, tables: Tables) -> AnyChart | None:
    """Rows per second of the step alone, one mark per repeat; None without timings.

    The law B/(α + βB) goes through the marks, and the delivery rate is a line above which a step
    waits for rows.
    """
    repeats = tables["repeats"]
    if not repeats:
        return None
    delivery = [row for row in tables["delivery"] if row["rows_per_second"]]
    title = "rows per second"
    ends = ends_of([row["rows_per_second"] for row in [*repeats, *delivery]], 1.3)
    y = alt.Y("rows_per_second:Q", title=title, **log_axis(ends, "~s"))
    sizes = _timed_sizes(tables)
    x, color = size_axis(sizes), size_color(sizes)
    base = alt.Chart(alt.NamedData("repeats"))
    tooltip = [
        alt.Tooltip("size:N", title="minibatch"),
        alt.Tooltip("repeat:Q"),
        alt.Tooltip("rows_per_second:Q", title="rows/s", format=".4~s"),
    ]
    line = alt.Chart(alt.NamedData("law")).transform_filter("datum.step_rows_per_second > 0")
    law = line.mark_line(strokeWidth=1.2, strokeDash=[4, 4], color="#8a929c", clip=True)
    layers = [
        law.encode(x=x, y=alt.Y("step_rows_per_second:Q", title=title)),
        base.mark_tick(thickness=2, size=16, opacity=0.9, orient="horizontal").encode(
            x=x, y=y, color=color, tooltip=tooltip
        ),
    ]
    dashed = "; dashed: B / (α + βB)" if tables["law"] else ""
    if delivery:
        rate = alt.Chart(alt.NamedData("delivery"))
        layers += [
            rate.mark_rule(strokeDash=[5, 4], style="reference").encode(
                y=alt.Y("rows_per_second:Q", title=title)
            ),
            rate.mark_text(align="left", dx=4, dy=-7, fontSize=10, style="reference").encode(
                x=alt.value(0), y=alt.Y("rows_per_second:Q", title=title), text=alt.Text("name:N")
            ),
        ]
    return alt.layer(*layers).properties(
        title=chart_title("Rows per second of the step alone", f"one mark per repeat{dashed}")
    )


def _timed_sizes(tables: Tables) -> Sequence[Row]:
    """Return the sizes on the axis: those of the cells, or those that one training came to.

    The cell of a training has its first size only.
    """
    if len(tables["cells"]) > 1:
        return tables["cells"]
    timed = {row["batch_size"]: row["size"] for row in tables["repeats"]}
    return [{"batch_size": size, "label": timed[size]} for size in sorted(timed)]


def parts(summary: Summary, tables: Tables) -> AnyChart | None:
    """Seconds of work in each part of the stream, over all passes; None if nothing was timed."""
    if not tables["parts"]:
        return None
    base = alt.Chart(alt.NamedData("parts"))
    y = alt.Y("part:N", title=None, sort=[row["part"] for row in tables["parts"]])
    # every bar is labelled with its figure, which needs room beside the longest one
    reach = _ROOM_OF_LABEL * max(row["seconds"] for row in tables["parts"])
    x = alt.X("seconds:Q", axis=None, scale=alt.Scale(domain=[0, reach or 1.0], nice=False))
    bar = base.mark_bar(height=14, color="#2f7fd0")
    text = base.mark_text(align="left", dx=5)
    return alt.layer(
        bar.encode(x=x, y=y), text.encode(x=x, y=y, text=alt.Text("label:N"))
    ).properties(
        title=chart_title(
            "Where the stream's time went", "seconds on all threads, all passes together"
        )
    )
