"""The versions a process runs under, and whether two processes can work together.

This module imports almost nothing, so that a worker answers at once.
"""

import asyncio
import importlib
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from streamtrain.errors import ConfigError, first_line
from streamtrain.types import Json

#: Must be the same everywhere.
_REQUIRED = ("streamtrain",)

#: May differ; only the last bits of results depend on them.
_COMPARED = ("python", "numpy", "numba", "torch")


def versions() -> Json:
    """Return the versions this process runs under, by name; None for a missing package."""
    installed: Json = {"python": platform.python_version()}
    for name in (*_REQUIRED, *_COMPARED[1:]):
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = None
    return installed


async def import_ahead(module: str) -> None:
    """Import on a worker what its first task needs, while the driver prepares the run.

    PyTorch and Numba take seconds, in which the worker's event loop must answer: hence a thread.
    The first task reports what cannot be imported.
    """
    with suppress(Exception):
        await asyncio.to_thread(importlib.import_module, module)


def check_answer(driver: Json, answer: Json | BaseException, address: str) -> list[str]:
    """Check a worker's answer to a request for its `versions`; see `check_versions`.

    Returns an empty list for a worker that has just left. Dask reports what a worker raised as a
    plain Exception that quotes it, and lost connections as OSError.
    """
    if isinstance(answer, OSError):
        return []
    if isinstance(answer, BaseException):
        raise ConfigError(
            f"streamtrain cannot be imported on {address} ({first_line(answer)}). Install the same"
            " version there as here."
        )
    return check_versions(driver, answer, address)


def check_versions(driver: Json, worker: Json, address: str) -> list[str]:
    """Return one sentence per difference that changes only the last bits of results.

    Raises ConfigError for versions that cannot work together.
    """
    for name in _REQUIRED:
        if worker.get(name) != driver[name]:
            there = worker.get(name) or "not installed"
            raise ConfigError(
                f"{name} is {driver[name]} here and {there} on {address}. Install the same version"
                " there as here."
            )
    return [
        f"{name} is {driver[name]} here and {worker.get(name)} on {address}"
        for name in _COMPARED
        if worker.get(name) != driver[name]
    ]
