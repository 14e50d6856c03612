"""Captions of the page mention the marks and lines that were drawn, and no others."""

import pytest

from streamtrain.report.chart_data import make_tables
from streamtrain.report.summary import analyze
from streamtrain.report.text.captions import captions, confirmation_note
from streamtrain.science.run_log import collect
from tests.report.synthetic import make_records, with_measures

RUNS = {
    "train": lambda: make_records([1024], trials=1, lrs=[0.004], verb="train"),
    "sweep": lambda: make_records((256, 1024, 4096, 65536), trials=3, target_loss=[0.05]),
    "nothing reached": lambda: make_records((256, 1024), target_loss=[0.005]),
    "failed": lambda: make_records((256, 1024, 4096), outcomes={4096: "diverged"}),
    "everything": lambda: with_measures(
        make_records((256, 1024, 4096, 65536), trials=3, target_loss=[0.05])
    ),
}


@pytest.fixture(params=RUNS)
def report(request):
    """The captions, the summary and the tables of a run."""
    analysis = analyze(collect(RUNS[request.param]()))
    tables = make_tables(analysis)
    return captions(analysis.summary, tables), analysis.summary, tables


def test_a_caption_speaks_of_what_is_drawn(report):
    text, summary, tables = report
    assert ("dashed" in text["throughput"]) == bool(tables["law"])
    assert ("delivery line" in text["throughput"]) == bool(tables["delivery"])
    assert (
        ("Ringed" in text["tradeoff"])
        == ("Ringed" in text["seconds_to_target"])
        == (summary.recommendation.batch_size is not None)
    )
    assert ("Squares" in text["seconds_to_target"]) == bool(tables["confirmed"])
    assert ("top edge" in text["seconds_to_target"]) == any(
        row["seconds_to_target"] is None for row in tables["cells"]
    )
    assert ("Hollow" in text["tradeoff"]) == any(
        row["holdout_loss"] is None for row in tables["cells"]
    )
    assert ("Crosses" in text["learning_rates"]) == any(
        row["loss"] is None for row in tables["tried"]
    )
    assert ("thin line" in text["curves"]) == (len(tables["cells"]) > 1 and summary.trials > 1)


@pytest.mark.parametrize(
    ("factor", "short"), [(1e-3, True), (1.0, False)], ids=["milliseconds", "half a second"]
)
def test_a_confirmation_of_milliseconds_is_said_to_tell_little(factor, short):
    records = with_measures(make_records((256, 1024, 4096, 65536), trials=3, target_loss=[0.05]))
    for record in records:
        if record["event"] == "confirmation":
            record["seconds"] *= factor
    assert ("says little" in confirmation_note(analyze(collect(records)).summary)) == short
