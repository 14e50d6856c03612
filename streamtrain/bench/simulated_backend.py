"""Simulated workers of different speed that die, hang and come back, on an event-driven clock.

Everything follows from a seed, so a run of the driver against them can be repeated message by
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
    """How simulated workers behave. Seconds are simulated; a rate of 0 means never.

    Attributes:
        rows_per_second: The median speed of a worker.
        spread: The standard deviation of the logarithm of the speed.
        latency_seconds: The time of one message.
        failure_seconds: The mean life of a worker.
        return_seconds: The time until a new worker replaces a dead one.
        hang_share: The fraction of tasks that hang.
        hang_seconds: The extra time of a task that hangs.
        error_share: The fraction of tasks that raise.
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
    """A `ClusterBackend` of simulated workers.

    `work` maps a payload to (rows, result): the rows that a worker would process, and the result
    that it would send back.
    """

    def __init__(
        self,
        workers: int,
        model: WorkerModel,
        work: Callable[[Any], tuple[float, Any]],
        *,
        seed: int = 0,
    ):
        self._model, self._work = model, work
        self._random = np.random.Generator(np.random.Philox(seed))
        #: A heap of (time, serial number, event).
        self._events: list[tuple[float, int, Event]] = []
        self._clock = 0.0
        self._num_events = 0
        self._num_workers = 0
        self._death_times: dict[str, float] = {}
        self._speeds: dict[str, float] = {}
        self._doing: dict[str, int] = {}
        for _ in range(workers):
            self._spawn(0.0)

    def now(self) -> float:
        """See `ClusterBackend.now`."""
        return self._clock

    def submit(self, number: int, worker: str, payload: Any) -> None:
        """See `ClusterBackend.submit`."""
        assert worker not in self._doing, f"{worker} has a task already"
        if worker not in self._death_times:
            return  # it died meanwhile: `Left` will come, or has come
        self._doing[worker] = number
        rows, result = self._work(payload)
        model, chance = self._model, self._random.random()
        seconds = 2 * model.latency_seconds + rows / self._speeds[worker]
        if chance < model.hang_share:
            seconds += model.hang_seconds
        event: Event = Finished(number=number, worker=worker, result=result)
        if chance > 1 - model.error_share:
            event = Failed(number=number, worker=worker, error=OSError("simulated"))
        self._push(self._clock + seconds, event)

    def wait(self, seconds: float | None) -> list[Event]:
        """See `ClusterBackend.wait`."""
        until = None if seconds is None else self._clock + seconds
        while self._events and (until is None or self._events[0][0] <= until):
            event_time, _, event = heapq.heappop(self._events)
            if isinstance(event, Left):
                self._die(event.worker, event_time)
            elif isinstance(event, Joined):
                factor = float(np.exp(self._model.spread * self._random.standard_normal()))
                self._speeds[event.worker] = self._model.rows_per_second * factor
            elif self._doing.get(event.worker) != event.number:
                continue  # the worker died before it was done
            else:
                del self._doing[event.worker]
            self._clock = max(self._clock, event_time)
            return [event]
        if until is None:
            raise ResourceError("the simulated cluster is lost: no event is left.")
        self._clock = until
        return []

    def recover(self, worker: str) -> None:
        """See `ClusterBackend.recover`: simulated workers are not restarted; they answer late."""

    def _spawn(self, now: float) -> None:
        worker = f"worker-{self._num_workers:05d}"
        self._num_workers += 1
        life = float("inf")
        if self._model.failure_seconds:
            life = self._random.exponential(self._model.failure_seconds)
        self._death_times[worker] = now + life
        self._push(now, Joined(worker=worker))
        if life < float("inf"):
            self._push(now + life, Left(worker=worker))

    def _die(self, worker: str, now: float) -> None:
        self._doing.pop(worker, None)
        del self._death_times[worker], self._speeds[worker]
        self._spawn(now + self._model.return_seconds)

    def _push(self, event_time: float, event: Event) -> None:
        self._num_events += 1
        heapq.heappush(self._events, (event_time, self._num_events, event))
