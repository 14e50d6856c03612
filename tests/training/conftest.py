"""Compilers and GPUs as far as they can be had without their machine code: what is around them is
then ours alone.
"""

from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from streamtrain.training.torch import cuda_graphs as graphs
from streamtrain.training.torch import device_feed
from streamtrain.training.torch.cuda_graphs import ReplayedSteps


@pytest.fixture
def traced(monkeypatch):
    """The compiler's front half: everything but the machine code, which costs ten seconds and more
    (see the slow tests).
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.fixture
def pretended(monkeypatch):
    """CUDA's streams, events and graphs, each with nothing to do, so that the arithmetic around
    them can run here.

    A graph replays by calling what was captured; it shows neither streams nor lifetimes: those need
    a GPU.
    """
    stream = SimpleNamespace(wait_event=lambda _e: None, wait_stream=lambda _s: None, cuda_stream=0)

    class Graph:
        def replay(self):
            self.captured()

    @contextmanager
    def graph(captured, capture_error_mode):
        assert capture_error_mode == "thread_local"
        with monkeypatch.context() as patch:  # a capture runs nothing
            patch.setattr(
                ReplayedSteps,
                "_one",
                lambda self: setattr(captured, "captured", partial(one, self)),
            )
            yield

    one = ReplayedSteps._one
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *args, pin_memory=False, **options: empty(*args, **options)
    )
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _self, _stream: None)
    for name, value in {
        "Stream": lambda *_: stream,
        "current_stream": lambda *_: stream,
        "stream": lambda _s: nullcontext(),
        "CUDAGraph": Graph,
        "graph": graph,
        "Event": lambda: SimpleNamespace(synchronize=lambda: None, record=lambda _s: None),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(graphs, "can_launch", lambda: False)
    monkeypatch.setattr(device_feed, "SLOT_ROWS", 256)
