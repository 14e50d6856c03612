"""A read that hangs is found: every read is timed, and threads that never come back are left
behind.

A thread cannot be ended from outside. So reads run on daemon threads, which do not keep the process
alive, and whoever waits for one looks at the clock.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from queue import SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

from streamtrain.errors import DataError
from streamtrain.types import Shard, Span

Result = TypeVar("Result")


class ReadTimeout(DataError):
    """A read takes longer than it may.

    It is never quarantined: a span that hangs says more of the disk than of the data.
    """


class Watch:
    """The reads that are running now. Thread-safe: a thread has one read at a time."""

    def __init__(self, timeout_seconds: float):
        self.timeout_seconds = timeout_seconds
        self._running: dict[int, tuple[float, Shard, Span]] = {}

    @contextmanager
    def reading(self, shard: Shard, span: Span) -> Iterator[None]:
        """Around one read."""
        thread = threading.get_ident()
        self._running[thread] = time.monotonic(), shard, span
        try:
            yield
        finally:
            self._running.pop(thread, None)

    def check(self) -> None:
        """Raise ReadTimeout naming a read that has run longer than it may."""
        now = time.monotonic()
        for started, shard, span in list(self._running.values()):
            if now - started > self.timeout_seconds:
                raise ReadTimeout(
                    f"{shard.url}: reading rows {span.start:,} to {span.stop:,} has not ended"
                    f" within {self.timeout_seconds:g} s. Check the disk or the network, or raise"
                    " fetch.timeout_seconds."
                )


def read_within(watch: Watch, shard: Shard, span: Span, read: Callable[[], Result]) -> Result:
    """Call `read` on a thread of its own and wait for it as long as the watch allows.

    Raises what it raises, or ReadTimeout.
    """
    with DaemonExecutor(1, "streamtrain-read") as executor:
        future = executor.submit(_watched, watch, shard, span, read)
        return wait_for(future, watch, executor)


def wait_for(future: Future[Result], watch: Watch, *executors: "DaemonExecutor") -> Result:
    """The future's result.

    Raises ReadTimeout when a watched read takes too long; the executors are then left behind.
    """
    while True:
        try:
            return future.result(min(1.0, watch.timeout_seconds / 4))
        except TimeoutError:
            if future.done():
                return future.result()
            try:
                watch.check()
            except ReadTimeout:
                for executor in executors:
                    executor.abandon()
                raise


def _watched(watch: Watch, shard: Shard, span: Span, read: Callable[[], Result]) -> Result:
    with watch.reading(shard, span):
        return read()


class DaemonExecutor(Executor):
    """A thread pool whose threads do not keep the process alive, and which can be left without
    waiting for them.
    """

    def __init__(self, num_threads: int, name: str):
        self._max_workers = num_threads  # where dask looks
        self._work: SimpleQueue[tuple[Future, Callable[[], Any]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{i}", daemon=True)
            for i in range(num_threads)
        ]
        self._abandoned = self._closed = False
        self._lock = threading.Lock()
        for thread in self._threads:
            thread.start()

    def submit(
        self, function: Callable[..., Result], /, *args: Any, **kwargs: Any
    ) -> Future[Result]:
        """Raises RuntimeError after `shutdown`: who was left behind with a hanging read must not
        wait for threads that are gone.
        """
        future: Future[Result] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the executor was shut down")
            self._work.put((future, lambda: function(*args, **kwargs)))
        return future

    def abandon(self) -> None:
        """Do not wait for the threads at the end: one of them hangs."""
        self._abandoned = True

    @property
    def abandoned(self) -> bool:
        return self._abandoned

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            self._closed = True
            for _ in self._threads:
                self._work.put(None)
        if wait and not self._abandoned:
            for thread in self._threads:
                thread.join()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            future, call = item
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:
                    future.set_exception(error)
                    del error
                else:
                    future.set_result(result)
                    del result
            del item, future, call
