"""The threads that compute: all learners of a pass share them, and no more than so many tasks run
at once.
"""

import heapq
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Self

import numpy as np

#: Bytes of a cache line, and of the widest vector: one that lies across two lines is read twice.
LINE = 64


def aligned_zeros(shape: tuple[int, ...]) -> np.ndarray:
    """float32 zeros, C-contiguous, whose first value begins a cache line."""
    count = math.prod(shape)
    space = np.zeros(count + LINE // 4, dtype=np.float32)
    begin = -space.ctypes.data % LINE // 4
    return space[begin : begin + count].reshape(shape)


class Workspace:
    """Scratch memory of one thread, used by whatever task runs there; it grows to the largest that
    was asked for.
    """

    def __init__(self) -> None:
        self._floats = np.empty(0, dtype=np.float32)

    def floats(self, count: int) -> np.ndarray:
        """float32 (count,) with any content, good until the task ends."""
        if len(self._floats) < count:
            self._floats = aligned_zeros((count,))
        return self._floats[:count]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Work for one thread.

    Costlier tasks start first (any unit, the same for all); a cost of 0 marks one that only lends a
    hand:

    it starts when nothing else waits, and is dropped when its batch's other tasks have ended before
    that.
    """

    cost: float
    work: Callable[[Workspace], None]


@dataclass(slots=True, eq=False)
class _Batch:
    """The tasks of one `run`: how many must still end, how many hands are at work, the first
    error.
    """

    required: int
    hands: int = 0
    error: BaseException | None = None
    ended: threading.Event = field(default_factory=threading.Event)


class OneThread:
    """The caller's own thread in place of `ComputePool`: what an engine computes on until it is
    given others.
    """

    threads = 1

    def __init__(self) -> None:
        self._workspace = Workspace()

    def run(self, tasks: Sequence[Task]) -> None:
        """Do all tasks in their order, but for those that only lend a hand."""
        for task in tasks:
            if task.cost > 0:
                task.work(self._workspace)


class ComputePool(AbstractContextManager):
    """`threads` threads, started on entering and ended on leaving; after that the caller's own
    computes.

    `run` may be called from several threads at once, but not from a task.
    """

    def __init__(self, threads: int):
        self.threads = threads
        # a heap: costliest first, then in order of arrival
        self._waiting: list[tuple[float, int, Task, _Batch]] = []
        self._arrivals, self._closed = 0, False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"streamtrain-core-{i}", daemon=True)
            for i in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def run(self, tasks: Sequence[Task]) -> None:
        """Do all tasks, and come back when they have ended; raises the first error that one of them
        raised.
        """
        batch = _Batch(required=sum(task.cost > 0 for task in tasks))
        if not batch.required:
            return
        if self._closed:
            OneThread().run(tasks)
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
                batch.hands += task.cost == 0
            error = None
            try:
                task.work(workspace)
            except BaseException as caught:
                error = caught
            with self._changed:
                batch.error = batch.error or error
                if task.cost == 0:
                    batch.hands -= 1
                else:
                    batch.required -= 1
                # hands that come too late are let go, and with them the block
                # that they refer to
                if not batch.required:
                    self._waiting = [
                        waiting for waiting in self._waiting if waiting[3] is not batch
                    ]
                    heapq.heapify(self._waiting)
                    if not batch.hands:
                        batch.ended.set()
            del task, batch, error
