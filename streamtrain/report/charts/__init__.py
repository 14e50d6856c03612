"""The charts as Vega-Lite specs; one definition gives the page's interactive chart, the SVG and the
PNG.

Specs name their data (`tables.py`, `measure_tables.py`) and hold none, so that the page embeds each
table once. Batch sizes are ordered by one hue and labelled exactly; what did not reach its target
is a hollow mark at the edge. `house` has what all share; `picture`, `speed`, `rates`, `measures`
the charts of the report's sections 2 and 3, 4, 6, 6.
"""

from collections.abc import Callable

import altair as alt

from streamtrain.report.analysis import Summary
from streamtrain.report.charts import measures, rates, speed
from streamtrain.report.charts import tradeoff as picture
from streamtrain.report.charts.theme import Spec, Tables, finish, theme, whole_spec

__all__ = ["NAMES", "Spec", "Tables", "chart_specs", "theme", "whole_spec"]

Draw = Callable[[Summary, Tables], alt.LayerChart | None]
#: Name → (what draws it, height in pixels).
_CHARTS: dict[str, tuple[Draw, int]] = {
    "tradeoff": (picture.tradeoff, 340),
    "seconds_to_target": (picture.seconds_to_target, 340),
    **{
        f"loss_by_{name}": (
            lambda summary, tables, name=name: picture.curves(name, summary, tables),
            380,
        )
        for name in picture.AXES
    },
    "throughput": (speed.throughput, 320),
    "parts": (speed.parts, 170),
    "learning_rates": (rates.learning_rates, 340),
    "rules": (rates.rules, 320),
    "noise_scale": (measures.noise_scale, 190),
    "sqrt_m": (measures.sqrt_m, 300),
    "curvature": (measures.curvature, 300),
    "sharpness": (measures.sharpness, 300),
    "line": (measures.line, 300),
}
NAMES = tuple(_CHARTS)


def chart_specs(summary: Summary, tables: Tables) -> dict[str, Spec]:
    """The specs by name, of NAMES; a chart without a single point to show is left out."""
    drawn = {name: (draw(summary, tables), height) for name, (draw, height) in _CHARTS.items()}
    return {
        name: finish(chart, height) for name, (chart, height) in drawn.items() if chart is not None
    }
