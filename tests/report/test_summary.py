"""summary.json: its schema, its figures against the records, and every outcome of a run."""

import json
import math
import re
from dataclasses import replace
from importlib.resources import files

import jsonschema
import numpy as np
import pytest

from streamtrain.base.units import parse_seconds
from streamtrain.errors import DataError
from streamtrain.report import cell_figures as cells
from streamtrain.report.analysis import Summary
from streamtrain.report.markdown import order_note, render_markdown, render_table
from streamtrain.report.number_format import error_text
from streamtrain.report.summary import analyze, summarize
from streamtrain.report.summary_parts import NOT_MEASURED
from streamtrain.report.table import (
    answer_headings,
    answer_texts,
    plain_verdict,
    row_texts,
    verdict_text,
)
from streamtrain.report.text.headline import ladder, tiles
from streamtrain.science.intervals import Estimate
from streamtrain.science.run_log import collect
from streamtrain.science.selection import LOOKS
from tests.report.synthetic import make_growing, make_records

SCHEMA = json.loads(files("streamtrain.report").joinpath("schema.json").read_text(encoding="utf-8"))
MANY = sorted({round(64 * 1.05**k) for k in range(200)})
RUNS = [
    pytest.param({}, id="plain"),
    pytest.param({"trials": 5}, id="five-trials"),
    pytest.param({"trials": 1}, id="one-trial"),
    pytest.param({"sizes": [1024]}, id="one-size"),
    pytest.param({"sizes": [1024], "trials": 1, "lrs": [0.004], "verb": "train"}, id="train"),
    pytest.param({"target_loss": [0.0101]}, id="nothing-reached"),
    pytest.param({"target_loss": [0.005]}, id="below-the-best-possible"),
    pytest.param({"target_loss": [0.1, 0.05]}, id="two-targets"),
    pytest.param({"target_loss": [2.0]}, id="reached-at-the-start"),
    pytest.param(
        {"outcomes": {256: "failed", 4096: "out_of_memory", 65536: "diverged"}}, id="failed-cells"
    ),
    pytest.param(
        {"outcomes": dict.fromkeys([256, 1024, 4096, 65536, 1_000_000], "diverged")},
        id="all-diverged",
    ),
    pytest.param({"nan_sizes": [1024]}, id="nan-loss"),
    pytest.param({"nan_sizes": [256, 1024, 4096, 65536, 1_000_000]}, id="all-nan"),
    pytest.param({"holdout": "none"}, id="holdout-0"),
    pytest.param({"timing": False}, id="not-timed"),
    pytest.param({"truth": False, "holdout": "eval_data"}, id="eval-data"),
    pytest.param({"sizes": MANY, "lrs": [0.004]}, id="200-sizes"),
    pytest.param(
        {"features": ["<script>alert(1)</script>", "b|c", "\x1b[31m", "</script>"]},
        id="hostile-names",
    ),
]


@pytest.mark.parametrize("options", RUNS)
def test_every_run_has_a_summary_that_keeps_to_the_schema(options):
    records = make_records(**options)
    analysis = analyze(collect(records))
    summary = analysis.to_json()
    text = json.dumps(summary, allow_nan=False)
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(text))
    assert [cell["batch_size"] for cell in summary["cells"]] == records[0]["batch_sizes"]
    recommendation = summary["recommendation"]
    assert {*recommendation["not_chosen"], str(recommendation["batch_size"])} >= {
        str(size) for size in records[0]["batch_sizes"]
    }
    assert summary["sentence"] in render_table(summary)
    assert summary["sentence"] in render_markdown(analysis)
    assert all(line == line.rstrip() for line in render_table(summary).splitlines())


@pytest.mark.parametrize("options", RUNS)
def test_a_summary_is_read_back_as_it_was(options):
    analysis = analyze(collect(make_records(**options)))
    document = json.loads(json.dumps(analysis.to_json()))
    assert Summary.from_json(document).to_json() == document


def test_holdout_loss_is_the_median_over_trials_at_the_common_row():
    records = make_records(trials=3)
    summary = summarize(records)
    assert summary["holdout_loss_at_rows"] == 4_000_000
    for cell in summary["cells"]:
        key = {
            "event": "evaluation",
            "batch_size": cell["batch_size"],
            "lr": cell["lr"],
            "rows": 4_000_000,
        }
        losses = [r["holdout_loss"] for r in records if key.items() <= r.items()]
        assert cell["holdout_loss"]["value"] == np.median(losses)
        assert cell["holdout_loss"]["n"] == 3


def test_a_pass_that_ended_early_moves_the_common_row():
    records = [
        r
        for r in make_records()
        if not (r["event"] == "evaluation" and r["trial"] == 1 and r["rows"] > 1_000_000)
    ]
    assert summarize(records)["holdout_loss_at_rows"] == round(1024 * 2**9.5)


def test_under_a_time_budget_the_rows_are_those_reached():
    records = make_records(target_loss=[0.0101])
    records[0]["train_rows"] = None
    summary = summarize(records)
    assert summary["train_rows"] == 4_000_000
    assert "within 4M rows" in summary["sentence"]


def test_a_missed_target_is_said_with_the_rows_of_the_trials_that_judge():
    """Fresh seeds train on fewer rows than the trials that chose the rates."""
    records = make_records([1024, 4096], trials=2, target_loss=[0.0101])
    records[0] |= {"trials": 1, "lr_rules": ["tuned"], "rerun": True}
    kept = [
        {**r, "kind": "fresh"} if r["event"] == "pass" and r["trial"] == 1 else r
        for r in records
        if r.get("trial") != 1 or r["event"] == "pass" or r["rows"] <= 1_500_000
    ]
    summary = summarize(kept)
    assert summary["train_rows"] == 4_000_000
    assert summary["fresh_seeds"]
    rows = f"within {round(1024 * 2**10.5):,} rows"
    assert rows in summary["sentence"]
    assert rows in summary["recommendation"]["not_chosen"]["1024"]


def test_a_missed_target_is_said_in_its_units_with_one_that_was_reached():
    """Curves that have become flat, at a loss of their own in each trial."""
    records = make_records([1024, 4096], trials=3, target_loss=[0.0101])
    for record in records:
        if record["event"] == "evaluation" and record["rows"] > 0:
            record["holdout_loss"] = 0.02 + 0.001 * record["trial"]
    sentence = summarize(records)["sentence"]
    found = re.search(r"^No size reached RMSE (\S+) in .* such as --target-rmse (\S+)\.$", sentence)
    assert found, sentence
    missed, proposed = map(float, found.groups())
    assert missed < proposed
    records[0] |= {"target_loss": [0.0101 * (proposed / missed) ** 2]}
    assert summarize(records)["recommendation"]["target_rmse"] == pytest.approx(proposed, rel=1e-3)
    assert summarize(records)["recommendation"]["batch_size"] is not None


def test_a_diverged_cell_neither_has_a_loss_nor_moves_the_common_row():
    summary = summarize(make_records(outcomes={65536: "diverged"}))
    cell = summary["cells"][3]
    assert cell["status"] == "diverged"
    assert cell["holdout_loss"] == {"value": None, "n": 0, "lo": None, "hi": None}
    assert summary["holdout_loss_at_rows"] == 4_000_000


def test_throughput_is_the_slower_of_step_and_stream():
    records = [r for r in make_records() if r["event"] not in ("timing", "delivery")]
    records += [
        {"event": "timing", "batch_size": 256, "repeat": k, "rows": 1000, "seconds": 1.0}
        for k in range(3)
    ]
    records += [
        {"event": "timing", "batch_size": 1024, "repeat": k, "rows": 1000, "seconds": 0.1}
        for k in range(3)
    ]
    records += [{"event": "delivery", "repeat": k, "rows": 5000, "seconds": 2.0} for k in range(3)]
    first, second = summarize(records)["cells"][:2]
    assert (first["rows_per_second"]["value"], first["wait_fraction"]["value"]) == (1000.0, 0.0)
    assert second["rows_per_second"]["value"] == pytest.approx(2500)
    assert second["wait_fraction"]["value"] == pytest.approx(0.75)


def test_units_join_steps_rows_and_seconds():
    for cell in summarize(make_records(trials=3))["cells"]:
        if cell["status"] == "reached":
            assert cell["rows_to_target"]["value"] == pytest.approx(
                cell["steps_to_target"]["value"] * cell["batch_size"]
            )
            seconds = cell["rows_to_target"]["value"] / cell["rows_per_second"]["value"]
            # timing repeats are within 2 % of one another
            assert cell["seconds_to_target"]["value"] == pytest.approx(seconds, rel=0.05)
        else:
            assert cell["seconds_to_target"]["value"] is None


def test_without_a_holdout_losses_are_null_and_the_best_rate_is_of_the_training_loss():
    with_holdout, without = summarize(make_records()), summarize(make_records(holdout="none"))
    assert without["recommendation"]["batch_size"] is None
    assert "held out" in without["recommendation"]["reason"]
    assert without["target_loss"] is None
    assert without["holdout_loss_at_rows"] is None
    assert without["best_linear_loss"]["scored_on"] == "training"
    for cell in without["cells"]:
        assert cell["holdout_loss"]["value"] is None
        assert cell["steps_to_target"]["value"] is None
        assert math.isfinite(cell["lr"])
        assert cell["status"] == "not_reached"
    assert len(with_holdout["cells"]) == len(without["cells"])


def test_one_trial_has_no_interval_and_no_conclusion():
    summary = summarize(make_records(trials=1))
    assert not summary["recommendation"]["settled"]
    assert summary["recommendation"]["slower_by"]["hi"] is None
    assert "One trial cannot tell how sure that is." in summary["sentence"]
    assert all(
        cell["holdout_loss"]["lo"] is None and cell["holdout_loss"]["n"] == 1
        for cell in summary["cells"]
    )
    assert any("One run" in warning["text"] for warning in summary["warnings"])


def test_sizes_beyond_the_rows_are_said_to_be_one():
    records = make_records()
    rows = sorted({record["batch_size"] for record in records if record["event"] == "evaluation"})[
        -2
    ]
    header = {**records[0], "epoch_rows": rows}
    texts = [warning["text"] for warning in summarize([header, *records[1:]])["warnings"]]
    assert (
        sum(f": more than the {rows:,} rows that there are to train on" in text for text in texts)
        == 1
    )
    assert not any(
        "rows that there are to train on" in warning["text"]
        for warning in summarize([{**header, "epoch_rows": 10**9}, *records[1:]])["warnings"]
    )


def test_a_target_that_is_not_there_is_not_missed():
    records = [
        record | ({"holdout_loss": 2.0} if record["event"] == "evaluation" else {})
        for record in make_records()
    ]
    summary = summarize(records)
    assert summary["target_loss"] is None
    assert not any("did not reach" in warning["text"] for warning in summary["warnings"])


def test_a_handful_of_held_out_rows_is_said_to_say_little():
    header, *rest = make_records()
    found = [
        summarize([{**header, "data": {**header["data"], "holdout_rows": rows}}, *rest])["warnings"]
        for rows in (1, 99, 100)
    ]
    assert [
        sum("were held out: a loss" in w["text"] or "was held out: a loss" in w["text"] for w in ws)
        for ws in found
    ] == [1, 1, 0]


@pytest.mark.parametrize(
    ("columns", "flag"),
    [
        ({"x0": 3000, "x1": 1000}, "--features"),
        ({"x0": 2000, "x1": 2000}, "--on-null"),
        ({"x0": 900, "x1": 100}, "--on-null"),
        ({"y": 4000}, "--on-null"),
    ],
    ids=["one feature", "two features", "few rows", "the target"],
)
def test_a_feature_that_costs_most_of_the_rows_is_named(columns, flag):
    records = make_records(trials=1)
    kept, total = 1000, sum(columns.values())
    rows = kept + total
    records[0] |= {"epoch_rows": rows, "data": records[0]["data"] | {"num_rows": rows}}
    for record in records:
        if record["event"] == "pass":
            record |= {"rows_read": kept, "dropped": {"total": total, "columns": columns}}
    (warning,) = (w for w in summarize(records)["warnings"] if "left out" in w["text"])
    assert warning["flag"] == flag
    assert ("x0 has none in most of them" in warning["text"]) == (flag == "--features")


@pytest.mark.parametrize(
    ("name", "rows_read", "counted", "text"),
    [
        ("dropped", 5 * 38_563, 15, "3 of 48,204 rows have a null, NaN or infinite value, and are"),
        ("dropped", 2 * 38_563, 2, "1 of 48,204 rows has a null, NaN or infinite value, and is"),
        ("dropped", 10_000, 8, "About 31 of 48,204 rows have"),
        ("imputed", 2 * 38_563, 400, "200 values of 38,563 rows are null, NaN or infinite, and im"),
    ],
)
def test_bad_values_are_counted_by_epoch(name, rows_read, counted, text):
    """They are met again in each epoch, and their sum over passes says little."""
    records = make_records(trials=2)
    records[0] |= {"epoch_rows": 38_563, "data": records[0]["data"] | {"num_rows": 48_204}}
    for record in records:
        if record["event"] == "pass":
            columns = {"rain": counted}
            record |= {"rows_read": rows_read, name: {"total": counted, "columns": columns}}
    (warning,) = (w for w in summarize(records)["warnings"] if w["flag"] == "--on-null")
    assert warning["text"].startswith(text)
    number = re.search(r"\d+", text)
    assert warning["text"].endswith(f"(rain: {number and number[0]}).")


def test_bad_rows_of_workers_are_those_of_one_machine():
    """There each learner reads alone, and the counts are those of one of them."""
    found = []
    for workers in (0, 3):
        records = make_records(trials=2)
        records[0] |= {"epoch_rows": 38_563, "data": records[0]["data"] | {"num_rows": 48_204}}
        for record in records:
            if record["event"] == "pass":
                record["receipt"] |= {"count": 38_563, "dropped": 15}
                record |= {"dropped": {"total": 15, "columns": {"rain": 15}}}
                record |= {"rows_read": 38_563}
                if workers:
                    record |= {"rows_read": 5 * 38_563, "workers": workers}
        found += [w["text"] for w in summarize(records)["warnings"] if w["flag"] == "--on-null"]
    assert len(found) == 2
    assert found[0] == found[1]
    assert found[0].startswith("15 of 48,204 rows have")


def test_a_bad_shuffle_has_a_remedy_and_an_answer():
    records = make_records()
    deff = {"value": 9.0, "lo": 8.0, "hi": 10.0, "n": 99, "kind": "jackknife"}
    summary = summarize(
        [
            *records[:-1],
            {"event": "measures", "measures": {"shuffle": {"deff": deff, "is_bad": True}}},
            records[-1],
        ]
    )
    assert summary["recommendation"]["batch_size"]
    assert not summary["recommendation"]["settled"]
    assert "streamtrain ingest --shuffle" in [warning["flag"] for warning in summary["warnings"]]


def test_rows_in_order_are_warned_about_by_what_the_survey_found():
    records = make_records()
    found = {"column": "day", "share": 0.25, "spans": 100, "window_spans": 8.0}
    for p_value, said in ((1e-9, True), (0.5, False)):
        variation = {**found, "p_value": p_value}
        changed = [
            {**record, "span_variation": variation} if record["event"] == "baseline" else record
            for record in records
        ]
        text = (
            "The rows are not in random order: 25 % of the variance of day lies between spans, and"
            " a window mixes 8 of 100 spans, so that 256 rows of a minibatch are worth about 30."
            " Shuffle them once."
        )
        warned = {w["text"]: w["flag"] for w in summarize(changed)["warnings"]}
        assert warned.get(text) == ("streamtrain ingest --shuffle" if said else None)


def test_a_chosen_target_far_above_the_smallest_loss_is_called_easy():
    records = make_records(sizes=(256, 300, 350))
    worse = [
        (
            {**r, "holdout_loss": max(r["holdout_loss"], 0.3)}
            if r.get("batch_size") == 350 and r["event"] == "evaluation"
            else r
        )
        for r in records
    ]
    flags = [
        [w["flag"] for w in summarize(rows)["warnings"] if "may reach one fast" in w["text"]]
        for rows in (records, worse)
    ]
    smallest = min(cell["holdout_loss"]["value"] for cell in summarize(worse)["cells"])
    assert flags[0] == []
    assert len(flags[1]) == 1
    assert smallest < float(flags[1][0].split()[1]) < 1.2 * smallest


def test_no_budget_is_promised_below_the_best_possible_loss():
    assert "No budget" in summarize(make_records(target_loss=[0.005]))["recommendation"]["reason"]
    assert "--max-rows" in summarize(make_records(target_loss=[0.0150]))["recommendation"]["reason"]


def test_the_winners_curse_is_named_only_where_rates_were_chosen():
    curse = [
        any("curse" in w["text"] for w in summarize(make_records(lrs=lrs))["warnings"])
        for lrs in ([0.004], [0.004, 0.01])
    ]
    assert curse == [False, True]


def test_an_interrupted_run_still_has_a_summary():
    records = make_records()
    summary = summarize(records[: len(records) // 2])
    jsonschema.validate(summary, SCHEMA)
    assert any("did not end" in warning["text"] for warning in summary["warnings"])
    jsonschema.validate(summarize(records[:1]), SCHEMA)


def test_no_run_record_is_refused():
    with pytest.raises(DataError, match="no `run` record"):
        summarize([])


def test_table_labels_sizes_exactly_and_aligns():
    lines = render_table(summarize(make_records(sizes=[1000, 1024, 65536]))).splitlines()
    assert [line.split()[0] for line in lines[3:6]] == ["1,000", "1,024", "65,536"]
    column = lines[2].index("verdict")
    assert all(line[column - 2 : column] == "  " and line[column] != " " for line in lines[3:6])
    assert any(line.startswith("RMSE of others") and "a linear model" in line for line in lines)


def test_the_answer_says_the_data_and_five_things_of_every_size():
    records = make_records(sizes=[256, 1024, 65536], trials=5, features=["temp", "hum"])
    summary = analyze(collect(records)).summary
    assert render_table(summary.to_json()).startswith(f"{summary.data.url}: y from temp, hum; ")
    headings = answer_headings(summary)
    assert len(headings) == 5
    assert headings[2] == f"to RMSE ≤ {error_text(summary.recommendation.target_rmse)}"
    for cell in summary.cells:
        texts = answer_texts(summary, cell)
        is_chosen = cell.batch_size == summary.recommendation.batch_size
        assert (texts[3] == "–") == is_chosen
        assert texts[4] == plain_verdict(summary, cell)
    # a loss where the scale of the target is unknown, as for runs of older versions
    unscaled = replace(
        summary,
        cells=tuple(replace(cell, holdout_rmse=NOT_MEASURED) for cell in summary.cells),
    )
    assert answer_headings(unscaled)[1].startswith("held-out loss at ")
    assert answer_headings(unscaled)[2] == f"to loss ≤ {summary.target_loss:.6g}"


def test_a_sweep_with_a_budget_names_what_would_settle_it_and_no_size_that_lags_behind():
    def answer(budget):
        records = make_records(trials=2, seed=3)
        if budget is not None:
            records[0] = {**records[0], "ladder": {"budget_seconds": budget}}
        return analyze(collect(records)).summary

    planned, laddered = answer(None), answer(60.0)
    assert planned.recommendation.settled == laddered.recommendation.settled is False
    more = planned.recommendation.more_trials
    assert f"About {more} more trial" in planned.sentence
    assert "--budget" not in planned.sentence
    flags = re.search(r"About (\d+) more trials? would settle it: (.*)\.$", laddered.sentence)
    assert int(flags[1]) + 2 in LOOKS
    assert int(flags[1]) >= more
    budget, rows = re.fullmatch(r"--budget (\S+) --max-rows (\d+)", flags[2]).groups()
    assert parse_seconds(budget) >= 60
    assert int(rows) == laddered.train_rows
    texts = [warning.text for warning in laddered.warnings]
    assert not any("fewer than 30 steps" in text or "did not reach" in text for text in texts)


def test_a_size_that_waits_keeps_its_verdict():
    """Where a training takes less than a second, waiting is no matter."""
    found = analyze(collect(make_records(sizes=[32, 1000, 65536], trials=5))).summary
    verdicts = []
    for waits, rows in ((0.0, 10**9), (0.5, 10**9), (0.5, 100_000)):
        figure = Estimate(value=waits, n=5, lo=waits, hi=waits)
        cells = [replace(cell, wait_fraction=figure) for cell in found.cells]
        summary = replace(found, train_rows=rows)
        verdicts.append([verdict_text(summary, cell) for cell in cells])
    assert verdicts.pop() == verdicts[0]
    assert any("recommended" in verdict for verdict in verdicts[0])
    assert "slower" in verdicts[0]
    for without, verdict in zip(*verdicts, strict=True):
        assert verdict == (
            without
            if without == "as good" or "recommended" in without
            else f"{without}, input-bound"
        )


def test_a_time_shorter_than_that_of_the_recommended_size_is_explained():
    found = analyze(collect(make_records(trials=5))).summary
    assert not order_note(found)
    chosen = next(c for c in found.cells if c.batch_size == found.recommendation.batch_size)
    seconds = Estimate(value=0.9 * chosen.seconds_to_target.value, n=5)
    cells = [
        cell
        if cell is chosen
        else replace(cell, seconds_to_target=seconds, slower_by=Estimate(value=0.1, n=5))
        for cell in found.cells
    ]
    contradicting = replace(found, cells=cells)
    assert "its order can differ" in order_note(contradicting)
    assert order_note(contradicting) in render_table(contradicting.to_json())
    assert not order_note(replace(contradicting, goal="loss-at-rows"))


def test_a_share_of_the_time_is_one_and_so_are_its_bounds(monkeypatch):
    monkeypatch.setattr(cells, "throughput", lambda *_: ([1e6] * 3, [0.0, 0.9, 0.05]))
    for cell in summarize(make_records())["cells"]:
        assert (
            0
            == cell["wait_fraction"]["lo"]
            <= cell["wait_fraction"]["value"]
            <= cell["wait_fraction"]["hi"]
            <= 1
        )


@pytest.mark.parametrize("trials", [1, 2, 5, 12])
def test_a_size_is_as_good_or_slower_or_undecided(trials):
    summary = analyze(collect(make_records(trials=trials))).summary
    recommendation = summary.recommendation
    bound = recommendation.slower_by.hi
    assert recommendation.settled == (bound is not None and bound <= 0.2)
    for cell in summary.cells:
        verdict, slower_by = verdict_text(summary, cell), cell.slower_by
        if cell.batch_size == recommendation.batch_size:
            assert verdict == f"recommended{'' if recommendation.settled else ' (not settled)'}"
        elif cell.batch_size in recommendation.equivalent:
            assert verdict == "as good"
            assert slower_by.hi <= 0.2
        elif cell.status == "reached":
            assert verdict == ("slower" if (slower_by.lo or 0) > 0 else "undecided")


def test_a_summary_of_version_1_can_still_be_read():
    document = summarize(make_records(trials=5))
    document["schema_version"] = 1
    recommendation = {"batch_size": 1024, "reason": "why", "conclusive": True, "equivalent": [1024]}
    document["recommendation"] = recommendation | {"undecided": [256], "more_trials": 0}
    read = Summary.from_json(document)
    assert read.schema_version == 2
    assert read.recommendation.settled
    assert read.recommendation.target_loss == document["target_loss"]
    assert read.cells[0].seconds_to_target.to_json() == document["cells"][0]["seconds_to_target"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        pytest.param(
            {},
            r"After 4,000,000 rows at minibatch size 1,024 the held-out RMSE is \d\d\.\d+"
            r" \(loss 0\.01\d+\): 98\.\d\d % of the variance explained in the held-out rows\.",
            id="finished",
        ),
        pytest.param(
            {"outcomes": {1024: "diverged"}},
            r"The training at minibatch size 1,024 diverged within 8,192 rows\.",
            id="diverged",
        ),
        pytest.param(
            {"outcomes": {1024: "diverged"}, "holdout": "none"},
            r"The training .* diverged within 8,192 rows\.",
            id="diverged, nothing held out",
        ),
        pytest.param(
            {"outcomes": {1024: "out_of_memory"}},
            r"The training at .* ran out of memory after 0 rows: needs 9\.1 GiB, .*\.",
            id="out of memory",
        ),
        pytest.param(
            {"holdout": "none"},
            r"Trained on 4,000,000 rows at minibatch size 1,024; no held-out loss .*",
            id="nothing held out",
        ),
    ],
)
def test_the_answer_of_train_is_how_good_the_model_is(options, sentence):
    summary = summarize(make_records([1024], trials=1, lrs=[0.004], verb="train", **options))
    assert re.fullmatch(sentence, summary["sentence"]), summary["sentence"]


def test_the_answer_of_train_names_the_minibatch_sizes_that_were_reached():
    summary = summarize(make_growing())
    assert summary["sizes_used"] == [1024, 4096]
    sentence = summary["sentence"]
    assert sentence.startswith("After 4,000,000 rows at minibatch size 1,024, then 4,096, the ")


def test_the_tables_name_all_sizes_of_a_training_that_changed():
    summary = analyze(collect(make_growing())).summary
    assert answer_texts(summary, summary.cells[0])[0] == "1,024, then 4,096"
    assert row_texts(summary, summary.cells[0])[0] == "1,024, then 4,096"
    assert "this network, minibatch 1,024, then 4,096" in [name for name, *_ in ladder(summary)]
    assert summarize(make_records())["sizes_used"] == []


def test_the_text_report_of_train_compares_no_sizes():
    trained, swept = (
        render_markdown(analyze(collect(records))) for records in (make_growing(), make_records())
    )
    for words in ("Why: ", "## The best size for each loss"):
        assert (words in swept, words in trained) == (True, False)


def test_a_training_that_waits_is_named_by_all_its_sizes():
    records = make_growing()
    for record in records:
        if record["event"] == "delivery":
            record["seconds"] *= 500
    (waits,) = [w for w in summarize(records)["warnings"] if "input-bound" in w["text"]]
    assert waits["text"].startswith("1,024, then 4,096: input-bound")
    assert waits["flag"] is None  # readers beyond the cores would be slower
    records[0]["data"]["url"] = "s3://bucket/rows"
    (waits,) = [w for w in summarize(records)["warnings"] if "input-bound" in w["text"]]
    assert waits["flag"] == "--readers"


def test_the_ladder_stands_between_the_mean_and_the_best_possible():
    rungs = ladder(analyze(collect(make_records())).summary)
    assert [name for name, *_ in rungs] == [
        "always the mean",
        "best linear model",
        "this network, minibatch 4,096",
        "best possible on this data",
    ]
    losses = [float(loss) for _, loss, *_ in rungs]
    assert losses == sorted(losses, reverse=True)
    assert [own for *_, own in rungs] == [False, False, True, False]
    assert tiles(analyze(collect(make_records(target_loss=[0.005]))).summary) == []


ANSWERS = [
    pytest.param(
        {"trials": 2, "noise": 0.4},
        r"Use \d+ \(learning rate 0\.004\): it reaches RMSE 100 in [\d.]+ ms of training, at most"
        r" .* slower than the best size tried \(95 % sure\)\. About \d+ more trials would settle"
        r" it\.",
        id="not settled",
    ),
    pytest.param(
        {"trials": 5, "noise": 0.01, "times": (1.0, 1.02, 1.01, 3.0)},
        r"Use 64 .*: it reaches .* of training\. 64 to 1,024 do equally well"
        r" \(within \d %, 95 % sure\): it does not matter which\.",
        id="equal",
    ),
    pytest.param(
        {"trials": 5, "noise": 0.01, "times": (1.0, 2.0, 1.01, 3.0)},
        r"Use 64 .*: it reaches .* of training\. 64 and 1,024 do equally well .*",
        id="equal, with a slower one between",
    ),
    pytest.param(
        {"trials": 5, "noise": 0.01, "times": (2.0, 1.0, 1.5, 3.0)},
        r"Use 256 \(learning rate 0\.004\): it reaches RMSE 100 in [\d.]+ ms of training\. It is"
        r" the fastest of 4 sizes; the next, 1,024, takes 1\.47 to 1\.52 times as long\.",
        id="fastest",
    ),
    pytest.param(
        {"trials": 6, "noise": 0.2, "times": (3.0, 1.0, 1.2, 4.0)},
        r"Use 256 .*: it reaches RMSE 100 in [\d.]+ ms of training, at most \d+ % slower than the"
        r" best size tried \(95 % sure\)\.",
        id="settled, and others may be a little faster",
    ),
]


@pytest.mark.parametrize(("options", "sentence"), ANSWERS)
def test_the_answer_of_a_sweep_has_three_ends(options, sentence):
    summary = summarize(make_crossings(**options))
    assert re.fullmatch(sentence, summary["sentence"]), summary["sentence"]
    assert summary["recommendation"]["command"] == "streamtrain train --from 'runs/a sweep'"


def test_a_target_that_only_some_trials_reached_is_said_to_be_so():
    """Advice is a target that all trials of the size hold."""
    records = make_crossings(8, 0.01)
    for record in records:
        if record["event"] == "evaluation" and record["trial"] < 3:
            record["holdout_loss"] = max(record["holdout_loss"], 0.15)
    summary = summarize(records)
    sentence = summary["sentence"]
    assert "5 of 8 trials, median" in render_table(summary)
    flag = re.search(
        r"Use \d+ \(learning rate 0\.004\): it reached RMSE 100 in only 5 of 8 trials \(median"
        r" [\d.]+ ms of training\)\. For a target that each of them reached, sweep again with"
        r" --target-rmse (\d+)\.",
        sentence,
    )
    assert flag, sentence
    assert 100 * 1.5**0.5 <= float(flag[1]) <= 1.1 * 100 * 1.5**0.5


def test_a_size_that_missed_the_target_in_some_trials_is_not_said_to_miss_it():
    """The seconds differ by more from trial to trial than from size to size."""
    records = make_crossings(8, 0.3)
    for record in records:
        if record["event"] == "evaluation" and record["trial"] < 3:
            record["holdout_loss"] = max(record["holdout_loss"], 0.15)
    table = render_table(summarize(records))
    assert re.search(r"5 of 8 trials, .* %, not certain +reached in some trials$", table, re.M)


def test_a_target_that_the_mean_meets_is_not_advised():
    """Three trials end above 1.0003, the loss of the mean."""
    records = make_crossings(8, 0.01)
    for record in records:
        if record["event"] == "evaluation" and record["trial"] < 3:
            record["holdout_loss"] = max(record["holdout_loss"], 1.2)
    sentence = summarize(records)["sentence"]
    assert "in only 5 of 8 trials" in sentence
    assert sentence.endswith(" At least one trial did no better than always guessing the mean.")
    assert "--target-rmse" not in sentence


def make_crossings(trials, noise, times=(1.0, 1.1, 1.2, 1.3)):
    """Records of sizes that cross loss 0.1 after `times` million rows, up to noise."""
    sizes, rng = (64, 256, 1024, 4096), np.random.default_rng(5)
    records = make_records(sizes, trials=trials, lrs=[0.004], target_loss=[0.1])
    records[0] |= {"folder": "runs/a sweep", "target_sd": 100 / 0.1**0.5}
    rows_needed = {
        (trial, size): 1e6 * time * math.exp(rng.normal(0, noise))
        for trial in range(trials)
        for size, time in zip(sizes, times, strict=True)
    }
    for record in records:
        if record["event"] == "evaluation":
            needed = rows_needed[record["trial"], record["batch_size"]]
            record["holdout_loss"] = 0.1 ** (record["rows"] / needed)
        elif record["event"] == "timing":
            record["seconds"] = 0.1
    return records


def test_a_constant_target_is_the_answer_and_no_remedy_is_named_for_it():
    records = make_records((256, 1024), lrs=[0.004])
    for name in ("best_constant_loss", "best_linear_loss"):
        records[1][name] |= {"value": 0.0, "rmse": 0.0}
    for record in records:
        if record["event"] == "evaluation":
            record["holdout_loss"] = 0.001 / (1 + record["rows"])
    records[0]["target_loss"] = [1e-12]
    summary = summarize(records)
    texts = [warning["text"] for warning in summary["warnings"]]
    assert summary["sentence"].startswith("The target is constant")
    assert sum("target is constant" in text for text in texts) == 1
    assert not any("best linear" in text for text in texts)


def test_what_took_no_step_says_nothing_of_its_rates_nor_of_its_minibatches():
    records = make_records((256, 8_000_000), lrs=[0.001, 0.004], train_rows=40_000)
    texts = [warning["text"] for warning in summarize(records)["warnings"]]
    assert any("8,000,000 took no step" in text for text in texts)
    assert not any(
        "8,000,000" in text and ("best learning rate" in text or "more than the" in text)
        for text in texts
    )


@pytest.mark.parametrize(
    ("rules", "verb", "flag", "text"),
    [
        (["tuned"], "sweep", "--lr-grid", "1,024 diverged in every trial at every learning rate."),
        (["fixed"], "sweep", "--lr", "1,024 diverged in every"),
        (["tuned"], "train", "--lr", "1,024 diverged."),
    ],
    ids=["tuned", "fixed", "train"],
)
def test_a_divergence_names_the_flag_that_sets_the_rate(rules, verb, flag, text):
    records = make_records([1024], lrs=[0.004], outcomes={1024: "diverged"}, verb=verb)
    records[0] |= {"lr_rules": rules, "lr": 0.004}
    assert [
        warning["flag"]
        for warning in summarize(records)["warnings"]
        if warning["text"].startswith(text)
    ] == [flag]


def test_a_target_reached_before_the_first_evaluation_is_said_to_be_a_guess():
    """The crossing is interpolated between row 0 and the first evaluation, which can be far off.

    A size of 8 takes 128 steps to row 1,024, and a target of 14 steps was put at 68.
    """
    for target, flags in ((0.6, ["256: --set eval.first_row=256"]), (0.1, [])):
        records = make_records(target_loss=(target,))
        for record in records:
            if record["event"] == "evaluation" and record["rows"]:
                record["holdout_loss"] *= 0.5
        warnings = [
            one
            for one in summarize(records)["warnings"]
            if "before the first evaluation" in one["text"]
        ]
        assert [f"{one['text'].split()[0]}: {one['flag']}" for one in warnings] == flags
