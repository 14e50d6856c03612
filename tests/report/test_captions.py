"""Captions of the page mention the marks and lines that were drawn, and no others."""

import math

import pytest

from streamtrain.report.chart_data import make_tables
from streamtrain.report.number_format import seconds_text
from streamtrain.report.summary import analyze
from streamtrain.report.text.captions import captions, confirmation_note
from streamtrain.report.text.sentence import next_note
from streamtrain.science.contest import mean_log_cost
from streamtrain.science.intervals import Estimate
from streamtrain.science.run_log import collect
from tests.report.synthetic import make_growing, make_records, with_measures

RUNS = {
    "train": lambda: make_records([1024], trials=1, lrs=[0.004], verb="train"),
    "a size that changes": make_growing,
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
    is_timed_at_several = len({row["batch_size"] for row in tables["repeats"]}) > 1
    assert ("sizes taking turns" in text["throughput"]) == is_timed_at_several
    is_changing = len(summary.sizes_used) > 1
    assert ("Minibatches of 1,024, then 4,096 rows." in text["curves"]) == is_changing
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


@pytest.mark.parametrize(("trials", "known"), [(2, False), (3, True)])
def test_the_curve_of_the_laws_is_drawn_only_where_b_crit_is_determined(trials, known):
    """With two of these trials the interval of B_crit is 14 to 12.6 M rows."""
    sizes = (256, 1024, 4096, 65536)
    analysis = analyze(collect(make_records(sizes, trials=trials, target_loss=[0.05], seed=2)))
    steps, tables = analysis.landmarks.laws.steps, make_tables(analysis)
    assert steps.critical_batch_size is not None
    assert (steps.known is not None) == known
    assert [row["seconds"] is not None for row in tables["law"]] == [known] * 60
    assert all(row["step_rows_per_second"] > 0 for row in tables["law"])
    text = captions(analysis.summary, tables)["seconds_to_target"]
    assert ("Dashed: what the laws" in text) == known
    assert ("these sizes do not determine B_crit" in text) == (not known)


@pytest.mark.parametrize(
    ("factor", "short"), [(1e-3, True), (1.0, False)], ids=["milliseconds", "half a second"]
)
def test_a_confirmation_of_milliseconds_is_said_to_tell_little(factor, short):
    records = with_measures(make_records((256, 1024, 4096, 65536), trials=3, target_loss=[0.05]))
    for record in records:
        if record["event"] == "confirmation":
            record["seconds"] *= factor
    assert ("says little" in confirmation_note(analyze(collect(records)).summary)) == short


@pytest.mark.parametrize(
    ("factor", "spread"),
    [(1.0, 0.01), (3.0, 0.9), (20.0, 0.01), (1.3, 0.01)],
    ids=["as predicted", "too noisy to tell", "longer", "longer by a start"],
)
def test_a_measured_time_wins_and_stands_beside_one_that_differs(factor, spread):
    """Each trial takes a multiple of the timed seconds per row, give or take `spread`."""
    records = with_measures(make_records((256, 1024, 4096, 65536), trials=3, target_loss=[0.05]))
    records[0]["folder"] = "runs/a"
    recommended = analyze(collect(records)).summary.recommended_cell
    run = collect(records)
    cell = next(cell for cell in analyze(run).cells if cell.batch_size == recommended.batch_size)
    per_row = math.exp(mean_log_cost(run, cell.batch_size))
    kept = [record for record in records if record["event"] != "confirmation"]
    confirmed = [
        {
            "event": "confirmation",
            "lr": cell.lr,
            "batch_size": cell.batch_size,
            "trial": trial,
            "seconds": factor * (1 + spread * (trial - 1)) * per_row * cell.row_at_target(trial),
            "fill_seconds": 0.1,
        }
        for trial in cell.steps_to_target
    ]
    summary = analyze(collect([*kept[:-1], *confirmed, kept[-1]])).summary
    (found,) = summary.confirmation
    measured = seconds_text(Estimate(value=found.measured_seconds.value))
    table = seconds_text(Estimate(value=recommended.seconds_to_target.value))
    differs, is_start = factor == 20.0, factor == 1.3
    assert found.is_off == (differs or is_start)
    assert f"{measured} of training" in summary.sentence
    within = f"within the noise of the {table} predicted"
    assert (within in summary.sentence) == (factor == 3.0)
    assert (f"not the {table} predicted" in summary.sentence) == differs
    assert (f"({table} predicted for its steps alone)" in summary.sentence) == is_start
    assert ("differ beyond the interval" in confirmation_note(summary)) == found.is_off
    assert any("times the seconds predicted" in w.text for w in summary.warnings) == differs
    speed, rows = recommended.rows_per_second.value, summary.recommendation.rows
    # 131,072 held-out rows at every √2 of the rows from 1,024, at a third of the fastest step
    fastest = max(cell.rows_per_second.value for cell in summary.cells)
    evaluating = (2 + 2 * math.log2(rows / 1024)) * 131_072 / fastest / 3
    seconds = rows / speed * found.ratio.value + evaluating
    note = f"about {seconds_text(Estimate(value=seconds))}"
    assert f" in {note if seconds >= 0.5 else 'less than a second'};" in next_note(summary)
    assert (seconds < 0.5) == (factor == 1.0)
