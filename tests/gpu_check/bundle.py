"""Collect the wheels that a machine with a GPU and no network may lack: `make gpu-bundle`.

Such a machine is expected to have Python 3.12 and what check.py calls `LARGE`.
"""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.gpu_check.check import LARGE

#: What the steps import.
IMPORTED = ("streamtrain", "pytest", "hypothesis")

#: The newest of these is taken: they need not be installed where the wheels are collected.
NEWEST = ("numba-cuda", "cuda-bindings", "cuda-core", "cuda-pathfinder")

#: Large, and needed for the pictures of a report only, which no step makes.
UNUSED = ("vl-convert-python",)

#: A checkout beside the wheels fits 64 MiB.
LIMIT_BYTES = 54 * 2**20
PYTHON = "3.12"


def needed(names: tuple[str, ...], left_out: tuple[str, ...]) -> dict[str, str]:
    """Return the installed distributions that these need, themselves included: name → version.

    `left_out`: neither these nor what only they need.
    """
    found: dict[str, str] = {}
    to_see = [Requirement(name) for name in names]
    while to_see:
        requirement = to_see.pop()
        name = canonicalize_name(requirement.name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if name in found or name in left_out:
            continue
        found[name] = distribution.version
        for line in distribution.requires or []:
            further = Requirement(line)
            if further.marker is None or further.marker.evaluate(
                {"extra": "", "python_version": PYTHON, "python_full_version": f"{PYTHON}.0"}
            ):
                to_see.append(further)
    return found


def wanted() -> list[str]:
    """Return what the bundle holds, as name==version or name.

    What both torch and others need is among it: the machine's may be too old for the others.
    """
    names = needed(IMPORTED, (*LARGE, *UNUSED))
    return [*(f"{n}=={v}" for n, v in sorted(names.items()) if n != "streamtrain"), *NEWEST]


def main(folder: Path) -> int:
    """Download the wheels into the folder; return 1 when they are too large together."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    minors = (34, 28, 27, 24, 17)
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in minors] + ["manylinux2014_x86_64"]
    flags = [flag for platform in platforms for flag in ("--platform", platform)]
    flags += ["--python-version", PYTHON, "--only-binary", ":all:"]
    subprocess.run([*pip, *flags, *wanted()], check=True)
    wheels = list(folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels)
    print(f"{len(wheels)} wheels, {size / 2**20:.1f} MiB of at most {LIMIT_BYTES >> 20}: {folder}")
    return int(size > LIMIT_BYTES)


if __name__ == "__main__":
    sys.exit(main(Path(*sys.argv[1:])))
