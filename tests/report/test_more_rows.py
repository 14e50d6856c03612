"""The text on more rows: it gives what was found, and warns only of a size far from the chosen."""

import pytest

from streamtrain.records.events import DataInfo
from streamtrain.report.analysis import Summary
from streamtrain.report.summary_parts import CellFigures, MoreRows, Recommended
from streamtrain.report.text.more_rows import far_prediction, more_rows_text
from streamtrain.report.text.sentence import next_note
from streamtrain.science.intervals import Estimate


def summarize(predicted, *, is_confirmed=True, batch_size=64):
    return Summary(
        recommendation=Recommended(batch_size=batch_size),
        more_rows=MoreRows(
            fastest={"65536": 47.3, "262144": 61.0},
            per_doubling=Estimate(value=1.14, lo=1.05, hi=1.23, n=9),
            expected=Estimate(value=60.0, lo=50.0, hi=70.0, n=2),
            is_confirmed=is_confirmed,
            epoch_rows=3_000_000_000,
            predicted=predicted,
        ),
    )


def test_a_run_that_cannot_tell_says_nothing():
    assert more_rows_text(Summary()) == far_prediction(Summary()) == ""


def test_the_text_has_every_rung_and_the_prediction():
    text = more_rows_text(summarize(Estimate(value=400.0, lo=212.0, hi=760.0, n=9)))
    assert text == (
        "fastest: 47 with 65,536 rows, 61 with 262,144 rows (× 1.14 [1.05, 1.23] per doubling of"
        " the rows). The rungs before the last predict 60 [50, 70] for it. For all 3,000,000,000"
        " rows: 400 [210, 760]"
    )


def test_a_line_that_is_wrong_predicts_nothing():
    assert more_rows_text(summarize(Estimate(value=None), is_confirmed=False)).endswith(
        "60 [50, 70] for it, which is wrong: the size for more rows is not predicted"
    )


@pytest.mark.parametrize(
    ("lo", "hi", "warns"), [(212, 760, True), (100, 760, False), (5, 20, True), (20, 40, False)]
)
def test_only_a_prediction_far_from_the_recommended_size_is_a_warning(lo, hi, warns):
    text = far_prediction(summarize(Estimate(value=(lo * hi) ** 0.5, lo=lo, hi=hi, n=9)))
    assert bool(text) == warns
    assert not warns or text.startswith("64 is the fastest for 262,144 rows. For all 3,000,000,000")


@pytest.mark.parametrize(
    ("rows", "fall", "flat", "said"),
    [
        (100_000, 0.0021, True, "lowered the loss by 0.21 % only."),
        (
            100_000,
            0.043,
            False,
            "lowered the loss by 4.3 %: a sweep of more rows (--budget, --max-rows) may gain more.",
        ),
        (100_000, -0.01, True, "gained nothing."),
        (100_000, None, True, None),
        (500_000, 0.043, False, None),
    ],
)
def test_a_training_on_few_rows_says_what_more_would_gain(rows, fall, flat, said):
    recommended = Recommended(
        batch_size=64, command="it", rows=rows, fall_per_doubling=fall, is_flat=flat
    )
    summary = Summary(
        recommendation=recommended,
        cells=(CellFigures(batch_size=64),),
        data=DataInfo(num_rows=1_000_000, holdout_rows=1000),
    )
    start = f"It trains on {rows:,} of the 999,000 rows." if rows < 499_500 else ""
    start = start or f"It trains on {rows:,} rows."
    assert next_note(summary) == (f"{start} In the sweep, twice the rows {said}" if said else start)
