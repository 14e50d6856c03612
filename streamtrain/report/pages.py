"""The page and the pictures of a report: what takes Altair, Jinja and a JavaScript engine.

`write.py` imports it only for a report that has them.
"""

from streamtrain.report.analysis import Analysis
from streamtrain.report.charts import chart_specs, whole_spec
from streamtrain.report.html import render_html
from streamtrain.report.measure_data import Tables
from streamtrain.report.render import Drawing


def draw_pages(
    drawing: Drawing, analysis: Analysis, tables: Tables, csv_text: str
) -> tuple[str, dict[str, tuple[str, bytes]]]:
    """Return the text of the page, and SVG text and PNG bytes of each chart by name.

    Raises ResourceError where the charts cannot be drawn.
    """
    specs = chart_specs(analysis.summary, tables)
    drawn = drawing.draw({name: whole_spec(spec, tables) for name, spec in specs.items()})
    return render_html(analysis, specs, tables, csv_text, drawn.bundle), drawn.pictures
