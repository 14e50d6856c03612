"""A synchronous run of 1, 2 and 4 workers: the same bits, and the receipts of one machine.

Also what happens when a peer is gone.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from streamtrain.cluster.allreduce.collective import Collective, PeerLostError, Store
from streamtrain.cluster.allreduce.lane_session import LaneSession
from streamtrain.cluster.allreduce.lane_work import LaneTask, RankInfo
from streamtrain.cluster.run_spec import RunSpec, open_run
from streamtrain.records import Evaluation
from streamtrain.run.prepare import prepare
from streamtrain.types import Receipt
from tests.cluster.conftest import config_of
from tests.cluster.test_rounds_pass import TRAIN, on_one_machine

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def prepared(data):
    return prepare(
        config_of(data, {**TRAIN, "epochs": 1.6, "batch_size": 512}), learners=1, rates=1
    )


def task_of(
    prepared,
    *,
    rank,
    size,
    lanes,
    port,
    generation=0,
    epoch=0,
    done=0,
    state=None,
    steps=10**6,
    timeout_seconds=20.0,
):
    group = RankInfo(
        run="a",
        rank=rank,
        size=size,
        generation=generation,
        address=(HOST, port),
        timeout_seconds=timeout_seconds,
    )
    return LaneTask(
        batch_size=512,
        lrs=(0.01,),
        trial=0,
        lanes=lanes,
        keeps_best=True,
        group=group,
        epoch=epoch,
        done=done,
        state=state,
        steps=steps,
    )


def together(prepared, size, lanes, **more):
    """Return each worker's result of one task; `size` workers are threads of this process."""
    opened = [open_run(RunSpec.of(prepared), threads=1, memory_limit=None) for _ in range(size)]
    store = Store(HOST, 20.0) if size > 1 else None

    def worker(rank):
        task = task_of(
            prepared, rank=rank, size=size, lanes=lanes, port=store.port if store else 0, **more
        )

        def join(task):
            group = task.group
            return Collective(
                group.address,
                rank=rank,
                size=size,
                generation=group.generation,
                own_host=HOST,
                timeout_seconds=group.timeout_seconds,
                store=store if rank == 0 else None,
            )

        session = LaneSession(opened[rank], task, join)
        try:
            return session.train(task)
        finally:
            session.close()

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(worker, range(size)))


def without_times(records):
    documents = [record.to_json() for record in records]
    return [
        {key: value for key, value in document.items() if not key.endswith("seconds")}
        for document in documents
    ]


@pytest.mark.parametrize("lanes", [pytest.param(8, marks=pytest.mark.slow), 4])
def test_losses_and_weights_are_the_same_bits_for_any_number_of_workers(prepared, lanes):
    alone = together(prepared, 1, lanes)[0]
    expected, learner = on_one_machine(prepared)
    assert [record.rows for record in alone.records] == [
        record.rows for record in expected if isinstance(record, Evaluation)
    ]
    assert alone.records[-1].steps == learner.engine.steps
    for size in (2, 4):
        first, *others = together(prepared, size, lanes)
        assert without_times(first.records) == without_times(alone.records)
        for name in ("engine/parameters", "engine/average"):
            assert (first.state[1][name] == alone.state[1][name]).all()
        assert (
            sum((other.delivered.receipt for other in others), first.delivered.receipt)
            == alone.delivered.receipt
        )
        assert all(other.records == [] and other.state is None for other in others)
    assert alone.records[-1].holdout_loss < 0.7 * alone.records[0].holdout_loss


def test_so_it_is_with_the_torch_engine(data):
    """This is the engine that trains on GPUs."""
    prepared = prepare(
        config_of(data, {**TRAIN, "epochs": 0.5, "batch_size": 512, "engine": "torch"}),
        learners=1,
        rates=1,
    )
    alone, pair = together(prepared, 1, 8)[0], together(prepared, 2, 8)
    assert without_times(pair[0].records) == without_times(alone.records)
    assert alone.backend == "none"
    assert pair[0].backend == "gloo"
    assert alone.records[-1].holdout_loss < 0.9 * alone.records[0].holdout_loss


def test_large_models_agree_to_summation_order(prepared, monkeypatch):
    alone = together(prepared, 1, 8)[0]
    monkeypatch.setattr("streamtrain.cluster.allreduce.lane_engine.APART_BYTES", 0)
    done = together(prepared, 2, 8)
    np.testing.assert_allclose(
        done[0].state[1]["engine/parameters"],
        alone.state[1]["engine/parameters"],
        rtol=1e-3,
        atol=1e-5,
    )


def test_one_lane_is_the_run_of_one_machine(prepared):
    """Minibatches are then the same rows; only the order of summation may differ."""
    alone = together(prepared, 1, 1)[0]
    expected, learner = on_one_machine(prepared)
    losses = [record.holdout_loss for record in expected if isinstance(record, Evaluation)]
    assert [record.holdout_loss for record in alone.records] == pytest.approx(losses, rel=1e-4)
    assert alone.records[-1].rows == learner.rows
    # The block in which the run ends counts as a whole, as in a pass.
    assert alone.delivered.receipt == expected[-1].receipt


@pytest.mark.parametrize("cut", [1, 7, 20, 25])
def test_a_group_of_others_goes_on_from_what_was_committed(prepared, cut):
    """One worker, then three: as after a death, when survivors continue from a commit."""
    whole = together(prepared, 1, 8)[0]
    first = together(prepared, 1, 8, steps=cut)[0]
    rest = together(
        prepared, 3, 8, epoch=first.epoch, done=first.done, state=first.state, generation=1
    )
    # A float64 sum of losses was cut in two; nothing that trains was.
    expected = [
        {**document, "train_loss": pytest.approx(document["train_loss"], rel=1e-12)}
        for document in without_times(first.records + rest[0].records)[1:]
    ]
    assert without_times(whole.records)[1:] == expected
    assert (rest[0].state[1]["engine/parameters"] == whole.state[1]["engine/parameters"]).all()
    assert (
        sum((result.delivered.receipt for result in rest), first.delivered.receipt)
        == whole.delivered.receipt
    )


def test_an_epoch_is_every_row_once(data):
    prepared = prepare(
        config_of(data, {**TRAIN, "epochs": 2, "batch_size": 512}), learners=1, rates=1
    )
    done = together(prepared, 2, 8)
    expected, _ = on_one_machine(prepared)
    assert sum((result.delivered.receipt for result in done), Receipt()) == expected[-1].receipt


def test_a_peer_that_never_comes_and_one_that_leaves(prepared):
    store = Store(HOST, 1.0)
    with pytest.raises(PeerLostError):
        Collective(
            (HOST, store.port),
            rank=0,
            size=2,
            generation=0,
            own_host=HOST,
            timeout_seconds=1.0,
            store=store,
        )
    store, ready = Store(HOST, 5.0), threading.Barrier(2)

    def peer():
        collective = Collective(
            (HOST, store.port), rank=1, size=2, generation=1, own_host=HOST, timeout_seconds=5.0
        )
        ready.wait()
        collective.close()

    with ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(peer)
        collective = Collective(
            (HOST, store.port),
            rank=0,
            size=2,
            generation=1,
            own_host=HOST,
            timeout_seconds=5.0,
            store=store,
        )
        ready.wait()
        leaving.result()
        with pytest.raises(PeerLostError):
            collective.sum(np.ones(3))
