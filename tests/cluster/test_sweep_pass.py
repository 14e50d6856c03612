"""A pass over workers equals `run_pass`, whoever dies or hangs: on simulated workers that really
train, in this process.
"""

import copy
import json
from contextlib import nullcontext
from dataclasses import replace

import pytest

from streamtrain.bench.simulated_backend import SimulatedBackend, WorkerModel
from streamtrain.cluster.backend import Failed
from streamtrain.cluster.run_spec import build, draw
from streamtrain.cluster.scheduling import Leases
from streamtrain.cluster.sweep_pass import SweepPass, perform_slice
from streamtrain.cluster.sweep_slices import cut_units, train_slice
from streamtrain.cluster.worker_pool import WorkerPool
from streamtrain.errors import ConfigError, DataError
from streamtrain.run.passes import run_pass
from streamtrain.run.prepare import prepare
from tests.cluster.conftest import _OWN_OF_A_PASS, SWEEP, config_of

LRS = {32: (0.002, 0.01), 256: (0.002, 0.01), 5000: (0.01,)}


@pytest.fixture(scope="module")
def prepared(data):
    return prepare(config_of(data, SWEEP), learners=3, rates=2)


def plain(told: list[dict]) -> list[dict]:
    return [
        {
            key: value
            for key, value in record.items()
            if not key.endswith("seconds") and key not in _OWN_OF_A_PASS
        }
        for record in told
    ]


@pytest.fixture(scope="module")
def expected(prepared):
    told = []
    learners = [prepared.learner(size, lrs, 1) for size, lrs in LRS.items()]
    run_pass(prepared, learners, 1, told.append)
    return plain(told), [learner.engine.parameters() for learner in learners]


def over_workers(prepared, habits, seed, *, workers=3, saving=None):
    """(records, learners, leases) of a pass on simulated workers that do the real work."""
    own = build(draw(prepared), threads=1, memory_limit=None)

    told, learners = [], [prepared.learner(size, lrs, 1) for size, lrs in LRS.items()]
    work_pass = SweepPass(
        prepared, learners, 1, told.append, kind="tuning", saving=saving, slice_seconds=0.0
    )
    leases = Leases(timeout_seconds=20.0, max_attempts=10**9)
    fabric = SimulatedBackend(
        workers, habits, lambda payload: (1.0, perform_slice(own, payload)), seed=seed
    )
    crew = WorkerPool(fabric, no_workers_seconds=1e9)
    if work_pass.record is None:
        work_pass.run(crew, leases)
    return told, learners, leases


@pytest.mark.parametrize(
    ("habits", "workers"),
    [
        pytest.param(WorkerModel(rows_per_second=1.0), 1, id="one worker"),
        pytest.param(WorkerModel(rows_per_second=1.0), 4, id="more workers than units"),
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
def test_records_and_weights_are_those_of_one_machine(prepared, expected, habits, workers):
    told, learners, leases = over_workers(prepared, habits, seed=5, workers=workers)
    assert plain(told) == expected[0]
    for learner, parameters in zip(learners, expected[1], strict=True):
        assert (learner.engine.parameters() == parameters).all()
    assert leases.issued > 3 * 8  # slices of a block
    if habits.failure_seconds:
        assert leases.failures > 5
        assert told[-1]["lost_workers"] > 2


def test_a_slice_is_at_least_a_block_and_a_long_one_is_the_whole_pass(prepared):
    unit = cut_units(LRS, 1)[1]
    short = train_slice(prepared, unit, "tuning", None, 0.0)
    assert short.reached == (0, 1)
    assert not short.done
    whole = train_slice(prepared, unit, "tuning", None, 1e9)
    assert whole.done
    assert whole.told[-1][1]["event"] == "pass"


class Interrupted(Exception):
    """The driver is gone."""


class Checkpoints:
    """Keeps what is saved, and interrupts at an edge: a `Checkpointer` without a disk."""

    def __init__(self, begun=None, edges=10**9):
        self.begun, self.saved, self.edges = begun, begun, edges

    def take(self, name):
        return self.begun

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
    first, saving = [], Checkpoints(edges=edges)
    learners = [prepared.learner(size, lrs, 1) for size, lrs in LRS.items()]
    work = SweepPass(
        prepared, learners, 1, first.append, kind="tuning", saving=saving, slice_seconds=0.0
    )
    own = build(draw(prepared), threads=1, memory_limit=None)
    fabric = SimulatedBackend(
        2, WorkerModel(rows_per_second=1.0), lambda payload: (1.0, perform_slice(own, payload))
    )
    with pytest.raises(Interrupted):
        work.run(WorkerPool(fabric), Leases(timeout_seconds=20.0))
    again = Checkpoints(saving.saved)
    rest, _, _ = over_workers(prepared, WorkerModel(rows_per_second=1.0), 0, saving=again)
    assert plain(first + rest) == expected[0]
    # And once more after the end: nothing is done, and the learners are what they became.
    nothing, learners, _ = over_workers(
        prepared, WorkerModel(rows_per_second=1.0), 0, saving=Checkpoints(again.saved)
    )
    assert nothing == []
    assert all(
        (learner.engine.parameters() == parameters).all()
        for learner, parameters in zip(learners, expected[1], strict=True)
    )


def test_a_unit_that_kills_its_workers_is_a_failed_cell_and_the_others_go_on(prepared, expected):
    class Deadly(SimulatedBackend):
        def submit(self, number, worker, payload):
            if (
                payload[0].batch_size == 256
                and payload[2] is not None
                and payload[2][0]["window"] == 3
            ):
                self._doing[worker] = number
                self._push(
                    self._clock + 1.0,
                    Failed(number=number, worker=worker, error=MemoryError("killed")),
                )
                return
            super().submit(number, worker, payload)

    told, learners = [], [prepared.learner(size, lrs, 1) for size, lrs in LRS.items()]
    own = build(draw(prepared), threads=1, memory_limit=None)
    work = SweepPass(
        prepared, learners, 1, told.append, kind="tuning", saving=None, slice_seconds=0.0
    )
    work.run(
        WorkerPool(
            Deadly(
                2,
                WorkerModel(rows_per_second=1.0),
                lambda payload: (1.0, perform_slice(own, payload)),
            )
        ),
        Leases(timeout_seconds=20.0),
    )
    failed = [
        record for record in told if record["event"] == "outcome" and record["batch_size"] == 256
    ]
    assert [record["outcome"] for record in failed] == ["failed", "failed"]
    assert "3 workers failed at it" in failed[0]["reason"]
    assert "killed" in failed[0]["reason"]
    assert [r for r in plain(told) if r.get("batch_size") in (32, 5000)] == [
        r for r in expected[0] if r.get("batch_size") in (32, 5000)
    ]


def test_a_worker_that_sees_other_data_is_refused(prepared):
    with pytest.raises(DataError, match="a worker sees other data than the driver"):
        build(replace(draw(prepared), data="0" * 16), threads=1, memory_limit=None)


def test_learners_that_were_given_different_rows_are_found_out(prepared):
    def state(count, digest):
        return {
            "record": {
                "receipt": {"count": count, "digest": digest},
                "stats": {},
                "rows_read": count,
            }
        }, {}

    work = SweepPass(
        prepared,
        [prepared.learner(size, lrs, 1) for size, lrs in LRS.items()],
        1,
        print,
        kind="tuning",
        saving=None,
        slice_seconds=1.0,
    )
    work._states = [state(9, "a"), state(5, "b"), None]
    # one that ended earlier read fewer
    assert work._pass_record()["receipt"] == {"count": 9, "digest": "a"}
    work._states = [state(9, "a"), state(9, "b"), None]
    with pytest.raises(DataError, match="different rows"):
        work._pass_record()


def test_what_workers_cannot_agree_on_is_refused(data):
    flags = {**SWEEP, "max_time": "1s"}
    with pytest.raises(ConfigError, match="--max-time"):
        draw(prepare(config_of(data, flags), learners=1, rates=1))
    with pytest.raises(ConfigError, match="quarantine is for one machine"):
        draw(prepare(config_of(data, {**SWEEP, "on_bad_shard": "quarantine"}), learners=1, rates=1))
