"""A thread pool for computing, shared by all learners of a pass.

A pool of `threads` threads runs at most that many tasks at once, whichever learners they belong to.
"""

import heapq
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from streamtrain.errors import ResourceError

#: Bytes per cache line, and per widest vector register. A vector that crosses the boundary of two
#: lines costs two reads, so arrays start on a boundary.
CACHE_LINE_BYTES = 64


def aligned_zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Return C-contiguous float32 zeros that start on a cache-line boundary."""
    count = math.prod(shape)
    space = np.zeros(count + CACHE_LINE_BYTES // 4, dtype=np.float32)
    first = -space.ctypes.data % CACHE_LINE_BYTES // 4
    return space[first : first + count].reshape(shape)


class Workspace:
    """Scratch memory of one thread, reused by each task that runs on it.

    It grows to the largest size requested.
    """

    def __init__(self) -> None:
        self._floats = np.empty(0, dtype=np.float32)

    def floats(self, count: int) -> np.ndarray:
        """Return float32 (count,) with arbitrary content, valid until the task ends."""
        if len(self._floats) < count:
            self._floats = aligned_zeros((count,))
        return self._floats[:count]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Work for one thread.

    Tasks of a higher `cost` start first; the unit is arbitrary, but the same for all tasks. A cost
    of 0 marks an optional helper task: it starts only when nothing else is queued, and is dropped
    if the other tasks of its batch end before it starts.
    """

    cost: float
    work: Callable[[Workspace], None]


@dataclass(slots=True, eq=False)
class _Batch:
    """The tasks of one `run` call: required tasks left, helpers running, the first error."""

    required: int
    helpers: int = 0
    error: BaseException | None = None
    ended: threading.Event = field(default_factory=threading.Event)


class CallerThread:
    """Runs tasks on the caller's thread, with the interface of `ComputePool`.

    Engines compute on it until they are given a pool.
    """

    threads = 1

    def __init__(self) -> None:
        self._workspace = Workspace()

    def run(self, tasks: Sequence[Task]) -> None:
        """Run the tasks in order, without the helper tasks."""
        for task in tasks:
            if task.cost > 0:
                task.work(self._workspace)


class ComputePool(AbstractContextManager):
    """A pool of `threads` threads, started on entering the context and stopped on leaving it.

    After that, `run` computes on the caller's thread. `run` may be called from several threads at
    once, but not from within a task. Entering raises ResourceError where the system has no more
    threads.
    """

    def __init__(self, threads: int):
        self.threads = threads
        # a heap: highest cost first, then in order of arrival
        self._waiting: list[tuple[float, int, Task, _Batch]] = []
        self._arrivals, self._closed = 0, False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"streamtrain-core-{i}", daemon=True)
            for i in range(threads)
        ]

    def __enter__(self) -> Self:
        started = self._threads
        for number, thread in enumerate(started):
            try:
                thread.start()
            except RuntimeError as error:  # Python's, for any limit of the system
                self._threads = started[:number]
                self.__exit__()
                raise ResourceError(
                    f"train.threads is {self.threads:,}, and the system starts no more than"
                    f" {number:,} threads. Give fewer."
                ) from error
        return self

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def run(self, tasks: Sequence[Task]) -> None:
        """Run tasks, and return when all have ended.

        Raises the first error that one of them raised.
        """
        batch = _Batch(required=sum(task.cost > 0 for task in tasks))
        if not batch.required:
            return
        if self._closed:
            CallerThread().run(tasks)
            return
        with self._changed:
            for task in tasks:
                self._arrivals += 1
                heapq.heappush(self._waiting, (-task.cost, self._arrivals, task, batch))
            self._changed.notify(len(tasks))
        batch.ended.wait()
        if batch.error is not None:
            raise batch.error

    def _work(self) -> None:
        workspace = Workspace()
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                task, batch = heapq.heappop(self._waiting)[2:]
                batch.helpers += task.cost == 0
            error = None
            try:
                task.work(workspace)
            except BaseException as caught:
                error = caught
            with self._changed:
                batch.error = batch.error or error
                if task.cost == 0:
                    batch.helpers -= 1
                else:
                    batch.required -= 1
                # Drop the helpers that have not started, and with them the block they refer to.
                if not batch.required:
                    self._waiting = [entry for entry in self._waiting if entry[3] is not batch]
                    heapq.heapify(self._waiting)
                    if not batch.helpers:
                        batch.ended.set()
            del task, batch, error
