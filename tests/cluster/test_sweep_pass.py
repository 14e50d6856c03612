"""A sweep's pass on workers equals `run_pass`, whoever dies or hangs.

The workers are simulated, but they really train, in this process.
"""

import copy
import json
from contextlib import nullcontext
from dataclasses import replace

import pytest

from streamtrain.bench.simulated_backend import SimulatedBackend, WorkerModel
from streamtrain.cluster.backend import Failed
from streamtrain.cluster.choice import choose_runner
from streamtrain.cluster.run_spec import RunSpec, open_run
from streamtrain.cluster.scheduling import Leases
from streamtrain.cluster.sweep_pass import SweepPass, perform_slice
from streamtrain.cluster.sweep_slices import sweep_items, train_slice
from streamtrain.cluster.worker_pool import WorkerPool
from streamtrain.errors import ConfigError, DataError
from streamtrain.records import PassEnded, ReplicaEnded
from streamtrain.run.passes import run_pass
from streamtrain.run.prepare import prepare
from streamtrain.types import Receipt
from tests.cluster.conftest import SWEEP, config_of, plain

STEADY = WorkerModel(rows_per_second=1.0)
LRS = {32: (0.002, 0.01), 256: (0.002, 0.01), 5000: (0.01,)}


@pytest.fixture(scope="module")
def prepared(data):
    return prepare(config_of(data, SWEEP), learners=3, rates=2)


def new_learners(prepared):
    return [prepared.learner(batch_size, lrs, 1) for batch_size, lrs in LRS.items()]


def new_pass(prepared, records, *, learners=None, saving=None):
    return SweepPass(
        prepared,
        learners or new_learners(prepared),
        1,
        records.append,
        kind="tuning",
        saving=saving,
        slice_seconds=0.0,
    )


def plain_records(records):
    return plain([record.to_json() for record in records])


@pytest.fixture(scope="module")
def expected(prepared):
    """The records of the pass on one machine, and the parameters of its learners."""
    records, learners = [], new_learners(prepared)
    run_pass(prepared, learners, 1, records.append)
    return plain_records(records), [learner.engine.parameters() for learner in learners]


def backend_of(prepared, workers, model=STEADY, seed=0, kind=SimulatedBackend):
    """Return simulated workers that do the real work."""
    opened = open_run(RunSpec.of(prepared), threads=1, memory_limit=None)
    return kind(workers, model, lambda payload: (1.0, perform_slice(opened, payload)), seed=seed)


def on_workers(prepared, model, seed, *, workers=3, saving=None):
    """Run the pass on simulated workers; return (records, learners, leases)."""
    records, learners = [], new_learners(prepared)
    sweep_pass = new_pass(prepared, records, learners=learners, saving=saving)
    leases = Leases(timeout_seconds=20.0, max_attempts=10**9)
    backend = backend_of(prepared, workers, model, seed)
    if sweep_pass.record is None:
        sweep_pass.run(WorkerPool(backend, no_workers_seconds=1e9), leases)
    return records, learners, leases


@pytest.mark.parametrize(
    ("model", "workers"),
    [
        pytest.param(STEADY, 1, id="one worker"),
        pytest.param(STEADY, 4, id="more workers than learners"),
        pytest.param(
            WorkerModel(
                rows_per_second=1.0,
                failure_seconds=4.0,
                return_seconds=1.0,
                hang_share=0.1,
                hang_seconds=60.0,
                error_share=0.1,
            ),
            3,
            id="deaths",
        ),
    ],
)
def test_records_and_weights_are_those_of_one_machine(prepared, expected, model, workers):
    records, learners, leases = on_workers(prepared, model, seed=5, workers=workers)
    assert plain_records(records) == expected[0]
    for learner, parameters in zip(learners, expected[1], strict=True):
        assert (learner.engine.parameters() == parameters).all()
    assert leases.issued > 3 * 8  # slices of a block
    if model.failure_seconds:
        assert leases.failures > 5
        assert records[-1].lost_workers > 2


def test_a_slice_is_at_least_a_block_and_a_long_one_is_the_whole_pass(prepared):
    item = sweep_items(LRS, 1)[1]
    short = train_slice(prepared, item, "tuning", None, 0.0)
    assert short.reached == (0, 1)
    assert not short.done
    whole = train_slice(prepared, item, "tuning", None, 1e9)
    assert whole.done
    assert isinstance(whole.records[-1][1], PassEnded)


class Interrupted(Exception):
    """The driver was interrupted."""


class Checkpoints:
    """A `Checkpointer` without a disk: it keeps saved states, and interrupts at an edge."""

    def __init__(self, resume_state=None, edges=10**9):
        self.resume_state = self.saved = resume_state
        self.edges = edges

    def take(self, name):
        return self.resume_state

    def listening(self):
        return nullcontext()

    def edge(self, part, state):
        assert 0 <= part <= 1
        self.edges -= 1
        if not self.edges:
            self.save(state())
            raise Interrupted

    def save(self, state):
        document, arrays = state
        self.saved = (json.loads(json.dumps(document)), copy.deepcopy(arrays))


@pytest.mark.parametrize("edges", [1, 5, 17, 29])
def test_an_interrupted_driver_goes_on_with_other_workers(prepared, expected, edges):
    first, interrupted = [], Checkpoints(edges=edges)
    sweep_pass = new_pass(prepared, first, saving=interrupted)
    with pytest.raises(Interrupted):
        sweep_pass.run(WorkerPool(backend_of(prepared, 2)), Leases(timeout_seconds=20.0))
    resumed = Checkpoints(interrupted.saved)
    rest, _, _ = on_workers(prepared, STEADY, 0, saving=resumed)
    assert plain_records(first + rest) == expected[0]
    # Resumed once more after the end: nothing is trained, and the learners are restored.
    nothing, learners, _ = on_workers(prepared, STEADY, 0, saving=Checkpoints(resumed.saved))
    assert nothing == []
    assert all(
        (learner.engine.parameters() == parameters).all()
        for learner, parameters in zip(learners, expected[1], strict=True)
    )


def test_a_unit_that_kills_its_workers_is_a_failed_cell_and_the_others_go_on(prepared, expected):
    class Deadly(SimulatedBackend):
        def submit(self, number, worker, payload):
            item, _, state, _ = payload
            if item.batch_size == 256 and state is not None and state[0]["window"] == 3:
                self._tasks[worker] = number
                self._push(
                    self._clock + 1.0,
                    Failed(number=number, worker=worker, error=MemoryError("killed")),
                )
                return
            super().submit(number, worker, payload)

    records = []
    pool = WorkerPool(backend_of(prepared, 2, kind=Deadly))
    new_pass(prepared, records).run(pool, Leases(timeout_seconds=20.0))
    outcomes = [record for record in records if isinstance(record, ReplicaEnded)]
    failed = [record for record in outcomes if record.batch_size == 256]
    assert [record.outcome for record in failed] == ["failed", "failed"]
    assert "3 workers failed to train it" in failed[0].reason
    assert "killed" in failed[0].reason
    assert of_the_others(plain_records(records)) == of_the_others(expected[0])


def of_the_others(documents):
    """Return the records of the learners of 32 and 5000."""
    return [document for document in documents if document.get("batch_size") in (32, 5000)]


def test_a_worker_that_sees_other_data_is_refused(prepared):
    with pytest.raises(DataError, match="a worker sees other data than the driver"):
        run_spec = replace(RunSpec.of(prepared), data_fingerprint="0" * 16)
        open_run(run_spec, threads=1, memory_limit=None)


def test_learners_that_were_given_different_rows_are_found_out(prepared):
    def state(count, digest):
        receipt = Receipt(count=count, digest=digest)
        return {"record": PassEnded(receipt=receipt, rows_read=count).to_json()}, {}

    sweep_pass = new_pass(prepared, [])
    # A learner that ended earlier has read fewer rows.
    sweep_pass._states = [state(9, 1), state(5, 2), None]
    assert sweep_pass._pass_record().receipt == Receipt(count=9, digest=1)
    sweep_pass._states = [state(9, 1), state(9, 2), None]
    with pytest.raises(DataError, match="different rows"):
        sweep_pass._pass_record()


def test_what_workers_cannot_agree_on_is_refused(data, tmp_path):
    flags = {**SWEEP, "max_time": "1s"}
    with pytest.raises(ConfigError, match="--max-time"):
        RunSpec.of(prepare(config_of(data, flags), learners=1, rates=1))
    for flag in ({"batch_schedule": "8@0,16@99"}, {"batch_size": "auto"}):
        config = config_of(data, {**flag, "memory": "64MiB"})
        with pytest.raises(ConfigError, match=r"^--batch-s\w+( auto)? is for one machine"):
            RunSpec.of(prepare(config, learners=1, rates=1))
        config = config_of(data, {**flag, "workers": "2"})
        with pytest.raises(ConfigError, match="is for one machine"):
            choose_runner("train", config, tmp_path)  # before the run has a record
    with pytest.raises(ConfigError, match="quarantine is for one machine"):
        RunSpec.of(
            prepare(config_of(data, {**SWEEP, "on_bad_shard": "quarantine"}), learners=1, rates=1)
        )
