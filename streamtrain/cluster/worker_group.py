"""Gang scheduling: run one task per worker at the same time; all succeed, or all are discarded.

A worker first opens the run, which may compile for a minute, while those that are ready carry on
without it.
"""

import math
from collections import Counter
from collections.abc import Mapping
from itertools import count
from typing import Any

from streamtrain.cluster.backend import Event, Failed, Finished, Left
from streamtrain.cluster.scheduling import Leases, describe_error, raise_if_fatal
from streamtrain.cluster.worker import PeerLost, Work, only_open
from streamtrain.cluster.worker_pool import WorkerPool, setup_error
from streamtrain.errors import ResourceError

#: A worker that failed this many times gets no more tasks.
WORKER_ATTEMPTS = 3

#: This many failed groups in a row end the run.
GROUP_ATTEMPTS = 5

#: Added to the time within which the members of a group notice that one of them is gone.
SLACK_SECONDS = 5.0


class GroupFailedError(Exception):
    """A member of the group left, failed, or lost a peer, so the results of all are discarded."""


class WorkerGroup:
    """The workers of a pool that have opened the run and can act together.

    Its tasks are leases, so that failures are counted and late results are discarded.
    `peer_timeout_seconds`: the longest time in which members notice that another one is gone.
    """

    def __init__(self, pool: WorkerPool, leases: Leases, *, peer_timeout_seconds: float):
        self._pool = pool
        self._leases = leases
        self._peer_timeout_seconds = peer_timeout_seconds
        self._ready: set[str] = set()
        self._failures: Counter[str] = Counter()
        self._opening: dict[int, str] = {}  # lease → worker that opens the run
        self._items: dict[int, int] = {}  # lease → item
        self._next_item = count()
        self._failed_in_a_row = 0

    @property
    def ready(self) -> list[str]:
        """The workers that can be given a task now."""
        return [worker for worker in self._pool.idle if worker in self._ready]

    def gather(self, max_workers: int) -> list[str]:
        """Return up to `max_workers` ready workers, once there are enough of them.

        The first call waits until every worker of the pool has opened the run. Raises ResourceError
        when there are too few workers for too long, or when they cannot open the run.
        """
        is_first_call = not self._ready
        needed = self._pool.min_workers
        while True:
            self._open_on_idle()
            ready = self.ready
            if len(ready) >= needed and not (is_first_call and self._opening):
                return ready[:max_workers]
            excluded = sum(self._failures[worker] >= WORKER_ATTEMPTS for worker in self._pool.idle)
            if excluded and len(self._pool) - excluded < needed:
                raise ResourceError(
                    f"{excluded} of the cluster's workers cannot open the run: see the notes above,"
                    " and their logs."
                )
            self._process(self._wait())

    def run(self, tasks: Mapping[str, tuple[Work, Any]]) -> dict[str, Any]:
        """Run one task per worker; return the results by worker, in the order of `tasks`.

        Raises GroupFailedError when one of them failed, and ResourceError when that happened too
        often in a row.
        """
        running = {self._send(worker, task): worker for worker, task in tasks.items()}
        results: dict[str, Any] = {}
        reason, deadline = "", math.inf
        while running:
            self._open_on_idle()
            limit = None if deadline == math.inf else deadline
            for number, result, failure in self._process(self._wait(limit)):
                if (worker := running.pop(number, None)) is None:
                    continue
                wait_seconds = self._peer_timeout_seconds
                if isinstance(result, PeerLost):
                    failure = f"lost a peer ({result.reason})"
                    # It has waited for all the others, and closed its connections to them.
                    wait_seconds = 0.0
                results[worker] = result
                if failure:
                    reason = reason or f"{worker}: {failure}"
                    now = self._pool.backend.now()
                    deadline = min(deadline, now + wait_seconds + SLACK_SECONDS)
            if self._pool.backend.now() >= deadline:
                for number, worker in running.items():
                    self._fail_hung(number, worker, "no answer, though its peers are gone")
                break
        if reason:
            self._failed_in_a_row += 1
            self._pool.notify(f"worker {reason}; its group of {len(tasks)} is formed again")
            if self._failed_in_a_row >= GROUP_ATTEMPTS:
                raise ResourceError(
                    f"{self._failed_in_a_row} groups of workers in a row failed, the last one"
                    f" because of {reason}. See the workers' logs."
                )
            raise GroupFailedError(reason)
        return {worker: results[worker] for worker in tasks}

    def reset_failures(self) -> None:
        """Reset the count of failed groups in a row, after one whose results were used."""
        self._failed_in_a_row = 0

    def disband(self) -> None:
        """Forget all tasks: results that still arrive are discarded."""
        for number in list(self._items):
            self._withdraw(number)
        self._opening.clear()

    def _open_on_idle(self) -> None:
        for worker in list(self._pool.idle):
            if worker not in self._ready and self._failures[worker] < WORKER_ATTEMPTS:
                self._opening[self._send(worker, (only_open, None))] = worker

    def _send(self, worker: str, task: tuple[Work, Any]) -> int:
        item = next(self._next_item)
        self._leases.add(item, 1.0)
        lease = self._leases.lease(worker, self._pool.backend.now())
        assert lease is not None
        assert lease.item == item
        self._items[lease.number] = item
        self._pool.send(lease.number, worker, task)
        return lease.number

    def _wait(self, deadline: float | None = None) -> list[Event]:
        return self._pool.wait([deadline, self._leases.next_check(self._pool.backend.now())])

    def _process(self, events: list[Event]) -> list[tuple[int, Any, str]]:
        """Return (lease, result, failure) of the tasks that ended or are overdue.

        Notifies of failed set-up tasks.
        """
        outcomes = [outcome for event in events if (outcome := self._outcome(event)) is not None]
        for lease in self._leases.overdue(self._pool.backend.now()):
            self._fail_hung(lease.number, lease.worker, "no answer in time")
            outcomes.append((lease.number, None, "no answer in time"))
        for number, _, failure in outcomes:
            worker = self._opening.pop(number, None)
            if worker is not None and failure:
                self._pool.notify(f"worker {worker}: {failure}")
        return outcomes

    def _outcome(self, event: Event) -> tuple[int, Any, str] | None:
        """Return (lease, result, failure) of the task that an event ended, or None.

        A worker whose set-up task succeeded becomes ready.
        """
        match event:
            case Left(worker=worker):
                self._ready.discard(worker)
                number = self._pool.take_task(worker)
                if number is None or number not in self._items:
                    return None
                self._fail(number, worker, "the worker is gone")
                return number, None, "the worker is gone"
            case Finished(number=number, worker=worker, result=result) if number in self._items:
                # Withdrawn, not accepted: set-up and group tasks must not enter the straggler
                # estimate.
                self._withdraw(number)
                if number in self._opening:
                    self._ready.add(worker)
                return number, result, ""
            case Failed(number=number) if setup_error(event) is not None:
                if number not in self._items:
                    return None
                self._withdraw(number)
                self._opening.pop(number, None)  # the pool has reported it
                return number, None, "it cannot open the run"
            case Failed(number=number, worker=worker, error=error):
                raise_if_fatal(error)
                if number not in self._items:
                    return None
                reason = describe_error(error)
                self._fail(number, worker, reason)
                return number, None, reason
        return None

    def _fail_hung(self, number: int, worker: str, reason: str) -> None:
        self._fail(number, worker, reason)
        self._pool.mark_hung(worker)

    def _fail(self, number: int, worker: str, reason: str) -> None:
        self._failures[worker] += 1
        self._ready.discard(worker)
        self._leases.fail(number, reason)
        self._withdraw(number)

    def _withdraw(self, number: int) -> None:
        self._leases.withdraw(self._items.pop(number))
