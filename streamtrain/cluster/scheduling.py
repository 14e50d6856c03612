"""Leases: which item is in whose hands until when.

Every item comes back until a result is accepted, and only one ever is.

Pure bookkeeping: it knows no cluster and no clock but the one it is told. O(log n) for each call.

Work that any worker may do at any time: lease items to idle workers, take results, bring back
what was lost with a worker.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streamtrain.cluster.backend import Event, Failed, Finished, Left
from streamtrain.cluster.worker_pool import WorkerPool, unfit
from streamtrain.errors import ResourceError, StreamTrainError

#: An item that is out for so many times what such items take is leased a second time when a worker
#: stands idle, and the first result counts: backup tasks (Dean and Ghemawat, OSDI 2004, §3.6).
#: Never before so many seconds.
SLOW_FACTOR, SLOW_SECONDS, FADING = 4.0, 5.0, 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Item `item` is in the hands of `worker`.

    `number` is never used again: it tells late results from those that are waited for.
    """

    number: int
    item: int
    worker: str
    issued: float
    deadline: float
    cost: float


class Leases:
    """Items to be done, each by one worker at a time, the costliest first (Graham 1969: at most 4/3
    of the best makespan).

    `timeout_seconds`: a lease that is out for longer has failed. `max_failures`: of all leases
    together; None: any number. `max_attempts`: an item whose lease failed so often is given up. Not
    thread-safe.
    """

    def __init__(
        self, *, timeout_seconds: float, max_failures: int | None = None, max_attempts: int = 3
    ):
        self._timeout_seconds, self._max_failures, self._max_attempts = (
            timeout_seconds,
            max_failures,
            max_attempts,
        )
        self._pending: list[tuple[float, int]] = []
        self._costs: dict[int, float] = {}  # of the items that are neither done nor given up
        self._attempts: dict[int, int] = {}
        self._live: dict[int, Lease] = {}
        self._holders: dict[int, set[int]] = {}  # item → numbers of its live leases
        self._deadlines: list[tuple[float, int]] = []
        self._slow: list[tuple[float, int]] = []
        self._lately = (
            0.0,
            0.0,
            # seconds and cost of accepted leases, fading: an item of no cost has hardly a say
            # in their ratio
        )
        self.issued = self.failures = self.discarded = 0

    def __len__(self) -> int:
        """Items that are neither done nor given up."""
        return len(self._costs)

    @property
    def leased(self) -> int:
        return len(self._live)

    def add(self, item: int, cost: float) -> None:
        """One more item to be done; one that was done may come again."""
        assert item not in self._costs, item
        self._costs[item] = cost
        heapq.heappush(self._pending, (-cost, item))

    def lease(self, worker: str, now: float) -> Lease | None:
        """The next item for an idle worker: the costliest that waits, else one that is slow
        elsewhere; None when there is nothing to do.
        """
        item = self._next_pending()
        if item is None:
            item = self._next_slow(now)
        if item is None:
            return None
        cost = self._costs[item]
        lease = Lease(
            number=self.issued,
            item=item,
            worker=worker,
            issued=now,
            deadline=now + self._timeout_seconds,
            cost=cost,
        )
        self.issued += 1
        self._live[lease.number] = lease
        self._holders.setdefault(item, set()).add(lease.number)
        heapq.heappush(self._deadlines, (lease.deadline, lease.number))
        seconds, done = self._lately
        if done:
            heapq.heappush(
                self._slow,
                (now + max(SLOW_SECONDS, SLOW_FACTOR * seconds / done * cost), lease.number),
            )
        return lease

    def accept(self, number: int, now: float) -> Lease | None:
        """A result has come: the lease when it is the first of its item, which is then done.

        None for a late or second one.
        """
        lease = self._drop(number)
        if lease is None:
            self.discarded += 1
            return None
        self._lately = (
            FADING * self._lately[0] + now - lease.issued,
            FADING * self._lately[1] + lease.cost,
        )
        self._forget(lease.item)
        return lease

    def fail(self, number: int, why: str) -> Lease | None:
        """A lease has come to nothing.

        Its item waits again, or is given up: then the lease is returned, else None.

        Raises ResourceError when that was one failure too many.
        """
        lease = self._drop(number)
        if lease is None:
            return None
        self.failures += 1
        if self._max_failures is not None and self.failures > self._max_failures:
            raise ResourceError(
                f"{self.failures:,} tasks of the cluster failed, the last one on {lease.worker}"
                f" ({why}); --max-failures is {self._max_failures:,}. Mend the workers, then go on"
                " with --resume auto."
            )
        self._attempts[lease.item] = self._attempts.get(lease.item, 0) + 1
        if self._attempts[lease.item] >= self._max_attempts and not self._holders.get(lease.item):
            self._forget(lease.item)
            return lease
        if not self._holders.get(lease.item):
            heapq.heappush(self._pending, (-lease.cost, lease.item))
        return None

    def give_back(self, number: int) -> None:
        """A lease was never begun: its item waits again, and that counts as no failure."""
        lease = self._drop(number)
        if lease is not None and not self._holders.get(lease.item):
            heapq.heappush(self._pending, (-lease.cost, lease.item))

    def withdraw(self, item: int) -> None:
        """An item is not to be done after all; a late result of it will be discarded."""
        if item in self._costs:
            self._forget(item)

    def worker(self, number: int) -> str | None:
        """Who holds a lease; None when it no longer counts."""
        return self._live[number].worker if number in self._live else None

    def overdue(self, now: float) -> list[Lease]:
        """Leases beyond their deadline, which the caller lets fail."""
        found = []
        while self._deadlines and (
            self._deadlines[0][1] not in self._live or self._deadlines[0][0] <= now
        ):
            _, number = heapq.heappop(self._deadlines)
            if number in self._live:
                found.append(self._live[number])
        return found

    def next_look(self, now: float) -> float | None:
        """When something may be overdue, or slow enough for a second try.

        None while nothing is leased.
        """
        for heap in (self._deadlines, self._slow):
            while heap and heap[0][1] not in self._live:
                heapq.heappop(heap)
        times = [heap[0][0] for heap in (self._deadlines, self._slow) if heap and heap[0][0] > now]
        return min(times, default=None)

    def _next_pending(self) -> int | None:
        while self._pending:
            negative_cost, item = heapq.heappop(self._pending)
            if self._costs.get(item) == -negative_cost and not self._holders.get(item):
                return item
        return None

    def _next_slow(self, now: float) -> int | None:
        while self._slow and (self._slow[0][0] <= now or self._slow[0][1] not in self._live):
            _, number = heapq.heappop(self._slow)
            lease = self._live.get(number)
            if lease is not None and len(self._holders[lease.item]) == 1:
                return lease.item
        return None

    def _drop(self, number: int) -> Lease | None:
        lease = self._live.pop(number, None)
        if lease is not None:
            self._holders[lease.item].discard(number)
        return lease

    def _forget(self, item: int) -> None:
        """It is done or given up: no lease of it counts any more."""
        for number in list(self._holders.pop(item, ())):
            del self._live[number]
        del self._costs[item]
        self._attempts.pop(item, None)


Take = Callable[[Lease, Any], None]
GiveUp = Callable[[Lease, str], None]


def dispatch(
    crew: WorkerPool,
    leases: Leases,
    payload: Callable[[Lease], Any],
    take: Take,
    give_up: GiveUp | None = None,
    *,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Until every item is done or given up, or `until` says so: send `payload`s, and `take` the
    first result of each lease.

    `take` may add items. What is still out after `until` counts in the next call with the same
    leases. `give_up` is told of items whose tasks failed too often; without it that is a
    ResourceError. Raises what a task raised when it would raise that anywhere: a StreamTrainError
    that is not about memory or disk.
    """
    while len(leases) and not until():
        while crew.enough and crew.idle:
            worker = next(iter(crew.idle))
            lease = leases.lease(worker, crew.fabric.now())
            if lease is None:
                break
            crew.send(lease.number, worker, payload(lease))
        for event in crew.wait([leases.next_look(crew.fabric.now())]):
            _hear(event, crew, leases, take, give_up)
        for lease in leases.overdue(crew.fabric.now()):
            _fail(crew, leases, lease.number, "no answer in time", give_up)
            crew.hang_up(lease.worker)


def _hear(
    event: Event, crew: WorkerPool, leases: Leases, take: Take, give_up: GiveUp | None
) -> None:
    match event:
        case Left(worker=worker):
            if (number := crew.take_away(worker)) is not None:
                _fail(crew, leases, number, "the worker is gone", give_up)
        case Finished(number=number, result=result):
            if (lease := leases.accept(number, crew.fabric.now())) is not None:
                take(lease, result)
        case Failed(number=number) if unfit(event) is not None:
            leases.give_back(number)
        case Failed(number=number, error=error):
            raise_if_anywhere(error)
            _fail(
                crew,
                leases,
                number,
                f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
                give_up,
            )


def raise_if_anywhere(error: BaseException) -> None:
    """Raise what every worker would raise: a StreamTrainError that is not about one machine's
    memory or disk.
    """
    if isinstance(error, StreamTrainError) and not isinstance(error, ResourceError):
        raise error


def _fail(crew: WorkerPool, leases: Leases, number: int, why: str, give_up: GiveUp | None) -> None:
    worker = leases.worker(number)
    if worker is None:
        return
    crew.tell(f"{worker}: {why}; its work goes to another one")
    given_up = leases.fail(number, why)
    if given_up is None:
        return
    if give_up is None:
        raise ResourceError(
            f"a task failed on every worker that tried it, the last one {given_up.worker} ({why})."
            " See the workers' logs."
        )
    give_up(given_up, why)
