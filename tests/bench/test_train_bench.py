"""`streamtrain bench train` on small data: every figure is there and agrees with the others.

Speed itself is never asserted.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import data_gen
from streamtrain.bench import train_bench as bench
from streamtrain.cli.bench_step_command import train_page
from streamtrain.cli.main import run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "data"
    data_gen.generate(folder, kind="linear", rows=30_000, span_rows=2048)
    return str(folder)


@pytest.mark.parametrize("engine", ["fused", "torch"])
def test_json_says_all(data, capsys, monkeypatch, engine):
    monkeypatch.setattr(bench, "REGION_SECONDS", 0.005)
    monkeypatch.setattr(bench, "default_readers", lambda: 2)
    monkeypatch.setattr(bench, "TIMED_ROWS", 4096)
    words = [
        "--batch-sizes",
        "64,5000",
        "--hidden",
        "4",
        "--window-rows",
        "4096",
        "--memory",
        "512MiB",
        "--engine",
        engine,
    ]
    code = run(["bench", "train", data, *words, "--repeats", "2", "--json"])
    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    document = json.loads(said.out)
    threads = [1, 2] if engine == "fused" else [2]
    assert [(cell["batch_size"], cell["threads"]) for cell in document["cells"]] == [
        (size, t) for size in (64, 5000) for t in threads
    ]
    for cell in document["cells"]:
        assert 0 < cell["bound"] <= 1
        assert cell["streaming_rows_per_second"] > 0
        assert cell["resident_rows_per_second"] > 0
        assert cell["on_gpu_rows_per_second"] is None
        assert cell["intervals"]["ratio"]["lo"] <= cell["ratio"] <= cell["intervals"]["ratio"]["hi"]
        step = cell["threads"] / cell["resident_rows_per_second"]
        assert cell["bound"] == pytest.approx(
            bench.bound(step, document["delivery_core_nanoseconds"] / 1e9, cell["threads"], 2)
        )
    assert document["delivery_rows_per_second"] > 0
    assert document["engine"] == engine
    assert "from shards" in train_page(document)
    assert document["limit"] in train_page(document)


def test_on_a_gpu_the_block_is_also_measured_there(data, capsys, monkeypatch):
    """The CPU stands in for the GPU."""
    monkeypatch.setattr(bench, "REGION_SECONDS", 0.005)
    monkeypatch.setattr(bench, "TIMED_ROWS", 4096)
    monkeypatch.setattr(bench, "is_on_gpu", lambda _engine: True)
    words = ["--batch-sizes", "5000", "--hidden", "4", "--memory", "512MiB", "--engine", "torch"]
    assert run(["bench", "train", data, *words, "--repeats", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert all(cell["on_gpu_rows_per_second"] > 0 for cell in document["cells"])
    assert "on the GPU" in train_page(document)


@given(
    step=st.floats(1, 1e6),
    delivery=st.floats(0, 1e6),
    threads=st.integers(1, 64),
    idle_cores=st.integers(0, 64),
)
def test_the_bound_is_what_the_cores_leave(step, delivery, threads, idle_cores):
    cores = threads + idle_cores
    bound = bench.bound(step, delivery, threads, cores)
    rate = bound * threads / step
    assert rate * (step + delivery) <= cores * (1 + 1e-9), "no more core-seconds than there are"
    assert bound == 1 or rate * (step + delivery) == pytest.approx(cores)


@pytest.mark.parametrize(
    ("ratio", "bound", "says"),
    [
        pytest.param(0.97, 1.0, "the loader costs 3.0 % at most", id="step"),
        pytest.param(0.78, 0.8, "The cores are the limit", id="cores"),
        pytest.param(0.5, 0.8, "Delivery is the limit", id="delivery"),
    ],
)
def test_the_limit_is_said(ratio, bound, says):
    cells = [
        {"batch_size": 64, "threads": 2, "ratio": r, "bound": b}
        for r, b in [(ratio, bound), (1.0, 1.0)]
    ]
    assert says in bench.limit(cells)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param([], "needs DATA", id="no data"),
        pytest.param(["{data}", "--repeats", "0"], "--repeats", id="no repeat"),
    ],
)
def test_what_is_refused(data, capsys, words, says):
    assert run(["bench", "train", *(word.format(data=data) for word in words)]) == 2
    assert says in capsys.readouterr().err
