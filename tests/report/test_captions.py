"""Captions of the page: they speak of marks and lines that the run's chart has, and of no
others.
"""

import pytest

from streamtrain.report.chart_data import make_tables
from streamtrain.report.summary import summarize_run
from streamtrain.report.text.captions import captions, confirmation_note
from streamtrain.science.judge import judge
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
def told(request):
    """(captions, summary, tables) of a run."""
    run = collect(RUNS[request.param]())
    summary = summarize_run(run)
    tables = make_tables(run, judge(run).cells, summary)
    return captions(summary, tables), summary, tables


def test_a_caption_speaks_of_what_is_drawn(told):
    text, summary, tables = told
    assert ("dashed" in text["throughput"]) == bool(tables["law"])
    assert ("delivery line" in text["throughput"]) == bool(tables["roof"])
    assert (
        ("Ringed" in text["tradeoff"])
        == ("Ringed" in text["seconds_to_target"])
        == (summary["recommendation"]["batch_size"] is not None)
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
    assert ("thin line" in text["curves"]) == (len(tables["cells"]) > 1 and summary["trials"] > 1)


@pytest.mark.parametrize(
    ("factor", "short"), [(1e-3, True), (1.0, False)], ids=["milliseconds", "half a second"]
)
def test_a_confirmation_of_milliseconds_is_said_to_tell_little(factor, short):
    records = with_measures(make_records((256, 1024, 4096, 65536), trials=3, target_loss=[0.05]))
    for record in records:
        if record["event"] == "confirmation":
            record["seconds"] *= factor
    assert ("says little" in confirmation_note(summarize_run(collect(records)))) == short
