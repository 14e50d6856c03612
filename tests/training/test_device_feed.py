"""The path of rows to a GPU: pieces of a block, a ring of slots, replayed steps.

Tests with the marker `gpu` need a real one.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.training.torch import torch_engine
from streamtrain.training.torch.device_feed import (
    DeviceFeed,
    cuts,
    rows_per_slot,
    train_device,
)
from tests.training.contract import make_rows
from tests.training.torch_engines import OPTIMIZERS, assert_same, make_engine, trained

needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@given(st.integers(0, 50), st.integers(0, 500), st.integers(1, 60), st.integers(1, 80), st.data())
def test_cuts_are_whole_minibatches_where_a_slot_holds_one(
    start, count, batch_size, slot_rows, data
):
    carried = data.draw(st.integers(0, batch_size - 1))
    pieces = list(cuts(start, start + count, carried, batch_size, slot_rows))
    assert [row for piece in pieces for row in range(*piece)] == list(range(start, start + count))
    assert all(0 < stop - begin <= slot_rows for begin, stop in pieces)
    if batch_size <= slot_rows:
        aligned = [(carried + stop - start) % batch_size == 0 for _, stop in pieces[:-1]]
        assert all(aligned[1:])
        assert not aligned or aligned[0] or batch_size - carried > slot_rows


@pytest.mark.parametrize(("current", "expected"), [(0, "cuda"), (1, "cuda:1")])
def test_cuda_is_the_current_device_for_all_threads(has_gpu, monkeypatch, current, expected):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    assert str(train_device("cuda")) == str(train_device("auto")) == expected
    assert str(train_device("cuda:2")) == "cuda:2"


def test_naming_a_device_does_not_initialize_it(has_gpu, monkeypatch):
    """A process that has initialized CUDA must not fork."""

    def fail():
        raise AssertionError("initializes CUDA")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_device", fail)
    assert str(train_device("cuda")) == "cuda"


@given(st.integers(1, 100_000), st.integers(1, 2**21))
def test_a_slot_has_whole_minibatches_and_at_most_64_mib(width, batch_size):
    rows = rows_per_slot(width, batch_size)
    assert 1 <= rows <= 131_072
    assert 4 * width * rows <= 64 * 2**20
    largest = min(131_072, 64 * 2**20 // (4 * width))
    assert rows == largest if batch_size > largest else rows % batch_size == 0


@pytest.mark.parametrize("batch_size", [32, 100, 300])
def test_feed_and_replay_take_the_same_steps(pretended, monkeypatch, batch_size):
    """Over many slots, with cuts within minibatches, and minibatches larger than a slot."""
    monkeypatch.setattr(torch_engine, "TABLE_STEPS", 4)
    rows = make_rows(3000)
    options = {
        "batch_size": batch_size,
        **OPTIMIZERS["adamw"],
        "schedule": "cosine",
        "last_row": 3000,
    }
    engine = make_engine(**options, compile="auto")
    engine._feed = DeviceFeed(torch.device("cpu"), 5, batch_size)
    engine.prepare_steps()
    assert (engine._replayed is not None) == (batch_size <= 256)
    assert (engine.parameters() == make_engine(**options).parameters()).all(), (
        "warming up and capturing take no step"
    )
    assert_same(trained(engine, rows, [1, 40, 1500]), trained(make_engine(**options), rows))
    assert engine.steps == -(-3000 // batch_size)


@pytest.mark.parametrize(
    "batch_size", [pytest.param(size, marks=needs_gpu) for size in (32, 1000, 200_000)]
)
@pytest.mark.parametrize("compile", ["auto", "off"])
def test_on_a_gpu_as_on_the_cpu(batch_size, compile):
    rows = make_rows(500_000)
    options = {"batch_size": batch_size, **OPTIMIZERS["adam"]}
    on_gpu = make_engine(**options, device="cuda", compile=compile)
    on_gpu.prepare_steps()
    assert (on_gpu._replayed is not None) == (compile == "auto" and batch_size < 200_000)
    rows = rows[: 100 * batch_size]
    assert_same(
        trained(on_gpu, rows, [17, 5000]),
        trained(make_engine(**options), rows),
        rtol=1e-2,
        atol=1e-3,
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_slot_is_not_written_over_while_it_is_used():
    """Copies run ahead of slow work on the slots, and still every sum is of the right rows."""
    rows = make_rows(40_000)
    feed = DeviceFeed(torch.device("cuda"), 5, 1000)
    feed.slot_rows = 1000
    sums = []
    for part in feed(rows, 0, len(rows), 0):
        torch.cuda._sleep(2_000_000)
        sums.append(part.sum(dtype=torch.float64))
    np.testing.assert_allclose(
        [float(value) for value in sums],
        rows.reshape(40, -1).sum(axis=1, dtype=np.float64),
        rtol=1e-6,
    )
