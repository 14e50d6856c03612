"""The device of `train` and `sweep` with `--device auto`; figures and GPU are faked."""

import pytest

import data_gen
from streamtrain.config import make_config
from streamtrain.report.run_files import read_records
from streamtrain.run import faster_device
from streamtrain.training.device_choice import DeviceChoice
from streamtrain.training.engine_choice import ENGINES
from streamtrain.training.fused_engine import FusedEngine
from tests.run.whole_runs import run_sweep, run_train

RATES = {"fused": 1e6, "fused-cuda": 2e6}


@pytest.fixture
def measured(monkeypatch):
    """A GPU that is faster; returns what was asked, one entry per measurement."""
    asked = list[tuple]()

    def measure(train, model, candidate, sizes, replicas, *, rows, seconds):
        asked.append((candidate, sizes, replicas, rows, seconds))
        return DeviceChoice(engine="fused-cuda", reason="the faster one", rates=RATES)

    monkeypatch.setattr(faster_device, "gpu_candidate", lambda _train, _model: "fused-cuda")
    monkeypatch.setattr(faster_device, "measure_devices", measure)
    monkeypatch.setitem(ENGINES, "fused-cuda", FusedEngine)
    return asked


def make(tmp_path, **sections):
    if not (tmp_path / "d").exists():
        data_gen.generate(tmp_path / "d", kind="linear", rows=2_000)
    values = {
        "data": {"path": str(tmp_path / "d"), "holdout": 200},
        "model": {"hidden": [4]},
        "fetch": {"memory": "64MiB"},
        "train": {"max_rows": 2_000, "batch_size": 64},
    }
    return make_config(values | sections)


def test_train_takes_the_measured_device_and_records_both_figures(measured, tmp_path):
    run_train(make(tmp_path), tmp_path / "run", report=False)
    assert measured == [("fused-cuda", (64,), 1, 2_000, float("inf"))]
    run = read_records(tmp_path / "run" / "events.jsonl")[0]
    assert (run.engine, run.engine_reason, run.engine_rates) == (
        "fused-cuda",
        "the faster one",
        RATES,
    )


def test_a_sweep_measures_its_sizes_and_rates(measured, tmp_path):
    config = make(
        tmp_path,
        sweep={
            **{"batch_sizes": "64,256", "lr_grid": 3, "trials": 2, "measure": []},
            **{"confirm": False, "extend_grid": False},
        },
    )
    run_sweep(config, tmp_path / "run", report=False)
    assert measured == [("fused-cuda", (64, 256), 3, 4_000, float("inf"))]


@pytest.mark.parametrize("kept", ["fused", "fused-cuda"])
def test_a_run_that_is_resumed_keeps_its_engine(measured, tmp_path, monkeypatch, kept):
    """Or its fingerprint would refuse it, where measurements differ."""
    monkeypatch.setattr(faster_device.Checkpointer, "engine", lambda _self: kept)
    run_train(make(tmp_path), tmp_path / "run", report=False)
    assert measured == []
    run = read_records(tmp_path / "run" / "events.jsonl")[0]
    assert (run.engine, run.engine_rates) == (kept, None)


def test_without_a_gpu_the_record_has_no_figures(tmp_path):
    run_train(make(tmp_path), tmp_path / "run", report=False)
    run = read_records(tmp_path / "run" / "events.jsonl")[0]
    assert (run.engine, run.engine_rates) == ("fused", None)
    assert "engine_rates" not in (tmp_path / "run" / "events.jsonl").read_text().splitlines()[0]
