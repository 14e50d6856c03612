"""Training in rounds: what it equals, that deaths change nothing, and that it goes on; on simulated
workers that really train.
"""

import numpy as np
import pytest

from data_gen import generate
from streamtrain.bench.simulated_backend import SimulatedBackend, WorkerModel
from streamtrain.cluster.cluster_pass import pass_name
from streamtrain.cluster.local_sgd.round_worker import average
from streamtrain.cluster.local_sgd.rounds_pass import RoundsPass
from streamtrain.cluster.run_spec import build, draw
from streamtrain.cluster.scheduling import Leases
from streamtrain.cluster.worker_pool import WorkerPool
from streamtrain.run.passes import run_pass
from streamtrain.run.prepare import prepare
from tests.cluster.conftest import config_of
from tests.cluster.test_sweep_pass import Checkpoints, Interrupted

TRAIN = {"holdout": 1000, "window_rows": 1024, "hidden": "8,8", "memory": "64MiB", "lr": 0.01}
STEADY = WorkerModel(rows_per_second=1.0)


def prepared_of(data, batch_size=64, first_row=1024, **flags):
    return prepare(
        config_of(data, {**TRAIN, **flags, "batch_size": batch_size}, eval__first_row=first_row),
        learners=1,
        rates=1,
    )


def in_rounds(
    prepared, *, shares, windows=1, habits=STEADY, workers=3, seed=0, saving=None, **learner
):
    """(records, learner, leases)."""
    own = build(draw(prepared), threads=1, memory_limit=None)
    told = []
    trained = prepared.learner(
        prepared.config.train.batch_size, (prepared.config.train.rate,), 0, **learner
    )
    begun = saving.take(pass_name(trained, "tuning")) if saving is not None else None
    work = RoundsPass(
        prepared,
        trained,
        told.append,
        saving=saving,
        shares=shares,
        windows_a_share=windows,
        chosen={"sync": "rounds"},
        begun=begun,
    )
    leases = Leases(timeout_seconds=20.0, max_attempts=10**9)
    fabric = SimulatedBackend(
        workers, habits, lambda payload: (1.0, payload[0](own, payload[1])), seed=seed
    )
    if work.record is None:
        work.run(WorkerPool(fabric, no_workers_seconds=1e9), leases)
    return told, trained, leases


def on_one_machine(prepared, **learner):
    told = []
    trained = prepared.learner(
        prepared.config.train.batch_size, (prepared.config.train.rate,), 0, **learner
    )
    run_pass(prepared, [trained], 0, told.append)
    return told, trained


def test_one_share_is_training_on_one_machine_bit_for_bit(data):
    # an evaluation within a minibatch cuts its sum
    prepared = prepared_of(data, batch_size=100, epochs=1.7, first_row=10**9)
    told, trained, _ = in_rounds(prepared, shares=1, windows=2)
    expected, alone = on_one_machine(prepared)
    assert (trained.engine.parameters() == alone.engine.parameters()).all()
    assert trained.rows == alone.rows
    assert trained.engine.steps == alone.engine.steps
    assert told[-1]["receipt"] == expected[-1]["receipt"]
    assert [one for one in told if one["event"] == "outcome"] == [
        one for one in expected if one["event"] == "outcome"
    ]


@pytest.mark.parametrize(
    "flags",
    [{"optimizer": "sgd"}, {"optimizer": "sgd", "activation": "tanh"}],
    ids=["relu", "tanh"],
)
def test_a_round_of_one_sgd_step_is_the_synchronous_step(tmp_path, flags):
    """Averages of parameters and momenta after one step from the same place are those of the mean
    gradient.
    """
    generate(tmp_path / "data", kind="friedman2", rows=1024, span_rows=16)
    prepared = prepared_of(
        tmp_path / "data", batch_size=64, holdout=0, window_rows=16, span_rows=16, **flags
    )
    _, trained, _ = in_rounds(prepared, shares=4)
    _, alone = on_one_machine(prepared)
    assert trained.engine.steps == alone.engine.steps == 16
    np.testing.assert_allclose(
        trained.engine.parameters(), alone.engine.parameters(), rtol=2e-4, atol=2e-6
    )


@pytest.mark.parametrize("on_null", ["error", "drop"])
def test_deaths_hangs_and_errors_change_no_number_and_every_row_comes_once(data, on_null):
    prepared = prepared_of(data, epochs=2, on_null=on_null)
    habits = WorkerModel(
        rows_per_second=1.0,
        failure_seconds=8.0,
        return_seconds=2.0,
        hang_share=0.05,
        hang_seconds=60.0,
        error_share=0.05,
    )
    told, trained, leases = in_rounds(prepared, shares=4, habits=habits, seed=3)
    steady, expected, _ = in_rounds(prepared, shares=4, workers=1)
    assert leases.failures > 3
    assert told[-1]["lost_workers"] > 3
    assert (trained.engine.parameters() == expected.engine.parameters()).all()
    alone, _ = on_one_machine(prepared)
    assert told[-1]["receipt"] == steady[-1]["receipt"] == alone[-1]["receipt"]
    assert told[-1]["receipt"]["count"] == 2 * 8000 == trained.rows
    losses = [one["holdout_loss"] for one in told if one["event"] == "evaluation"]
    assert losses == [one["holdout_loss"] for one in steady if one["event"] == "evaluation"]
    assert losses[-1] < 0.5 * losses[0]


def test_a_run_ends_at_its_last_row_in_the_middle_of_a_window(data):
    prepared = prepared_of(data, max_rows=9_900)
    told, trained, _ = in_rounds(prepared, shares=2, windows=3)
    assert trained.rows == 9_900
    assert [one["rows"] for one in told if one["event"] == "evaluation"][-1] == 9_900


@pytest.mark.parametrize("edges", [2, 7, 40])
def test_an_interrupted_driver_goes_on_from_its_last_round(data, edges):
    prepared = prepared_of(data, epochs=3)
    whole, expected, _ = in_rounds(prepared, shares=4, keeps_best=True)
    first = Checkpoints(edges=edges)
    with pytest.raises(Interrupted):
        in_rounds(prepared, shares=4, saving=first, keeps_best=True)
    again = Checkpoints(first.saved)
    rest, trained, _ = in_rounds(prepared, shares=4, saving=again, keeps_best=True)
    assert (trained.engine.parameters() == expected.engine.parameters()).all()
    assert (trained.best_parameters == expected.best_parameters).all()
    assert rest[-1]["receipt"] == whole[-1]["receipt"]
    assert rest[-1]["rounds"] == whole[-1]["rounds"]
    nothing, trained, _ = in_rounds(
        prepared, shares=4, saving=Checkpoints(again.saved), keeps_best=True
    )
    assert nothing == []
    assert (trained.engine.parameters() == expected.engine.parameters()).all()


def test_the_length_of_rounds_is_measured_once_and_recorded(data):
    told, _, _ = in_rounds(prepared_of(data, epochs=4), shares=2, windows=None)
    windows = [one["windows"] for one in told if one["event"] == "round"]
    assert windows[:2] == [2, 2]
    assert told[-1]["windows_a_share"] > 1  # seconds' worth: more than an epoch of this data
    assert told[-1]["receipt"]["count"] == 4 * 8000


def test_the_average_weighs_rows_and_skips_shares_without_a_step():
    states = [
        {
            "parameters": np.full((1, 2), value, np.float32),
            "moments": np.full((1, 2, 2), -value, np.float32),
        }
        for value in (1.0, 4.0, 100.0)
    ]
    mean = average(states, [1, 2, 0])
    assert (mean["parameters"] == 3).all()
    assert (mean["moments"] == -3).all()
    assert mean["parameters"].dtype == np.float32
    assert (average(states, [0, 0, 0])["parameters"] == 1).all()
