"""Engines under test, and fakes for the compiler and for a GPU.

With the fakes, the code around compiler and GPU is tested on any machine.
"""

import os
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from streamtrain.config import TrainConfig
from streamtrain.training import cuda_fit
from streamtrain.training.engine_choice import ENGINES
from streamtrain.training.model import Shape, initial_parameters
from streamtrain.training.torch import cuda_graphs, device_feed
from streamtrain.training.torch.cuda_graphs import ReplayedSteps
from tests.training.contract import RATES

#: Its tests need Numba's simulator; test_cuda_engine.py runs them in a process that has it.
collect_ignore = [] if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" else ["simulated_cuda.py"]


@pytest.fixture(params=[ENGINES["fused"], ENGINES["torch"]], ids=["fused", "torch"])
def make_engine(request):
    """`make_engine(shape, batch_size, last_row, **train)` constructs an engine, on the CPU."""

    def make(shape=None, batch_size=32, last_row=None, **train):
        shape = shape or Shape(widths=(4, 8, 8, 1), activation="tanh")
        return request.param(
            shape,
            initial_parameters(shape, 0, 0),
            batch_size,
            RATES,
            TrainConfig(device="cpu", **train),
            last_row,
        )

    return make


@pytest.fixture
def traced(monkeypatch):
    """The front end of torch's compiler, without code generation, which takes ten seconds or more.

    The slow tests include code generation.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.fixture
def pretended(monkeypatch):
    """CUDA's streams, events and graphs without a GPU, so that the code around them runs here.

    A graph is replayed by calling what was captured. Stream order and lifetimes are not tested:
    they need a GPU.
    """
    stream = SimpleNamespace(wait_event=lambda _e: None, wait_stream=lambda _s: None, cuda_stream=0)

    class Graph:
        def replay(self):
            self.captured()

    @contextmanager
    def graph(captured, stream, capture_error_mode):
        assert stream is not None
        assert capture_error_mode == "thread_local"
        with monkeypatch.context() as patch:  # a capture runs nothing
            patch.setattr(
                ReplayedSteps,
                "_take_step",
                lambda self: setattr(captured, "captured", partial(take_step, self)),
            )
            yield

    take_step = ReplayedSteps._take_step
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *args, pin_memory=False, **options: empty(*args, **options)
    )
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _self, _stream: None)
    for name, value in {
        "Stream": lambda *_: stream,
        "current_stream": lambda *_: stream,
        "stream": lambda _s: nullcontext(),
        "set_stream": lambda _s: None,
        "CUDAGraph": Graph,
        "graph": graph,
        "Event": lambda: SimpleNamespace(synchronize=lambda: None, record=lambda _s: None),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(cuda_graphs, "can_launch", lambda: False)
    monkeypatch.setattr(device_feed, "SLOT_ROWS", 256)


@pytest.fixture
def has_gpu(monkeypatch):
    """Where torch and Numba find a GPU with the shared memory of an H100."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("streamtrain.training.torch.device_feed.open_device", torch.device)
    monkeypatch.setattr(cuda_fit, "can_launch", lambda: True)
    monkeypatch.setattr(cuda_fit, "shared_bytes", lambda _device: 227 * 1024)
