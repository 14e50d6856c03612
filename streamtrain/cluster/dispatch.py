"""The one loop of the driver: lease items to idle workers, take results, bring back what was lost with a worker."""

from collections.abc import Callable
from typing import Any

from streamtrain.cluster.fabric import Event, Fabric, Failed, Finished, Joined, Left
from streamtrain.cluster.leases import Lease, Leases
from streamtrain.errors import ResourceError, StreamTrainError

#: How long a cluster may have fewer workers than it needs, as `distributed.scheduler.no-workers-timeout`.
NO_WORKERS_SECONDS = 120.0


class Dispatcher:
    """Keeps count of a cluster's workers over any number of `run` calls. Owned by one thread.

    `min_workers`: nothing is leased while there are fewer, and after `no_workers_seconds` of that the cluster counts as lost.
    `interrupted` is asked between events; what it raises ends the run.
    """

    def __init__(
        self, fabric: Fabric, *, min_workers: int = 1, no_workers_seconds: float = NO_WORKERS_SECONDS, tell: Callable[[str], None] = lambda _: None,
        interrupted: Callable[[], None] = lambda: None, look_seconds: float | None = None,
    ):  # fmt: skip
        self.fabric, self.min_workers, self.interrupted = fabric, min_workers, interrupted
        self._no_workers_seconds, self._tell, self._look_seconds = no_workers_seconds, tell, look_seconds
        self._idle: dict[str, None] = {}  # in the order in which they became idle
        self._busy: dict[str, int] = {}
        self._hung: set[str] = set()
        self._alone_since: float | None = None
        self.messages = self.lost_workers = 0

    @property
    def workers(self) -> list[str]:
        """Those that are there now, and answer."""
        return [worker for worker in (*self._idle, *self._busy) if worker not in self._hung]

    def run(
        self, leases: Leases, payload: Callable[[Lease], Any], take: Callable[[Lease, Any], None], give_up: Callable[[Lease, str], None] | None = None,
        *, until: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        """Until every item is done or given up, or `until` says so: send `payload`s, and `take` the first result of each lease.

        `take` may add items. What is still out after `until` counts in the next `run` of the same leases. `give_up` is told of items whose tasks failed too often; without it that is a ResourceError.
        Raises what a task raised when it would raise that anywhere: a StreamTrainError that is not about memory or disk.
        """
        while len(leases) and not until():
            self.interrupted()
            self._lease(leases, payload)
            for event in self.fabric.wait(self._patience(leases)):
                self.messages += 1
                self._hear(event, leases, take, give_up)
            for lease in leases.overdue(self.fabric.now()):
                self._fail(leases, lease.number, "no answer in time", give_up)
                self._hung.add(lease.worker)  # until it answers or leaves
                self.fabric.recover(lease.worker)

    def wait_for_workers(self, count: int) -> None:
        """Until so many workers are there. Raises ResourceError when that takes too long."""
        while len(self._idle) + len(self._busy) - len(self._hung) < count:
            self.interrupted()
            self._check_workers(count)
            for event in self.fabric.wait(self._patience(None)):
                self._hear(event, None, None, None)
        self._alone_since = None

    def _lease(self, leases: Leases, payload: Callable[[Lease], Any]) -> None:
        self._check_workers(self.min_workers)
        if self._alone_since is not None:
            return
        while self._idle:
            worker = next(iter(self._idle))
            lease = leases.lease(worker, self.fabric.now())
            if lease is None:
                return
            del self._idle[worker]
            self._busy[worker] = lease.number
            self.messages += 1
            self.fabric.submit(lease.number, worker, payload(lease))

    def _hear(self, event: Event, leases: Leases | None, take: Callable | None, give_up: Callable | None) -> None:
        match event:
            case Joined(worker=worker):
                if worker not in self._busy:
                    self._idle[worker] = None
            case Left(worker=worker):
                self._idle.pop(worker, None)
                self._hung.discard(worker)
                self.lost_workers += 1
                if (number := self._busy.pop(worker, None)) is not None and leases is not None:
                    self._fail(leases, number, "the worker is gone", give_up)
            case Finished(number=number, worker=worker, result=result):
                self._free(worker, number)
                if leases is not None and (lease := leases.accept(number, self.fabric.now())) is not None:
                    take(lease, result)
            case Failed(number=number, worker=worker, error=error):
                self._free(worker, number)
                if isinstance(error, StreamTrainError) and not isinstance(error, ResourceError):
                    raise error
                if leases is not None:
                    self._fail(leases, number, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", give_up)

    def _free(self, worker: str, number: int) -> None:
        if self._busy.get(worker) == number:
            del self._busy[worker]
            self._hung.discard(worker)
            self._idle[worker] = None

    def _fail(self, leases: Leases, number: int, why: str, give_up: Callable[[Lease, str], None] | None) -> None:
        worker = leases.worker(number)
        if worker is None:
            return
        self._tell(f"{worker}: {why}; its work goes to another one")
        given_up = leases.fail(number, why)
        if given_up is None:
            return
        if give_up is None:
            raise ResourceError(f"a task failed on every worker that tried it, the last one {given_up.worker} ({why}). See the workers' logs.")
        give_up(given_up, why)

    def _patience(self, leases: Leases | None) -> float | None:
        """Seconds until something has to be looked at, when nothing is heard before."""
        now = self.fabric.now()
        looks = [] if self._look_seconds is None else [now + self._look_seconds]
        if leases is not None and (at := leases.next_look(now)) is not None:
            looks.append(at)
        if self._alone_since is not None:
            looks.append(self._alone_since + self._no_workers_seconds)
        return max(0.0, min(looks) - now) if looks else None

    def _check_workers(self, wanted: int) -> None:
        there = len(self._idle) + len(self._busy) - len(self._hung)
        if there >= wanted:
            self._alone_since = None
            return
        now = self.fabric.now()
        if self._alone_since is None:
            self._alone_since = now
        if now - self._alone_since >= self._no_workers_seconds:
            raise ResourceError(
                f"the cluster is lost: {there:,} of at least {wanted:,} workers were there for {self._no_workers_seconds:.0f} s."
                " Start workers, or lower --min-workers, then go on with --resume auto."
            )
