"""Passes of a sweep at once: the records, choices and states are those of passes in turn.

They share a GPU, which is faked here: the engines are those of the CPU.
"""

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from data_gen import generate
from streamtrain.config import make_config
from streamtrain.errors import DataError
from streamtrain.records import PassEnded, ReplicaEnded
from streamtrain.report.run_files import read_records
from streamtrain.run import at_once, passes_ahead
from streamtrain.run import sweep as sweep_module
from streamtrain.run.passes import run_pass
from streamtrain.run.passes_ahead import PassesAhead, with_shared_seconds
from streamtrain.training.cuda_fit import GpuRoom
from streamtrain.training.fused_engine import FusedEngine
from tests.faults.run_output import timeless_records
from tests.run.whole_runs import run_sweep

SIZES = (32, 250)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated") / "data"
    generate(folder, kind="friedman2", rows=3000, span_rows=512)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Time nothing and draw nothing."""
    monkeypatch.setattr(sweep_module, "measure_throughput", lambda *_, **__: None)
    monkeypatch.setattr("streamtrain.api.write_report", lambda *_, **__: {})


@pytest.fixture
def room(monkeypatch):
    """A GPU that is never full."""
    found = GpuRoom(multiprocessors=1000, free_bytes=2**34)
    monkeypatch.setattr(at_once, "room_of", lambda _engine, _train: found)


@pytest.fixture
def started(monkeypatch):
    """Return the passes that are started before their turn, as (kind, trial), by group."""
    groups, genuine = list[list[tuple[str, int]]](), PassesAhead.start

    def start(self, prepared, plans):
        groups.append([(plan.kind, plan.trial) for plan in plans])
        return genuine(self, prepared, plans)

    monkeypatch.setattr(PassesAhead, "start", start)
    return groups


def make(data, **sweep):
    values = {
        "batch_sizes": list(SIZES),
        "lr_grid": 2,
        "trials": 3,
        "measure": [],
        "confirm": False,
    }
    return make_config(
        {
            "data": {"path": str(data), "holdout": 500},
            "order": {"window_rows": 1024},
            "model": {"hidden": [4]},
            "fetch": {"memory": "128MiB", "readers": 3},
            "train": {"device": "cpu", "engine": "fused", "lr": 0.02},
            "sweep": values | sweep,
        }
    )


def passes_of(out) -> list[tuple[str, int]]:
    found = [r for r in read_records(out / "events.jsonl") if isinstance(r, PassEnded)]
    return [(record.kind, record.trial) for record in found]


@pytest.mark.parametrize(
    ("sweep", "groups"),
    [
        pytest.param(
            {"extend_grid": False},
            [[("tuning", 1), ("tuning", 2)], [("fresh", 4), ("fresh", 5)]],
            id="two rates",
        ),
        pytest.param({"lr_grid": 3}, [[("fresh", 4), ("fresh", 5)]], id="rates that drop out"),
        pytest.param(
            {"lr_rule": "linear,sqrt"}, [[("tuning", 1), ("tuning", 2)]], id="rules without tuning"
        ),
        pytest.param(
            {"trials": None, "budget": 300_000, "lr_grid": 3},
            [[("fresh", 3), ("fresh", 4)], [("fresh", 6)]],
            id="a budget of rows",
        ),
    ],
)
def test_a_sweep_has_the_records_of_passes_in_turn(
    data, tmp_path, monkeypatch, started, sweep, groups
):
    run_sweep(make(data, **sweep), tmp_path / "in turn")
    assert started == []
    found = GpuRoom(multiprocessors=1000, free_bytes=2**34)
    monkeypatch.setattr(at_once, "room_of", lambda _engine, _train: found)
    run_sweep(make(data, **sweep), tmp_path / "at once")
    assert [group for group in started if group] == groups
    assert timeless_records(tmp_path / "at once") == timeless_records(tmp_path / "in turn")
