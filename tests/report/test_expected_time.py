"""How long `--dry-run` expects a run to take, beside what runs did."""

import math

import pytest

from data_gen import generate
from streamtrain.base.units import format_seconds
from streamtrain.config import make_config
from streamtrain.records import Confirmed, Evaluation, PassEnded
from streamtrain.report.dry_run import plan_run, plan_text
from streamtrain.report.expected_time import Cost, RowCosts, Times, models_of, sweep_times
from streamtrain.run import reserve
from streamtrain.run.sweep import sweep
from streamtrain.run.sweep_plan import plan_sweep
from streamtrain.run.timing import REPEATS, timing_seconds

SIZES, ROWS, HELD_OUT, RATES = (16, 64), 2048, 200, 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected") / "data"
    generate(folder, kind="linear", rows=4000)
    return folder


def fixed_plan(data, **keys):
    """A plan of two trials, on one thread, whose grid is far below the best rate."""
    return make_config(
        {
            "data": {"path": str(data), "holdout": HELD_OUT},
            "model": {"hidden": []},
            "train": {"max_rows": ROWS, "threads": 1},
            "sweep": {
                **{"trials": 2, "batch_sizes": SIZES, "lr_grid": [0.0001, 0.0002, 0.0004]},
                **{"measure": "none", "confirm": False},
                **keys,
            },
        }
    )


def costs(seconds=1e-6):
    """A rate costs `seconds` per row of steps and per held-out row, and reading nothing."""
    cost = Cost(RATES * seconds, RATES * seconds)
    return RowCosts(
        read_rate=math.inf,
        stream_rate=math.inf,
        steps=dict.fromkeys(SIZES, cost),
        evaluation=cost,
        replicas=RATES,
    )


@pytest.mark.parametrize("decides", [True, False], ids=["records decide", "nothing to decide"])
def test_the_passes_of_a_sweep_take_what_was_expected(data, decides):
    keys = {} if decides else {"halving": False, "extend_grid": False, "rerun": False}
    config, records = fixed_plan(data, **keys), []
    sweep(config, records.append, {"command": "", "env": {}})
    passes = [record for record in records if isinstance(record, PassEnded)]
    looks = sum(isinstance(record, Evaluation) for record in records)
    trained = sum(record.replicas * ROWS for record in passes) + looks * HELD_OUT
    plan = plan_sweep(config)
    fewest, most = sweep_times(plan, costs())
    models = models_of(plan)
    replicas = sum(record.replicas for record in passes)
    if decides:
        assert [record.kind for record in passes].count("extension") == 3
        assert fewest.training_seconds < trained * 1e-6 <= most.training_seconds
        assert models.models < replicas <= models.most_models
    else:
        for times in (fewest, most):
            assert times.training_seconds == pytest.approx(trained * 1e-6)
        assert models.models == models.most_models == replicas == 2 * 2 * RATES


def test_what_follows_the_passes_is_expected_too(data, monkeypatch):
    """With as many measurements, trainings to the target and confirmations as there can be."""
    monkeypatch.setattr(reserve, "seconds_after", lambda *_, at_target: 100.0 + at_target)
    keys = {"halving": False, "extend_grid": False, "target_loss": [0.5, 0.9], "confirm": True}
    config, records = fixed_plan(data, **keys, measure="sharpness"), []
    fewest, most = sweep_times(plan_sweep(config), costs())

    def after(times: Times) -> float:
        passes = times.training_seconds
        return times.seconds - passes - timing_seconds(passes, REPEATS, len(SIZES))

    assert after(fewest) == pytest.approx(100)
    plain = sweep_times(plan_sweep(fixed_plan(data, **keys | {"confirm": False})), costs())[1]
    alone = (plain.training_seconds - fewest.training_seconds) / 4  # of a size and a rate
    # two targets in two trials of two sizes, and two trials in which each size is confirmed
    assert after(most) == pytest.approx(100 + 8 + (8 + 4) * alone)
    sweep(fixed_plan(data, **keys), records.append, {"command": "", "env": {}})
    assert sum(isinstance(record, Confirmed) for record in records) <= 4


def test_a_dry_run_of_a_fixed_plan_says_what_the_results_may_ask_for(data, monkeypatch):
    """Three rates in the first trial, two in the second, and one on each of two fresh seeds."""
    monkeypatch.setattr("streamtrain.report.dry_run._TRY_SECONDS", 0.01)
    plan = plan_run(fixed_plan(data), "sweep")
    assert (plan["models"], plan["most_models"]) == (14, 32)
    assert reserve.REPORT_SECONDS < plan["seconds"] < plan["most_seconds"]
    text = plan_text(plan)
    assert "14 to 32 models: 2 trials, 2 batch sizes, 3 learning rates each;" in text
    assert "2 on fresh seeds and at most 3 to extend the learning rates\n" in text
    least, most = format_seconds(plan["seconds"]), format_seconds(plan["most_seconds"])
    said = f"at least about {least} and at most {most} (where results ask for more) after opening"
    assert (said if least != most else f"about {least} after opening") in text
    plan = plan_run(fixed_plan(data, lr_rule="fixed"), "sweep")
    assert plan["seconds"] == plan["most_seconds"]
    text = plan_text(plan)
    assert "\nwork       4 models: 2 trials, 2 batch sizes, 1 learning rate each;" in text
    assert "at most" not in text.partition("\nwork")[2]
