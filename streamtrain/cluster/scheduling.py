"""Task leases with deadlines, retries and speculative re-execution, and the loop that issues them.

An item is leased again until a result is accepted; later results are discarded. `Leases` is pure
bookkeeping: it knows nothing of the cluster, and takes the time as an argument. Each call takes
O(log n) time for n items. `dispatch` uses it for work that any worker can do at any time: it leases
items to idle workers, collects the results, and leases the items of lost workers again.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streamtrain.cluster.backend import Event, Failed, Finished, Left
from streamtrain.cluster.worker_pool import WorkerPool, setup_error
from streamtrain.errors import ResourceError, StreamTrainError

#: Backup tasks (Dean and Ghemawat, OSDI 2004, §3.6): when a worker is idle, an item whose lease has
#: taken this many times longer than expected is leased a second time, and the first result counts …
STRAGGLER_FACTOR = 4.0
#: … but never before this many seconds.
STRAGGLER_SECONDS = 5.0

#: Weight of earlier leases relative to the newest one, in the estimate of seconds per unit of cost.
EMA_DECAY = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Item `item` is assigned to `worker` until `deadline`.

    `number` is never reused, so that a late result cannot be mistaken for an expected one.
    """

    number: int
    item: int
    worker: str
    issued: float
    deadline: float
    cost: float


class Leases:
    """Items of work, of which the costliest are leased first. Not thread-safe.

    That order takes at most 4/3 of the best possible time (Graham 1969).

    Args:
        timeout_seconds: A lease that takes longer has failed.
        max_failures: The limit of failures over all leases; None: no limit.
        max_attempts: An item is given up when its leases have failed this many times.

    Attributes:
        issued: Leases given out so far.
        failures: Leases that have failed.
        discarded: Late or second results.
    """

    def __init__(
        self, *, timeout_seconds: float, max_failures: int | None = None, max_attempts: int = 3
    ):
        self._timeout_seconds = timeout_seconds
        self._max_failures = max_failures
        self._max_attempts = max_attempts
        self._pending: list[tuple[float, int]] = []  # (-cost, item)
        self._costs: dict[int, float] = {}  # of the items that are neither done nor given up
        self._attempts: dict[int, int] = {}
        self._live: dict[int, Lease] = {}
        self._holders: dict[int, set[int]] = {}  # item → numbers of its live leases
        self._deadlines: list[tuple[float, int]] = []  # (time, lease number)
        self._stragglers: list[tuple[float, int]] = []  # (time of a backup task, lease number)
        # Exponentially weighted sums over the accepted leases. Their ratio is the seconds per unit
        # of cost; an item of little cost has little weight in it.
        self._recent_seconds = self._recent_cost = 0.0
        self.issued = self.failures = self.discarded = 0

    def __len__(self) -> int:
        """Return the number of items that are neither done nor given up."""
        return len(self._costs)

    def add(self, item: int, cost: float) -> None:
        """Add an item; one that is done can be added again."""
        assert item not in self._costs, item
        self._costs[item] = cost
        heapq.heappush(self._pending, (-cost, item))

    def lease(self, worker: str, now: float) -> Lease | None:
        """Lease the next item to an idle worker; None when there is nothing to do.

        The next item is the costliest that waits, or else a straggler on another worker.
        """
        item = self._next_pending()
        if item is None:
            item = self._next_straggler(now)
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
        if self._recent_cost:
            expected_seconds = self._recent_seconds / self._recent_cost * cost
            backup_seconds = max(STRAGGLER_SECONDS, STRAGGLER_FACTOR * expected_seconds)
            heapq.heappush(self._stragglers, (now + backup_seconds, lease.number))
        return lease

    def accept(self, number: int, now: float) -> Lease | None:
        """Mark an item as done by its first result, and return the lease.

        Returns None for a late or second result, which is discarded.
        """
        lease = self._drop(number)
        if lease is None:
            self.discarded += 1
            return None
        self._recent_seconds = EMA_DECAY * self._recent_seconds + now - lease.issued
        self._recent_cost = EMA_DECAY * self._recent_cost + lease.cost
        self._forget(lease.item)
        return lease

    def fail(self, number: int, reason: str) -> Lease | None:
        """Count a failed lease: its item waits again, or is given up.

        Returns the lease of an item that is given up, else None. Raises ResourceError when
        `max_failures` is exceeded.
        """
        lease = self._drop(number)
        if lease is None:
            return None
        self.failures += 1
        if self._max_failures is not None and self.failures > self._max_failures:
            raise ResourceError(
                f"{self.failures:,} tasks of the cluster failed, the last one on {lease.worker}"
                f" ({reason}); --max-failures is {self._max_failures:,}. Repair the workers, then"
                " resume with --resume auto."
            )
        self._attempts[lease.item] = self._attempts.get(lease.item, 0) + 1
        if self._holders.get(lease.item):
            return None  # a backup task is still running
        if self._attempts[lease.item] >= self._max_attempts:
            self._forget(lease.item)
            return lease
        heapq.heappush(self._pending, (-lease.cost, lease.item))
        return None

    def give_back(self, number: int) -> None:
        """Cancel a lease whose task never started: its item waits again, without a failure."""
        lease = self._drop(number)
        if lease is not None and not self._holders.get(lease.item):
            heapq.heappush(self._pending, (-lease.cost, lease.item))

    def withdraw(self, item: int) -> None:
        """Remove an item that is no longer needed; a late result will be discarded."""
        if item in self._costs:
            self._forget(item)

    def worker(self, number: int) -> str | None:
        """Return the worker that holds a lease; None when the lease no longer counts."""
        return self._live[number].worker if number in self._live else None

    def overdue(self, now: float) -> list[Lease]:
        """Return the leases past their deadline, each once; the caller calls `fail` on them."""
        leases = []
        while self._deadlines and (
            self._deadlines[0][1] not in self._live or self._deadlines[0][0] <= now
        ):
            _, number = heapq.heappop(self._deadlines)
            if number in self._live:
                leases.append(self._live[number])
        return leases

    def next_check(self, now: float) -> float | None:
        """Return the next time at which a lease may be overdue or a straggler.

        None while nothing is leased.
        """
        heaps = (self._deadlines, self._stragglers)
        for heap in heaps:
            while heap and heap[0][1] not in self._live:
                heapq.heappop(heap)
        return min((heap[0][0] for heap in heaps if heap and heap[0][0] > now), default=None)

    def _next_pending(self) -> int | None:
        while self._pending:
            negative_cost, item = heapq.heappop(self._pending)
            if self._costs.get(item) == -negative_cost and not self._holders.get(item):
                return item
        return None

    def _next_straggler(self, now: float) -> int | None:
        stragglers = self._stragglers
        while stragglers and (stragglers[0][0] <= now or stragglers[0][1] not in self._live):
            _, number = heapq.heappop(stragglers)
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
        """Remove an item that is done or given up: none of its leases count any more."""
        for number in list(self._holders.pop(item, ())):
            del self._live[number]
        del self._costs[item]
        self._attempts.pop(item, None)


Take = Callable[[Lease, Any], None]
GiveUp = Callable[[Lease, str], None]


def dispatch(
    pool: WorkerPool,
    leases: Leases,
    make_payload: Callable[[Lease], Any],
    take: Take,
    give_up: GiveUp | None = None,
) -> None:
    """Lease items to idle workers, and `take` the first result of each, until every item is done.

    `take` may add items. `give_up` is called for items whose leases failed too often; without it
    such an item raises ResourceError. Raises the errors that every worker would raise: a
    StreamTrainError that is not about memory or disk.
    """
    while len(leases):
        while pool.has_enough and pool.idle:
            worker = next(iter(pool.idle))
            lease = leases.lease(worker, pool.backend.now())
            if lease is None:
                break
            pool.send(lease.number, worker, make_payload(lease))
        for event in pool.wait([leases.next_check(pool.backend.now())]):
            _process(event, pool, leases, take, give_up)
        for lease in leases.overdue(pool.backend.now()):
            _fail(pool, leases, lease.number, "no answer in time", give_up)
            pool.mark_hung(lease.worker)


def _process(
    event: Event, pool: WorkerPool, leases: Leases, take: Take, give_up: GiveUp | None
) -> None:
    match event:
        case Left(worker=worker):
            if (number := pool.take_task(worker)) is not None:
                _fail(pool, leases, number, "the worker is gone", give_up)
        case Finished(number=number, result=result):
            if (lease := leases.accept(number, pool.backend.now())) is not None:
                take(lease, result)
        case Failed(number=number) if setup_error(event) is not None:
            leases.give_back(number)
        case Failed(number=number, error=error):
            raise_if_fatal(error)
            _fail(pool, leases, number, describe_error(error), give_up)


def raise_if_fatal(error: BaseException) -> None:
    """Raise an error that every worker would raise.

    That is a StreamTrainError that is not about one machine's memory or disk.
    """
    if isinstance(error, StreamTrainError) and not isinstance(error, ResourceError):
        raise error


def describe_error(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _fail(
    pool: WorkerPool, leases: Leases, number: int, reason: str, give_up: GiveUp | None
) -> None:
    worker = leases.worker(number)
    if worker is None:
        return
    pool.notify(f"worker {worker}: {reason}; its work goes to another worker")
    given_up = leases.fail(number, reason)
    if given_up is None:
        return
    if give_up is None:
        raise ResourceError(
            "a task failed on every worker that tried it, the last time on"
            f" {given_up.worker} ({reason}). See the workers' logs."
        )
    give_up(given_up, reason)
