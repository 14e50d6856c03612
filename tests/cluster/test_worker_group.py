"""Groups of simulated workers: how long the others wait when one of them fails or stops."""

import pytest

from streamtrain.bench.simulated_backend import SimulatedBackend, WorkerModel
from streamtrain.cluster.backend import Failed, Finished
from streamtrain.cluster.scheduling import Leases
from streamtrain.cluster.worker import PeerLost
from streamtrain.cluster.worker_group import SLACK_SECONDS, GroupFailedError, WorkerGroup
from streamtrain.cluster.worker_pool import WorkerPool

PEER_SECONDS = 60.0
STOPPED = (1e6, None)


class Backend(SimulatedBackend):
    """Simulated workers whose tasks raise what they are given as a result, if it is an error."""

    def wait(self, seconds):
        return [
            Failed(number=event.number, worker=event.worker, error=event.result)
            if isinstance(event, Finished) and isinstance(event.result, Exception)
            else event
            for event in super().wait(seconds)
        ]


def run_group(*answers):
    """Run one task per worker, each given as (seconds, result).

    Returns the group, and the seconds until it failed.
    """
    backend = Backend(
        len(answers),
        WorkerModel(rows_per_second=1.0, spread=0.0, latency_seconds=0.0),
        lambda payload: payload[1] or (0.0, None),
    )
    pool = WorkerPool(backend)
    group = WorkerGroup(pool, Leases(timeout_seconds=300.0), peer_timeout_seconds=PEER_SECONDS)
    pool.wait_for(len(answers))
    workers = group.gather(len(answers))
    started = backend.now()
    with pytest.raises(GroupFailedError):
        group.run(
            {worker: (print, answer) for worker, answer in zip(workers, answers, strict=True)}
        )
    return group, backend.now() - started


def test_a_stopped_worker_costs_the_patience_of_one_collective():
    lost = PeerLost("timed out")
    group, seconds = run_group((PEER_SECONDS, lost), (PEER_SECONDS, lost), STOPPED)
    assert seconds <= PEER_SECONDS + SLACK_SECONDS
    assert len(group.ready) == 2


def test_peers_of_a_worker_that_failed_may_take_a_collective_to_notice_it():
    late = (PEER_SECONDS, PeerLost("timed out"))
    group, seconds = run_group((1.0, OSError("the network")), late)
    assert seconds == PEER_SECONDS
    assert len(group.ready) == 2
