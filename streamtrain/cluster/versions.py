"""Which versions a process runs under, and whether two can work together.

It imports next to nothing: a worker answers at once.
"""

import platform
from importlib.metadata import PackageNotFoundError, version

from streamtrain.errors import ConfigError, first_line
from streamtrain.types import Json

#: What must be the same everywhere, and what only the last bits depend on.
_SAME, _EXACT = ("streamtrain",), ("python", "numpy", "numba", "torch")


def versions() -> Json:
    """What this process runs under: versions by name, None for what is not there."""
    found: Json = {"python": platform.python_version()}
    for name in (*_SAME, *_EXACT[1:]):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def check_answer(driver: Json, answer: Json | BaseException, address: str) -> list[str]:
    """As `check_versions`, of what a worker answered when it was asked for its `versions`; nothing
    of one that left just now.

    Dask brings what a worker raised as a plain Exception that quotes it, and connections that end
    as OSError.
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
    """What differs and changes the last bits only, in words.

    Raises ConfigError for what cannot work together.
    """
    for name in _SAME:
        if worker.get(name) != driver[name]:
            there = worker.get(name) or "not installed"
            raise ConfigError(
                f"{name} is {driver[name]} here and {there} on {address}. Install the same version"
                " there as here."
            )
    return [
        f"{name} is {driver[name]} here and {worker.get(name)} on {address}"
        for name in _EXACT
        if worker.get(name) != driver[name]
    ]
