"""What stands beside the charts in words: the same on the page and in report.md, from what was measured, and nothing where nothing was."""

import html
import json
from importlib.resources import files

import jsonschema
import pytest

from streamtrain.report import facts, write
from streamtrain.report.summary import summarize
from streamtrain.report.table import render_markdown
from tests.report.synthetic import make_records, with_measures

SIZES = (256, 1024, 4096, 65536)


@pytest.fixture(scope="module")
def summary():
    return summarize(with_measures(make_records(SIZES, trials=3, target_loss=[0.05])))


def test_a_run_with_measurements_keeps_to_the_schema(summary):
    schema = json.loads(files("streamtrain.report").joinpath("schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(json.loads(json.dumps(summary, allow_nan=False)))


def test_the_page_and_the_markdown_say_the_same(summary, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "draw", lambda charts: {})
    write.write_report(with_measures(make_records(SIZES, trials=3, target_loss=[0.05])), tmp_path)
    page, markdown = html.unescape((tmp_path / "report.html").read_text()), (tmp_path / "report.md").read_text()
    pairs = [*facts.speed_facts(summary), *facts.landmark_facts(summary), *facts.measure_facts(summary)]
    assert len(pairs) > 15
    for name, text in pairs:
        assert f"<dt>{name}</dt><dd>{text}</dd>" in page and f"- {name}: {text}" in markdown
    for row in facts.confirmation_rows(summary):
        assert f"| {' | '.join(row)} |" in markdown and all(f">{text}</t" in page for text in row)


def test_alpha_and_beta_are_those_of_the_records(summary):
    """The synthetic step takes 90 µs and 60 ns a row; delivery is 12 M rows/s."""
    said = dict(facts.speed_facts(summary))
    laws = summary["landmarks"]["laws"]
    assert laws["alpha_seconds"]["value"] == pytest.approx(9e-5, rel=0.1) and laws["beta_seconds_a_row"]["value"] == pytest.approx(6e-8, rel=0.1)
    assert f"α = {laws['alpha_seconds']['value'] * 1e6:.3g} µs" in said["a step of B rows takes"]


@pytest.mark.parametrize(("slower", "word"), [(1, "the training step"), (2.0, "both"), (50, "reading")])
def test_the_bottleneck_is_named(slower, word):
    records = make_records((1024, 4096), target_loss=[0.1])
    for record in records:
        if record["event"] == "delivery":
            record["seconds"] *= slower
    assert facts.bottleneck(summarize(records)).startswith(word)


def test_nothing_measured_is_nothing_said():
    bare = summarize(make_records([1024], trials=1, lrs=[0.004], verb="train", timing=False))
    assert facts.speed_facts(bare) == facts.measure_facts(bare) == facts.confirmation_rows(bare) == []
    assert "## Measured" not in render_markdown(bare)


def test_a_bad_shuffle_a_slope_that_is_not_and_a_quarantine_are_said():
    records = with_measures(make_records(SIZES))
    measures = next(record for record in records if record["event"] == "measures")["measures"]
    measures["shuffle"]["is_bad"] = True
    measures["sqrt_m_slope"] |= {"value": -0.3, "lo": -0.35, "hi": -0.25}
    lost = {"rows": 5, "spans": 1, "first": [{"url": "a.parquet", "start": 0, "stop": 5, "cause": "cut short"}], "left_out": [{"url": "b", "cause": "no"}]}
    for record in records:
        if record["event"] == "pass":
            record["quarantined"] = lost
    summary = summarize(records)
    said = dict(facts.measure_facts(summary))
    assert "resemble one another" in said["shuffle, design effect"] and "not 1/√m" in said["√m law, slope"]
    found = dict(facts.integrity_facts(summary))
    assert found["quarantined"].startswith("5 rows that could not be read") and "a.parquet rows 0 to 5 (cut short)" in found["quarantined"]
    assert found["left out"] == "b (no)" and found["integrity"] == "verified"
