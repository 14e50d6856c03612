"""Throughput: every timing repeat at every size, the line that a step's time follows, and where the
stream's time goes.
"""

import altair as alt

from streamtrain.report.analysis import Summary
from streamtrain.report.axis import ends_of
from streamtrain.report.charts.theme import Tables, chart_title, log_axis, size_axis, size_color


def throughput(summary: Summary, tables: Tables) -> alt.LayerChart | None:
    """Rows/s of the steps alone, a mark a repeat, with B/(α + βB) through them and delivery as a
    roof; None without timings.
    """
    repeats = tables["repeats"]
    if not repeats:
        return None
    roof = [row for row in tables["roof"] if row["rows_per_second"]]
    title = "rows per second"
    y = alt.Y(
        "rows_per_second:Q",
        title=title,
        **log_axis(ends_of([row["rows_per_second"] for row in [*repeats, *roof]], 1.3), "~s"),
    )
    x, color = size_axis(tables), size_color(tables)
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
    if roof:
        ceiling = alt.Chart(alt.NamedData("roof"))
        layers += [
            ceiling.mark_rule(strokeDash=[5, 4], style="reference").encode(
                y=alt.Y("rows_per_second:Q", title=title)
            ),
            ceiling.mark_text(align="left", dx=4, dy=-7, fontSize=10, style="reference").encode(
                x=alt.value(0), y=alt.Y("rows_per_second:Q", title=title), text="name:N"
            ),
        ]
    return alt.layer(*layers).properties(
        title=chart_title("Rows per second of the step alone", f"a mark a repeat{dashed}")
    )


def parts(summary: Summary, tables: Tables) -> alt.LayerChart | None:
    """Seconds of work in each part of the stream, all passes together.

    None where nothing was timed.
    """
    if not tables["parts"]:
        return None
    base = alt.Chart(alt.NamedData("parts"))
    y = alt.Y("part:N", title=None, sort=[row["part"] for row in tables["parts"]])
    x = alt.X("seconds:Q", axis=None)  # every bar has its figure
    bar = base.mark_bar(height=14, color="#2f7fd0")
    text = base.mark_text(align="left", dx=5)
    return alt.layer(bar.encode(x=x, y=y), text.encode(x=x, y=y, text="label:N")).properties(
        title=chart_title(
            "Where the stream's time went", "seconds on all threads, all passes together"
        )
    )
