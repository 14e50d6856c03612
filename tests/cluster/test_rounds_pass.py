"""Training in rounds, on simulated workers that really train.

It equals one machine where it should, deaths change nothing, and it resumes.
"""

import numpy as np
import pytest

from data_gen import generate
from streamtrain.bench.simulated_backend import SimulatedBackend, WorkerModel
from streamtrain.cluster.cluster_pass import pass_name
from streamtrain.cluster.local_sgd.round_worker import average
from streamtrain.cluster.local_sgd.rounds_pass import RoundsPass
from streamtrain.cluster.run_spec import RunSpec, open_run
from streamtrain.cluster.scheduling import Leases
from streamtrain.cluster.worker_pool import WorkerPool
from streamtrain.records import Evaluation, ReplicaEnded, RoundEnded, SyncChosen
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


def new_learner(prepared, **options):
    train = prepared.config.train
    return prepared.learner(train.batch_size, (train.rate,), 0, **options)


def in_rounds(
    prepared, *, shares, windows=1, model=STEADY, workers=3, seed=0, saving=None, **options
):
    """Train in rounds; return (records, learner, leases)."""
    opened = open_run(RunSpec.of(prepared), threads=1, memory_limit=None)
    records, learner = [], new_learner(prepared, **options)
    resume_state = saving.take(pass_name(learner, "tuning")) if saving is not None else None
    rounds_pass = RoundsPass(
        prepared,
        learner,
        records.append,
        saving=saving,
        shares=shares,
        windows_per_share=windows,
        chosen=SyncChosen(sync="rounds", reason="a test", workers_at_start=workers, shares=shares),
        resume_state=resume_state,
    )
    leases = Leases(timeout_seconds=20.0, max_attempts=10**9)
    backend = SimulatedBackend(
        workers, model, lambda payload: (1.0, payload[0](opened, payload[1])), seed=seed
    )
    if rounds_pass.record is None:
        rounds_pass.run(WorkerPool(backend, no_workers_seconds=1e9), leases)
    return records, learner, leases


def on_one_machine(prepared):
    """Train on this machine; return (records, learner)."""
    records, learner = [], new_learner(prepared)
    run_pass(prepared, [learner], 0, records.append)
    return records, learner


def evaluations(records):
    return [record for record in records if isinstance(record, Evaluation)]


def test_one_share_is_training_on_one_machine_bit_for_bit(data):
    # No evaluation falls within a minibatch: it would cut the minibatch's sum in two.
    prepared = prepared_of(data, batch_size=100, epochs=1.7, first_row=10**9)
    records, trained, _ = in_rounds(prepared, shares=1, windows=2)
    expected, alone = on_one_machine(prepared)
    assert (trained.engine.parameters() == alone.engine.parameters()).all()
    assert (trained.engine.model_parameters() == alone.engine.model_parameters()).all()
    assert (trained.engine.model_parameters() != trained.engine.parameters()).any()
    assert trained.rows == alone.rows
    assert trained.engine.steps == alone.engine.steps
    assert records[-1].receipt == expected[-1].receipt
    assert [record for record in records if isinstance(record, ReplicaEnded)] == [
        record for record in expected if isinstance(record, ReplicaEnded)
    ]


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param({"optimizer": "sgd"}, id="relu"),
        pytest.param({"optimizer": "sgd", "activation": "tanh"}, id="tanh", marks=pytest.mark.slow),
    ],
)
def test_a_round_of_one_sgd_step_is_the_synchronous_step(tmp_path, flags):
    """The averages of parameters and momenta after one step are those of the mean gradient.

    So is that of the averaged weights, since shares move theirs at the same steps.
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
    np.testing.assert_allclose(
        trained.engine.model_parameters(), alone.engine.model_parameters(), rtol=2e-4, atol=2e-6
    )


@pytest.mark.parametrize("on_null", ["error", "drop"])
def test_deaths_hangs_and_errors_change_no_number_and_every_row_comes_once(data, on_null):
    prepared = prepared_of(data, epochs=2, on_null=on_null)
    model = WorkerModel(
        rows_per_second=1.0,
        failure_seconds=8.0,
        return_seconds=2.0,
        hang_share=0.05,
        hang_seconds=60.0,
        error_share=0.05,
    )
    records, trained, leases = in_rounds(prepared, shares=4, model=model, seed=3)
    steady, expected, _ = in_rounds(prepared, shares=4, workers=1)
    assert leases.failures > 3
    assert records[-1].lost_workers > 3
    assert (trained.engine.parameters() == expected.engine.parameters()).all()
    alone, _ = on_one_machine(prepared)
    assert records[-1].receipt == steady[-1].receipt == alone[-1].receipt
    assert records[-1].receipt.count == 2 * 8000 == trained.rows
    losses = [evaluation.holdout_loss for evaluation in evaluations(records)]
    assert losses == [evaluation.holdout_loss for evaluation in evaluations(steady)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_run_ends_at_its_last_row_in_the_middle_of_a_window(data):
    prepared = prepared_of(data, max_rows=9_900)
    records, trained, _ = in_rounds(prepared, shares=2, windows=3)
    assert trained.rows == 9_900
    assert evaluations(records)[-1].rows == 9_900


@pytest.fixture(scope="module")
def until_flat(data):
    """A run until the loss is flat, and its unbroken records and learner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamtrain.training.until_flat.LEAST_ROWS", 0)
        flags = {**TRAIN, "hidden": [], "lr": 0.1}
        prepared = prepare(config_of(data, flags), learners=1, rates=1, until_flat=True)
    return prepared, *in_rounds(prepared, shares=4)[:2]


@pytest.mark.parametrize("edges", [5, 20])
def test_until_flat_an_interrupted_driver_ends_at_the_same_row(until_flat, edges):
    prepared, whole, expected = until_flat
    first = Checkpoints(edges=edges)
    with pytest.raises(Interrupted):
        in_rounds(prepared, shares=4, saving=first)
    rest, trained, _ = in_rounds(prepared, shares=4, saving=Checkpoints(first.saved))
    assert (trained.engine.parameters() == expected.engine.parameters()).all()
    assert rest[-1].receipt == whole[-1].receipt
    ended = [record for record in whole if isinstance(record, ReplicaEnded)]
    assert [record for record in rest if isinstance(record, ReplicaEnded)] == ended
    assert ended[0].reason.startswith("flat: ")


@pytest.fixture(scope="module")
def three_epochs(data):
    """A run of three epochs, and its unbroken records and learner."""
    prepared = prepared_of(data, epochs=3)
    return prepared, *in_rounds(prepared, shares=4, keeps_best=True)[:2]


@pytest.mark.parametrize("edges", [2, 7, 40])
def test_an_interrupted_driver_goes_on_from_its_last_round(three_epochs, edges):
    prepared, whole, expected = three_epochs
    first = Checkpoints(edges=edges)
    with pytest.raises(Interrupted):
        in_rounds(prepared, shares=4, saving=first, keeps_best=True)
    resumed = Checkpoints(first.saved)
    rest, trained, _ = in_rounds(prepared, shares=4, saving=resumed, keeps_best=True)
    assert (trained.engine.parameters() == expected.engine.parameters()).all()
    assert (trained.best_parameters == expected.best_parameters).all()
    assert rest[-1].receipt == whole[-1].receipt
    assert rest[-1].rounds == whole[-1].rounds
    nothing, trained, _ = in_rounds(
        prepared, shares=4, saving=Checkpoints(resumed.saved), keeps_best=True
    )
    assert nothing == []
    assert (trained.engine.parameters() == expected.engine.parameters()).all()


def test_the_length_of_rounds_is_measured_once_and_recorded(data):
    records, _, _ = in_rounds(prepared_of(data, epochs=4), shares=2, windows=None)
    windows = [record.windows for record in records if isinstance(record, RoundEnded)]
    assert windows[:2] == [2, 2]
    assert records[-1].windows_a_share > 1  # some seconds' worth: more than an epoch of this data
    assert records[-1].receipt.count == 4 * 8000


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
