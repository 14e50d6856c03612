"""The code that runs on a Dask worker: open a run once, by its spec, then do the work that is sent.

Everything here is imported by name on the worker, so streamtrain must be installed there in the
driver's version.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from streamtrain.cluster.run_spec import RunSpec, open_run
from streamtrain.errors import DataError, StoreError, StreamTrainError
from streamtrain.run.prepare import Prepared
from streamtrain.run.warm_up import warm_up
from streamtrain.storage.dataset import describe_shard
from streamtrain.types import Dataset

Work = Callable[[Prepared, Any], Any]


class WorkerSetupError(Exception):
    """The worker cannot open the run; its argument says why: other data, no data, little memory."""


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The result of a task that stopped because another worker of its group is gone."""

    reason: str


class WorkerState:
    """The runs that a worker process has opened, and the `resources` it keeps between tasks.

    A worker does one task at a time.
    """

    def __init__(self) -> None:
        self.resources: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._tasks = 0
        self._closing = False
        self._run_specs: dict[str, RunSpec] = {}
        self._prepared: dict[str, Prepared] = {}

    def open(
        self, run: str, run_spec: RunSpec | None, threads: int, memory_limit: int | None
    ) -> Prepared:
        """Return the run of this name; its spec comes with the worker's first task.

        Raises what opening the data raises.
        """
        with self._lock:
            if run_spec is not None:
                self._run_specs.setdefault(run, run_spec)
            if run not in self._prepared:
                self._prepared[run] = open_run(
                    self._run_specs[run], threads=threads, memory_limit=memory_limit
                )
                # Kernels are compiled or loaded now, before anything is measured.
                warm_up(self._prepared[run])
            return self._prepared[run]

    @contextmanager
    def task(self) -> Iterator[None]:
        """Keep the resources open until the task inside the context has ended."""
        with self._lock:
            self._tasks += 1
        try:
            yield
        finally:
            with self._lock:
                self._tasks -= 1
                if self._closing:
                    self._close_resources()

    def forget(self, run: str) -> None:
        """Drop a run and close all resources, once a task that is still running has ended."""
        with self._lock:
            self._prepared.pop(run, None)
            self._run_specs.pop(run, None)
            self._closing = True
            self._close_resources()

    def _close_resources(self) -> None:
        if not self._tasks:
            self._closing = False
            while self.resources:
                self.resources.popitem()[1].close()


def perform(run: str, run_spec: RunSpec | None, work: Work, payload: Any) -> Any:
    """Return `work(prepared, payload)` on this worker; the only Dask task.

    Raises what `work` raises, and WorkerSetupError when the run cannot be opened, or when this
    machine sees another shard than the driver.
    """
    worker = _dask_worker()
    memory_limit = getattr(worker.memory_manager, "memory_limit", None)
    state = _state_of(worker)
    with state.task():
        try:
            prepared = state.open(run, run_spec, worker.state.nthreads, memory_limit)
        except StreamTrainError as error:
            raise WorkerSetupError(error) from error
        try:
            return work(prepared, payload)
        except DataError as error:
            raise_if_other_data(prepared.source.dataset, error)
            raise


def raise_if_other_data(dataset: Dataset, error: DataError) -> None:
    """Raise WorkerSetupError when the shard that an error names is not the driver's on this worker.

    Footers are compared when shards are first read, so this may be found late. Other workers may
    see the right file.
    """
    named = [shard for shard in dataset.shards if shard.url in str(error)]
    if not named or isinstance(error, StoreError):
        return
    shard = max(named, key=lambda shard: len(shard.url))
    try:
        is_same = describe_shard(shard.url, shard.storage).source == shard.source
    except DataError as why:  # missing or damaged; a failing store says nothing about its file
        is_same = isinstance(why, StoreError)
    if is_same:
        return
    raise WorkerSetupError(
        DataError(
            f"{shard.url}: a worker sees other data than the driver. Put the data where every"
            " machine finds the same files under the same name."
        )
    ) from error


def call_work(prepared: Prepared, payload: tuple[Work, Any]) -> Any:
    """Do work that is sent with its payload, as `(function, argument)`."""
    function, argument = payload
    return function(prepared, argument)


def only_open(prepared: Prepared, payload: None) -> None:
    """Do nothing: the run was opened before this was called."""


def forget(run: str, dask_worker: Any = None) -> None:
    """Drop a run on this worker; called through `Client.run`."""
    _state_of(dask_worker or _dask_worker()).forget(run)


def current_state() -> WorkerState:
    """Return the state of the worker that runs this task."""
    return _state_of(_dask_worker())


def own_host() -> str:
    """Return the address of this worker in Dask's network, without the port."""
    return _dask_worker().address.split("://")[-1].rsplit(":", 1)[0].strip("[]")


def _dask_worker() -> Any:
    from distributed import get_worker  # of the extra [cluster]: imported on workers only

    return get_worker()


def _state_of(worker: Any) -> WorkerState:
    """Return the state kept as an attribute of Dask's worker, so that it ends with the worker."""
    return vars(worker).setdefault("streamtrain_state", WorkerState())
