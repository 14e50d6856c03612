"""Simulated workers: a clock that jumps from event to event, workers of different speed that die,
hang and come back.

Everything follows from a seed, so a run of the driver against them can be repeated to the last
message.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamtrain.cluster.backend import Event, Failed, Finished, Joined, Left
from streamtrain.errors import ResourceError


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerModel:
    """Of simulated workers. Seconds are simulated; a rate of 0 means never.

    `rows_per_second` varies among workers by `spread` (sd of its logarithm). `failure_seconds`:
    mean life of a worker, which a new one replaces after `return_seconds`. `hang_share`: of tasks,
    which take `hang_seconds` longer. `error_share`: of tasks, which raise.
    """

    rows_per_second: float = 5e6
    spread: float = 0.2
    latency_seconds: float = 1e-3
    failure_seconds: float = 0.0
    return_seconds: float = 60.0
    hang_share: float = 0.0
    hang_seconds: float = 1800.0
    error_share: float = 0.0


class SimulatedBackend:
    """See `ClusterBackend`.

    `work` turns a payload into (rows, result): what a worker would have taken, and what it would
    have sent back.
    """

    def __init__(
        self,
        workers: int,
        habits: WorkerModel,
        work: Callable[[Any], tuple[float, Any]],
        *,
        seed: int = 0,
    ):
        self._habits, self._work = habits, work
        self._random = np.random.Generator(np.random.Philox(seed))
        self._events: list[tuple[float, int, Event]] = []
        self._clock, self._sent, self._born = 0.0, 0, 0
        self._dies: dict[str, float] = {}
        self._speeds: dict[str, float] = {}
        self._doing: dict[str, int] = {}
        for _ in range(workers):
            self._be_born(0.0)

    def now(self) -> float:
        """See `ClusterBackend.now`."""
        return self._clock

    def submit(self, number: int, worker: str, payload: Any) -> None:
        """See `ClusterBackend.submit`."""
        assert worker not in self._doing, f"{worker} has a task already"
        if worker not in self._dies:
            return  # it died on the way: `Left` is coming, or has come
        self._doing[worker] = number
        rows, result = self._work(payload)
        habits, chance = self._habits, self._random.random()
        seconds = (
            2 * habits.latency_seconds
            + rows / self._speeds[worker]
            + (habits.hang_seconds if chance < habits.hang_share else 0)
        )
        if chance > 1 - habits.error_share:
            self._push(
                self._clock + seconds,
                Failed(number=number, worker=worker, error=OSError("simulated")),
            )
        else:
            self._push(self._clock + seconds, Finished(number=number, worker=worker, result=result))

    def wait(self, seconds: float | None) -> list[Event]:
        """See `ClusterBackend.wait`."""
        until = None if seconds is None else self._clock + seconds
        while self._events and (until is None or self._events[0][0] <= until):
            at, _, event = heapq.heappop(self._events)
            if isinstance(event, Left):
                self._die(event.worker, at)
            elif isinstance(event, Joined):
                self._speeds[event.worker] = self._habits.rows_per_second * float(
                    np.exp(self._habits.spread * self._random.standard_normal())
                )
            elif event.worker not in self._dies or self._doing.get(event.worker) != event.number:
                continue  # the worker died before it was done
            else:
                del self._doing[event.worker]
            self._clock = max(self._clock, at)
            return [event]
        if until is None:
            raise ResourceError("the simulated cluster is lost: nothing will ever happen again.")
        self._clock = until
        return []

    def recover(self, worker: str) -> None:
        """See `ClusterBackend.recover`: nobody starts it anew; it answers late."""

    def _be_born(self, at: float) -> None:
        worker = f"worker-{self._born:05d}"
        self._born += 1
        life = (
            self._random.exponential(self._habits.failure_seconds)
            if self._habits.failure_seconds
            else float("inf")
        )
        self._dies[worker] = at + life
        self._push(at, Joined(worker=worker))
        if life < float("inf"):
            self._push(at + life, Left(worker=worker))

    def _die(self, worker: str, at: float) -> None:
        self._doing.pop(worker, None)
        del self._dies[worker], self._speeds[worker]
        self._be_born(at + self._habits.return_seconds)

    def _push(self, at: float, event: Event) -> None:
        self._sent += 1
        heapq.heappush(self._events, (at, self._sent, event))
