"""A growing size beside the recommended one, in whole sweeps."""

import json

import pytest

import streamtrain
from data_gen import generate
from streamtrain.records import BatchStage
from streamtrain.run import grow as module

FLAGS = {
    "batch_sizes": [64, 256],
    "lr_grid": 3,
    "budget": 2_000_000,
    "hidden": "8",
    "measure": "none",
    "confirm": False,
    "report": False,
}
STAGES = (BatchStage(first_row=0, batch_size=64), BatchStage(first_row=5000, batch_size=256))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("grow") / "data"
    generate(path, kind="friedman2", rows=20_000)
    return path


def records_of(result):
    lines = (result.out / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_both_are_trained_on_the_same_rows_of_seeds_that_chose_neither(data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "candidates", lambda *_: [STAGES])
    result = streamtrain.sweep(data, out=tmp_path / "a", **FLAGS)
    records = records_of(result)
    tried = [record for record in records if record["event"] == "growth"]
    passes = {record["trial"] for record in records if record["event"] == "pass"}
    assert 3 <= len(tried) <= module.TRIALS
    assert passes.isdisjoint(record["trial"] for record in tried)
    for record in tried:
        assert record["batch_size"] == result.summary["recommendation"]["batch_size"]
        assert len(record["rows"]) == len(record["growing_loss"]) == len(record["constant_loss"])
        # the same initial weights, then different steps
        assert record["growing_loss"][0] == record["constant_loss"][0]
        assert record["growing_loss"][-1] != record["constant_loss"][-1]
    growing = result.summary["growing"]
    assert growing["batch_schedule"] == "64@0,256@5000"
    assert growing["slower_by"]["n"] in (0, len(tried))


def test_later_candidates_are_left_out_where_time_is_short(data, tmp_path, monkeypatch):
    other = (STAGES[0], BatchStage(first_row=100, batch_size=256))
    monkeypatch.setattr(module, "candidates", lambda *_: [STAGES, other])
    trials = {1: module.FEWEST_TRIALS, 2: module.FEWEST_TRIALS - 1}
    monkeypatch.setattr(module, "_affordable_trials", lambda run, grids, *_: trials[len(grids)])
    records = records_of(streamtrain.sweep(data, out=tmp_path / "a", **FLAGS))
    tried = [record for record in records if record["event"] == "growth"]
    assert len(tried) == module.FEWEST_TRIALS
    assert all(record["stages"][1]["first_row"] == 5000 for record in tried)


def test_off_and_a_fixed_plan_try_none(data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "candidates", lambda *_: [STAGES])
    off = streamtrain.sweep(data, out=tmp_path / "a", grow=False, **FLAGS)
    fixed = {**FLAGS, "budget": None, "trials": 1, "max_rows": 20_000}
    planned = streamtrain.sweep(data, out=tmp_path / "b", **fixed)
    for result in (off, planned):
        assert not any(record["event"] == "growth" for record in records_of(result))
        assert result.summary["growing"] is None
