from collections.abc import Iterator

import pytest

from streamtrain.report.charts import chart_specs
from streamtrain.report.render import Drawing


@pytest.fixture(scope="module", autouse=True)
def pictures() -> Iterator[None]:
    """Draw charts in the tests of this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamtrain.report.write.Drawing", Drawing)
        patch.setattr("streamtrain.report.pages.chart_specs", chart_specs)
        yield
