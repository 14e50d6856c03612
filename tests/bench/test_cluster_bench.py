"""The driver against simulated workers: each window once, costs that grow linearly, the command."""

import json

import pytest

from streamtrain.bench.cluster_bench import simulate
from streamtrain.bench.simulated_backend import WorkerModel
from streamtrain.cli.main import run


def test_a_billion_rows_with_deaths_and_hangs_are_trained_on_exactly_once():
    habits = WorkerModel(failure_seconds=60.0, return_seconds=5.0, hang_share=0.02)
    document = simulate(rows=5 * 10**9, workers=20, habits=habits, sizes=(0.25, 1.0))
    _, large = document["scales"]
    assert large["lost_workers"] > 5
    assert large["failures"] > 5
    assert large["spans"] == -(-5 * 10**9 // 262_144)
    assert large["tasks"] >= large["rounds"] * 20
    assert large["messages"] < 3 * large["tasks"] + 2 * large["lost_workers"] + 40
    assert large["plan_peak_bytes"] / large["spans"] < 300
    assert document["growth"]["messages"] < 1.2


def test_a_worker_opens_the_shards_of_its_windows_and_no_other():
    """With one span in a shard, workers share the shards as they share the spans."""
    workers, shards = 10, 2000
    document = simulate(
        rows=shards * 262_144,
        workers=workers,
        habits=WorkerModel(spread=0.0),
        sizes=(1.0,),
        shard_rows=262_144,
    )
    (scale,) = document["scales"]
    assert scale["shards"] == scale["spans"] == shards
    assert scale["shards_opened_per_worker"] == shards / workers
    assert scale["most_shards_opened"] < 2 * shards / workers


@pytest.mark.slow
def test_a_thousand_workers_and_a_million_million_rows():
    document = simulate(
        rows=10**12, workers=1000, habits=WorkerModel(failure_seconds=3600.0, hang_share=1e-5)
    )
    largest = document["scales"][-1]
    assert largest["spans"] > 3.8e6
    assert largest["lost_workers"] > 50
    assert largest["plan_peak_bytes"] < 2**29
    assert largest["driver_messages_per_second"] > 4 * largest["messages_per_simulated_second"]
    assert all(
        slope < 1.1 for name, slope in document["growth"].items() if name != "plan_seconds"
    ), document["growth"]
    assert document["growth"]["plan_seconds"] < 1.5  # n log n, and the arrays outgrow the caches


def test_the_verb(capsys):
    assert run(["bench", "cluster", "--simulate", "--workers", "4", "--rows", "50M", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["workers"] == 4
    assert run(["bench", "cluster", "--simulate", "--workers", "4", "--rows", "50M"]) == 0
    assert "exactly once" in capsys.readouterr().out
    assert run(["bench", "cluster"]) == 2
    assert "--simulate" in capsys.readouterr().err
