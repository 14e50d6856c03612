"""`streamtrain bench ingest` on small data. Speed itself is never asserted."""

import json

import pytest

import data_gen
from streamtrain.cli.main import run


@pytest.fixture
def data(tmp_path):
    data_gen.generate(tmp_path / "data", kind="linear", rows=5000, span_rows=1000)
    return str(tmp_path / "data")


def test_json_and_page_agree_and_nothing_is_left(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["bench", "ingest", data, "--repeats", "2", "--memory", "1GiB", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rows"] == 5000
    assert document["memory_budget_bytes"] == 2**30
    for name in ("rows_per_second", "copy_rows_per_second", "ratio_to_copy"):
        assert document[name] == document["intervals"][name]["value"] > 0
        assert document["intervals"][name]["n"] == 2
    assert run(["bench", "ingest", data, "--repeats", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "5,000 rows per side, 1 repeat" in lines[0]
    assert [line.split()[1] for line in lines[3:5]] == ["--shuffle", "--no-shuffle"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_no_repeat_is_refused(data, capsys):
    assert run(["bench", "ingest", data, "--repeats", "0"]) == 2
    assert "--repeats is 0" in capsys.readouterr().err
