"""The fused engine on a GPU: in Numba's simulator, and on a GPU where there is one."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from streamtrain.config import TrainConfig
from streamtrain.errors import ConfigError
from streamtrain.training import cuda_engine, cuda_fit, engine_choice
from streamtrain.training.cuda_check import check_steps
from streamtrain.training.cuda_engine import CudaEngine
from streamtrain.training.cuda_fit import GpuRoom
from streamtrain.training.engine_choice import choose_engine
from streamtrain.training.fused_engine import FusedEngine
from streamtrain.training.model import Shape
from streamtrain.training.torch.perceptron import ACTIVATIONS
from streamtrain.training.torch.shared_rows import SharedBlock
from tests.training.contract import RATES, check_engine, make_rows
from tests.training.passes_at_once import check_passes_at_once
from tests.training.test_engine import LOSSES, OPTIMIZERS, check_equals_torch
from tests.training.torch_engines import factory

SIMULATED = Path(__file__).with_name("simulated_cuda.py")
SHAPE = Shape(widths=(4, 32, 32, 1), activation="relu")

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def run_simulated(selection: str) -> None:
    """Run tests in a separate process, because Numba chooses the simulator when it is imported."""
    flags = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", selection]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *flags, str(SIMULATED)],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.early
def test_in_the_simulator():
    run_simulated("not slow")


@pytest.mark.slow
def test_everything_in_the_simulator():
    run_simulated("slow")


def test_it_is_chosen_when_it_is_asked_for_on_a_gpu(has_gpu):
    fused = {"engine": "fused"}
    assert choose_engine(TrainConfig(device="cuda", **fused), SHAPE) == (
        "fused-cuda",
        "asked for, on cuda",
    )
    assert choose_engine(TrainConfig(device="cpu", **fused), SHAPE) == ("fused", "asked for")
    assert choose_engine(TrainConfig(device="cuda"), SHAPE)[0] == "torch"


@pytest.mark.parametrize(
    ("widths", "train", "says"),
    [
        pytest.param(
            (4, 128, 128, 1), {}, "17,281 parameters .* do not fit the 227 KiB", id="parameters"
        ),
        pytest.param((4, 2, 2, 2, 2, 2, 1), {}, "at most 4 hidden layers, not 5", id="depth"),
        pytest.param(
            (4, 8, 1), {"device": "cuda:1"}, "the first GPU only, not cuda:1", id="another GPU"
        ),
        pytest.param(
            (4, 8, 1), {"precision": "bf16"}, "bf16 is for --engine torch", id="precision"
        ),
    ],
)
def test_what_it_cannot_train_is_refused_in_words(has_gpu, widths, train, says):
    config = TrainConfig(**{"engine": "fused", "device": "cuda"} | train)
    with pytest.raises(ConfigError, match=f"{says}.*Use --engine torch"):
        choose_engine(config, Shape(widths=widths, activation="relu"))


@pytest.mark.parametrize(("optin", "expected"), [({}, 49_152), ({"optin": 232_448}, 232_448)])
def test_shared_memory_is_what_a_kernel_may_ask_for(monkeypatch, optin, expected):
    """Where torch does not tell it, it is what a kernel has without asking."""
    fields = {f"shared_memory_per_block_{name}": value for name, value in optin.items()}
    properties = SimpleNamespace(shared_memory_per_block=49_152, **fields)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    assert cuda_fit.shared_bytes(torch.device("cuda")) == expected
    assert cuda_fit.layout_of(SHAPE, 1024, expected) is not None


def test_a_module_and_a_machine_without_numba_cuda_are_refused(has_gpu, monkeypatch):
    config = TrainConfig(engine="fused", device="cuda")
    with pytest.raises(ConfigError, match="modules:mlp is for --engine torch"):
        choose_engine(config, factory("mlp"))
    monkeypatch.setattr(cuda_fit, "can_launch", lambda: False)
    with pytest.raises(ConfigError, match=r"Numba finds no GPU: install streamtrain\[cuda\]"):
        choose_engine(config, SHAPE)


def test_without_a_gpu_the_engine_refuses():
    with pytest.raises(ConfigError, match=r"it needs a GPU. Use --engine torch"):
        CudaEngine(SHAPE, SHAPE.initial_parameters(0, 0), 32, RATES, TrainConfig(device="cpu"))


@pytest.mark.parametrize("batch_size", [32, 1024])
@pytest.mark.parametrize(
    ("move", "loss"), [(1.0, 1.0), (1.05, 1.0), (0.0, 1.0), (np.nan, 1.0), (1.0, 1.05)]
)
def test_steps_that_differ_from_the_cpu_s_do_not_train(move, loss, batch_size):
    """The losses are a hundred times as large as the moves, and must not hide them."""
    start_P = SHAPE.initial_parameters(0, 0)

    class Engine(FusedEngine):
        def parameters(self):
            return start_P + np.float32(move) * (super().parameters() - start_P)

        def advance(self, block, start, stop):
            return loss * super().advance(block, start, stop)

    if move == loss == 1.0:
        check_steps(Engine, SHAPE, TrainConfig(), batch_size)
        return
    with pytest.raises(ConfigError, match=r"differ from those on the CPU. Use --engine torch"):
        check_steps(Engine, SHAPE, TrainConfig(), batch_size)


def test_only_the_engine_on_a_gpu_is_checked(monkeypatch):
    checked = []
    monkeypatch.setattr(CudaEngine, "check", lambda self: checked.append(self))
    engine = object.__new__(CudaEngine)
    start_P = SHAPE.initial_parameters(0, 0)
    for each in (engine, FusedEngine(SHAPE, start_P, 32, RATES, TrainConfig())):
        engine_choice.check_engine(each)
    assert checked == [engine]


@pytest.mark.parametrize(
    ("message", "kind", "says"),
    [
        (
            "CUDA_ERROR_INVALID_VALUE",
            ConfigError,
            r"cannot take a step \(CUDA_.*--engine torch",
        ),
        ("CUDA_ERROR_OUT_OF_MEMORY", RuntimeError, "^CUDA_ERROR_OUT_OF_MEMORY$"),
    ],
)
def test_a_gpu_that_cannot_take_a_step_is_refused_in_words(monkeypatch, message, kind, says):
    """Lack of memory is left to the learner, which ends with that outcome."""

    def fail(*_arguments):
        raise RuntimeError(message)

    monkeypatch.setattr(cuda_engine, "check_steps", fail)
    engine = SimpleNamespace(
        batch_size=32, device="cuda", _slots=1, _shape=SHAPE, _train=TrainConfig()
    )
    with pytest.raises(kind, match=says):
        CudaEngine.check(engine)


@pytest.mark.parametrize(
    ("slots", "lengths"), [pytest.param(1, [27, 30, 23], id="one block"), pytest.param(3, [80])]
)
def test_a_launch_takes_few_rows_of_a_shared_block(monkeypatch, slots, lengths):
    """Whole minibatches, after the first, which has three rows already."""
    monkeypatch.setattr(cuda_engine, "SLOT_ROWS", 35)
    shared, rows = SharedBlock(torch.device("cpu")), make_rows(100)
    shared.put(rows)
    engine = SimpleNamespace(
        device=torch.device("cuda"), shared_block=shared, batch_size=10, _slots=slots, _carried=3
    )
    pieces = [*CudaEngine._rows_on_device(engine, rows, 10, 90)]
    assert [len(piece) for piece in pieces] == lengths
    assert torch.equal(torch.cat(pieces), torch.from_numpy(rows[10:90]))


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("fused-cuda", GpuRoom(multiprocessors=132, free_bytes=9 * 2**30)),
        ("torch", None),
        ("fused", None),
    ],
)
def test_only_the_fused_engine_has_room_for_passes_on_a_gpu(has_gpu, monkeypatch, engine, expected):
    properties = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (9 * 2**30, 80 * 2**30))
    assert engine_choice.room_of(engine, TrainConfig(device="cuda")) == expected


# --- on a GPU ---


def make(shape, batch_size=32, rates=RATES, last_row=None, **train):
    start = shape.initial_parameters(0, 0)
    return CudaEngine(
        shape, start, batch_size, rates, TrainConfig(device="cuda", **train), last_row
    )


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_it_keeps_the_contract():
    shape = Shape(widths=(4, 8, 8, 1), activation="tanh")
    check_engine(lambda batch_size, rates: make(shape, batch_size, rates))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    ("hidden", "activation", "loss", "optimizer"),
    [
        *(((32, 32), activation, "mse", "adam") for activation in ACTIVATIONS),
        *(((8, 8), "tanh", "huber", name) for name in OPTIMIZERS),
        *((hidden, "silu", "mse", "adam") for hidden in ((), (1,), (33,), (5, 3, 7), (4,) * 4)),
    ],
)
def test_on_a_gpu_it_equals_a_plain_torch_loop(hidden, activation, loss, optimizer):
    check_equals_torch(
        make,
        Shape(widths=(4, *hidden, 1), activation=activation),
        LOSSES[loss] | OPTIMIZERS[optimizer],
    )


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_47_kib_of_dynamic_shared_memory_are_launched():
    """Below 48 KiB, above them with what is static: the driver must be asked."""
    engine = make(Shape(widths=(4, 32, 1), activation="relu"), 128)
    assert engine._layout.dynamic_bytes < 48 * 1024 < engine._layout.shared_bytes
    assert np.isfinite(engine.advance(make_rows(300), 0, 300)).all()
    assert np.isfinite(engine.evaluate(make_rows(300))).all()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("batch_size", [1, 32, 1000, 70_000])
def test_on_a_gpu_two_runs_are_equal_and_near_the_cpu_s(batch_size):
    rows = make_rows(200_000)[: 200 * batch_size]
    engines = [make(SHAPE, batch_size) for _ in range(2)]
    start = SHAPE.initial_parameters(0, 0)
    on_cpu = FusedEngine(SHAPE, start, batch_size, RATES, TrainConfig())
    for engine in (*engines, on_cpu):
        engine.advance(rows, 0, len(rows) // 3)
        engine.advance(rows, len(rows) // 3, len(rows))
    first, second = (engine.state() for engine in engines)
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    moved = np.abs(on_cpu.parameters() - start).max()
    assert np.abs(engines[0].parameters() - on_cpu.parameters()).max() < 0.01 * moved
    engines[0].check()


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_passes_at_once_have_the_records_of_passes_in_turn(tmp_path, monkeypatch):
    sizes = (32, 1000, 20_000)
    check_passes_at_once(tmp_path, monkeypatch, "cuda", passes=3, rows=100_000, sizes=sizes)
