"""Limits of control groups, read from made-up /proc and /sys trees."""

from pathlib import Path

import pytest

from streamtrain.base.control_group import cpu_quota, memory_left

GIB = 2**30
#: version → files of the limit and the usage, and the line of memory.stat
NAMES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


class Tree:
    """A machine: `proc` is the folder of the process, whose group is `path` in both versions.

    `root` is what is mounted of the hierarchy.
    """

    def __init__(self, folder: Path, version: int, path: str, root: str = "/"):
        self.proc, self.version = folder / "proc", version
        self.proc.mkdir()
        self.tops = {}
        paths, mounts = [], ["21 20 0:19 / /proc rw - proc proc rw", "a line of nothing"]
        for number, controller in enumerate(("memory", "cpu,cpuacct", "freezer"), start=1):
            top = folder / "sys fs" / (controller if version == 1 else "unified")
            self.tops[controller] = top
            kind = f"cgroup cgroup rw,{controller}" if version == 1 else "cgroup2 cgroup2 rw"
            point = str(top).replace(" ", "\\040")
            if version == 1 or number == 1:
                mounts.append(f"3{number} 31 0:2{number} {root} {point} rw shared:9 - {kind}")
            if version == 1:
                paths.append(f"{number}:{controller}:{path}")
        paths.append(f"0::{path if version == 2 else '/'}")
        (self.proc / "cgroup").write_text("\n".join(paths) + "\n")
        (self.proc / "mountinfo").write_text("\n".join(mounts) + "\n")

    def write(self, group: str, controller: str = "memory", **files: object) -> None:
        """Write files of a group, `/` being the mounted root; `__` in a name is a dot."""
        folder = self.tops[controller] / group.strip("/")
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_text(f"{content}\n")

    def memory(self, group: str, limit: object, used: int = 0, cached: int | None = 0) -> None:
        limit_name, used_name, line = NAMES[self.version]
        files = {limit_name: limit, used_name: used}
        if cached is not None:
            files["memory.stat"] = f"anon 5\nfile 7\n{line} {cached}"
        self.write(group, **files)

    def quota(self, group: str, quota: int | str | None, period: int = 100_000) -> None:
        if self.version == 2:
            self.write(group, cpu__max=f"{'max' if quota is None else quota} {period}")
        else:
            limit = -1 if quota is None else quota
            files = {"cpu__cfs_quota_us": limit, "cpu__cfs_period_us": period}
            self.write(group, "cpu,cpuacct", **files)


@pytest.fixture(params=[1, 2], ids=["version 1", "version 2"])
def machine(request, tmp_path):
    """`machine(path, root)`: a tree of either version."""
    return lambda path, root="/": Tree(tmp_path, request.param, path, root)


def test_the_smallest_limit_along_the_path_counts(machine):
    """`/slurm/job_7/step_0`: the job has 560 MiB, the step and the machine more or no limit."""
    tree = machine("/slurm/job_7/step_0")
    tree.memory("/", 64 * GIB, GIB)
    tree.memory("/slurm/job_7", 560 * 2**20, 60 * 2**20)
    tree.memory("/slurm/job_7/step_0", 2**63 - 4096 if tree.version == 1 else "max", 2**20)
    assert memory_left(tree.proc) == 500 * 2**20


def test_a_group_beside_the_path_does_not_count(machine):
    tree = machine("/slurm/job_7")
    tree.memory("/slurm/job_8", 4096)
    tree.memory("/slurm/job_7", 2 * GIB)
    assert memory_left(tree.proc) == 2 * GIB


def test_a_group_full_of_cached_files_has_room(machine):
    """After 8 GiB of shards are read in a group of 8 GiB, almost all of it is page cache."""
    tree = machine("/a")
    tree.memory("/a", 8 * GIB, 8 * GIB - 4096, 7 * GIB)
    assert memory_left(tree.proc) == 7 * GIB + 4096


@pytest.mark.parametrize(
    ("used", "cached", "left"),
    [(6 * GIB, 0, 2 * GIB), (6 * GIB, None, 2 * GIB), (9 * GIB, 0, -GIB), (GIB, 2 * GIB, 8 * GIB)],
    ids=["in use", "no statistics", "over the limit", "more cached than used"],
)
def test_what_is_left(machine, used, cached, left):
    tree = machine("/a")
    tree.memory("/a", 8 * GIB, used, cached)
    assert memory_left(tree.proc) == left


@pytest.mark.parametrize(
    ("path", "root"),
    [("/docker/7f", "/docker/7f"), ("/../../job_7", "/"), ("/slurm/job_7", "/docker/7f")],
    ids=["its own group is mounted", "outside of the namespace", "another group is mounted"],
)
def test_in_a_container_the_mount_is_the_group(machine, path, root):
    tree = machine(path, root)
    tree.memory("/", 2 * GIB)
    tree.quota("/", 150_000)
    assert memory_left(tree.proc) == 2 * GIB
    assert cpu_quota(tree.proc) == 1.5


def test_below_a_mounted_group(machine):
    tree = machine("/docker/7f/inner", "/docker/7f")
    tree.memory("/", 3 * GIB)
    tree.memory("/inner", 2 * GIB)
    assert memory_left(tree.proc) == 2 * GIB


def test_throttling_counts_as_a_limit(tmp_path):
    tree = Tree(tmp_path, 2, "/a")
    tree.memory("/a", 8 * GIB)
    tree.write("/a", memory__high=3 * GIB)
    assert memory_left(tree.proc) == 3 * GIB


def test_the_smallest_quota_along_the_path_counts(machine):
    tree = machine("/kube/pod/container")
    tree.quota("/kube", None)
    tree.quota("/kube/pod", 200_000)
    tree.quota("/kube/pod/container", 200_000, 50_000)
    assert cpu_quota(tree.proc) == 2.0


def test_without_limits(machine, tmp_path):
    tree = machine("/a")
    tree.quota("/a", None)
    assert memory_left(tree.proc) is None
    assert cpu_quota(tree.proc) is None
    assert memory_left(tmp_path / "absent") is None
    assert cpu_quota(tmp_path / "absent") is None


def test_files_without_numbers_are_passed_over(machine):
    tree = machine("/a")
    tree.memory("/a", "much", GIB)
    tree.quota("/a", "two")
    assert memory_left(tree.proc) is None
    assert cpu_quota(tree.proc) is None
