"""The limits that control groups set to this process: memory and processor time (Linux).

A group inherits the limits of all groups above it: SLURM, systemd-run and Kubernetes nest theirs.
So each limit is the smallest one along the path of the process's own group, in version 1 and 2.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class _Memory:
    """The files of one version: limits, usage, and the line of memory.stat for cached pages."""

    limits: tuple[str, ...]
    used: str
    cached: str


_MEMORY = {
    1: _Memory(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
    # above memory.high a process is throttled until it hardly runs
    2: _Memory(("memory.max", "memory.high"), "memory.current", "inactive_file"),
}


def memory_left(proc: Path = PROC) -> int | None:
    """Return the bytes that can still be used before a limit is reached; None without a limit.

    A group counts cached file pages as used until something else needs the memory, so a process
    that streams files finds its group full. Pages that the kernel frees count as unused here.
    """
    left: list[int] = []
    for version, group in _groups("memory", proc):
        files = _MEMORY[version]
        used = _number(group / files.used)
        if used is not None:
            used = max(0, used - _cached_bytes(group / "memory.stat", files.cached))
            limits = (_number(group / name) for name in files.limits)
            left += [limit - used for limit in limits if limit is not None]
    return min(left, default=None)


def cpu_quota(proc: Path = PROC) -> float | None:
    """Return the quota of processor time, in cores; None without a quota."""
    quotas: list[float] = []
    for version, group in _groups("cpu", proc):
        if version == 2:
            with suppress(OSError, ValueError, ZeroDivisionError):
                quota, period = (group / "cpu.max").read_text().split()
                quotas.append(int(quota) / int(period))  # without a quota it is `max`
        else:
            quota, period = (_number(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
            if quota and period and quota > 0:
                quotas.append(quota / period)
    return min(quotas, default=None)


def _groups(controller: str, proc: Path) -> Iterator[tuple[int, Path]]:
    """Yield the version and the folder of the process's group and of each group above it."""
    try:
        paths = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in paths:
        _, controllers, path = line.split(":", 2)
        version = 1 if controllers else 2
        if version == 2 or controller in controllers.split(","):
            for root, top in _mounts(mounts, version, controller):
                yield from ((version, folder) for folder in _upwards(path, root, top))


def _mounts(lines: list[str], version: int, controller: str) -> Iterator[tuple[str, Path]]:
    """Yield the root and the mount point of each hierarchy with this controller.

    The format is that of proc(5): `31 23 0:28 ROOT POINT options - cgroup2 source options`.
    """
    for line in lines:
        mount, _, file_system = line.partition(" - ")
        kind, _, options = (*file_system.split(), "", "", "")[:3]
        wanted = kind == ("cgroup" if version == 1 else "cgroup2")
        if wanted and (version == 2 or controller in options.split(",")):
            root, point = (_unescaped(field) for field in mount.split()[3:5])
            yield root, Path(point)


def _upwards(path: str, root: str, top: Path) -> Iterator[Path]:
    """Yield the folder of a group and its parents, up to the mount point.

    In a container the path may lie outside of the mount; then the mount point is the process's own
    group.
    """
    inside = Path(path).is_relative_to(root) and ".." not in Path(path).parts
    folder = top / Path(path).relative_to(root) if inside else top
    yield folder
    while folder != top:
        folder = folder.parent
        yield folder


def _unescaped(field: str) -> str:
    r"""Return a path of mountinfo, where a space is `\040`."""
    return re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), field)


def _number(file: Path) -> int | None:
    """Return the number in a file; None for `max`, and where there is none."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _cached_bytes(statistics: Path, name: str) -> int:
    """Return the value of the line `name` of a memory.stat file; 0 if there is none."""
    with suppress(OSError, ValueError, IndexError):
        for line in statistics.read_text().splitlines():
            if line.split()[0] == name:
                return int(line.split()[1])
    return 0
