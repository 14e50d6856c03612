"""The machine and the versions of libraries that a run uses."""

import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from streamtrain.base.budget import default_readers
from streamtrain.types import Json

_LIBRARIES = ("streamtrain", "torch", "numpy", "numba", "dask", "pyarrow", "zarr", "zarrs")


def environment() -> Json:
    """Return the machine and the versions of libraries, for the report."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_name(),
        "cores": default_readers(),
        "byte_order": sys.byteorder,
        **_versions(),
    }


@cache
def _versions() -> Mapping[str, str]:
    """Return the versions of the libraries that are installed, read once per process."""
    versions = {}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line for line in lines if line.startswith("model name"))
        return model.split(":", 1)[1].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
