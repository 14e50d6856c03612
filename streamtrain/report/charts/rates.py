"""Learning rates: the loss at every size and rate with the stability line, and the rules that say a
rate for each size.
"""

import altair as alt

from streamtrain.report.analysis import Summary
from streamtrain.report.axis import ends_of
from streamtrain.report.charts.theme import Tables, chart_title, log_axis, size_axis, size_steps

#: Stability line → its dashes.
STABILITY = {"curvature": [5, 4], "mean-square stability": [2, 3]}


def learning_rates(summary: Summary, tables: Tables) -> alt.LayerChart | None:
    """B x η: a square a learner, coloured by its loss; crosses diverged.

    None where no size had two rates.
    """
    tried = tables["tried"]
    if len({(row["batch_size"], row["lr"]) for row in tried}) <= len(
        {row["batch_size"] for row in tried}
    ):
        return None
    losses = [row["loss"] for row in tried if row["loss"]]
    limits = [row["lr"] for row in tables["stability"]]
    x, square = size_steps(tables), min(420, (360 / len(tables["cells"])) ** 2)
    rates = [row["lr"] for row in tried]
    ends = ends_of([*rates, *(limit for limit in limits if limit < 30 * max(rates))], 1.6)
    y = alt.Y("lr:Q", title="learning rate", **log_axis(ends))
    base = alt.Chart(alt.NamedData("tried"))
    # What is worse than twice the best constant has one colour, or a single runaway would leave one
    # colour to all the others.
    worst = 2 * (summary.constant_loss or 1.0)
    scale = alt.Scale(
        type="log",
        domain=list(ends_of([min(loss, worst) for loss in losses], 1.0)),
        clamp=True,
        scheme="viridis",
        reverse=True,
    )
    color = alt.Color(
        "loss:Q",
        title="loss",
        scale=scale,
        legend=alt.Legend(format="~g", orient="right", gradientLength=200, titlePadding=12),
    )
    tooltip = [
        alt.Tooltip("size:N", title="minibatch"),
        alt.Tooltip("lr:Q", title="learning rate", format="~g"),
        alt.Tooltip("outcome:N"),
        alt.Tooltip("loss:Q", title="loss (median)", format=".4~g"),
        alt.Tooltip("rows:Q", title="at rows", format=",d"),
    ]
    layers = [
        base.transform_filter("datum.loss > 0")
        .mark_square(size=square, opacity=1)
        .encode(x=x, y=y, color=color, tooltip=tooltip),
        base.transform_filter("!(datum.loss > 0)")
        .mark_point(shape="cross", filled=True, size=110, angle=45, opacity=1, style="reference")
        .encode(x=x, y=y, tooltip=tooltip),
        base.transform_filter("datum.chosen")
        .mark_point(shape="square", size=1.5 * square, strokeWidth=2, opacity=1, style="reference")
        .encode(x=x, y=y),
    ]
    if limits:
        line = alt.Chart(alt.NamedData("stability")).transform_filter(
            f"datum.lr <= {ends[1]} && datum.lr >= {ends[0]}"
        )
        told = [
            alt.Tooltip("line:N"),
            alt.Tooltip("batch_size:Q", title="minibatch", format=",d"),
            alt.Tooltip("lr:Q", title="stable below", format=".3~g"),
        ]
        dash = alt.StrokeDash(
            "line:N",
            legend=None,
            scale=alt.Scale(domain=list(STABILITY), range=list(STABILITY.values())),
        )
        layers += [
            line.mark_line(strokeWidth=1.5, style="reference").encode(x=x, y=y, strokeDash=dash),
            line.mark_point(size=30, filled=True, opacity=1, style="reference").encode(
                x=x, y=y, tooltip=told
            ),
        ]
    return alt.layer(*layers).properties(
        title=chart_title(
            "Loss by minibatch size and learning rate", "framed: chosen; crosses: diverged"
        )
    )


def rules(summary: Summary, tables: Tables) -> alt.LayerChart | None:
    """Held-out loss at equal rows against batch size, a line a learning-rate rule, labelled
    directly; None with one rule.
    """
    found = [row for row in tables["arms"] if row["holdout_loss"]]
    if len({row["rule"] for row in found}) < 2:
        return None
    title = "held-out loss at equal rows"
    x, y = (
        size_axis(tables),
        alt.Y(
            "holdout_loss:Q",
            title=title,
            **log_axis(ends_of([row["holdout_loss"] for row in found], 1.3)),
        ),
    )
    base = alt.Chart(alt.NamedData("arms")).transform_filter("datum.holdout_loss > 0")
    dash = alt.StrokeDash("rule:N", legend=None)
    shape = alt.Shape("rule:N", legend=None)
    tooltip = [
        alt.Tooltip("rule:N"),
        alt.Tooltip("size:N", title="minibatch"),
        alt.Tooltip("lr:Q", title="learning rate", format="~g"),
        alt.Tooltip("holdout_loss:Q", title="held-out loss", format=".4~g"),
        alt.Tooltip("status:N"),
    ]
    layers = [
        base.mark_line(strokeWidth=1.4, color="#2f7fd0").encode(
            x=x, y=y, strokeDash=dash, detail="rule:N"
        ),
        base.mark_point(filled=True, size=60, opacity=1, color="#2f7fd0").encode(
            x=x, y=y, shape=shape, tooltip=tooltip
        ),
        base.transform_filter("datum.last")
        .mark_text(align="left", dx=9)
        .encode(x=x, y=alt.Y("label_loss:Q", title=title), text="rule:N"),
    ]
    return alt.layer(*layers).properties(
        title=chart_title("Learning-rate rules", "only the first is judged")
    )
