"""Rows are copied to a device once: a block for all learners, evaluation rows for all points."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from streamtrain.stream import pinned_copy
from streamtrain.training.engine_choice import share_block
from streamtrain.training.torch import shared_rows
from streamtrain.training.torch.device_feed import DeviceFeed
from streamtrain.training.torch.shared_rows import EvaluationRows, SharedBlock
from tests.training.contract import make_rows
from tests.training.torch_engines import assert_same, make_engine, trained

CPU = torch.device("cpu")


@pytest.fixture
def uploads(monkeypatch):
    """The lengths of what is copied to the device."""
    copied = []

    def from_numpy(array):
        return SimpleNamespace(
            to=lambda device: copied.append(len(array)) or torch.tensor(array, device=device)
        )

    counted = SimpleNamespace(**vars(torch) | {"from_numpy": from_numpy})
    for module in (pinned_copy, shared_rows):
        monkeypatch.setattr(module, "torch", counted)
    return copied


def test_a_block_is_copied_once_for_all_engines(pretended, uploads, monkeypatch):
    rows, shared = make_rows(1000), SharedBlock(CPU)
    shared.put(rows)
    for size in (30, 100, 300):
        engine = make_engine(batch_size=size, compile="auto")
        engine._feed = DeviceFeed(CPU, 5, size)
        engine._feed._host = None  # nothing goes through the engine's own pinned memory
        engine.shared_block = shared
        assert_same(trained(engine, rows, [17, 400]), trained(make_engine(batch_size=size), rows))
    assert uploads == [1000]


def test_other_rows_than_the_shared_ones_are_copied_by_the_engine(pretended):
    shared = SharedBlock(CPU)
    shared.put(np.zeros((1000, 5), dtype=np.float32))
    engine, rows = make_engine(batch_size=100, compile="auto"), make_rows(1000)
    engine._feed, engine.shared_block = DeviceFeed(CPU, 5, 100), shared
    expected = trained(make_engine(batch_size=100), rows)
    assert_same(trained(engine, rows), expected)
    shared.put(rows)
    shared.drop()
    assert shared.rows(rows) is None


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(torch.cuda.OutOfMemoryError("Tried to allocate 2 GiB"), id="the device's"),
        pytest.param(RuntimeError("CUDA error: out of memory"), id="pinned memory"),
    ],
)
def test_a_block_that_does_not_fit_is_copied_in_parts(monkeypatch, error):
    def refuse(_array):
        raise error

    monkeypatch.setattr(torch, "from_numpy", refuse)
    rows, shared = make_rows(1000), SharedBlock(CPU)
    shared.put(rows)
    assert shared.rows(rows) is None


def test_an_error_of_the_device_is_not_taken_for_lack_of_memory(monkeypatch):
    def refuse(_array):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "from_numpy", refuse)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        SharedBlock(CPU).put(make_rows(10))


def test_engines_on_the_cpu_share_nothing():
    assert share_block([make_engine(), make_engine()]) is None


def test_engines_on_a_gpu_share_one_block():
    engines = [make_engine() for _ in range(3)]
    for engine in engines[:2]:
        engine.device = torch.device("cuda")
    shared = share_block(engines)
    assert shared is not None
    assert [engine.shared_block for engine in engines] == [shared, shared, None]
    assert share_block(engines[1:]) is None


def test_evaluation_rows_are_copied_once(uploads):
    engine, rows = make_engine(), make_rows(300)
    first = engine.evaluate(rows)
    engine.advance(rows, 0, 300)
    assert (engine.evaluate(rows) < first).all()
    assert uploads == [300]
    other = rows[:200].copy()
    assert (engine.evaluate(other) == make_engine_at(engine).evaluate(other)).all()
    assert uploads == [300, 200, 200]


def make_engine_at(engine):
    fresh = make_engine()
    fresh.load_state(engine.state())
    return fresh


def test_rows_that_are_gone_are_not_taken_for_new_ones():
    """A new array may be where an old one was."""
    on_device = EvaluationRows(CPU)
    for number in range(3):
        rows = np.full((10, 5), number, dtype=np.float32)
        assert float(on_device(rows).sum()) == 50 * number
        del rows
