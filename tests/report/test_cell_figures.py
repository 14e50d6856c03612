"""The figures of a size: one figure for the seconds to the target wherever it is shown."""

import math

import pytest

from streamtrain.report.cell_figures import _around
from streamtrain.report.markdown import answer_table, flat_rows
from streamtrain.report.number_format import seconds_text
from streamtrain.report.summary import analyze
from streamtrain.report.table import row_texts
from streamtrain.report.text.facts import confirmation_rows
from streamtrain.science.cells import seconds_to_target
from streamtrain.science.contest import mean_log_cost
from streamtrain.science.intervals import Estimate
from streamtrain.science.run_log import collect
from tests.report.synthetic import make_records

SLOWNESS = 1.3


def make_analysis(target_loss, trials=4):
    """A sweep of which two trials were trained again, at 1.3 times the seconds per row timed."""
    records = make_records((256, 1024, 4096), trials=trials, target_loss=[target_loss])
    run = collect(records)
    confirmed = [
        {
            "event": "confirmation",
            "lr": cell.lr,
            "batch_size": cell.batch_size,
            "trial": trial,
            "seconds": SLOWNESS
            * cell.row_at_target(trial)
            * math.exp(mean_log_cost(run, cell.batch_size)),
        }
        for cell in analyze(run).cells
        for trial in sorted(cell.steps_to_target)[:2]
    ]
    return analyze(collect([*records[:-1], *confirmed, records[-1]]))


def test_the_seconds_to_the_target_are_the_same_wherever_they_are_shown():
    analysis = make_analysis(0.05)
    summary, run = analysis.summary, analysis.run
    assert summary.recommendation.batch_size is not None
    predicted = {}
    for cell, figures in zip(analysis.cells, summary.cells, strict=True):
        assert cell.status == "reached"
        figure = figures.seconds_to_target
        logs = [math.log(rows) for rows in cell.rows_to_target.values()]
        expected = math.exp(sum(logs) / len(logs) + mean_log_cost(run, cell.batch_size))
        assert figure.value == pytest.approx(expected, rel=1e-9)
        assert figure.lo <= figure.value <= figure.hi
        predicted[figures.batch_size] = figure.value
        assert row_texts(summary, figures)[4] == seconds_text(figure)
    last = {int(size): value for size, value in summary.frontier[-1].by_batch_size.items()}
    assert last == predicted
    alone = [seconds_text(Estimate(value=value)) for value in predicted.values()]
    assert [row[2] for row in answer_table(summary)[1:]] == alone
    assert [float(row["seconds_to_target"]) for row in flat_rows(summary)] == list(
        predicted.values()
    )
    assert len(summary.confirmation) == 3
    for one, row in zip(summary.confirmation, confirmation_rows(summary), strict=True):
        assert one.predicted_seconds.value == predicted[one.batch_size]
        assert one.ratio.value == pytest.approx(SLOWNESS)
        assert one.measured_seconds.value == pytest.approx(SLOWNESS * predicted[one.batch_size])
        assert row[1] == seconds_text(one.predicted_seconds)
    chosen = summary.recommended_cell
    measured = SLOWNESS * predicted[chosen.batch_size]
    assert f"{seconds_text(Estimate(value=measured))} of training" in summary.sentence


def test_seconds_to_a_larger_loss_do_not_stand_for_those_to_a_target_that_was_missed():
    """No size goes below 0.06 in the first trial, so the frontier ends above the target."""
    records = make_records((256, 1024, 4096), trials=4, target_loss=[0.05])
    for record in records:
        if record["event"] == "evaluation" and record["trial"] == 0:
            record["holdout_loss"] = max(record["holdout_loss"], 0.06)
    analysis = analyze(collect(records))
    summary = analysis.summary
    assert summary.recommendation.batch_size is not None
    assert summary.frontier
    assert summary.frontier[-1].loss > 0.05
    for cell, figures in zip(analysis.cells, summary.cells, strict=True):
        assert len(cell.steps_to_target) == 3
        seconds = sorted(seconds_to_target(analysis.run, cell).values())
        # the trial that missed took longer than the others
        median = math.sqrt(seconds[1] * seconds[2])
        assert figures.seconds_to_target.value == pytest.approx(median, rel=0.5)
        assert seconds[1] <= figures.seconds_to_target.value <= seconds[2]


@pytest.mark.parametrize(("value", "lo", "hi"), [(2.5, 1.0, 3.0), (5.0, 1.0, 5.0), (0.5, 0.5, 3.0)])
def test_an_interval_includes_the_value_that_it_is_given(value, lo, hi):
    figure = Estimate(value=2.0, lo=1.0, hi=3.0, n=4)
    assert _around(value, figure) == Estimate(value=value, lo=lo, hi=hi, n=4)
    assert _around(value, Estimate(value=2.0, n=1)) == Estimate(value=value, n=1)


def test_a_training_that_took_no_time_is_left_out():
    records = make_records((256, 1024, 4096), trials=4, target_loss=[0.05])
    run = collect(records)
    cell = analyze(run).cells[0]
    first, second = sorted(cell.steps_to_target)[:2]
    confirmed = [
        {
            "event": "confirmation",
            "lr": cell.lr,
            "batch_size": cell.batch_size,
            "trial": trial,
            "seconds": seconds,
        }
        for trial, seconds in {first: 0.0, second: 2.0}.items()
    ]
    (found,) = analyze(collect([*records[:-1], *confirmed, records[-1]])).summary.confirmation
    per_row = math.exp(mean_log_cost(run, cell.batch_size))
    assert found.ratio.value == pytest.approx(2.0 / cell.row_at_target(second) / per_row)


def test_without_timings_nothing_is_compared_with_a_training():
    records = make_records((256, 1024, 4096), trials=4, target_loss=[0.05])
    cell = analyze(collect(records)).cells[0]
    confirmed = {
        "event": "confirmation",
        "lr": cell.lr,
        "batch_size": cell.batch_size,
        "trial": min(cell.steps_to_target),
        "seconds": 2.0,
    }
    untimed = [record for record in records if record["event"] not in ("timing", "delivery")]
    analysis = analyze(collect([*untimed[:-1], confirmed, untimed[-1]]))
    assert len(analysis.run.confirmations) == 1
    assert analysis.summary.confirmation == ()
