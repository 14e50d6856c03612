"""Sums over the workers of a synchronous run: one flat tensor, one all-reduce of gloo or NCCL.

This is the only module in cluster/ that imports torch.

Workers find each other through a store that the first of them opens on its address in Dask's own
network, and on no other. Gloo is bound to that address too: on a cluster of our own, to loopback.
NCCL takes over the sums where each worker has a separate GPU; it refuses to run with two workers on
one GPU. Which interface NCCL uses is set by its own `NCCL_SOCKET_IFNAME`.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

#: Workers that may connect to a store at the same time.
_BACKLOG = 256


class PeerLostError(Exception):
    """Another worker of the collective is gone, or did not answer in time."""


class Store:
    """The key-value store through which a group's workers find each other, open on one of them."""

    def __init__(self, host: str, timeout_seconds: float):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, 0))
            listener.listen(_BACKLOG)
            self.port = listener.getsockname()[1]
            self.store: dist.TCPStore | None = dist.TCPStore(
                host,
                self.port,
                is_master=True,
                wait_for_workers=False,
                timeout=timedelta(seconds=timeout_seconds),
                master_listen_fd=listener.detach(),
            )
        except BaseException:
            listener.close()
            raise

    def close(self) -> None:
        """Close the store."""
        self.store = None


class Collective:
    """`size` workers that call `sum` in the same order; with one worker nothing is opened.

    `address`: host and port of the store; `generation` keeps groups that use one store apart.
    `own_host`: this worker's address. `device`: where it trains. `backend`: the library that sums,
    "gloo", "nccl" or "none". Raises PeerLostError when not all of them come within
    `timeout_seconds`. Not thread-safe.
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
        self.rank, self.size = rank, size
        self.backend = "none" if size == 1 else "gloo"
        # torch's stubs do not know their `allreduce`
        self._group: Any = None
        self._gpu_group: Any = None
        self._staged: dict[tuple[torch.dtype, torch.Size], tuple[torch.Tensor, torch.Tensor]] = {}
        if size == 1:
            return
        timeout = timedelta(seconds=timeout_seconds)
        with _peer_errors():
            if store is not None and store.store is not None:
                shared_store = store.store
            else:
                shared_store = dist.TCPStore(*address, is_master=False, timeout=timeout)
            group_store = dist.PrefixStore(f"generation {generation}", shared_store)
            self._group = _open_gloo(
                dist.PrefixStore("gloo", group_store), rank, size, timeout, own_host
            )
        # This connects every pair, so that a peer that cannot be reached is noticed now.
        self.sum(np.ones(1, dtype=np.float32))
        self._device = torch.device(device)
        # NCCL would wait for ever for a peer to start, but all have just answered.
        if self._have_each_a_gpu(group_store):
            with _peer_errors():
                self._gpu_group = open_nccl(
                    dist.PrefixStore("nccl", group_store), rank, size, timeout
                )
            self.backend = "nccl"
            self.sum(np.ones(1, dtype=np.float32))

    def sum(self, array: np.ndarray) -> None:
        """Add up the arrays of all workers, in place, on each of them.

        The arrays are float32 or float64, C-contiguous, and of the same shape. Raises
        PeerLostError.
        """
        if self._group is None:
            return
        tensor = torch.from_numpy(array)
        with _peer_errors():
            if self._gpu_group is None:
                self._group.allreduce([tensor]).wait()
                return
            host, on_gpu = self._staging(tensor)
            host.copy_(tensor)
            on_gpu.copy_(host, non_blocking=True)
            self._gpu_group.allreduce([on_gpu]).wait()
            host.copy_(on_gpu)
            tensor.copy_(host)

    def close(self) -> None:
        """Close the connections; peers that wait for this worker get an error."""
        if self._gpu_group is not None:
            self._gpu_group.abort()
        self._group = self._gpu_group = None
        self._staged.clear()

    def _staging(self, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pinned memory and a tensor on the GPU for sums of this shape, made once."""
        key = tensor.dtype, tensor.shape
        if key not in self._staged:
            is_gpu = self._device.type == "cuda"
            self._staged[key] = (
                torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=is_gpu),
                torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device),
            )
        return self._staged[key]

    def _have_each_a_gpu(self, group_store: dist.Store) -> bool:
        """Return the same answer on all workers, each of which publishes its GPU."""
        with _peer_errors():
            group_store.set(f"gpu {self.rank}", name_gpu(self._device))
            gpus = [group_store.get(f"gpu {rank}").decode() for rank in range(self.size)]
        return all(gpus) and len(set(gpus)) == self.size


def name_gpu(device: torch.device) -> str:
    """Return an identifier of the GPU that no other has; empty where NCCL cannot be used."""
    if device.type != "cuda" or not dist.is_nccl_available():
        return ""
    return str(torch.cuda.get_device_properties(device).uuid)


def open_nccl(store: dist.Store, rank: int, size: int, timeout: timedelta) -> Any:
    """Return an NCCL process group whose sums raise when a peer does not answer in time.

    Without blocking waits, a watchdog would end this process instead.
    """
    os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    return dist.ProcessGroupNCCL(store, rank, size, options)


def _open_gloo(store: dist.Store, rank: int, size: int, timeout: timedelta, own_host: str) -> Any:
    """Return a gloo process group that listens on `own_host` only."""
    gloo: Any = dist.ProcessGroupGloo
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname=own_host)]
    options._timeout = timeout
    return gloo(store, rank, size, options)


@contextmanager
def _peer_errors() -> Iterator[None]:
    """Raise PeerLostError for the errors that a lost or silent peer causes.

    Gloo and NCCL raise RuntimeError for them, and a store DistError or TimeoutError.
    """
    try:
        yield
    except (RuntimeError, TimeoutError, OSError) as error:
        raise PeerLostError((str(error).splitlines() or [""])[0]) from error
