"""A report without pictures: drawing them takes a second or more."""

from streamtrain.report.analysis import Summary
from streamtrain.report.charts import Spec, Tables, chart_specs
from streamtrain.report.render import Drawing, Drawn


def specs_of_sweeps(summary: Summary, tables: Tables) -> dict[str, Spec]:
    """Do the work of `chart_specs` for a sweep; return nothing for a single size."""
    return {} if summary.verb == "train" else chart_specs(summary, tables)


class Undrawn(Drawing):
    """Draws nothing, and starts no process. Without `bundle` the page shows no charts."""

    bundle = ""

    def __enter__(self):
        return self

    def draw(self, charts):
        return Drawn(pictures={}, bundle=self.bundle)
