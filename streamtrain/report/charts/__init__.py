"""The charts as Vega-Lite specs: one definition for the page, the SVG and the PNG.

Specs name their tables (`chart_data.py`, `measure_data.py`) and contain no data, so that the page
embeds each table once. Batch sizes are shown in one hue, deeper for larger sizes, and labelled
exactly; a size that did not reach its target is a hollow mark at the edge. `theme` has what the
charts share.
"""

from collections.abc import Callable
from functools import partial

from streamtrain.report.analysis import Summary
from streamtrain.report.charts import loss_ladder, measures, rates, speed, tradeoff
from streamtrain.report.charts.theme import AnyChart, Spec, Tables, finish, theme, whole_spec

__all__ = ["NAMES", "Spec", "Tables", "chart_specs", "theme", "whole_spec"]

Draw = Callable[[Summary, Tables], AnyChart | None]
#: Chart → the function that draws it, and its height in pixels.
_CHARTS: dict[str, tuple[Draw, int]] = {
    "frontier": (loss_ladder.loss_ladder, 340),
    "tradeoff": (tradeoff.tradeoff, 340),
    "seconds_to_target": (tradeoff.seconds_to_target, 340),
    "loss_by_rows": (partial(tradeoff.curves, "rows"), 380),
    "loss_by_steps": (partial(tradeoff.curves, "steps"), 380),
    "loss_by_seconds": (partial(tradeoff.curves, "seconds"), 380),
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
    """Return the specs by name, of NAMES; a chart without anything to show is left out."""
    drawn = {name: (draw(summary, tables), height) for name, (draw, height) in _CHARTS.items()}
    return {
        name: finish(chart, height) for name, (chart, height) in drawn.items() if chart is not None
    }
