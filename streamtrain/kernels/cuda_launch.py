"""Launches of CUDA kernels: whether they are possible here, and their configuration."""

import importlib
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from threading import Lock
from typing import Any

from numba import cuda, types

from streamtrain.errors import first_line
from streamtrain.kernels.cuda_layout import Layout
from streamtrain.kernels.cuda_source import SIMULATED

#: Shared memory, static and dynamic together, that a block may use without `_allow_shared`.
_PLAIN_SHARED_BYTES = 48 * 1024

_LOCK = Lock()

#: The simulator refuses a kernel while another one runs.
_ALONE = Lock() if SIMULATED else nullcontext()


def can_launch() -> bool:
    """Return whether Numba can launch kernels: it needs a GPU, its driver, and the extra [cuda]."""
    return bool(cuda.is_available())


def configure(
    kernel: Any, blocks: int | tuple[int, int], threads: int, stream: int = 0, shared_bytes: int = 0
) -> Any:
    """Return the kernel configured for a launch: call it with the kernel's arguments.

    `stream` is the handle of a CUDA stream, 0 the default one. Numba's warning about few blocks is
    silenced: small minibatches and few replicas are intended. Thread-safe as long as nothing else
    changes the process's warning filters.
    """
    with _LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Grid size")
        return kernel[blocks, threads, cuda.external_stream(stream) if stream else 0, shared_bytes]


def run(launch: Any, *arguments: Any) -> None:
    """Launch a kernel; raise RuntimeError, as torch does, for what Numba and the driver raise."""
    try:
        with _ALONE:
            launch(*arguments)
    except MemoryError:
        raise
    except Exception as error:
        raise RuntimeError(f"{type(error).__name__}: {first_line(error)}") from error


def ready(function: Callable, arguments: tuple[Any, ...], layout: Layout) -> Any:
    """Return a kernel of this layout, compiled for the current device.

    `arguments` are Numba's types. In the simulator nothing is compiled. Raises what Numba and its
    compilers raise, and RuntimeError when the driver refuses the shared memory.
    """
    if SIMULATED:
        return cuda.jit(function)
    # Dynamic memory begins where static memory ends, and Numba declares it aligned to its element,
    # 4 bytes. Kernels access it 16 bytes at a time: what is static must be a multiple of 16 bytes.
    assert layout.static_bytes % 16 == 0
    kernel: Any = cuda.jit(function)
    kernel.compile(types.void(*arguments))
    if layout.shared_bytes > _PLAIN_SHARED_BYTES:
        _allow_shared(kernel, layout.dynamic_bytes)
    return kernel


def _allow_shared(kernel: Any, num_bytes: int) -> None:
    """Allow more dynamic shared memory than 48 KiB: Numba has no option for it (numba-cuda#94).

    Raises RuntimeError when the driver refuses.
    """
    driver = importlib.import_module("cuda.bindings.driver")
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    for overload in kernel.overloads.values():
        handle = overload._codelibrary.get_cufunc().handle
        if isinstance(handle, driver.CUkernel):
            device = driver.CUdevice(0)
            (error,) = driver.cuKernelSetAttribute(attribute, num_bytes, handle, device)
        else:
            function = driver.CUfunction(int(getattr(handle, "value", handle)))
            (error,) = driver.cuFuncSetAttribute(function, attribute, num_bytes)
        if int(error):
            raise RuntimeError(f"{num_bytes:,} bytes of shared memory were refused: {error}")
