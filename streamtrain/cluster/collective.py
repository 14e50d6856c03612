"""Sums over the workers of a synchronous run: one flat tensor, one all-reduce of gloo. The only torch of the cluster.

Workers meet at a store that the first of them opens on the address it has in Dask's own network, and nowhere else. Everything is
bound to that address: on a cluster of our own, to loopback.
"""

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
                host, self.port, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout_seconds),
                master_listen_fd=listening.detach(),
            )  # fmt: skip
        except BaseException:
            listening.close()
            raise

    def close(self) -> None:
        """Nobody meets here any more."""
        self.store = None


class Collective:
    """`size` workers that call `sum` in the same order. Not thread-safe. With one worker nothing is opened.

    `address`: host and port of the store; `generation` keeps groups that use one store apart. `own_host`: this worker's address.
    Raises PeerLost when not all of them come within `timeout_seconds`.
    """

    def __init__(
        self, address: tuple[str, int], *, rank: int, size: int, generation: int, own_host: str, timeout_seconds: float, store: Store | None = None
    ):
        self.rank, self.size = rank, size
        self._group = None
        if size == 1:
            return
        timeout = timedelta(seconds=timeout_seconds)
        with _peers():
            met = store.store if store is not None else dist.TCPStore(*address, is_master=False, timeout=timeout)
            options = dist.ProcessGroupGloo._Options()
            options._devices = [dist.ProcessGroupGloo.create_device(hostname=own_host)]
            options._timeout = timeout
            self._group = dist.ProcessGroupGloo(dist.PrefixStore(f"generation {generation}", met), rank, size, options)
        self.sum(np.ones(1, dtype=np.float32))  # connects every pair, so that a peer that cannot be reached is known now

    def sum(self, array: np.ndarray) -> None:
        """Add up an array of all workers, in place, on each of them: float32 or float64, C-contiguous, of one shape. Raises PeerLost."""
        if self._group is None:
            return
        with _peers():
            self._group.allreduce([torch.from_numpy(array)]).wait()

    def close(self) -> None:
        """Let go of the connections: peers that wait for us are told."""
        self._group = None


@contextmanager
def _peers() -> Iterator[None]:
    """Gloo says RuntimeError, and a store DistError or TimeoutError, for peers that are gone or silent."""
    try:
        yield
    except (RuntimeError, TimeoutError, OSError) as error:
        raise PeerLost((str(error).splitlines() or [""])[0]) from error
