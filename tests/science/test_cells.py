"""What a cell says of steps, rows and targets, where the easy answer would be wrong."""

import pytest

from streamtrain.report.summary import summarize
from streamtrain.science.cells import rows_of_steps
from streamtrain.science.interval import measure
from tests.report.synthetic import make_records


@pytest.mark.parametrize(
    ("steps", "rows"), [(0, 0), (1, 100_000), (1.5, 130_000), (2, 160_000), (3, 260_000), (40, 3_200_000)], ids=str
)
def test_rows_of_steps_know_the_short_minibatch(steps, rows):
    """An epoch of 160,000 rows is a step of 100,000 and one of 60,000."""
    assert rows_of_steps(steps, 100_000, 160_000) == rows


def test_a_target_no_better_than_the_best_constant_is_no_target():
    """On noise every loss stays about where it began: nothing is reached, and nothing is concluded."""
    records = make_records(truth=None)
    for record in records:
        if record["event"] == "evaluation" and record["holdout_loss"] is not None:
            record["holdout_loss"] = 2.0 + 0.1 / (1 + record["rows"])
    summary = summarize(records)
    assert summary["target_loss"]["value"] is None if isinstance(summary["target_loss"], dict) else summary["target_loss"] is None
    assert summary["recommendation"]["batch_size"] is None
    assert not summary["recommendation"]["conclusive"]
    assert any("nothing was learned" in warning["text"] for warning in summary["warnings"])


def test_an_interval_of_times_is_never_negative():
    figure = measure([0.0, 0.07, 0.14], log=True)
    assert 0 <= figure["lo"] <= figure["value"] <= figure["hi"]
