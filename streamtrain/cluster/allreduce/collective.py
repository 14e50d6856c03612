"""Sums over the workers of a synchronous run: one flat tensor, one all-reduce of gloo or NCCL.

The only torch of the cluster.

Workers meet at a store that the first of them opens on the address it has in Dask's own network,
and nowhere else. Gloo is bound to that address: on a cluster of our own, to loopback. NCCL takes
over the sums where each worker trains on a GPU that no other one has: it refuses to run with two of
them on one. Which interface it uses is its own affair (`NCCL_SOCKET_IFNAME`).
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

#: Workers that may knock at a store at the same time.
_BACKLOG = 256


class PeerLost(Exception):
    """Another worker of the collective is gone, or did not answer in time."""


class Store:
    """Where workers meet: open on one of them as long as the group lives."""

    def __init__(self, host: str, timeout_seconds: float):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, 0))
            listening.listen(_BACKLOG)
            self.port = listening.getsockname()[1]
            self.store = dist.TCPStore(
                host,
                self.port,
                is_master=True,
                wait_for_workers=False,
                timeout=timedelta(seconds=timeout_seconds),
                master_listen_fd=listening.detach(),
            )
        except BaseException:
            listening.close()
            raise

    def close(self) -> None:
        """Nobody meets here any more."""
        self.store = None


class Collective:
    """`size` workers that call `sum` in the same order.

    Not thread-safe. With one worker nothing is opened.

    `address`: host and port of the store; `generation` keeps groups that use one store apart.
    `own_host`: this worker's address. `device`: where it trains. `backend` says what sums. Raises
    PeerLost when not all of them come within `timeout_seconds`.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        rank: int,
        size: int,
        generation: int,
        own_host: str,
        timeout_seconds: float,
        store: Store | None = None,
        device: str = "cpu",
    ):
        self.rank, self.size, self.backend = rank, size, "none" if size == 1 else "gloo"
        self._group = self._gpu_group = None
        if size == 1:
            return
        timeout = timedelta(seconds=timeout_seconds)
        with _peers():
            met = (
                store.store
                if store is not None
                else dist.TCPStore(*address, is_master=False, timeout=timeout)
            )
            options = dist.ProcessGroupGloo._Options()
            options._devices = [dist.ProcessGroupGloo.create_device(hostname=own_host)]
            options._timeout = timeout
            meeting = dist.PrefixStore(f"generation {generation}", met)
            self._group = dist.ProcessGroupGloo(
                dist.PrefixStore("gloo", meeting), rank, size, options
            )
        # connects every pair, so that a peer that cannot be reached is known now
        self.sum(np.ones(1, dtype=np.float32))
        self._device = torch.device(device)
        # all are here, so NCCL, which would wait for ever to begin, need not wait
        if self._have_each_a_gpu(meeting):
            with _peers():
                self._gpu_group = open_nccl(dist.PrefixStore("nccl", meeting), rank, size, timeout)
            self.backend = "nccl"
            self.sum(np.ones(1, dtype=np.float32))

    def sum(self, array: np.ndarray) -> None:
        """Add up an array of all workers, in place, on each of them: float32 or float64,
        C-contiguous, of one shape. Raises PeerLost.
        """
        if self._group is None:
            return
        tensor = torch.from_numpy(array)
        with _peers():
            if self._gpu_group is None:
                self._group.allreduce([tensor]).wait()
                return
            on_gpu = tensor.to(self._device, copy=True)
            self._gpu_group.allreduce([on_gpu]).wait()
            tensor.copy_(on_gpu)

    def close(self) -> None:
        """Let go of the connections: peers that wait for us are told."""
        if self._gpu_group is not None:
            self._gpu_group.abort()
        self._group = self._gpu_group = None

    def _have_each_a_gpu(self, meeting: dist.Store) -> bool:
        """The same answer on all workers, each of which says what it has."""
        with _peers():
            meeting.set(f"gpu {self.rank}", name_gpu(self._device))
            gpus = [meeting.get(f"gpu {rank}").decode() for rank in range(self.size)]
        return all(gpus) and len(set(gpus)) == self.size


def name_gpu(device: torch.device) -> str:
    """What tells a GPU from all others; empty where NCCL cannot be used."""
    if device.type != "cuda" or not dist.is_nccl_available():
        return ""
    return str(torch.cuda.get_device_properties(device).uuid)


def open_nccl(store: dist.Store, rank: int, size: int, timeout: timedelta) -> dist.ProcessGroup:
    """A group whose sums raise when a peer does not answer in time.

    Without blocking waits a watchdog would end this process instead.
    """
    os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    return dist.ProcessGroupNCCL(store, rank, size, options)


@contextmanager
def _peers() -> Iterator[None]:
    """Gloo and NCCL say RuntimeError, and a store DistError or TimeoutError, for peers that are
    gone or silent.
    """
    try:
        yield
    except (RuntimeError, TimeoutError, OSError) as error:
        raise PeerLost((str(error).splitlines() or [""])[0]) from error
