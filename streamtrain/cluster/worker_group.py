"""Workers that act together: one task for each of them at the same time, and all of it counts or
nothing does.

A worker is first made `ready`: it opens the run, which may compile for a minute, while those that
are ready go on without it.
"""

from collections import Counter
from collections.abc import Mapping
from itertools import count
from typing import Any

from streamtrain.cluster.allreduce.lane_work import Lost
from streamtrain.cluster.backend import Event, Failed, Finished, Left
from streamtrain.cluster.scheduling import Leases, raise_if_anywhere
from streamtrain.cluster.worker import Work, ready
from streamtrain.cluster.worker_pool import WorkerPool, unfit
from streamtrain.errors import ResourceError

#: A worker that failed so often is asked no more; so many groups in a row that came to nothing end
#: the run.
WORKER_ATTEMPTS, GROUP_ATTEMPTS = 3, 5

#: Beyond the time in which a collective notices that a peer is gone.
SLACK_SECONDS = 5.0


class Broken(Exception):
    """A member of the group is gone, failed, or was left by another one: what the rest did counts
    for nothing.
    """


class WorkerGroup:
    """Of a crew's workers, those that are ready.

    Its tasks are leases, so that failures count and late results do not.

    `notice_seconds`: within this, members notice that another one is gone.
    """

    def __init__(self, crew: WorkerPool, leases: Leases, *, notice_seconds: float):
        self._crew, self._leases, self._notice_seconds = crew, leases, notice_seconds
        self._ready: set[str] = set()
        self._failures: Counter[str] = Counter()
        self._opening: dict[int, str] = {}  # lease → worker that opens the run
        self._items: dict[int, int] = {}  # lease → item
        self._next_item = count()
        self._broken = 0

    @property
    def ready(self) -> list[str]:
        """Workers that can be given a task now."""
        return [worker for worker in self._crew.idle if worker in self._ready]

    def gather(self, most: int) -> list[str]:
        """Up to `most` ready workers: as soon as there are enough, and at first when all that are
        there are ready.

        Raises ResourceError when there are too few for too long, or when they cannot be made ready.
        """
        first = not self._ready
        while True:
            self._open_on_idle()
            found, needed = self.ready, self._crew.min_workers
            if len(found) >= needed and not (first and self._opening):
                return found[:most]
            barred = sum(self._failures[worker] >= WORKER_ATTEMPTS for worker in self._crew.idle)
            if barred and len(self._crew) - barred < needed:
                raise ResourceError(
                    f"{barred} of the cluster's workers cannot open the run: see the notes above,"
                    " and their logs."
                )
            self._hear(self._wait())

    def do(self, tasks: Mapping[str, tuple[Work, Any]]) -> dict[str, Any]:
        """What each worker's task gave, in the order of tasks.

        Raises Broken when it was not all of them, and ResourceError when that was once too often.
        """
        out = {self._send(worker, task): worker for worker, task in tasks.items()}
        results: dict[str, Any] = {}
        why, until = "", None
        while out:
            self._open_on_idle()
            for number, result, lost in self._hear(self._wait(until)):
                if (worker := out.pop(number, None)) is None:
                    continue
                if isinstance(result, Lost):
                    lost = f"left by a peer ({result.why})"
                results[worker] = result
                why = why or (f"{worker}: {lost}" if lost else "")
            now = self._crew.fabric.now()
            if why and until is None:
                until = now + self._notice_seconds + SLACK_SECONDS
            if until is not None and now >= until:
                for number, worker in out.items():
                    self._give_up(number, worker, "no answer, though its peers are gone")
                break
        if why:
            self._broken += 1
            self._crew.tell(f"{why}; its group of {len(tasks)} comes together again")
            if self._broken >= GROUP_ATTEMPTS:
                raise ResourceError(
                    f"{self._broken} groups of workers in a row came to nothing, the last one by"
                    f" {why}. See the workers' logs."
                )
            raise Broken(why)
        return {worker: results[worker] for worker in tasks}

    def succeeded(self) -> None:
        """What the group did was of use: failures in a row are counted anew."""
        self._broken = 0

    def disband(self) -> None:
        """Nothing more is wanted of it: what is still out counts no more."""
        for number in list(self._items):
            self._settle(number)
        self._opening.clear()

    def _open_on_idle(self) -> None:
        for worker in list(self._crew.idle):
            if worker not in self._ready and self._failures[worker] < WORKER_ATTEMPTS:
                self._opening[self._send(worker, (ready, None))] = worker

    def _send(self, worker: str, task: tuple[Work, Any]) -> int:
        item = next(self._next_item)
        self._leases.add(item, 1.0)
        lease = self._leases.lease(worker, self._crew.fabric.now())
        assert lease is not None
        assert lease.item == item
        self._items[lease.number] = item
        self._crew.send(lease.number, worker, task)
        return lease.number

    def _wait(self, until: float | None = None) -> list[Event]:
        return self._crew.wait([until, self._leases.next_look(self._crew.fabric.now())])

    def _hear(self, events: list[Event]) -> list[tuple[int, Any, str]]:
        """(lease, result, why it was lost) of tasks that ended, or are overdue; those that make a
        worker ready are dealt with here.
        """
        ended: list[tuple[int, Any, str]] = []
        for event in events:
            match event:
                case Left(worker=worker):
                    self._ready.discard(worker)
                    if (number := self._crew.take_away(worker)) in self._items:
                        self._fail(number, worker, "the worker is gone")
                        ended.append((number, None, "the worker is gone"))
                case Finished(number=number, worker=worker, result=result) if number in self._items:
                    # not accepted: what it took says nothing of other items' pace
                    self._settle(number)
                    if number in self._opening:
                        self._ready.add(worker)
                    ended.append((number, result, ""))
                case Failed(number=number) if unfit(event) is not None:
                    if number in self._items:
                        self._settle(number)
                        self._opening.pop(number, None)
                        ended.append((number, None, "it cannot open the run"))
                case Failed(number=number, worker=worker, error=error):
                    raise_if_anywhere(error)
                    if number in self._items:
                        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                        self._fail(number, worker, why)
                        ended.append((number, None, why))
        for lease in self._leases.overdue(self._crew.fabric.now()):
            self._give_up(lease.number, lease.worker, "no answer in time")
            ended.append((lease.number, None, "no answer in time"))
        for number, _, lost in ended:
            if (worker := self._opening.pop(number, None)) is not None and lost:
                self._crew.tell(f"{worker}: {lost}")
        return ended

    def _give_up(self, number: int, worker: str, why: str) -> None:
        self._fail(number, worker, why)
        self._crew.hang_up(worker)

    def _fail(self, number: int, worker: str, why: str) -> None:
        self._failures[worker] += 1
        self._ready.discard(worker)
        self._leases.fail(number, why)
        self._settle(number)

    def _settle(self, number: int) -> None:
        self._leases.withdraw(self._items.pop(number))
