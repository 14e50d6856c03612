"""The report's files: complete or absent, equal to each other, and safe against hostile names."""

import base64
import csv
import hashlib
import html
import itertools
import json
import re

import pytest

from streamtrain.errors import DataError
from streamtrain.report.axis import spread
from streamtrain.report.chart_data import compact
from streamtrain.report.charts import NAMES
from streamtrain.report.run_files import read_records
from streamtrain.report.write import write_report
from tests.report.synthetic import make_records, with_measures
from tests.report.undrawn import Undrawn

SCRIPTED = "<script>alert(1)</script>"
CHARTS = {f"{name}.{kind}" for name in NAMES for kind in ("svg", "png")}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The directory and the summary of a whole report: a diverged cell, hostile names, measures."""
    out = tmp_path_factory.mktemp("report")
    records = with_measures(
        make_records(
            trials=3,
            target_loss=[0.05, 0.03],
            outcomes={65536: "diverged"},
            features=[SCRIPTED, "</script>", "b", "c"],
        )
    )
    return out, write_report(records, out)


@pytest.fixture
def undrawn(monkeypatch):
    """Write a report without its pictures, for tests of its words."""
    monkeypatch.setattr("streamtrain.report.write.Drawing", Undrawn)


def test_files_and_nothing_else(report):
    out, _ = report
    assert {path.name for path in out.iterdir()} == {
        "summary.json",
        "summary.csv",
        "report.md",
        "report.html",
        "charts",
    }
    assert {path.name for path in (out / "charts").iterdir()} == CHARTS
    for path in (out / "charts").glob("*.svg"):
        text = path.read_text()
        assert len(re.findall(r"<path|<text", text)) > 5, path.name
        assert "NaN" not in re.sub(r">[^<]*<", "><", text), path.name
    assert (out / "report.html").stat().st_size < 3e6


def test_json_csv_and_html_agree_to_the_digit(report):
    out, summary = report
    assert json.loads((out / "summary.json").read_text()) == summary
    page = (out / "report.html").read_text()
    with (out / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    for cell, row in zip(summary["cells"], rows, strict=True):
        line = re.search(rf'<tr data-batch-size="{cell["batch_size"]}".*?</tr>', page, re.DOTALL)[0]
        shown = dict(re.findall(r'data-key="(\w+)" data-value="([^"]*)"', line))
        assert len(shown) == 10
        for name, text in shown.items():
            value = cell[name]["value"]
            assert text == row[name] == ("" if value is None else repr(value))


def test_the_page_counts_what_was_noticed_in_the_data(tmp_path, undrawn):
    records = make_records(trials=1)
    records[0]["data"] |= {"notices": ["t.csv: a row of <b>totals</b>"]}
    summary = write_report(records, tmp_path / "a")
    page = (tmp_path / "a" / "report.html").read_text()
    number = len(summary["warnings"]) + 1
    assert f"{number} things to know before you rely on it" in page
    assert "<li>t.csv: a row of &lt;b&gt;totals&lt;/b&gt;</li>" in page
    assert "t.csv: a row of &lt;b>totals" in (tmp_path / "a" / "report.md").read_text()


def test_the_page_of_train_explains_no_comparison(tmp_path, undrawn):
    for verb, sizes in (("train", [1024]), ("sweep", [256, 1024])):
        write_report(make_records(sizes, trials=1, lrs=[0.004], verb=verb), tmp_path / verb)
        page = (tmp_path / verb / "report.html").read_text()
        for word in ("<dt>The rule</dt>", "<dt>Same rows for every size</dt>", ">slower by</th>"):
            assert (word in page) == (verb == "sweep"), word


def test_page_escapes_names_and_allows_scripts_by_hash_only(report):
    page = (report[0] / "report.html").read_text()
    assert SCRIPTED not in page
    assert html.escape(SCRIPTED) in page
    policy = html.unescape(
        re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    )
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert not re.search(
        r'(?:src|href)="(?!data:|#)', re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    )


def test_nothing_to_draw_still_makes_a_report(tmp_path):
    sizes = [256, 1024]
    summary = write_report(
        make_records(sizes=sizes, outcomes=dict.fromkeys(sizes, "out_of_memory"), timing=False),
        tmp_path,
    )
    assert summary["recommendation"]["batch_size"] is None
    drawn = {path.stem for path in (tmp_path / "charts").iterdir()}
    assert drawn <= {"parts", "learning_rates"}
    assert (tmp_path / "report.html").exists()


def test_read_records_forgives_a_torn_last_line_only(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "run"}\n{"event": "end"}\n{"event": "tor')
    assert [record.EVENT for record in read_records(path)] == ["run", "end"]
    path.write_text('{"event": "run"}\n{"event": "to\n{"event": "end"}\n')
    with pytest.raises(DataError, match="line 2"):
        read_records(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_records(tmp_path / "absent.jsonl")


def test_labels_are_spread_in_order():
    heights = spread([0.0, 0.1, 0.2, 5.0, 5.0], 1.0)
    assert all(b - a >= 1 - 1e-9 for a, b in itertools.pairwise(heights))
    assert heights[:3] == pytest.approx([-0.9, 0.1, 1.1])
    assert spread([0.0, 0.1, 0.2, 5.0], 1.0, lowest=0.0) == pytest.approx([0.0, 1.0, 2.0, 5.0])


def test_compact_tables_keep_every_row():
    assert compact([{"a": 1, "b": 0.123456789}, {"a": 2, "b": None}]) == {
        "a": [1, 2],
        "b": [0.123457, None],
    }
    assert compact([]) == {}


@pytest.mark.parametrize(
    "python", ["/bin/false", "/no/such/python"], ids=["dies", "does not start"]
)
def test_a_run_keeps_its_figures_when_drawing_fails(tmp_path, monkeypatch, python):
    """The drawing process can die under a memory limit; the summary says so and has its table."""
    monkeypatch.setattr("sys.executable", python)
    summary = write_report(make_records(), tmp_path)
    assert "charts could not be drawn" in summary["warnings"][-1]["text"]
    assert (tmp_path / "summary.json").exists()
    assert not (tmp_path / "report.html").exists()
