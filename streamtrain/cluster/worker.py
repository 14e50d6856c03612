"""What runs on a Dask worker: it opens a run once, by its blueprint, and then does whatever piece
of work it is sent.

Everything here is imported by name on the worker, so streamtrain must be installed there in the
driver's version.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from streamtrain.cluster.run_spec import RunSpec, build
from streamtrain.errors import StreamTrainError
from streamtrain.run.prepare import Prepared, warm_up

Work = Callable[[Prepared, Any], Any]


class Unfit(Exception):
    """This worker cannot open the run, for the reason that is its argument: other data, no data,
    too little memory.
    """


class WorkerState:
    """The runs that a worker process has opened, and what they `kept` between tasks, each with a
    `close`. A worker does one task at a time.
    """

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._working, self._forgetting = 0, False
        self._blueprints: dict[str, RunSpec] = {}
        self._prepared: dict[str, Prepared] = {}

    def open(
        self, run: str, blueprint: RunSpec | None, threads: int, memory_limit: int | None
    ) -> Prepared:
        """The run by this name; the blueprint comes with a worker's first task.

        Raises what opening the data raises.
        """
        with self._lock:
            if blueprint is not None:
                self._blueprints.setdefault(run, blueprint)
            if run not in self._prepared:
                self._prepared[run] = build(
                    self._blueprints[run], threads=threads, memory_limit=memory_limit
                )
                # kernels are compiled or loaded before anything is measured
                warm_up(self._prepared[run])
            return self._prepared[run]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A task is at work here: what is kept stays until it has ended."""
        with self._lock:
            self._working += 1
        try:
            yield
        finally:
            with self._lock:
                self._working -= 1
                if self._forgetting:
                    self._let_go()

    def forget(self, run: str) -> None:
        """Let go of a run, and of all that is kept; a task that is still at work ends first."""
        with self._lock:
            self._prepared.pop(run, None)
            self._blueprints.pop(run, None)
            self._forgetting = True
            self._let_go()

    def _let_go(self) -> None:
        if not self._working:
            self._forgetting = False
            while self.kept:
                self.kept.popitem()[1].close()


def perform(run: str, blueprint: RunSpec | None, work: Work, payload: Any) -> Any:
    """The one Dask task.

    `work(prepared, payload)` on this worker. Raises what it raises, and Unfit.
    """
    worker = _worker()
    limit, site = getattr(worker.memory_manager, "memory_limit", None), _site(worker)
    with site.at_work():
        try:
            prepared = site.open(run, blueprint, worker.state.nthreads, limit)
        except StreamTrainError as error:
            raise Unfit(error) from error
        return work(prepared, payload)


def call(prepared: Prepared, payload: tuple[Work, Any]) -> Any:
    """Work that comes with its payload: `(function, argument)`."""
    function, argument = payload
    return function(prepared, argument)


def ready(prepared: Prepared, payload: None) -> None:
    """Work that is nothing: the run was opened on the way to it."""


def forget(run: str, dask_worker: Any = None) -> None:
    """Let go of a run, through `Client.run`."""
    _site(dask_worker or _worker()).forget(run)


def current_site() -> WorkerState:
    """That of the worker which runs this task."""
    return _site(_worker())


def own_host() -> str:
    """The address of this worker in Dask's network."""
    return _worker().address.split("://")[-1].rsplit(":", 1)[0].strip("[]")


def _worker() -> Any:
    from distributed import get_worker  # of the extra [cluster]: imported on workers only

    return get_worker()


def _site(worker: Any) -> WorkerState:
    """One a process: kept on Dask's own worker object, so it goes when the worker goes."""
    return vars(worker).setdefault("streamtrain_site", WorkerState())
