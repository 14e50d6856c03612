"""A synchronous run of 1, 2 and 4 workers: the same bits, the receipts of one machine, and what
happens when a peer is gone.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from streamtrain.cluster.allreduce.collective import Collective, PeerLost, Store
from streamtrain.cluster.allreduce.lane_session import LaneSession
from streamtrain.cluster.allreduce.lane_work import Group, LaneWork
from streamtrain.cluster.run_spec import build, draw
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


def work_of(
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
    group = Group(
        run="a",
        rank=rank,
        size=size,
        generation=generation,
        address=(HOST, port),
        timeout_seconds=timeout_seconds,
    )
    return LaneWork(
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
    """What each of `size` workers, as threads of this process, sends back of one task."""
    own = [build(draw(prepared), threads=1, memory_limit=None) for _ in range(size)]
    store = Store(HOST, 20.0) if size > 1 else None

    def one(rank):
        work = work_of(
            prepared, rank=rank, size=size, lanes=lanes, port=store.port if store else 0, **more
        )

        def join(work):
            group = work.group
            return Collective(
                group.address,
                rank=rank,
                size=size,
                generation=group.generation,
                own_host=HOST,
                timeout_seconds=group.timeout_seconds,
                store=store if rank == 0 else None,
            )

        session = LaneSession(own[rank], work, join)
        try:
            return session.train(work)
        finally:
            session.close()

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


def plain(told):
    return [
        {key: value for key, value in record.items() if not key.endswith("seconds")}
        for record in told
    ]


@pytest.mark.parametrize("lanes", [8, 4])
def test_losses_and_weights_are_the_same_bits_for_any_number_of_workers(prepared, lanes):
    alone = together(prepared, 1, lanes)[0]
    expected, learner = on_one_machine(prepared)
    assert [one["rows"] for one in alone.told] == [
        one["rows"] for one in expected if one["event"] == "evaluation"
    ]
    assert alone.told[-1]["steps"] == learner.engine.steps
    for size in (2, 4):
        done = together(prepared, size, lanes)
        assert plain(done[0].told) == plain(alone.told)
        assert (done[0].state[1]["engine/parameters"] == alone.state[1]["engine/parameters"]).all()
        receipt = sum((one.receipt for one in done), Receipt())
        assert receipt == alone.receipt
        assert all(one.told == [] and one.state is None for one in done[1:])
    assert alone.told[-1]["holdout_loss"] < 0.7 * alone.told[0]["holdout_loss"]


def test_so_it_is_with_the_torch_engine(data):
    """Which is the one that GPUs train with."""
    prepared = prepare(
        config_of(data, {**TRAIN, "epochs": 0.5, "batch_size": 512, "engine": "torch"}),
        learners=1,
        rates=1,
    )
    alone, pair = together(prepared, 1, 8)[0], together(prepared, 2, 8)
    assert plain(pair[0].told) == plain(alone.told)
    assert alone.backend == "none"
    assert pair[0].backend == "gloo"
    assert alone.told[-1]["holdout_loss"] < 0.9 * alone.told[0]["holdout_loss"]


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
    """Then minibatches are the same rows; only where a sum is cut may differ."""
    alone = together(prepared, 1, 1)[0]
    expected, learner = on_one_machine(prepared)
    losses = [one["holdout_loss"] for one in expected if one["event"] == "evaluation"]
    assert [one["holdout_loss"] for one in alone.told] == pytest.approx(losses, rel=1e-4)
    assert alone.told[-1]["rows"] == learner.rows
    # the block that the run ends in counts as a whole, as in a pass
    assert alone.receipt.to_json() == expected[-1]["receipt"]


@pytest.mark.parametrize("cut", [1, 7, 20, 25])
def test_a_group_of_others_goes_on_from_what_was_committed(prepared, cut):
    """One worker, then three: as after a death, when survivors form another group at the last
    commit.
    """
    whole = together(prepared, 1, 8)[0]
    first = together(prepared, 1, 8, steps=cut)[0]
    rest = together(
        prepared, 3, 8, epoch=first.epoch, done=first.done, state=first.state, generation=1
    )
    told = [
        {**one, "train_loss": pytest.approx(one["train_loss"], rel=1e-12)}
        for one in plain(first.told + rest[0].told)[1:]
    ]
    # a sum of losses in float64 was cut in two; nothing that trains was
    assert plain(whole.told)[1:] == told
    assert (rest[0].state[1]["engine/parameters"] == whole.state[1]["engine/parameters"]).all()
    assert first.receipt + sum((one.receipt for one in rest), Receipt()) == whole.receipt


def test_an_epoch_is_every_row_once(data):
    prepared = prepare(
        config_of(data, {**TRAIN, "epochs": 2, "batch_size": 512}), learners=1, rates=1
    )
    done = together(prepared, 2, 8)
    expected, _ = on_one_machine(prepared)
    assert sum((one.receipt for one in done), Receipt()).to_json() == expected[-1]["receipt"]


def test_a_peer_that_never_comes_and_one_that_leaves(prepared):
    store = Store(HOST, 1.0)
    with pytest.raises(PeerLost):
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
        with pytest.raises(PeerLost):
            collective.sum(np.ones(3))
