"""The memory budget: the default limit under control groups, and the windows in flight."""

from types import SimpleNamespace

import pytest

from streamtrain.base import budget
from streamtrain.base.budget import default_limit_bytes, make_budget
from streamtrain.errors import ResourceError

GIB = 2**30


@pytest.fixture
def group(tmp_path, monkeypatch):
    """Return `group(version, limit, used, cached)`, which returns the default limit in bytes.

    It writes the files of a control group; the machine has 64 GiB available.
    """
    monkeypatch.setattr(
        budget.psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GIB)
    )

    def call(version: int, limit: str | int, used: int, cached: int | None) -> int:
        if version == 2:
            folder = tmp_path
            names = ("memory.max", "memory.current")
            line = "inactive_file"
        else:
            folder = tmp_path / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            line = "total_inactive_file"
        folder.mkdir(exist_ok=True)
        for name, value in zip(names, (limit, used), strict=True):
            (folder / name).write_text(f"{value}\n")
        if cached is not None:
            (folder / "memory.stat").write_text(f"anon 5\nfile 7\n{line} {cached}\n")
        return default_limit_bytes(tmp_path)

    return call


@pytest.mark.parametrize("version", [1, 2], ids=str)
def test_a_group_full_of_cached_files_has_room(group, version):
    """After 8 GiB of shards are read in a group of 8 GiB, almost all of it is page cache."""
    assert group(version, 8 * GIB, 8 * GIB - 4096, 7 * GIB) == (7 * GIB + 4096) // 4


@pytest.mark.parametrize(
    ("limit", "used", "cached", "expected"),
    [
        (8 * GIB, 6 * GIB, 0, GIB // 2),
        (8 * GIB, 6 * GIB, None, GIB // 2),
        (8 * GIB, 8 * GIB, 0, 1),
        (8 * GIB, GIB, 2 * GIB, 2 * GIB),
        ("max", GIB, 0, 16 * GIB),
        (2**63 - 4096, GIB, 0, 16 * GIB),
        (128 * GIB, GIB, 0, 16 * GIB),
    ],
    ids=[
        "in use",
        "no statistics",
        "full",
        "more cached than used",
        "no limit",
        "no limit, version 1",
        "larger than the machine",
    ],
)
def test_a_quarter_of_what_is_available(group, limit, used, cached, expected):
    assert group(2, limit, used, cached) == expected


def test_without_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(
        budget.psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GIB)
    )
    assert default_limit_bytes(tmp_path) == 16 * GIB


def test_the_projection_counts_a_decode_for_every_reader():
    sizes = {"window_rows": 1000, "span_rows": 500, "num_columns": 5, "decoded_itemsize": 8}
    result = make_budget(limit_bytes=2**30, readers=3, fixed_bytes=7, **sizes)
    assert (result.readers, result.windows) == (3, 5)
    windows_bytes = 5 * 1000 * 5 * 4
    decode_bytes = 3 * (3 * 500 * 5 * 8)
    assert result.projected_bytes == windows_bytes + decode_bytes + 7 + budget.RUNTIME_BYTES


@pytest.mark.parametrize(
    ("spare", "readers", "windows"),
    [(0, 1, 2), (1, 1, 2), (20_000, 1, 3), (60_000, 2, 2), (120_000, 2, 4)],
    ids=str,
)
def test_less_memory_means_fewer_windows_and_readers(spare, readers, windows):
    sizes = {"window_rows": 1000, "span_rows": 500, "num_columns": 5, "decoded_itemsize": 8}
    least = budget.RUNTIME_BYTES + 2 * 20_000 + 60_000
    result = make_budget(limit_bytes=least + spare, readers=2, **sizes)
    assert (result.readers, result.windows) == (readers, windows)
    assert result.projected_bytes <= least + spare
    with pytest.raises(ResourceError, match=r"two windows of 1,000 rows need .* the budget is"):
        make_budget(limit_bytes=least - 1, readers=2, **sizes)
