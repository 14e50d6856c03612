"""`streamtrain bench step` on short regions: every figure is there and agrees with the others.

Speed itself is never asserted.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from streamtrain.bench import step_bench as bench
from streamtrain.bench.step_figures import limit
from streamtrain.bench.torch_loop import TorchLoop, torch_threads
from streamtrain.cli.bench_step_command import step_page
from streamtrain.cli.main import run
from streamtrain.config import TrainConfig, make_config
from streamtrain.training.fused_engine import FusedEngine
from streamtrain.training.model import Shape, initial_parameters


@pytest.fixture(autouse=True)
def short_regions(monkeypatch):
    monkeypatch.setattr(bench, "REGION_SECONDS", 0.002)
    monkeypatch.setattr(bench, "ROWS", 4096)
    monkeypatch.setattr(bench, "SGEMM", 64)


def test_json_says_all(capsys):
    code = run(
        [
            "bench",
            "step",
            "--batch-sizes",
            "32,2048",
            "--hidden",
            "8,8",
            "--repeats",
            "2",
            "--set",
            "train.threads=2",
            "--json",
        ]
    )
    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    document = json.loads(said.out)
    assert document["sgemm_gflops"] > 0
    assert document["hidden"] == [8, 8]
    assert [(cell["batch_size"], cell["engine"]) for cell in document["cells"]] == [
        (32, "fused"),
        (32, "torch"),
        (2048, "fused"),
        (2048, "torch"),
    ]
    for cell in document["cells"]:
        assert cell["rows_per_second"] > 0
        assert cell["torch_eager_rows_per_second"] > 0
        assert cell["torch_eager_threads"] in (1, 2)
        assert cell["intervals"]["ratio"]["lo"] <= cell["ratio"] <= cell["intervals"]["ratio"]["hi"]
        assert cell["gflops"] == pytest.approx(
            cell["rows_per_second"] * (6 * (32 + 64 + 8) - 2 * 32) / 1e9
        )
    assert [(row["batch_sizes"], row["replicas"]) for row in document["scaling"]] == [
        ([2048], 1),
        ([32, 2048], 6),
    ]
    text = step_page(document)
    assert all(
        phrase in text
        for phrase in ("torch eager", "of sgemm", "rows of 2,048", "6 replicas", document["limit"])
    )


def test_one_engine_on_one_thread():
    document = bench.measure_step(
        make_config(
            {
                "sweep": {"batch_sizes": [2048]},
                "train": {"engine": "torch", "threads": 1},
                "model": {"hidden": []},
            }
        ),
        repeats=1,
    )
    assert [cell["engine"] for cell in document["cells"]] == ["torch"]
    assert document["scaling"] == []
    assert step_page(document)


def test_on_a_gpu_both_sides_have_their_rows_there_and_both_copy_them(monkeypatch):
    """The CPU stands in for the GPU: which side has its rows where is what is tested."""
    loops, blocks = list[bool](), list[bool]()
    plain, side_of = bench.TorchLoop, bench.engine_side

    def loop(*arguments, from_host):
        loops.append(from_host)
        return plain(*arguments, from_host=from_host)

    def side(engine, rows):
        shared = engine.shared_block
        blocks.append(shared is not None and shared.rows(rows) is not None)
        return side_of(engine, rows)

    monkeypatch.setattr(bench, "places_of", lambda _train: ("host", "device"))
    monkeypatch.setattr(bench, "TorchLoop", loop)
    monkeypatch.setattr(bench, "engine_side", side)
    config = make_config(
        {
            "sweep": {"batch_sizes": [2048]},
            "train": {"engine": "torch", "threads": 1, "compile": "off"},
            "model": {"hidden": [4]},
        }
    )
    document = bench.measure_step(config, repeats=1)
    assert [cell["rows_on"] for cell in document["cells"]] == ["host", "device"]
    assert blocks == [False, True]
    assert loops == [True, False]
    assert "rows on" in step_page(document)


@pytest.mark.parametrize(
    ("train", "hidden", "expected"),
    [
        pytest.param({"device": "cuda"}, (8,), ("fused-cuda", "torch"), id="auto"),
        pytest.param({"device": "cuda"}, (128, 128), ("torch",), id="a large model"),
        pytest.param({"device": "cuda", "engine": "fused"}, (8,), ("fused-cuda",), id="named"),
        pytest.param({"device": "cuda", "precision": "bf16"}, (8,), ("torch",), id="bf16"),
        pytest.param({}, (8,), ("fused", "torch"), id="the CPU"),
    ],
)
def test_the_engines_of_the_device_are_compared(monkeypatch, train, hidden, expected):
    monkeypatch.setattr("streamtrain.training.torch.device_feed.open_device", torch.device)
    monkeypatch.setattr("streamtrain.training.cuda_fit.can_launch", lambda: True)
    monkeypatch.setattr("streamtrain.training.cuda_fit.shared_bytes", lambda _device: 227 * 1024)
    config, shape = TrainConfig(**train), Shape(widths=(4, *hidden, 1), activation="relu")
    assert bench.engines_of(config, shape) == expected
    assert bench.places_of(config) == (("host", "device") if train else ("host",))


@pytest.mark.parametrize(
    "train",
    [
        pytest.param({}, id="adam"),
        pytest.param({"optimizer": "adamw"}, id="adamw"),
        pytest.param({"optimizer": "sgd", "nesterov": True, "loss": "huber"}, id="sgd"),
    ],
)
def test_the_plain_loop_does_the_same_work(train):
    """It takes the steps of our engine on the same minibatches, so that a ratio is meaningful."""
    rows = np.random.default_rng(0).standard_normal((640, 5)).astype(np.float32)
    shape, config = Shape(widths=(4, 8, 1), activation="tanh"), TrainConfig(lr=0.003, **train)
    loop = TorchLoop(shape, rows, 64, config, 1)
    parameters = initial_parameters(shape, 0, 0)
    shape.load_flat(loop.network, parameters)
    engine = FusedEngine(shape, parameters, 64, (0.003,), config)
    losses = [loop.take(1) for _ in range(10)]
    # the tutorial's MSE has no factor ½, which does not change the steps of Adam
    scale = 1 if config.loss == "huber" else 2
    sums = [engine.advance(rows, start, start + 64)[0] for start in range(0, 640, 64)]
    np.testing.assert_allclose(losses, np.array(sums) / 64 * scale, rtol=1e-3)
    assert loop.take(1) < losses[0], "it continues from the first row"
    assert torch.get_num_threads() == 1


def test_our_sides_are_made_on_the_thread_that_they_are_timed_on():
    """What torch compiled for another number of threads would be compiled again while timed.

    That made one region twenty times slower.
    """
    thread_counts = []
    engine = SimpleNamespace(
        batch_size=8,
        advance=lambda _rows, _start, _stop: thread_counts.append(torch.get_num_threads()),
    )
    with torch_threads(2):
        side = bench.on_one_thread(bench.engine_side, engine, np.zeros((64, 5), dtype=np.float32))
        calls_when_made = len(thread_counts)
        assert side() > 0
        assert torch.get_num_threads() == 2
    assert calls_when_made
    assert set(thread_counts) == {1}


def test_torch_threads_are_put_back():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), torch_threads(2):
        assert torch.get_num_threads() == 2
        raise RuntimeError
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("gflops", "says"),
    [
        pytest.param(
            [30, 60, 70],
            "At 4,096 rows the fused step runs at 70 % of sgemm: arithmetic is the limit; at 32"
            " rows, 30 %",
            id="update",
        ),
        pytest.param([69, 70, 68], "arithmetic is the limit at every size", id="arithmetic"),
        pytest.param([1, 2, 3], "calls and memory, not arithmetic", id="calls"),
        pytest.param([None, None, None], "not known", id="a module"),
    ],
)
def test_the_limit_is_said(gflops, says):
    cells = [
        {"batch_size": size, "engine": "fused", "rows_on": "host", "gflops": g}
        for size, g in zip((32, 256, 4096), gflops, strict=True)
    ]
    assert says in limit(cells, 100.0, 1249)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(["--repeats", "0"], "--repeats", id="no repeat"),
        pytest.param(["DATA"], "DATA", id="data"),
        pytest.param(
            ["--engine", "fused", "--set", "train.precision=bf16"],
            "--engine torch",
            id="what no engine can do",
        ),
    ],
)
def test_what_is_refused(capsys, words, says):
    assert run(["bench", "step", *words]) == 2
    assert says in capsys.readouterr().err
