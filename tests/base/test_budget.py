"""The memory budget: the default limit, the cores, and the windows in flight."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from streamtrain.base import budget
from streamtrain.base.budget import default_limit_bytes, default_readers, make_budget, share_budget
from streamtrain.errors import ResourceError

GIB = 2**30


@pytest.fixture
def machine(monkeypatch):
    """A machine of eight cores that has 64 GiB available."""
    memory = SimpleNamespace(available=64 * GIB)
    monkeypatch.setattr(budget.psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(budget.os, "sched_getaffinity", lambda _: range(8))


@pytest.mark.parametrize(
    ("left", "limit"),
    [(None, 16 * GIB), (128 * GIB, 16 * GIB), (2 * GIB, GIB // 2), (-5, 1)],
    ids=["no limit", "larger than the machine", "smaller", "none"],
)
def test_the_default_is_a_quarter_of_what_is_left(machine, monkeypatch, left, limit):
    monkeypatch.setattr(budget, "memory_left", lambda _: left)
    assert default_limit_bytes() == limit


@pytest.mark.parametrize(
    ("quota", "cores"), [(None, 8), (2.0, 2), (2.5, 3), (0.1, 1), (64.0, 8)], ids=str
)
def test_readers_are_the_cores_that_a_quota_fills(machine, monkeypatch, quota, cores):
    monkeypatch.setattr(budget, "cpu_quota", lambda _: quota)
    assert default_readers() == cores


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


@pytest.mark.parametrize(
    ("streams", "spare", "shared"),
    [
        pytest.param(2, 0, (2, 4), id="all fit"),
        pytest.param(2, -1, (2, 3), id="a window less each"),
        pytest.param(2, -40_001, (2, 2), id="two windows less each"),
        pytest.param(2, -80_001, (1, 3), id="a reader less each"),
        pytest.param(4, 14, (1, 2), id="a reader each"),
        pytest.param(5, 10**6, None, id="more streams than readers"),
        pytest.param(2, -220_001, None, id="no memory"),
    ],
)
def test_streams_at_once_share_the_readers_and_the_limit(streams, spare, shared):
    """Two with two readers and four windows each take 80,000 + 120,000 bytes each, and 7 more."""
    sizes = {"window_rows": 1000, "span_rows": 500, "num_columns": 5, "decoded_itemsize": 8}
    alone = make_budget(limit_bytes=2**30, readers=4, **sizes)
    limit = budget.RUNTIME_BYTES + 2 * 200_000 + 7 + spare
    found = share_budget(replace(alone, limit_bytes=limit), streams, 7)
    if shared is None:
        assert found is None
        return
    readers, windows = shared
    assert (found.readers, found.windows) == (readers, windows)
    whole = streams * (windows * 20_000 + readers * 60_000) + 7 * (streams - 1)
    assert found.projected_bytes == whole + budget.RUNTIME_BYTES <= limit
