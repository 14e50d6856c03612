"""A simulated cluster: a clock that jumps from event to event, and workers of different speed.

Workers die, hang and are replaced. Everything follows from a seed, so a run of the driver against
them can be repeated to the last message.
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
    """How simulated workers behave. Seconds are simulated; 0 for a mean or a fraction means never.

    `rows_per_second` varies among workers by `spread` (sd of its logarithm). `failure_seconds`:
    mean life of a worker, which a new one replaces after `return_seconds`. `hang_share`: fraction
    of tasks that take `hang_seconds` longer. `error_share`: fraction of tasks that raise.
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

    `work` turns a payload into (rows, result): the rows that set how long a worker takes, and what
    it sends back.
    """

    def __init__(
        self,
        workers: int,
        model: WorkerModel,
        work: Callable[[Any], tuple[float, Any]],
        *,
        seed: int = 0,
    ):
        self._model = model
        self._work = work
        self._random = np.random.Generator(np.random.Philox(seed))
        self._events: list[tuple[float, int, Event]] = []  # (time, number of the event, event)
        self._clock = 0.0
        self._event_count = self._worker_count = 0
        self._alive: set[str] = set()
        self._speeds: dict[str, float] = {}  # rows per second
        self._tasks: dict[str, int] = {}  # worker → number of its lease
        for _ in range(workers):
            self._spawn(0.0)

    def now(self) -> float:
        """See `ClusterBackend.now`."""
        return self._clock

    def submit(self, number: int, worker: str, payload: Any) -> None:
        """See `ClusterBackend.submit`."""
        assert worker not in self._tasks, f"{worker} has a task already"
        if worker not in self._alive:
            return  # it died in the meantime: `Left` is coming, or has come
        self._tasks[worker] = number
        rows, result = self._work(payload)
        model = self._model
        chance = self._random.random()
        seconds = 2 * model.latency_seconds + rows / self._speeds[worker]
        if chance < model.hang_share:
            seconds += model.hang_seconds
        if chance > 1 - model.error_share:
            event = Failed(number=number, worker=worker, error=OSError("simulated"))
        else:
            event = Finished(number=number, worker=worker, result=result)
        self._push(self._clock + seconds, event)

    def wait(self, seconds: float | None) -> list[Event]:
        """See `ClusterBackend.wait`."""
        deadline = None if seconds is None else self._clock + seconds
        while self._events and (deadline is None or self._events[0][0] <= deadline):
            time, _, event = heapq.heappop(self._events)
            if isinstance(event, Left):
                self._remove(event.worker, time)
            elif isinstance(event, Joined):
                deviation = self._model.spread * self._random.standard_normal()
                speed = self._model.rows_per_second * float(np.exp(deviation))
                self._speeds[event.worker] = speed
            elif event.worker not in self._alive or self._tasks.get(event.worker) != event.number:
                continue  # the worker died before the task was done
            else:
                del self._tasks[event.worker]
            self._clock = max(self._clock, time)
            return [event]
        if deadline is None:
            raise ResourceError("the simulated cluster is lost: nothing will ever happen again.")
        self._clock = deadline
        return []

    def restart(self, worker: str) -> None:
        """See `ClusterBackend.restart`; simulated workers are not ours, and answer late."""

    def _spawn(self, time: float) -> None:
        """Add a worker that joins at `time`, and draw when it dies."""
        worker = f"worker-{self._worker_count:05d}"
        self._worker_count += 1
        self._alive.add(worker)
        self._push(time, Joined(worker=worker))
        if self._model.failure_seconds:
            life = self._random.exponential(self._model.failure_seconds)
            self._push(time + life, Left(worker=worker))

    def _remove(self, worker: str, time: float) -> None:
        self._tasks.pop(worker, None)
        self._alive.discard(worker)
        del self._speeds[worker]
        self._spawn(time + self._model.return_seconds)

    def _push(self, time: float, event: Event) -> None:
        self._event_count += 1
        heapq.heappush(self._events, (time, self._event_count, event))
