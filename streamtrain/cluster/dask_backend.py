"""A Dask cluster as a `ClusterBackend`.

Tasks are pinned to a worker, tried once, named uniquely, and their results are gathered at once;
the driver decides everything else. The reasons: a pinned task whose worker died waits for ever,
loose tasks are stolen by other workers, results are recomputed when their worker leaves, and equal
calls are answered from memory (distributed#7346, xgboost#10985, xgboost#11804).
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_all
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from streamtrain.cluster.backend import Event, Failed, Finished, Joined, Left
from streamtrain.cluster.run_spec import RunSpec
from streamtrain.cluster.versions import check_answer, versions
from streamtrain.cluster.worker import Work, forget, perform
from streamtrain.errors import ConfigError, ResourceError

#: The scheduler is asked for its workers at this interval, besides the changes it announces.
POLL_SECONDS = 5.0

#: A connection that has been cut for longer counts as lost.
CUT_SECONDS = 20.0

#: A scheduler that keeps its connections but does not answer for this long counts as lost: it is
#: stopped, or starved.
SILENT_SECONDS = 60.0

#: A result that does not arrive within this time after its task ended was lost with its worker.
GATHER_SECONDS = 60.0

#: How long to wait for workers to forget the run at its end; one of them may hang.
FORGET_SECONDS = 5.0

#: Payloads beyond this many bytes are sent to the worker separately, not within the task.
LARGE_BYTES = 2**23

#: Dask announces the workers that join and leave under this topic, with these actions.
_TOPIC = "all"
_WORKER_ACTIONS = ("add-worker", "remove-worker", "retire-workers")


class DaskBackend:
    """See `ClusterBackend`. Use it as a context; the client belongs to the caller.

    A task calls `work(prepared, payload)`. `restarts`: restart workers that do not answer
    (for clusters of our own; a user's workers are left alone). `notify` receives messages about
    workers that cannot be used.
    """

    def __init__(
        self,
        client: Any,
        run: str,
        run_spec: RunSpec,
        work: Work,
        *,
        restarts: bool = False,
        notify: Callable[[str], None] = lambda _: None,
    ):
        self._client = client
        self._run = run
        self._run_spec = run_spec
        self._work = work
        self._restarts = restarts
        self._notify = notify
        self._versions = versions()
        # Calls that turn what happened on Dask's threads into events, on the driver's thread.
        self._pending: SimpleQueue[Callable[[], list[Event]]] = SimpleQueue()
        self._tasks: dict[int, tuple[str, Any]] = {}  # lease → (worker, future)
        self._listed: set[str] = set()  # workers that the scheduler lists
        self._accepted: set[str] = set()  # listed workers that have joined
        self._has_run_spec: set[str] = set()
        self._polled = -float("inf")
        self._answered = time.monotonic()
        self._cut_since: float | None = None

    def __enter__(self) -> "DaskBackend":
        self._client.subscribe_topic(_TOPIC, self._on_announcement)
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(Exception):  # the cluster may be gone
            self._client.unsubscribe_topic(_TOPIC)
            self._client.sync(
                self._client.cancel,
                [future for _, future in self._tasks.values()],
                callback_timeout=FORGET_SECONDS,
            )
            self._tasks.clear()
            # Workers of our own end with the run.
            if self._client.status == "running" and not self._restarts:
                self._client.sync(
                    self._client.run,
                    forget,
                    self._run,
                    workers=list(self._has_run_spec & self._listed),
                    on_error="ignore",
                    callback_timeout=FORGET_SECONDS,
                )

    def now(self) -> float:
        """See `ClusterBackend.now`."""
        return time.monotonic()

    def submit(self, number: int, worker: str, payload: Any) -> None:
        """See `ClusterBackend.submit`."""
        run_spec = None if worker in self._has_run_spec else self._run_spec
        self._has_run_spec.add(worker)
        try:
            run_spec, payload = (
                self._client.scatter([argument], workers=[worker], hash=False)[0]
                if _nbytes(argument) > LARGE_BYTES
                else argument
                for argument in (run_spec, payload)
            )
            future = self._client.submit(
                perform,
                self._run,
                run_spec,
                self._work,
                payload,
                key=f"streamtrain-{self._run}-{number}",
                workers=[worker],
                allow_other_workers=False,
                pure=False,
                retries=0,
            )
        except Exception:  # Dask has several for a client that is closed
            self._check_connection()
            raise
        self._tasks[number] = (worker, future)
        future.add_done_callback(lambda _: self._pending.put(partial(self._collect, number)))

    def wait(self, seconds: float | None) -> list[Event]:
        """See `ClusterBackend.wait`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            self._check_connection()
            is_due = time.monotonic() - self._polled > POLL_SECONDS
            if is_due and (events := self._poll()):
                return events
            timeout = POLL_SECONDS
            if deadline is not None:
                timeout = max(0.0, min(deadline - time.monotonic(), POLL_SECONDS))
            events = []
            with suppress(Empty):
                events = self._pending.get(timeout=timeout)()
                while True:
                    events += self._pending.get_nowait()()
            if events or (deadline is not None and time.monotonic() >= deadline):
                return events

    def restart(self, worker: str) -> None:
        """See `ClusterBackend.restart`."""
        # The workers of our own LocalCluster; one that is stopped would not end by itself.
        nannies = getattr(self._client.cluster, "workers", {}).values() if self._restarts else ()
        for nanny in nannies:
            if nanny.worker_address == worker and nanny.pid:
                with suppress(ProcessLookupError):
                    os.kill(nanny.pid, signal.SIGKILL)

    def _on_announcement(self, event: tuple[float, Any]) -> None:
        """On the client's own thread: ask for the workers again when some have joined or left."""
        if isinstance(event[1], dict) and event[1].get("action") in _WORKER_ACTIONS:
            self._pending.put(self._poll)

    def _poll(self) -> list[Event]:
        """Ask the scheduler for its workers; return the events of those that joined or left."""
        if self._client.status != "running":
            return []
        try:
            info = self._client.sync(
                self._client.scheduler.identity, n_workers=-1, callback_timeout=POLL_SECONDS
            )
        except (OSError, TimeoutError):
            self._polled = time.monotonic()
            return []
        self._polled = self._answered = time.monotonic()
        listed = set(info["workers"])
        is_first = not self._listed
        gone, joined = self._listed - listed, sorted(listed - self._listed)
        self._listed = listed
        events: list[Event] = [Left(worker=worker) for worker in sorted(gone & self._accepted)]
        self._accepted -= gone
        for worker in gone:
            self._has_run_spec.discard(worker)
            self._drop([number for number, (owner, _) in self._tasks.items() if owner == worker])
        answers = {worker: self._ask_versions(worker) for worker in joined}
        if is_first:  # the workers that were there before us join together
            wait_for_all(answers.values(), timeout=POLL_SECONDS)
        for worker, answer in answers.items():
            if is_first and answer.done():
                events += self._admit(worker, answer)
            else:
                answer.add_done_callback(partial(self._admit_later, worker))
        return events

    def _ask_versions(self, worker: str) -> Future:
        """Ask a new worker for its versions.

        A worker joins once they are known: without streamtrain its first task would fail.
        """

        async def ask() -> Any:
            return await self._client.run(versions, workers=[worker], on_error="return")

        return asyncio.run_coroutine_threadsafe(ask(), self._client.loop.asyncio_loop)

    def _admit_later(self, worker: str, answer: Future) -> None:
        """On the client's own thread: admit a worker that has answered."""
        self._pending.put(partial(self._admit, worker, answer))

    def _admit(self, worker: str, asked: Future) -> list[Event]:
        """Return the `Joined` event of a worker whose versions fit; notify of any other worker."""
        try:
            answer = asked.result()[worker]
            if isinstance(answer, OSError):
                raise answer
        except Exception:  # the connection was cut: a worker that is still there is asked again
            self._listed.discard(worker)
            return []
        if worker not in self._listed:
            return []
        try:
            check_answer(self._versions, answer, worker)
        except ConfigError as error:
            self._notify(f"worker {worker} excluded: {error}")
            return []
        self._accepted.add(worker)
        return [Joined(worker=worker)]

    def _collect(self, number: int) -> list[Event]:
        """Return the end of a task; its result is fetched at once, before its worker can leave."""
        if number not in self._tasks:
            return []
        worker, future = self._tasks[number]
        if future.status == "finished":
            try:
                result = future.result(timeout=GATHER_SECONDS)
            # The driver handles any error of the task or of the connection.
            except Exception as error:
                return self._failed(number, worker, error)
            self._drop([number])
            return [Finished(number=number, worker=worker, result=result)]
        if future.status == "error":
            with suppress(Exception):
                return self._failed(number, worker, future.exception(timeout=GATHER_SECONDS))
        events = self._poll()  # lost or cancelled: usually because its worker is gone
        if number not in self._tasks:
            return events
        return [*events, *self._failed(number, worker, OSError(f"the task was {future.status}"))]

    def _failed(self, number: int, worker: str, error: BaseException | None) -> list[Event]:
        self._drop([number])
        if type(error).__name__ == "KilledWorker":
            return self._poll()
        return [Failed(number=number, worker=worker, error=error or OSError("the task was lost"))]

    def _drop(self, numbers: list[int]) -> None:
        futures = [self._tasks.pop(number)[1] for number in numbers]
        for future in futures:
            future.release()

    def _check_connection(self) -> None:
        """Raise ResourceError when the scheduler cannot be reached."""
        now = time.monotonic()
        if self._client.status == "running":
            self._cut_since = None
            if self._polled - self._answered > SILENT_SECONDS:
                raise ResourceError(
                    "the cluster is lost: its scheduler has not answered for"
                    f" {now - self._answered:.0f} s. Look at its machine, then resume with"
                    " --resume auto."
                )
            return
        self._answered = now
        if self._cut_since is None:
            self._cut_since = now
        is_closed = self._client.status in ("closing", "closed")
        if is_closed or now - self._cut_since > CUT_SECONDS:
            raise ResourceError(
                "the cluster is lost: its scheduler cannot be reached any more, or client= was"
                " closed. Start it again, then resume with --resume auto."
            )


def _nbytes(payload: Any) -> int:
    """Return the bytes of the arrays in nested tuples, lists, dicts and dataclasses."""
    if hasattr(payload, "nbytes"):
        return int(payload.nbytes)
    if is_dataclass(payload):
        return sum(_nbytes(getattr(payload, item.name)) for item in fields(payload))
    if isinstance(payload, dict):
        return sum(map(_nbytes, payload.values()))
    return sum(map(_nbytes, payload)) if isinstance(payload, list | tuple) else 0
