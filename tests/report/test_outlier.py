"""The text on a held-out row that makes the loss: where it is, and the flags that leave it out."""

import pytest

from streamtrain.records import Baseline, Outlier, RunStarted
from streamtrain.report.summary import summarize
from streamtrain.report.text.outlier import outlier_advice, outlier_flags, outlier_text
from streamtrain.science.run_log import Run
from tests.report.synthetic import make_records

RAIN = {"share": 0.95, "column": "rain_1h", "value": 9831.3, "deviations": 9737.4}


def make_run(outlier, **data) -> Run:
    run = Run(header=RunStarted(config={"data": data}))
    run.add(Baseline(outlier=outlier))
    return run


def test_a_run_without_such_a_row_says_nothing():
    run = make_run(None)
    assert (outlier_text(run), outlier_flags(run), outlier_advice(run)) == ("", None, "")


def test_the_row_is_named_with_its_file_column_and_value():
    text = outlier_text(make_run(Outlier(**RAIN, file="/data/metro.csv", row=24_872)))
    assert text == (
        "Row 24,872 of metro.csv has rain_1h = 9831.3, 9,737 standard deviations from the other"
        " held-out rows, and makes 95 % of the best linear model's squared error."
    )


def test_a_row_of_unknown_place_that_no_deviation_measures_is_still_described():
    text = outlier_text(make_run(Outlier(**(RAIN | {"value": 500.0, "deviations": None}))))
    assert text.startswith("One held-out row has rain_1h = 500, far from the other held-out rows")


@pytest.mark.parametrize(
    ("file", "data", "flags"),
    [
        ("metro.csv", {}, "--na-values 9831.3 --on-null drop"),
        ("metro.CSV.gz", {"on_null": "error"}, "--na-values 9831.3 --on-null drop"),
        ("metro.txt", {"na_values": ["?"], "on_null": "impute"}, "--na-values ?,9831.3"),
        ("metro.csv", {"transform": "mine:make"}, "--transform"),
        ("metro.parquet", {}, "--transform"),
        ("metro.jsonl", {}, "--na-values 9831.3 --on-null drop"),
        ("metro.json", {}, "--na-values 9831.3 --on-null drop"),
        (None, {}, "--transform"),
    ],
)
def test_only_a_value_of_an_imported_table_can_be_declared_null(file, data, flags):
    run = make_run(Outlier(**RAIN, file=file, row=None if file is None else 1), **data)
    assert outlier_flags(run) == flags
    assert outlier_advice(run).endswith(f": {flags}.")


def test_a_target_that_fresh_seeds_missed_names_the_row():
    """Raised above the loss of the mean, it would show nothing."""
    records = make_records(trials=3, lrs=[0.001, 0.004])
    outlier = RAIN | {"file": "metro.csv", "row": 24_872}
    records[0] |= {"ladder": {"budget_seconds": 60.0}, "lr_rules": ["tuned"], "rerun": True}
    records[1] |= {"outlier": outlier}
    worse = []
    for record in records:
        if record["event"] == "evaluation":
            # better than the mean, 1.0003, at the end only
            last = record["rows"] == 4_000_000
            record = record | {"holdout_loss": 0.99 if last else 1.01 + 1.0 / (1 + record["steps"])}
        worse.append(record | ({"kind": "fresh"} if record["event"] == "pass" else {}))
    rates = [0.004] * len(records[0]["batch_sizes"])
    winners = {"event": "winners", "targets": [{"target_loss": 0.98, "lrs": rates}]}
    summary = summarize([*worse[:2], winners, *worse[2:]])
    assert summary["target_loss"] == 0.98
    assert summary["recommendation"]["batch_size"] is None
    reason = summary["sentence"]
    assert reason.startswith("No size reached RMSE")
    assert "Row 24,872 of metro.csv has rain_1h = 9831.3" in reason
    assert reason.endswith("leave it out: --na-values 9831.3 --on-null drop.")
    assert not any("Row 24,872" in warning["text"] for warning in summary["warnings"])


@pytest.mark.parametrize(
    ("file", "flags", "way_out"),
    [
        ("metro.csv", "--na-values 9831.3 --on-null drop", "leave it out"),
        ("metro.parquet", "--transform", "limit the column with a function"),
    ],
)
def test_a_recommendation_in_spite_of_the_row_comes_with_a_warning(file, flags, way_out):
    records = make_records(trials=2, lrs=[0.001, 0.004])
    records[1] |= {"outlier": RAIN | {"file": file, "row": 24_872}}
    summary = summarize(records)
    assert summary["recommendation"]["batch_size"] is not None
    (warning,) = (found for found in summary["warnings"] if "9831.3" in found["text"])
    assert warning["flag"] == flags
    assert warning["text"] == (
        f"Row 24,872 of {file} has rain_1h = 9831.3, 9,737 standard deviations from the other"
        " held-out rows, and makes 95 % of the best linear model's squared error. Losses measure"
        f" this row more than the model. If it is wrong, {way_out}."
    )
