"""CPU or GPU by measurement; the figures and the GPU are faked, but for one measurement."""

import math

import pytest
import torch

from streamtrain.config import TrainConfig
from streamtrain.errors import ConfigError
from streamtrain.training import device_choice
from streamtrain.training.device_choice import gpu_candidate, measure_devices
from streamtrain.training.engine_choice import ENGINES
from streamtrain.training.fused_engine import FusedEngine
from streamtrain.training.model import Shape
from tests.training.torch_engines import factory

SHAPE = Shape(widths=(4, 8, 1), activation="relu")
LARGE = Shape(widths=(4, 128, 128, 1), activation="relu")


@pytest.mark.parametrize(
    ("model", "train", "expected"),
    [
        pytest.param(SHAPE, {}, "fused-cuda", id="a perceptron"),
        pytest.param(SHAPE, {"engine": "fused"}, "fused-cuda", id="the fused engine"),
        pytest.param(LARGE, {}, "torch", id="more than shared memory holds"),
        pytest.param(LARGE, {"engine": "fused"}, None, id="that, and the fused engine"),
        pytest.param(SHAPE, {"device": "cpu"}, None, id="the CPU is named"),
        pytest.param(SHAPE, {"device": "cuda"}, None, id="the GPU is named"),
        pytest.param(SHAPE, {"engine": "torch"}, None, id="the torch engine is named"),
        pytest.param(SHAPE, {"precision": "bf16"}, None, id="only torch does that"),
        pytest.param(factory("mlp"), {}, None, id="a module"),
    ],
)
def test_what_may_train_instead_of_the_cpu(has_gpu, model, train, expected):
    assert gpu_candidate(TrainConfig(**train), model) == expected


def test_without_a_gpu_nothing_may(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_candidate(TrainConfig(), SHAPE) is None


@pytest.fixture
def choose(has_gpu, monkeypatch):
    """`choose(cpu, gpu, **limits)`: the choice where 2¹⁵ rows take these seconds."""

    def choose(cpu, gpu, **limits):
        def seconds(name, *_arguments):
            found = cpu if name == "fused" else gpu
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(device_choice, "_seconds", seconds)
        return measure_devices(TrainConfig(), SHAPE, "fused-cuda", (64, 1024), 2, **limits)

    return choose


def test_the_faster_one_is_taken_and_both_figures_are_said(choose):
    gpu = choose(0.25, 0.125, rows=math.inf)
    assert gpu.engine == "fused-cuda"
    assert gpu.rates == {"fused": 2**19, "fused-cuda": 2**20}
    assert gpu.reason == (
        "the faster one for this run: 1.05 M on cuda, 524 k row-updates/s on the CPU, measured"
    )
    cpu = choose(0.125, 0.25)
    assert cpu.engine == "fused"
    assert cpu.reason == (
        "the faster one for this run: 1.05 M row-updates/s on the CPU, 524 k on cuda (fused-cuda),"
        " measured"
    )
    assert choose(0.25, 0.25).engine == "fused"


@pytest.mark.parametrize(
    ("limits", "measured"),
    [
        ({"rows": 29 * 2**15}, False),
        ({"rows": 31 * 2**15}, True),
        ({"seconds": 20.0}, False),
        ({"rows": 31 * 2**15, "seconds": 20.0}, False),
        ({}, True),
    ],
)
def test_a_short_run_stays_on_the_cpu_and_nothing_is_compiled(choose, limits, measured):
    choice = choose(1.0, 0.5 if measured else AssertionError("measured"), **limits)
    assert choice.engine == ("fused-cuda" if measured else "fused")
    assert ("less than it takes to compile for cuda" in choice.reason) != measured
    assert (choice.rates is None) != measured


@pytest.mark.parametrize(
    "error", [ConfigError("it differs."), RuntimeError("out of memory"), MemoryError("none")]
)
def test_a_gpu_that_fails_leaves_the_cpu_and_says_so(choose, error):
    choice = choose(1.0, error)
    assert choice.engine == "fused"
    assert choice.reason.startswith("on the CPU, since cuda could not be measured: ")
    assert choice.reason.endswith(str(error).rstrip("."))


def test_learners_of_all_sizes_are_measured_on_both(has_gpu, monkeypatch):
    made = list[tuple[str, int, int]]()

    def counted(name):
        class Counted(FusedEngine):
            def advance(self, block, start, stop):
                made.append((name, self.batch_size, stop - start))
                return super().advance(block, start, stop)

        return Counted

    for name in ("fused", "fused-cuda"):
        monkeypatch.setitem(ENGINES, name, counted(name))
    monkeypatch.setattr(device_choice, "LEAST_ROWS", 512)
    monkeypatch.setattr(device_choice, "REPEATS", 1)
    choice = measure_devices(TrainConfig(), SHAPE, "fused-cuda", (64, 700), 2)
    assert choice.rates is not None
    assert choice.rates.keys() == {"fused", "fused-cuda"}
    assert all(rate > 0 for rate in choice.rates.values())
    assert sorted(set(made)) == [
        (name, size, 700) for name in ("fused", "fused-cuda") for size in (64, 700)
    ]
    assert len(made) == 2 * 2 * 2
