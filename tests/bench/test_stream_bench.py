"""`streamtrain bench stream` on small data: every figure is there, or null with its reason.

Speed itself is never asserted.
"""

import json
import math
from types import SimpleNamespace

import pytest

import data_gen
from streamtrain.bench import stream_bench as bench
from streamtrain.bench.bench_verdict import RATIOS
from streamtrain.cli.bench_command import page
from streamtrain.cli.main import run
from streamtrain.config import make_config

ROWS = 30_000
RATES = ["rows_per_second", *(f"{side}_rows_per_second" for side in RATIOS)]


@pytest.fixture(scope="module", params=["parquet", "zarr"])
def data(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / request.param
    data_gen.generate(folder, kind="linear", rows=ROWS, span_rows=4096, format=request.param)
    return str(folder)


def check_document(document, *, rows, repeats):
    """Check that every key has a figure, or null with a reason, and that the figures agree."""
    assert document["rows"] == rows
    assert document["data_rows"] == ROWS
    assert document["repeats"] == repeats
    assert set(document["reasons"]) <= set(RATIOS)
    for side, ratio in RATIOS.items():
        assert (document[ratio] is None) == (side in document["reasons"])
    for name, figure in document["intervals"].items():
        assert figure["n"] == repeats
        assert figure["value"] == document[name] > 0
    assert {name for name in RATES if document[name]} == {
        name for name in RATES if name in document["intervals"]
    }
    assert document["expert_loop_valid"] == (document["ratio_to_expert_loop"] is not None)
    assert 0 < document["projected_bytes"] <= document["memory_budget_bytes"]
    assert document["peak_rss_bytes"] >= 0
    assert 0 < document["first_minibatch_seconds"] < math.inf
    assert document["bottleneck"] in ("decode", "shuffle", "consumer")
    assert document["parts"]["rows"] >= rows
    assert document["readers"] >= 1


def test_json_says_all(data, capsys):
    code = run(
        [
            "bench",
            "stream",
            data,
            "--batch-size",
            "1000",
            "--repeats",
            "2",
            "--memory",
            "512MiB",
            "--readers",
            "2",
            "--json",
        ]
    )
    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    document = json.loads(said.out)
    check_document(document, rows=ROWS, repeats=2)
    assert document["memory_budget_bytes"] == 2**29
    assert document["batch_size"] == 1000
    assert document["decode_through"] == (
        "pyarrow" if document["format"] == "parquet" else "storage readers"
    )


def test_fewer_rows_other_readers_and_the_page(data):
    config = make_config(
        {
            "data": {"path": data},
            "train": {"batch_size": 7000},
            "fetch": {"readers": 3, "memory": 2**29},
        }
    )
    document = bench.measure_stream(config, rows=10_000, repeats=2)
    check_document(document, rows=10_000, repeats=2)
    text = page(document)
    for phrase in (
        "10,000 rows per side",
        "minibatches of 7,000",
        "raw decode, 3 threads",
        "expert's loop",
        "bottleneck",
        "projected",
    ):
        assert phrase in text


def test_what_does_not_fit_in_memory_is_left_out_and_said(data, monkeypatch):
    monkeypatch.setattr(
        bench.psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * 1024 * 1024)
    )
    config = make_config({"data": {"path": data}, "fetch": {"memory": 2**29, "readers": 1}})
    document = bench.measure_stream(config, repeats=1)
    check_document(document, rows=ROWS, repeats=1)
    assert "in_ram_gather" in document["reasons"]
    assert "--rows" in document["reasons"]["in_ram_gather"]
    assert "not measured" in page(document)
    assert "it would need" in page(document)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param([], "needs DATA", id="no data"),
        pytest.param(["{data}", "--repeats", "0"], "--repeats", id="no repeat"),
        pytest.param(["{data}", "--rows", "0"], "--rows", id="no rows"),
        pytest.param(["{data}", "--hidden", "3"], "--hidden", id="a model's flag"),
    ],
)
def test_what_is_refused(data, capsys, words, says):
    code = run(["bench", "stream", *(word.format(data=data) for word in words)])
    said = capsys.readouterr()
    assert code == 2
    assert says in said.err
    assert not said.out
