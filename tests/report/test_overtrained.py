"""The warning of a loss that rose again has the rows and the losses of the curve."""

import pytest

from streamtrain.report.text.overtrained import overtrained_text
from streamtrain.science.run_log import collect
from tests.report.synthetic import make_records


def risen(factor, **options):
    """Return the run of a `train` whose losses after the third evaluation are `factor` × it."""
    given = {"trials": 1, "lrs": [0.004], "verb": "train"} | options
    records = make_records([1024], **given)
    evaluations = [record for record in records if record["event"] == "evaluation"]
    for record in evaluations[3:]:
        if record["holdout_loss"] is not None:
            record["holdout_loss"] = factor * evaluations[2]["holdout_loss"]
    return collect(records), evaluations


def test_a_loss_that_rose_is_said_with_the_rows_of_the_smallest():
    run, evaluations = risen(1.5)
    text, flag = overtrained_text(run)
    best, last = evaluations[2], evaluations[-1]
    assert f"was {best['holdout_loss']:.4f} after {best['rows']:,} rows" in text
    assert f"rose to {last['holdout_loss']:.4f} after {last['rows']:,}:" in text
    assert "The folder best has the model" in text
    assert flag == f"--max-rows {best['rows']}"


@pytest.mark.parametrize(
    ("factor", "options"),
    [
        (1.09, {}),
        (0.5, {}),
        (1.5, {"holdout": "none"}),
        (1.5, {"verb": "sweep"}),
        (1.5, {"outcomes": {1024: "diverged"}}),
        (float("nan"), {}),
    ],
    ids=["hardly", "it fell", "nothing held out", "a sweep", "diverged", "no number"],
)
def test_nothing_is_said_of_a_loss_that_did_not_rise(factor, options):
    assert overtrained_text(risen(factor, **options)[0]) is None
