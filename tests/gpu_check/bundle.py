"""Collect the wheels that a machine with a GPU and no network may lack: `make gpu-bundle`.

Such a machine is expected to have Python 3.12, torch, Numba, NumPy, SciPy, pyarrow and pytest.
"""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: What the machine has, with all that these need.
PRESENT = ("torch", "numba", "numpy", "scipy", "pyarrow", "pytest", "hypothesis")

LIMIT_BYTES = 60 * 2**20
PYTHON = "3.12"


def needed(names: tuple[str, ...]) -> dict[str, str]:
    """Return the installed distributions that these need, themselves included: name → version."""
    found: dict[str, str] = {}
    to_see = [Requirement(name) for name in names]
    while to_see:
        requirement = to_see.pop()
        name = canonicalize_name(requirement.name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if name in found:
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
    """Return what the bundle holds, as name==version."""
    present = needed(PRESENT)
    names = needed(("streamtrain",))
    return [f"{n}=={v}" for n, v in sorted(names.items()) if n not in present | {"streamtrain": ""}]


def main(folder: Path) -> int:
    """Download the wheels into the folder; return 1 when they are too large together."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in (34, 28, 17)] + ["manylinux2014_x86_64"]
    flags = [flag for platform in platforms for flag in ("--platform", platform)]
    flags += ["--python-version", PYTHON, "--only-binary", ":all:"]
    subprocess.run([*pip, *flags, *wanted()], check=True)
    wheels = list(folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels)
    print(f"{len(wheels)} wheels, {size / 2**20:.1f} MiB of at most {LIMIT_BYTES >> 20}: {folder}")
    return int(size > LIMIT_BYTES)


if __name__ == "__main__":
    sys.exit(main(Path(*sys.argv[1:])))
