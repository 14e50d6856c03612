"""How the learners of a pass share a device: side by side, and each with an outcome of its own."""

import threading
from dataclasses import replace

import pytest

import streamtrain
from data_gen import generate
from streamtrain.config import make_config
from streamtrain.records import ReplicaEnded
from streamtrain.run.passes import run_pass
from streamtrain.run.prepare import prepare
from streamtrain.training.engine_choice import ENGINES
from streamtrain.training.fused_engine import FusedEngine

SIZES = (32, 64, 256)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated") / "data"
    generate(folder, kind="friedman2", rows=3000, span_rows=512)
    return folder


@pytest.fixture(scope="module")
def prepared(data):
    config = {
        "data": {"path": str(data), "holdout": 500},
        "train": {"device": "cpu", "engine": "fused"},
        "model": {"hidden": [4]},
        "fetch": {"memory": "64MiB"},
        "order": {"window_rows": 2048},
    }
    return prepare(make_config(config), learners=len(SIZES), rates=1)


def train(prepared, monkeypatch, engine, kind) -> list[str]:
    """Train a learner of each size by engines of this kind; return their outcomes."""
    monkeypatch.setitem(ENGINES, engine, kind)
    ran, outcomes = replace(prepared, engine=engine), []
    learners = [ran.learner(size, (0.01,), 0) for size in SIZES]
    run_pass(
        ran,
        learners,
        0,
        lambda record: isinstance(record, ReplicaEnded) and outcomes.append(record.outcome),
    )
    return outcomes


def test_learners_on_a_gpu_train_side_by_side(prepared, monkeypatch):
    """Each waits in its first call until all are in theirs."""
    together = threading.Barrier(len(SIZES), timeout=30)

    class Meeting(FusedEngine):
        met = False

        def advance(self, block, start, stop):
            if not self.met:
                together.wait()
                self.met = True
            return super().advance(block, start, stop)

    assert train(prepared, monkeypatch, "fused-cuda", Meeting) == ["finished"] * len(SIZES)


def test_learners_of_torch_take_turns(prepared, monkeypatch):
    inside, most = [], []

    class Counting(FusedEngine):
        def advance(self, block, start, stop):
            inside.append(self)
            most.append(len(inside))
            losses = super().advance(block, start, stop)
            inside.pop()
            return losses

    assert train(prepared, monkeypatch, "torch", Counting) == ["finished"] * len(SIZES)
    assert max(most) == 1


def test_a_size_without_memory_ends_alone_even_before_the_first_pass(data, tmp_path, monkeypatch):
    """Steps are tried before the pass; lack of memory there leaves the size to its learner."""
    genuine = FusedEngine.advance

    def advance(self, block, start, stop):
        if self.batch_size == 256:
            raise RuntimeError("CUDA error: out of memory")
        return genuine(self, block, start, stop)

    monkeypatch.setattr(FusedEngine, "advance", advance)
    found = streamtrain.sweep(
        data,
        out=tmp_path / "out",
        batch_sizes=[32, 256],
        lr_grid=[0.01],
        trials=1,
        holdout=500,
        hidden="4",
        memory="64MiB",
        confirm=False,
        measure="none",
        device="cpu",
    )
    cells = {cell["batch_size"]: cell["status"] for cell in found.summary["cells"]}
    assert cells[256] == "out_of_memory"
    assert found.batch_size == 32
