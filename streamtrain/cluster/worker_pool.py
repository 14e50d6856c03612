"""The workers of a cluster as the driver knows them: who is idle, who is at work, who does not
answer, and when there are too few.
"""

from collections.abc import Callable, Iterable
from typing import Any

from streamtrain.cluster.backend import ClusterBackend, Event, Failed, Finished, Joined, Left
from streamtrain.cluster.worker import Unfit
from streamtrain.errors import ResourceError, first_line

#: How long a cluster may have fewer workers than it needs, as
#: `distributed.scheduler.no-workers-timeout`.
NO_WORKERS_SECONDS = 120.0

#: How often the driver looks up from waiting: for Ctrl-C, and whether it is time to save.
LOOK_SECONDS = 0.5


class WorkerPool:
    """Keeps count of a fabric's workers. Owned by one thread.

    `min_workers`: after `no_workers_seconds` with fewer the cluster counts as lost. `look_seconds`:
    how often the driver looks up from waiting; `interrupted` is called then, and what it raises
    ends the run.
    """

    def __init__(
        self,
        fabric: ClusterBackend,
        *,
        min_workers: int = 1,
        no_workers_seconds: float = NO_WORKERS_SECONDS,
        tell: Callable[[str], None] = lambda _: None,
        look_seconds: float | None = None,
    ):
        self.fabric, self.min_workers, self.tell = fabric, min_workers, tell
        self.interrupted: Callable[[], None] = lambda: None
        self._no_workers_seconds, self._look_seconds = no_workers_seconds, look_seconds
        self.idle: dict[str, None] = {}  # in the order in which they became idle
        self.busy: dict[str, int] = {}
        self._hung: set[str] = set()
        # workers that cannot open the run, and why: they are given nothing more
        self._unfit: dict[str, BaseException] = {}
        self._alone_since: float | None = None
        self.messages = self.lost_workers = 0

    def __len__(self) -> int:
        """Workers that are there and answer."""
        return len(self.idle) + len(self.busy) - len(self._hung)

    def send(self, number: int, worker: str, payload: Any) -> None:
        """Give an idle worker a task."""
        del self.idle[worker]
        self.busy[worker] = number
        self.messages += 1
        self.fabric.submit(number, worker, payload)

    def hang_up(self, worker: str) -> None:
        """A worker does not answer: it does not count until it does, or leaves."""
        if worker in self.busy:
            self._hung.add(worker)
            self.fabric.recover(worker)

    def wait(self, times: Iterable[float | None] = (), *, wanted: int | None = None) -> list[Event]:
        """What happens next, with idle and busy workers brought up to date; nothing when the first
        of `times` came before.

        Raises ResourceError when there were too few workers for too long, and why the last one was
        unfit when all are.
        """
        self.interrupted()
        self._check(self.min_workers if wanted is None else wanted)
        now = self.fabric.now()
        looks = [time for time in times if time is not None]
        if self._look_seconds is not None:
            looks.append(now + self._look_seconds)
        if self._alone_since is not None:
            looks.append(self._alone_since + self._no_workers_seconds)
        return list(
            map(self._hear, self.fabric.wait(max(0.0, min(looks) - now) if looks else None))
        )

    def wait_for(self, count: int) -> None:
        """Until so many workers are there.

        Raises ResourceError when that takes too long. Whatever is out counts no more.
        """
        while len(self) < count:
            for event in self.wait(wanted=count):
                if isinstance(event, Left):
                    self.take_away(event.worker)
        self._alone_since = None

    @property
    def enough(self) -> bool:
        """Whether there are workers enough to go on."""
        return len(self) >= self.min_workers

    def _hear(self, event: Event) -> Event:
        self.messages += 1
        match event:
            case Joined(worker=worker):
                if worker not in self.busy:
                    self.idle[worker] = None
            case Left(worker=worker):
                self.idle.pop(worker, None)
                self._hung.discard(worker)
                self._unfit.pop(worker, None)
                self.lost_workers += 1
            case Finished(number=number, worker=worker) | Failed(number=number, worker=worker):
                if self.busy.get(worker) == number:
                    del self.busy[worker]
                    self._hung.discard(worker)
                    self.idle[worker] = None
                if (why := unfit(event)) is not None:
                    self.idle.pop(worker, None)
                    self._unfit[worker] = why
                    self.tell(f"{worker} is given nothing: {first_line(why)}")
        return event

    def take_away(self, worker: str) -> int | None:
        """The number of the task that a worker which left was at."""
        return self.busy.pop(worker, None)

    def _check(self, wanted: int) -> None:
        if len(self) >= wanted:
            self._alone_since = None
            return
        if self._unfit and not self.idle and not self.busy:
            raise next(reversed(self._unfit.values()))
        now = self.fabric.now()
        if self._alone_since is None:
            self._alone_since = now
        if now - self._alone_since >= self._no_workers_seconds:
            raise ResourceError(
                f"the cluster is lost: {len(self):,} of at least {wanted:,} workers were there for"
                f" {self._no_workers_seconds:.0f} s. Start workers, or lower --min-workers, then go"
                " on with --resume auto."
            )


def unfit(event: Event) -> BaseException | None:
    """Why a worker could not open the run; None when that is not what happened."""
    return (
        event.error.args[0]
        if isinstance(event, Failed) and isinstance(event.error, Unfit)
        else None
    )
