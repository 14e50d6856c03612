"""Which library sums gradients: NCCL where each worker has a separate GPU, and gloo otherwise.

The test of NCCL itself needs two GPUs.
"""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist

from streamtrain.cluster.allreduce import collective
from streamtrain.cluster.allreduce.collective import Collective, PeerLostError, Store, name_gpu

HOST = "127.0.0.1"


class GlooForNccl:
    """A fake NCCL for machines without GPUs, with the same interface.

    It counts its sums, and can pretend to have lost a peer.
    """

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: timedelta):
        options = dist.ProcessGroupGloo._Options()
        options._devices, options._timeout = (
            [dist.ProcessGroupGloo.create_device(hostname=HOST)],
            timeout,
        )
        self._group = dist.ProcessGroupGloo(store, rank, size, options)
        self.sums, self.lost = 0, False

    def allreduce(self, tensors: list[torch.Tensor]) -> dist.Work:
        if self.lost:
            raise dist.DistBackendError("NCCL error: unhandled system error")
        self.sums += 1
        return self._group.allreduce(tensors)

    def abort(self) -> None:
        self._group = None


def sums_of(gpus: list[str], act) -> list:
    """Return `act(collective, rank)` of one worker per GPU; they are threads of this process."""
    store = Store(HOST, 20.0)

    def worker(rank: int):
        joined = Collective(
            (HOST, store.port),
            rank=rank,
            size=len(gpus),
            generation=0,
            own_host=HOST,
            timeout_seconds=20.0,
            store=store if rank == 0 else None,
            device=f"cpu:{rank}",
        )
        try:
            return act(joined, rank)
        finally:
            joined.close()

    with ThreadPoolExecutor(len(gpus)) as pool:
        return list(pool.map(worker, range(len(gpus))))


@pytest.fixture
def pretend(monkeypatch):
    """Return a function that gives workers these GPUs, with gloo in place of NCCL."""

    def these(gpus: list[str]) -> None:
        monkeypatch.setattr(collective, "name_gpu", lambda device: gpus[device.index])
        monkeypatch.setattr(collective, "open_nccl", GlooForNccl)

    return these


@pytest.mark.parametrize(
    ("gpus", "backend"),
    [
        (["a", "b", "c"], "nccl"),
        (["a", "b", "a"], "gloo"),
        (["a", "", "b"], "gloo"),
        (["", "", ""], "gloo"),
    ],
    ids=["a GPU each", "one shared", "one without", "none"],
)
def test_nccl_sums_where_each_worker_has_a_gpu_of_its_own(pretend, gpus, backend):
    pretend(gpus)

    def act(joined: Collective, rank: int):
        sums = [
            np.full((2, 3), 10.0**rank, dtype=np.float32),
            np.full(4, rank + 0.5, dtype=np.float64),
        ]
        for array in sums:
            joined.sum(array)
        again = np.full((2, 3), 1.0, dtype=np.float32)  # staged where the first one was
        joined.sum(again)
        assert (again == len(gpus)).all()
        assert len(joined._staged) == (3 if joined.backend == "nccl" else 0)
        return joined.backend, 0 if joined._gpu_group is None else joined._gpu_group.sums, sums

    for used, gpu_sums, (small, wide) in sums_of(gpus, act):
        assert used == backend
        assert gpu_sums == (4 if backend == "nccl" else 0)
        assert (small == 111).all()
        assert small.dtype == np.float32
        assert (wide == 4.5).all()
        assert wide.dtype == np.float64


def test_what_nccl_says_of_a_lost_peer_is_heard_as_that(pretend):
    pretend(["a", "b"])

    def act(joined: Collective, rank: int):
        joined._gpu_group.lost = True
        with pytest.raises(PeerLostError, match="NCCL error"):
            joined.sum(np.ones(3))
        return True

    assert sums_of(["a", "b"], act) == [True, True]


def test_without_a_gpu_there_is_no_nccl():
    assert name_gpu(torch.device("cpu")) == ""


def _on_gpu(rank: int, port, out) -> None:
    """Sum on a GPU; rank 1 leaves without closing after one sum."""
    store = Store(HOST, 20.0) if rank == 0 else None
    if store is not None:
        port.value = store.port
    while not port.value:
        pass
    joined = Collective(
        (HOST, port.value),
        rank=rank,
        size=2,
        generation=0,
        own_host=HOST,
        timeout_seconds=10.0,
        store=store,
        device=f"cuda:{rank}",
    )
    array = np.full(5, 1.0 + rank, dtype=np.float32)
    joined.sum(array)
    out.put((rank, joined.backend, array.tolist()))
    if rank == 0:
        try:
            joined.sum(array)
        except PeerLostError:
            out.put("lost")
        joined.close()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_sum_over_nccl_and_notice_a_lost_peer():
    context = multiprocessing.get_context("spawn")
    port, out = context.Value("i", 0), context.Queue()
    workers = [
        context.Process(target=_on_gpu, args=(rank, port, out), daemon=True) for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    results = sorted((out.get(timeout=60) for _ in range(2)), key=str)
    assert results == [(0, "nccl", [3.0] * 5), (1, "nccl", [3.0] * 5)]
    assert out.get(timeout=60) == "lost"
