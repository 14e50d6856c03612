"""Replayed steps: what a failure leaves behind, and what assembles the minibatches.

On the stand-in for a GPU. Tests with the marker `gpu` need a real one.
"""

import warnings
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from streamtrain.training.model import Shape
from streamtrain.training.torch import cuda_graphs, torch_engine
from streamtrain.training.torch.device_feed import DeviceFeed
from tests.training.contract import make_rows
from tests.training.torch_engines import OPTIMIZERS, assert_same, make_engine, trained

needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


LINEAR = Shape(widths=(4, 1), activation="identity")


class NvvmError(Exception):
    """As Numba's: not a RuntimeError."""


def replaying(**options):
    engine = make_engine(**{"compile": "auto", **options})
    engine._feed = DeviceFeed(torch.device("cpu"), 5, engine.batch_size)
    return engine


@pytest.fixture
def few_recompilations(monkeypatch):
    """Let torch compile one code object twice instead of eight times, without code generation."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    from torch._dynamo import config  # takes a second to import

    with config.patch(recompile_limit=2):
        yield


def same_state(engine, other) -> bool:
    ours, theirs = engine.state(), other.state()
    return all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)


@pytest.mark.parametrize("error", [RuntimeError, NvvmError])
@pytest.mark.parametrize("when", ["in the warm-up", "in the capture", "in the replay"])
@pytest.mark.parametrize("optimizer", ["adam", "nesterov"])
def test_a_failure_moves_nothing_and_steps_stay_eager(
    pretended, monkeypatch, error, when, optimizer
):
    if when == "in the capture":

        @contextmanager
        def failing(*_args, **_options):
            yield
            raise error("operation not permitted when stream is capturing")

        monkeypatch.setattr(torch.cuda, "graph", failing)
    elif when == "in the replay":

        class Graph:
            def replay(self):
                self.captured()
                raise error("operation not permitted when stream is capturing")

        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    else:
        take, taken = cuda_graphs.ReplayedSteps._take_step, []

        def failing_step(self):
            take(self)
            taken.append(self)
            if len(taken) == 2:
                raise error("operation not permitted when stream is capturing")

        monkeypatch.setattr(cuda_graphs.ReplayedSteps, "_take_step", failing_step)
    current = []
    monkeypatch.setattr(torch.cuda, "set_stream", current.append)
    options = {"batch_size": 50, **OPTIMIZERS[optimizer]}
    engine = replaying(**options)
    with pytest.warns(UserWarning, match="could not be compiled .*not permitted when stream"):
        engine.prepare_steps()
    assert same_state(engine, make_engine(**options))
    assert current, "the stream of the capture is left"
    rows = make_rows(520)
    assert_same(trained(engine, rows), trained(make_engine(**options), rows), rtol=0, atol=0)


def test_a_graph_that_is_wrong_does_not_train(pretended, monkeypatch):
    class Graph:
        def replay(self):
            self.captured()
            self.captured.args[0]._parameters_RP.mul_(1.01)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    engine = replaying(batch_size=50)
    with pytest.warns(UserWarning, match="gives other numbers"):
        engine.prepare_steps()
    rows = make_rows(520)
    assert_same(trained(engine, rows), trained(make_engine(batch_size=50), rows), rtol=0, atol=0)


def test_what_numba_raises_leaves_the_assembly_to_torch(pretended, monkeypatch):
    def refuse(*_args, **_options):
        raise NvvmError("libnvvm.so: cannot open\nand more")

    monkeypatch.setattr(cuda_graphs, "can_launch", lambda: True)
    monkeypatch.setattr(cuda_graphs, "assemble_minibatch", refuse)
    engine = replaying(batch_size=50)
    with pytest.warns(UserWarning, match="torch assembles .*NvvmError: libnvvm.so: cannot open"):
        engine.prepare_steps()
    assert engine._replayed.assembler == "torch"
    rows = make_rows(520)
    assert_same(trained(engine, rows), trained(make_engine(batch_size=50), rows))


def test_where_numba_can_launch_its_kernel_assembles(pretended, monkeypatch):
    launched = []

    def assemble(block, order, position, mean, scale, x, y, *, stream):
        launched.append(stream)
        rows = block[int(position) : int(position) + len(x)]
        x.copy_(rows[:, :-1])
        y.copy_(rows[:, -1:])

    monkeypatch.setattr(cuda_graphs, "can_launch", lambda: True)
    monkeypatch.setattr(cuda_graphs, "assemble_minibatch", assemble)
    engine = replaying(batch_size=50)
    engine.prepare_steps()
    assert engine._replayed.assembler == "numba"
    launched.clear()
    rows = make_rows(520)
    assert_same(trained(engine, rows), trained(make_engine(batch_size=50), rows))
    assert len(launched) == 10


def test_more_engines_than_the_compiler_recompiles_for(pretended, few_recompilations):
    """Torch compiles one code object eight times; then `compile=on` raised and ended a sweep."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in range(30, 33):
            engine = replaying(
                model=LINEAR, batch_size=size, compile="on", beta2_per="step", beta2=0.99
            )
            engine.prepare_steps()
            assert engine._replayed is not None


def test_parts_of_more_sizes_than_the_compiler_recompiles_for(few_recompilations):
    """With clipping, the CPU compiles the gradient of a minibatch alone."""
    for size in range(30, 33):
        engine = make_engine(
            LINEAR, batch_size=size, compile="on", beta2_per="step", clip_norm=0.37
        )
        engine.prepare_steps()
        assert engine._compiled_rows == size


def test_a_table_is_not_written_over_while_it_is_copied(pretended, monkeypatch):
    """The halves of the pinned memory take turns, and each waits for its own last copy."""
    monkeypatch.setattr(torch_engine, "TABLE_STEPS", 4)
    engine = replaying(batch_size=10)
    engine.prepare_steps()
    calls = []
    for half, event in enumerate(engine._replayed._copied):
        event.synchronize = partial(calls.append, ("wait", half))
        event.record = lambda _stream, half=half: calls.append(("copied", half))
    first = engine._replayed._half
    engine.advance(make_rows(120), 0, 120)
    halves = [first, 1 - first, first]
    assert calls == [(name, half) for half in halves for name in ("wait", "copied")]


@pytest.mark.parametrize("optimizer", [pytest.param("adam", marks=needs_gpu)])
def test_on_a_gpu_numba_assembles_where_it_can_launch(optimizer):
    engine = make_engine(batch_size=50, device="cuda", compile="auto", **OPTIMIZERS[optimizer])
    engine.prepare_steps()
    assert engine._replayed.assembler == ("numba" if cuda_graphs.can_launch() else "torch")


@pytest.mark.parametrize("optimizer", [pytest.param("adam", marks=needs_gpu)])
def test_on_a_gpu_a_failed_capture_moves_nothing(monkeypatch, optimizer):
    take = cuda_graphs.ReplayedSteps._take_step

    def failing_step(self):
        take(self)
        if torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize()  # not permitted in a capture

    monkeypatch.setattr(cuda_graphs.ReplayedSteps, "_take_step", failing_step)
    options = {"batch_size": 50, "device": "cuda", **OPTIMIZERS[optimizer]}
    engine, rows = make_engine(compile="auto", **options), make_rows(520)
    stream = torch.cuda.current_stream()
    with pytest.warns(UserWarning, match="could not be compiled"):
        engine.prepare_steps()
    assert torch.cuda.current_stream() == stream
    assert same_state(engine, make_engine(**options))
    assert_same(trained(engine, rows), trained(make_engine(**options), rows))
