"""Charts of learning rates: the loss at every size and rate, and the rules side by side."""

from collections.abc import Sequence

import altair as alt

from streamtrain.report.analysis import Summary
from streamtrain.report.axis import ends_of
from streamtrain.report.charts.theme import (
    AnyChart,
    Tables,
    chart_title,
    labels,
    log_axis,
    size_axis,
    size_steps,
)
from streamtrain.report.label_rows import rules_plot
from streamtrain.science.intervals import value_of

#: Stability line → its dash pattern.
STABILITY = {"curvature": [5, 4], "mean-square stability": [2, 3]}


def learning_rates(summary: Summary, tables: Tables) -> AnyChart | None:
    """Loss by batch size and learning rate, one square per learner.

    Crosses mark learners without a loss, and lines the rates at which steps become unstable. None
    where no size had two rates.
    """
    tried = tables["tried"]
    learners = {(row["batch_size"], row["lr"]) for row in tried}
    if len(learners) <= len({size for size, _ in learners}):
        return None
    losses = [row["loss"] for row in tried if row["loss"]]
    limits = [row["lr"] for row in tables["stability"]]
    # the frames of neighbours do not touch in a narrow chart
    x, square = size_steps(tables), max(3.0, min(420.0, (130 / len(tables["cells"])) ** 2))
    rates = [row["lr"] for row in tried]
    ends = ends_of([*rates, *(limit for limit in limits if limit < 30 * max(rates))], 1.6)
    y = alt.Y("lr:Q", title="learning rate", **log_axis(ends))
    base = alt.Chart(alt.NamedData("tried"))
    color = _loss_color(losses, value_of(summary.best_constant_loss))
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
        layers += _stability_lines(x, y, ends)
    return alt.layer(*layers).properties(
        title=chart_title(
            "Loss by minibatch size and learning rate", "framed: chosen; crosses: diverged"
        )
    )


def _loss_color(losses: Sequence[float], constant_loss: float | None) -> alt.Color:
    """Return the colour of a loss on a log scale.

    Losses above twice the loss of the best constant share one colour: a single diverging learner
    would otherwise leave one colour for all the others.
    """
    worst = 2 * (constant_loss or 1.0)
    scale = alt.Scale(
        type="log",
        domain=list(ends_of([min(loss, worst) for loss in losses], 1.0)),
        clamp=True,
        scheme="viridis",
        reverse=True,
    )
    return alt.Color(
        "loss:Q",
        title="loss",
        scale=scale,
        legend=alt.Legend(format="~g", orient="right", gradientLength=200, titlePadding=12),
    )


def _stability_lines(x: alt.X, y: alt.Y, ends: tuple[float, float]) -> list[alt.Chart]:
    """Return lines of the rates at which steps become unstable, within the `ends` of an axis."""
    line = alt.Chart(alt.NamedData("stability")).transform_filter(
        f"datum.lr <= {ends[1]} && datum.lr >= {ends[0]}"
    )
    tooltip = [
        alt.Tooltip("line:N"),
        alt.Tooltip("batch_size:Q", title="minibatch", format=",d"),
        alt.Tooltip("lr:Q", title="stable below", format=".3~g"),
    ]
    dash = alt.StrokeDash(
        "line:N",
        legend=None,
        scale=alt.Scale(domain=list(STABILITY), range=list(STABILITY.values())),
    )
    return [
        line.mark_line(strokeWidth=1.5, style="reference").encode(x=x, y=y, strokeDash=dash),
        line.mark_point(size=30, filled=True, opacity=1, style="reference").encode(
            x=x, y=y, tooltip=tooltip
        ),
    ]


def rules(summary: Summary, tables: Tables) -> AnyChart | None:
    """Held-out loss at equal rows against batch size, one labelled line per learning-rate rule.

    None with one rule.
    """
    rows = [row for row in tables["arms"] if row["holdout_loss"]]
    if len({row["rule"] for row in rows}) < 2:
        return None
    title, x = "held-out loss at equal rows", size_axis(tables["cells"])
    y = alt.Y("holdout_loss:Q", title=title, **log_axis(rules_plot(tables).y))
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
            x=x, y=y, strokeDash=dash, detail=alt.Detail("rule:N")
        ),
        base.mark_point(filled=True, size=60, opacity=1, color="#2f7fd0").encode(
            x=x, y=y, shape=shape, tooltip=tooltip
        ),
        *labels("rules", tables, "minibatch size", title),
    ]
    return alt.layer(*layers).properties(
        title=chart_title("Learning-rate rules", "only the first is judged")
    )
