"""Launches of CUDA kernels: whether they are possible here, and their configuration."""

import warnings
from typing import Any

from numba import cuda


def can_launch() -> bool:
    """Return whether Numba can launch kernels: it needs a GPU, its driver, and the extra [cuda]."""
    return bool(cuda.is_available())


def configure(
    kernel: Any, blocks: int, threads: int, stream: int = 0, shared_bytes: int = 0
) -> Any:
    """Return the kernel configured for a launch: call it with the kernel's arguments.

    `stream` is the handle of a CUDA stream, 0 the default one. Numba's warning about few blocks is
    silenced: small minibatches and few replicas are meant. Not thread-safe, since filters of
    warnings belong to the process; calling what is returned is.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Grid size")
        return kernel[blocks, threads, cuda.external_stream(stream) if stream else 0, shared_bytes]
