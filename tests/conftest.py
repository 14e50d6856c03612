"""Every test: no thread and no open file is left behind."""

import gc
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("house", deadline=None)  # a busy machine is not a wrong result
settings.load_profile("house")

# on a shared machine its threads spin for one another; no test is about their number
torch.set_num_threads(1)

#: Zarr keeps one event loop, with its thread pool, for the life of the process, and tqdm, where it
#: is installed, a monitor.
_LIFELONG_THREADS = ("zarr_io", "asyncio_", "tqdm_monitor")
_FD = Path("/proc/self/fd")


def _threads() -> set[threading.Thread]:
    return {
        thread for thread in threading.enumerate() if not thread.name.startswith(_LIFELONG_THREADS)
    }


def _open_files() -> set[str]:
    """Descriptors of named files, as `number → path`; sockets and pipes are those of lifelong
    loops, unnamed files those of V8.
    """
    found = set()
    for number in os.listdir(_FD) if _FD.exists() else ():
        try:
            path = os.readlink(_FD / number)
        except OSError:  # the descriptor of the listing itself
            continue
        if (
            path.startswith("/")
            and not path.startswith(("/dev/", "/proc/"))
            and not re.search(r"/#\d+ \(deleted\)$", path)
        ):
            found.add(f"{number} → {path}")
    return found


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Pictures take seconds a run, and are the report's tests' business; everything else of a
    report is written elsewhere too.
    """
    if "report" not in Path(request.path).parts:
        monkeypatch.setattr("streamtrain.report.write.draw", lambda charts: {})


@pytest.fixture(autouse=True)
def short_timings(monkeypatch):
    """Speed is never asserted: regions that are timed need not be long."""
    monkeypatch.setattr("streamtrain.run.timing.REGION_SECONDS", 0.01)
    monkeypatch.setattr("streamtrain.run.timing.REST_SECONDS", 0.005)


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fails the test that leaves a thread or a file open; a second is given to threads that are on
    their way out.
    """
    threads, files = _threads(), _open_files()
    yield
    deadline = time.monotonic() + 1
    while (left := (_threads() - threads, _open_files() - files)) != (
        set(),
        set(),
    ) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert not left[0], f"threads left behind: {left[0]}"
    assert not left[1], f"files left open: {left[1]}"
