"""Fixtures for all tests, which must leave no thread and no open file behind."""

import functools
import gc
import os
import re
import threading
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from hypothesis import settings

from tests.forked import start_server

# A busy machine is not a wrong result. The full number of examples is for nightly runs.
settings.register_profile("quick", deadline=None, max_examples=40)
settings.register_profile("thorough", deadline=None, max_examples=300)
settings.load_profile(os.environ.get("STREAMTRAIN_HYPOTHESIS", "quick"))

#: Zarr keeps an event loop and a thread pool for the life of the process; tqdm, where it is
#: installed, keeps a monitor thread.
_LIFELONG_THREADS = ("zarr_io", "asyncio_", "tqdm_monitor")
_FD = Path("/proc/self/fd")


def _threads() -> set[threading.Thread]:
    return {
        thread for thread in threading.enumerate() if not thread.name.startswith(_LIFELONG_THREADS)
    }


def _open_files() -> set[str]:
    """Return the descriptors of named files, as `number → path`.

    Sockets and pipes belong to event loops that live as long as the process, unnamed files to V8.
    """
    open_files = set()
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
            open_files.add(f"{number} → {path}")
    return open_files


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first."""
    items.sort(key=lambda item: item.get_closest_marker("early") is None)


def pytest_collection_finish() -> None:
    """Exempt what the imports made from garbage collection.

    There are millions of such objects, which each full collection would traverse.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Let torch compute on one thread: on a shared machine its threads spin while they wait.

    No test depends on their number. Torch is imported here, since pytest-xdist's first process,
    which runs no test, reads this file before it starts the others.
    """
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_pictures() -> Iterator[None]:
    """Draw no charts outside tests/report, and describe those of sweeps only.

    Drawing takes seconds per run. Altair takes a third of a short `train`, whose charts are few.
    The other files of a report are written in every test.
    """
    from tests.report.undrawn import Undrawn, specs_of_sweeps

    with pytest.MonkeyPatch.context() as patch:
        for module in ("report.write", "cli.run_verbs", "cli.report_command"):
            patch.setattr(f"streamtrain.{module}.Drawing", Undrawn)
        patch.setattr("streamtrain.report.pages.chart_specs", specs_of_sweeps)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep imported tables out of the cache folder of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMTRAIN_TABLES", str(tmp_path_factory.mktemp("tables")))
        yield


@pytest.fixture(scope="session", autouse=True)
def few_kernels() -> Iterator[None]:
    """Unroll loops over 5 columns only: every other number would be compiled for seconds.

    tests/kernels compares it, and numbers that are not unrolled, with a plain shuffle.
    """
    if os.environ.get("STREAMTRAIN_HYPOTHESIS") == "thorough":
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for module in ("shuffle", "permute"):
            patch.setattr(f"streamtrain.kernels.{module}.UNROLLED", frozenset({5}))
        yield


@pytest.fixture(scope="session", autouse=True)
def short_timings() -> Iterator[None]:
    """Keep timed regions short: no test asserts a speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamtrain.run.timing.REGION_SECONDS", 0.002)
        patch.setattr("streamtrain.run.timing.REST_SECONDS", 0.002)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_adapter_per_type() -> Iterator[None]:
    """Make each of Pydantic's type adapters once.

    Cyclopts makes one per flag and command, sixty for `train`, in a third of the processor time
    that it parses the words in. The tests run hundreds of commands in a process; a user runs one.
    """
    import pydantic

    made = functools.lru_cache(512)(pydantic.TypeAdapter)

    class Once(pydantic.TypeAdapter):
        def __new__(cls, kind, **settings):
            # not an instance of this class, so Python does not call __init__ on it
            return made(kind, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pydantic, "TypeAdapter", Once)
        yield


@pytest.fixture(scope="session")
def forked() -> ForkServerContext:
    """The context of multiprocessing whose processes have imported everything; see forked.py."""
    return start_server()


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread running or a file open.

    Threads that are ending get a few seconds, since the machine may be busy.
    """
    threads, files = _threads(), _open_files()
    yield
    deadline, wait = time.monotonic() + 5, 0.01
    while (left := (_threads() - threads, _open_files() - files)) != (
        set(),
        set(),
    ) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(wait)
        wait = min(2 * wait, 0.2)
    assert not left[0], f"threads left behind: {left[0]}"
    assert not left[1], f"files left open: {left[1]}"
