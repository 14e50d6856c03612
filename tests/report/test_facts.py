"""The facts next to the charts: the same on the page and in report.md, and all of them measured."""

import html
import json
from dataclasses import replace
from importlib.resources import files

import jsonschema
import pytest

from streamtrain.cluster.runner import _REQUESTED
from streamtrain.report import write
from streamtrain.report.analysis import Analysis
from streamtrain.report.chart_data import make_tables
from streamtrain.report.html import render_html
from streamtrain.report.markdown import render_markdown, render_table
from streamtrain.report.summary import analyze, summarize
from streamtrain.report.summary_parts import CellFigures
from streamtrain.report.text import facts, run_facts
from streamtrain.report.workers import worker_facts
from streamtrain.science.intervals import Estimate
from streamtrain.science.run_log import collect
from streamtrain.science.steps_law import LocalGrowth
from tests.report.synthetic import make_records, with_measures
from tests.report.undrawn import Undrawn

SIZES = (256, 1024, 4096, 65536)


def analyzed(records) -> Analysis:
    return analyze(collect(records))


@pytest.fixture(scope="module")
def analysis():
    return analyzed(with_measures(make_records(SIZES, trials=3, target_loss=[0.05])))


@pytest.fixture
def summary(analysis):
    return analysis.summary


def test_a_run_with_measurements_keeps_to_the_schema(summary):
    schema = json.loads(
        files("streamtrain.report").joinpath("schema.json").read_text(encoding="utf-8")
    )
    jsonschema.Draft202012Validator(schema).validate(
        json.loads(json.dumps(summary.to_json(), allow_nan=False))
    )


def test_the_page_and_the_markdown_say_the_same(analysis, summary, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "Drawing", Undrawn)
    write.write_report(with_measures(make_records(SIZES, trials=3, target_loss=[0.05])), tmp_path)
    page, markdown = (
        html.unescape((tmp_path / "report.html").read_text()),
        (tmp_path / "report.md").read_text(),
    )
    pairs = [
        *facts.speed_facts(analysis),
        *facts.landmark_facts(analysis),
        *facts.measure_facts(summary.measures),
    ]
    assert len(pairs) > 15
    for name, text in pairs:
        assert f"<dt>{name}</dt><dd>{text}</dd>" in page
        assert f"- {name}: {text}" in markdown
    for row in facts.confirmation_rows(summary):
        assert f"| {' | '.join(row)} |" in markdown
        assert all(f">{text}</t" in page for text in row)


def test_alpha_and_beta_are_those_of_the_records(analysis):
    """The synthetic step takes 90 µs and 60 ns per row; delivery is 12 M rows/s."""
    said = dict(facts.speed_facts(analysis))
    law = analysis.landmarks.laws.throughput
    assert law.alpha_seconds.value == pytest.approx(9e-5, rel=0.1)
    assert law.beta_seconds_per_row.value == pytest.approx(6e-8, rel=0.1)
    assert f"α = {law.alpha_seconds.value * 1e6:.3g} µs" in said["a step of B rows takes"]


def test_intervals_say_their_kind_and_n(summary):
    said = dict(facts.measure_facts(summary.measures))
    assert "(fieller, n = 16)" in said["B_simple, tr Σ / |G|²"]
    assert "(jackknife, n = 8)" in said["√m law, slope"]
    assert "η/B" in said["B_simple, tr Σ / |G|²"]
    assert "95 % intervals  Student over 3 trials" in render_table(summary.to_json())
    assert "1 run" in render_table(summarize(make_records(SIZES, trials=1)))


def test_both_sharpnesses_their_spaces_and_what_they_are_of_are_printed(summary):
    said = dict(facts.measure_facts(summary.measures))
    for name in (
        "Keskar's sharpness φ",
        "φ in a random subspace of 100 dimensions",
        "adaptive φ (without the +1)",
    ):
        assert "(ε = 0.001)" in said[name], name
        assert "(ε = 0.0005)" in said[name], name
    assert "sd is" in said["what sharpness is measured on"]
    assert "audit of Keskar's φ" in said
    assert "generalisation gap" in said
    assert "at least that" in said["λ along that direction, on other rows"]


def test_a_scale_without_an_upper_end_is_at_least_its_lower_bound():
    at_least = Estimate(value=900.0, lo=512.4, n=16, kind="fieller lower bound")
    assert facts.scale_text(at_least).startswith("≥ 512 rows (")
    measured = Estimate(value=105.0, lo=88.0, hi=131.0, n=16, kind="fieller")
    assert facts.scale_text(measured) == "105 [88, 131] rows (fieller, n = 16)"
    assert (
        facts.scale_text(Estimate(value=None, kind="too few rows")) == facts.scale_text(None) == ""
    )


def test_a_noise_scale_that_may_be_anything_has_no_figure_and_no_point():
    """Its estimate was 125,193 rows, drawn as if it were known, and its text "≥ 0 … rows"."""
    unknown = {"value": 125_193.1, "lo": 0.0, "hi": None, "n": 16, "kind": "fieller lower bound"}
    records = with_measures(make_records((256, 1024, 4096, 65536), trials=3, target_loss=[0.05]))
    (noise,) = [
        record["measures"]["noise_scale"] for record in records if record["event"] == "measures"
    ]
    noise |= unknown | {"preconditioned": unknown}
    analysis = analyzed(records)
    said = dict(facts.measure_facts(analysis.summary.measures))
    undetermined = "not determined: the gradient is not distinguishable from noise"
    assert said["B_simple in the coordinates of Adam"] == undetermined
    assert said["B_simple, tr Σ / |G|²"].startswith(undetermined)
    assert any(
        "The noise scale at the end of the training of" in text for text in analysis.summary.why
    )
    assert not any("balance at" in text for text in analysis.summary.why)
    drawn = [row["name"] for row in make_tables(analysis)["noise"]]
    assert "B_noise (weighted by curvature)" in drawn
    assert not {"B_simple", "B_simple as Adam steps"} & set(drawn)


def test_a_growing_batch_is_proposed_with_its_bound(analysis):
    def growth_text(doublings):
        growth = LocalGrowth(
            losses=(0.8, 0.05),
            local_critical=(20.0, 170.0),
            gamma=0.77,
            doublings=doublings,
            growth=Estimate(value=8.5, lo=7.0, hi=10.0, n=3, kind="t on logarithms"),
        )
        grown = replace(analysis, landmarks=replace(analysis.landmarks, growth=growth))
        # one size has no others beside it
        assert facts.landmark_facts(grown.revise(cells=(CellFigures(batch_size=64),))) == []
        return dict(facts.landmark_facts(grown))["a growing minibatch"]

    text = growth_text(3)
    assert "changed by a factor of 8.5 [7.0, 10] (t on logarithms, n = 3), from 20 rows" in text
    assert "growing the minibatch could save at most 23 % of the rows" in text
    assert "double the minibatch 3 times" in text
    assert "√2 (Adam)" in text
    assert "double" not in growth_text(0)


@pytest.mark.parametrize(
    ("slower", "word"), [(1, "the training step"), (2.0, "both"), (50, "reading")]
)
def test_the_bottleneck_is_named(slower, word):
    records = make_records((1024, 4096), target_loss=[0.1])
    for record in records:
        if record["event"] == "delivery":
            record["seconds"] *= slower
    assert facts.bottleneck(analyzed(records).summary).startswith(word)


def test_nothing_measured_is_nothing_said():
    bare = analyzed(make_records([1024], trials=1, lrs=[0.004], verb="train", timing=False))
    assert facts.speed_facts(bare) == []
    assert facts.measure_facts(bare.summary.measures) == []
    assert facts.confirmation_rows(bare.summary) == []
    assert "## Measured" not in render_markdown(bare)


def test_a_bad_shuffle_a_slope_that_is_not_and_a_quarantine_are_said():
    records = with_measures(make_records(SIZES))
    measures = next(record for record in records if record["event"] == "measures")["measures"]
    measures["shuffle"]["is_bad"] = True
    measures["sqrt_m_slope"] |= {"value": -0.3, "lo": -0.35, "hi": -0.25}
    lost = {
        "rows": 5,
        "spans": 1,
        "first": [{"url": "a.parquet", "start": 0, "stop": 5, "cause": "cut short"}],
        "left_out": [{"url": "b", "cause": "no"}],
    }
    for record in records:
        if record["event"] == "pass":
            record["quarantined"] = lost
    summary = analyzed(records).summary
    said = dict(facts.measure_facts(summary.measures))
    assert (
        "these statistics describe your shuffle as much as the batch size"
        in said["shuffle, design effect"]
    )
    assert "not 1/√m" in said["√m law, slope"]
    found = dict(run_facts.integrity_facts(summary))
    assert found["quarantined"].startswith("5 rows that could not be read")
    assert "a.parquet rows 0 to 5 (cut short)" in found["quarantined"]
    assert found["left out"] == "b (no)"
    assert found["integrity"] == "verified"
    assert [warning.text for warning in summary.warnings[:2]] == [
        f"5 of {summary.data.num_rows:,} rows ({500 / summary.data.num_rows:.2g} %) could not be"
        " read and were left out. The first: cut short.",
        "Left out: 1 file that could not be opened. The first: b: no.",
    ]


def on_workers(**last) -> list[dict]:
    """Return records of training on two workers, one of which is lost for the third round.

    After a short first round each takes a second and has a million rows per worker or fewer.
    """
    records = make_records([1024], trials=1, lrs=[0.004], verb="train", timing=False)
    sync = {
        "event": "sync",
        "sync": "rounds",
        "reason": "as asked for",
        "shares": 2,
        "workers_at_start": 2,
    }
    rounds = [
        {
            "event": "round",
            "round": number,
            "rows": rows,
            "seconds": 1.0,
            "workers": workers,
            "failed_tasks": 0,
        }
        for number, (rows, workers) in enumerate(
            [(1_000, 2), (1_500_000, 2), (2_500_000, 1), (4_000_000, 2)], 1
        )
    ]
    own = {"lost_workers": 1, "failed_tasks": 3, "outer_optimizer": "average", **last}
    ended = [one | own if one["event"] == "pass" else one for one in records]
    return [ended[0], sync, *rounds, *ended[1:]]


@pytest.mark.parametrize(
    "reason", [pytest.param(_REQUESTED, id="runner"), pytest.param("as asked for", id="older log")]
)
def test_a_way_that_the_user_chose_is_said_to_be_requested(reason):
    records = on_workers()
    for record in records:
        if "reason" in record and record["event"] == "sync":
            record["reason"] = reason
    told = dict(worker_facts(analyzed(records).summary.workers))
    assert told["synchronisation"].endswith("(requested)")


def test_a_run_on_workers_tells_speed_and_loss_by_their_number(tmp_path, monkeypatch):
    summary = analyzed(on_workers()).summary
    one, two = summary.workers.by_workers
    assert (one.workers, one.rows, one.rows_per_second.value) == (1, 1_000_000, 1_000_000)
    assert (two.rounds, two.rows, two.end_rows) == (3, 3_000_000, 4_000_000)
    # the first round was too short to tell
    assert two.rows_per_second.value == pytest.approx(1.5e6, rel=0.01)
    assert one.holdout_loss > two.holdout_loss
    assert summary.cells[0].rows_per_second.n == 3
    assert summary.cells[0].wait_fraction.value is None
    said = dict(worker_facts(summary.workers))
    assert said["workers"] == "2 at most; 1 lost, 3 tasks failed and were retried"
    assert said["period"].endswith("over 2 shares; outer optimizer: average")
    assert said["with 1 worker"].startswith("1.00 M rows/s")
    monkeypatch.setattr(write, "Drawing", Undrawn)
    write.write_report(on_workers(), tmp_path)
    page = html.unescape((tmp_path / "report.html").read_text())
    assert all(f"<dt>{name}</dt><dd>{text}</dd>" in page for name, text in said.items())
    schema = json.loads(
        files("streamtrain.report").joinpath("schema.json").read_text(encoding="utf-8")
    )
    jsonschema.Draft202012Validator(schema).validate(
        json.loads(json.dumps(summary.to_json(), allow_nan=False))
    )
    assert worker_facts(analyzed(make_records([1024])).summary.workers) == []
    assert facts.bottleneck(summary) == ""


@pytest.mark.parametrize(("waits", "why"), [(0.38, True), (0.0, False)])
def test_a_step_that_waits_though_reading_is_faster_has_its_reason(analysis, waits, why):
    cells = tuple(
        replace(cell, wait_fraction=replace(cell.wait_fraction, value=waits))
        for cell in analysis.summary.cells
    )
    laws = analysis.landmarks.laws
    law = replace(laws.throughput, crossover_batch_size=None)
    landmarks = replace(analysis.landmarks, laws=replace(laws, throughput=law))
    said = dict(facts.speed_facts(replace(analysis.revise(cells=cells), landmarks=landmarks)))
    assert ("the same CPU cores" in said["reading is the limit"]) == why


def test_the_page_says_what_its_figures_are(analysis):
    """Questions of a reader who saw a report for the first time."""
    page = render_html(analysis, {}, make_tables(analysis), "", "")
    assert "rows, the last evaluation that every size reached." in page
    assert "a jackknife (each value left out in turn)" in page
    saved = dict(run_facts.cost_facts(analysis.summary))["reading saved"]
    assert saved == "132,000,000 rows, since a pass feeds every size and rate"
