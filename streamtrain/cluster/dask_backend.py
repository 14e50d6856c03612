"""A Dask cluster as a `ClusterBackend`.

Tasks are pinned, tried once, named uniquely and gathered at once; all else is the driver's.

Why so: a pinned task whose worker died waits for ever, loose ones are stolen by other workers,
results are computed again when their worker leaves, and equal calls are answered from memory
(distributed#7346, xgboost#10985, xgboost#11804).
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
from queue import Empty, SimpleQueue
from typing import Any

from streamtrain.cluster.backend import Event, Failed, Finished, Joined, Left
from streamtrain.cluster.run_spec import RunSpec
from streamtrain.cluster.versions import check_answer, versions
from streamtrain.cluster.worker import Work, forget, perform
from streamtrain.errors import ConfigError, ResourceError

#: The scheduler is asked for its workers this often, beside what it tells by itself.
POLL_SECONDS = 5.0

#: A connection that is cut for longer is not waited for.
CUT_SECONDS = 20.0

#: A scheduler whose connections stand, but which answers nothing for so long, counts as lost: it is
#: stopped, or starved.
SILENT_SECONDS = 60.0

#: A result that does not come within this after its task has ended went down with its worker.
GATHER_SECONDS = 60.0

#: Workers are told of a run's end; one that hangs is not waited for.
FORGET_SECONDS = 5.0

#: Payloads beyond this many bytes go to the worker by themselves, not in a task.
LARGE_BYTES = 2**23


class DaskBackend:
    """See `ClusterBackend`.

    `work(prepared, payload)` is what a task does; use as a context, and the client belongs to the
    caller.

    `restarts`: a worker that does not answer is started anew (for clusters of our own; at a user's
    nothing is changed). `tell` hears of workers that cannot be used.
    """

    def __init__(
        self,
        client: Any,
        run: str,
        blueprint: RunSpec,
        work: Work,
        *,
        restarts: bool = False,
        tell: Callable[[str], None] = lambda _: None,
    ):
        self._client, self._run, self._blueprint, self._work, self._restarts = (
            client,
            run,
            blueprint,
            work,
            restarts,
        )
        self._versions, self._tell = versions(), tell
        self._heard: SimpleQueue[Callable[[], list[Event]]] = SimpleQueue()
        self._tasks: dict[int, tuple[str, Any]] = {}
        self._known: set[str] = set()
        self._welcome: set[str] = set()
        self._opened: set[str] = set()
        self._polled = self._cut_since = -float("inf")
        self._answered = time.monotonic()
        self._topic = "all"

    def __enter__(self) -> "DaskBackend":
        self._client.subscribe_topic(self._topic, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(Exception):  # the cluster may be gone
            self._client.unsubscribe_topic(self._topic)
            self._client.sync(
                self._client.cancel,
                [future for _, future in self._tasks.values()],
                callback_timeout=FORGET_SECONDS,
            )
            self._tasks.clear()
            if self._client.status == "running":
                there = list(self._opened & self._known)
                self._client.sync(
                    self._client.run,
                    forget,
                    self._run,
                    workers=there,
                    on_error="ignore",
                    callback_timeout=FORGET_SECONDS,
                )

    def now(self) -> float:
        """See `ClusterBackend.now`."""
        return time.monotonic()

    def submit(self, number: int, worker: str, payload: Any) -> None:
        """See `ClusterBackend.submit`."""
        first = worker not in self._opened
        self._opened.add(worker)
        blueprint = self._blueprint if first else None
        if _nbytes(payload) > LARGE_BYTES:
            payload = self._client.scatter([payload], workers=[worker], hash=False)[0]
        future = self._client.submit(
            perform,
            self._run,
            blueprint,
            self._work,
            payload,
            key=f"streamtrain-{self._run}-{number}",
            workers=[worker],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )
        self._tasks[number] = (worker, future)
        future.add_done_callback(lambda _: self._heard.put(lambda: self._collect(number)))

    def wait(self, seconds: float | None) -> list[Event]:
        """See `ClusterBackend.wait`."""
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            self._check_connection()
            is_due = time.monotonic() - self._polled > POLL_SECONDS
            if is_due and (events := self._poll()):
                return events
            left = (
                POLL_SECONDS
                if until is None
                else max(0.0, min(until - time.monotonic(), POLL_SECONDS))
            )
            events = []
            with suppress(Empty):
                events = self._heard.get(timeout=left)()
                while True:
                    events += self._heard.get_nowait()()
            if events or (until is not None and time.monotonic() >= until):
                return events

    def recover(self, worker: str) -> None:
        """See `ClusterBackend.recover`."""
        nannies = getattr(self._client.cluster, "workers", {}).values() if self._restarts else ()
        # of our own LocalCluster; one that is stopped would not end by itself
        for nanny in nannies:
            if nanny.worker_address == worker and nanny.pid:
                with suppress(ProcessLookupError):
                    os.kill(nanny.pid, signal.SIGKILL)

    def _hear(self, event: tuple[float, Any]) -> None:
        """On the client's own thread: workers that join and leave are told on this topic."""
        if isinstance(event[1], dict) and event[1].get("action") in (
            "add-worker",
            "remove-worker",
            "retire-workers",
        ):
            self._heard.put(self._poll)

    def _poll(self) -> list[Event]:
        if self._client.status != "running":
            return []
        try:
            info = self._client.sync(
                self._client.scheduler.identity, n_workers=-1, callback_timeout=POLL_SECONDS
            )
        except (OSError, TimeoutError):
            self._polled = time.monotonic()
            return []
        there, self._polled = set(info["workers"]), time.monotonic()
        self._answered = self._polled
        left, joined, first = self._known - there, sorted(there - self._known), not self._known
        self._known = there
        gone = sorted(left & self._welcome)
        self._welcome -= left
        for worker in left:
            self._opened.discard(worker)
            self._drop([number for number, (owner, _) in self._tasks.items() if owner == worker])
        asked = {worker: self._ask(worker) for worker in joined}
        if first:  # those that were there before us join together
            wait_for_all(asked.values(), timeout=POLL_SECONDS)
        here = [worker for worker in joined if first and asked[worker].done()]
        for worker in joined:
            if worker not in here:
                asked[worker].add_done_callback(
                    lambda answer, worker=worker: self._heard.put(
                        lambda: self._welcome_in(worker, answer)
                    )
                )
        return [
            *(Left(worker=worker) for worker in gone),
            *(event for worker in here for event in self._welcome_in(worker, asked[worker])),
        ]

    def _ask(self, worker: str) -> Future:
        """Ask one that has come for its versions.

        It joins with its answer: without streamtrain it would die of its first task.
        """

        async def ask() -> Any:
            return await self._client.run(versions, workers=[worker], on_error="return")

        return asyncio.run_coroutine_threadsafe(ask(), self._client.loop.asyncio_loop)

    def _welcome_in(self, worker: str, asked: Future) -> list[Event]:
        try:
            answer = asked.result()[worker]
            if isinstance(answer, OSError):
                raise answer
        except Exception:  # the way to it is cut: whoever is still there is asked again
            self._known.discard(worker)
            return []
        if worker not in self._known:
            return []
        try:
            check_answer(self._versions, answer, worker)
        except ConfigError as error:
            self._tell(f"{worker} is given nothing: {error}")
            return []
        self._welcome.add(worker)
        return [Joined(worker=worker)]

    def _collect(self, number: int) -> list[Event]:
        """The end of a task: fetched now, and let go, before its worker can leave with it."""
        if number not in self._tasks:
            return []
        worker, future = self._tasks[number]
        if future.status == "finished":
            try:
                result = future.result(timeout=GATHER_SECONDS)
            # whatever the task raised, or the way here: the driver decides
            except Exception as error:
                return self._failed(number, worker, error)
            self._drop([number])
            return [Finished(number=number, worker=worker, result=result)]
        if future.status == "error":
            with suppress(Exception):
                return self._failed(number, worker, future.exception(timeout=GATHER_SECONDS))
        events = self._poll()  # lost or cancelled: mostly, its worker is gone
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
        """Raises ResourceError when the scheduler is out of reach."""
        now = time.monotonic()
        if self._client.status == "running":
            self._cut_since = float("inf")
            if self._polled - self._answered > SILENT_SECONDS:
                raise ResourceError(
                    "the cluster is lost: its scheduler has not answered for"
                    f" {now - self._answered:.0f} s. Look at its machine, then go on with --resume"
                    " auto."
                )
            return
        self._answered = now
        if self._cut_since in (float("inf"), -float("inf")):
            self._cut_since = now
        if self._client.status == "closed" or now - self._cut_since > CUT_SECONDS:
            raise ResourceError(
                "the cluster is lost: its scheduler cannot be reached any more. Start it again,"
                " then go on with --resume auto."
            )


def _nbytes(payload: Any) -> int:
    """Of the arrays in nested tuples, lists, dicts and dataclasses."""
    if hasattr(payload, "nbytes"):
        return int(payload.nbytes)
    if is_dataclass(payload):
        return sum(_nbytes(getattr(payload, each.name)) for each in fields(payload))
    if isinstance(payload, dict):
        return sum(map(_nbytes, payload.values()))
    return sum(map(_nbytes, payload)) if isinstance(payload, (list, tuple)) else 0
