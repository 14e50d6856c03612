"""What runs on a Dask worker: it opens a run once, by its blueprint, and then does whatever piece of work it is sent.

Everything here is imported by name on the worker, so streamtrain must be installed there in the driver's version.
"""

import threading
from collections.abc import Callable
from typing import Any

from streamtrain.cluster.blueprint import Blueprint, build
from streamtrain.cluster.versions import check_versions, versions
from streamtrain.passes import Prepared, warm_up
from streamtrain.types import Record

Work = Callable[[Prepared, Any], Any]


class Site:
    """The runs that a worker process has opened, and what they `kept` between tasks. Runs are thread-safe; a worker does one task at a time."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._blueprints: dict[str, Blueprint] = {}
        self._prepared: dict[str, Prepared] = {}

    def open(self, run: str, blueprint: Blueprint | None, threads: int, memory_limit: int | None) -> Prepared:
        """The run by this name; the blueprint comes with a worker's first task. Raises what opening the data raises."""
        with self._lock:
            if blueprint is not None:
                self._blueprints.setdefault(run, blueprint)
            if run not in self._prepared:
                self._prepared[run] = build(self._blueprints[run], threads=threads, memory_limit=memory_limit)
                warm_up(self._prepared[run])  # kernels are compiled or loaded before anything is measured
            return self._prepared[run]

    def forget(self, run: str) -> None:
        """Let go of a run."""
        with self._lock:
            self._prepared.pop(run, None)
            self._blueprints.pop(run, None)


def perform(run: str, blueprint: Blueprint | None, driver: Record | None, work: Work, payload: Any) -> Any:
    """The one Dask task: `work(prepared, payload)` on this worker. Raises what it raises."""
    worker = _worker()
    if driver is not None:
        check_versions(driver, versions(), worker.address)
    limit = getattr(worker.memory_manager, "memory_limit", None)
    prepared = _site(worker).open(run, blueprint, worker.state.nthreads, limit)
    return work(prepared, payload)


def call(prepared: Prepared, payload: tuple[Work, Any]) -> Any:
    """Work that comes with its payload: `(function, argument)`."""
    function, argument = payload
    return function(prepared, argument)


def forget(run: str, dask_worker: Any = None) -> None:
    """Let go of a run, through `Client.run`."""
    _site(dask_worker or _worker()).forget(run)


def current_site() -> Site:
    """That of the worker which runs this task."""
    return _site(_worker())


def own_host() -> str:
    """The address of this worker in Dask's network."""
    return _worker().address.split("://")[-1].rsplit(":", 1)[0].strip("[]")


def _worker() -> Any:
    from distributed import get_worker  # of the extra [cluster]: imported on workers only

    return get_worker()


def _site(worker: Any) -> Site:
    """One a process: kept on Dask's own worker object, so it goes when the worker goes."""
    return vars(worker).setdefault("streamtrain_site", Site())
