"""The workers of a cluster as the driver knows them.

The pool records which workers are idle, busy, hung or unable to open the run, and ends the run when
too few remain.
"""

from collections.abc import Callable, Iterable
from typing import Any

from streamtrain.cluster.backend import ClusterBackend, Event, Failed, Finished, Joined, Left
from streamtrain.cluster.worker import WorkerSetupError
from streamtrain.errors import ResourceError, first_line

#: How long a cluster may have fewer workers than it needs, as
#: `distributed.scheduler.no-workers-timeout`.
NO_WORKERS_SECONDS = 120.0

#: The driver stops waiting at this interval, to look for Ctrl-C and to save when it is time.
CHECK_SECONDS = 0.5


class WorkerPool:
    """Keeps track of a backend's workers. Owned by one thread.

    `min_workers`: after `no_workers_seconds` with fewer the cluster counts as lost. `notify`
    receives messages for the user. `check_seconds`: the longest wait between two calls of
    `check_interrupt`; what that raises ends the run.
    """

    def __init__(
        self,
        backend: ClusterBackend,
        *,
        min_workers: int = 1,
        no_workers_seconds: float = NO_WORKERS_SECONDS,
        notify: Callable[[str], None] = lambda _: None,
        check_seconds: float | None = None,
    ):
        self.backend = backend
        self.min_workers = min_workers
        self.notify = notify
        self.check_interrupt: Callable[[], None] = lambda: None
        self._no_workers_seconds = no_workers_seconds
        self._check_seconds = check_seconds
        self.idle: dict[str, None] = {}  # in the order in which they became idle
        self.busy: dict[str, int] = {}  # worker → number of its lease
        self._hung: set[str] = set()
        self._excluded: dict[str, BaseException] = {}  # worker → why it cannot open the run
        self._too_few_since: float | None = None
        self.messages = self.lost_workers = 0

    def __len__(self) -> int:
        """Return the number of workers that are present and answer."""
        return len(self.idle) + len(self.busy) - len(self._hung)

    @property
    def has_enough(self) -> bool:
        """True when at least `min_workers` are present and answer."""
        return len(self) >= self.min_workers

    def send(self, number: int, worker: str, payload: Any) -> None:
        """Give an idle worker the task of lease `number`."""
        del self.idle[worker]
        self.busy[worker] = number
        self.messages += 1
        self.backend.submit(number, worker, payload)

    def mark_hung(self, worker: str) -> None:
        """Restart a worker that does not answer; it does not count until it answers or leaves."""
        if worker in self.busy:
            self._hung.add(worker)
            self.backend.restart(worker)

    def take_task(self, worker: str) -> int | None:
        """Return the lease number of the task of a worker that left, and forget the task."""
        return self.busy.pop(worker, None)

    def wait(self, times: Iterable[float | None] = (), *, needed: int | None = None) -> list[Event]:
        """Return the next events, with idle and busy workers brought up to date.

        Returns an empty list when the first of `times` came before an event. `needed`: replaces
        `min_workers`. Raises ResourceError when there were too few workers for too long; and when
        no worker can open the run, the reason of the last one.
        """
        self.check_interrupt()
        self._check_count(self.min_workers if needed is None else needed)
        now = self.backend.now()
        wake_times = [time for time in times if time is not None]
        if self._check_seconds is not None:
            wake_times.append(now + self._check_seconds)
        if self._too_few_since is not None:
            wake_times.append(self._too_few_since + self._no_workers_seconds)
        events = self.backend.wait(max(0.0, min(wake_times) - now) if wake_times else None)
        for event in events:
            self._update(event)
        return events

    def wait_for(self, count: int) -> None:
        """Block until `count` workers have joined; the tasks of those that leave are forgotten.

        Raises ResourceError when that takes too long.
        """
        while len(self) < count:
            for event in self.wait(needed=count):
                if isinstance(event, Left):
                    self.take_task(event.worker)
        self._too_few_since = None

    def _update(self, event: Event) -> None:
        self.messages += 1
        match event:
            case Joined(worker=worker):
                if worker not in self.busy:
                    self.idle[worker] = None
            case Left(worker=worker):
                self.idle.pop(worker, None)
                self._hung.discard(worker)
                self._excluded.pop(worker, None)
                self.lost_workers += 1
            case Finished(number=number, worker=worker) | Failed(number=number, worker=worker):
                if self.busy.get(worker) == number:
                    del self.busy[worker]
                    self._hung.discard(worker)
                    self.idle[worker] = None
                if (reason := setup_error(event)) is not None:
                    self.idle.pop(worker, None)
                    self._excluded[worker] = reason
                    self.notify(f"worker {worker} excluded: {first_line(reason)}")

    def _check_count(self, needed: int) -> None:
        if len(self) >= needed:
            self._too_few_since = None
            return
        if self._excluded and not self.idle and not self.busy:
            raise next(reversed(self._excluded.values()))
        now = self.backend.now()
        if self._too_few_since is None:
            self._too_few_since = now
        if now - self._too_few_since >= self._no_workers_seconds:
            raise ResourceError(
                f"the cluster is lost: {len(self):,} of at least {needed:,} workers were there for"
                f" {self._no_workers_seconds:.0f} s. Start workers, or lower --min-workers, then"
                " resume with --resume auto."
            )


def setup_error(event: Event) -> BaseException | None:
    """Return why a worker could not open the run; None for any other event."""
    if isinstance(event, Failed) and isinstance(event.error, WorkerSetupError):
        return event.error.args[0]
    return None
