"""Read timeouts: every read is timed, and a thread whose read hangs is abandoned.

A thread cannot be ended from outside. So reads run on daemon threads, which do not keep the process
alive, and the thread that waits for a read checks the clock.
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
    """A read exceeded its timeout.

    Its span is never quarantined, since the cause is more likely the disk than the data.
    """


class Watch:
    """The reads in progress and their timeout. Thread-safe; a thread has one read at a time."""

    def __init__(self, timeout_seconds: float):
        self.timeout_seconds = timeout_seconds
        self._running: dict[int, tuple[float, Shard, Span]] = {}

    @contextmanager
    def reading(self, shard: Shard, span: Span) -> Iterator[None]:
        """Register one read for the duration of the context."""
        thread = threading.get_ident()
        self._running[thread] = time.monotonic(), shard, span
        try:
            yield
        finally:
            self._running.pop(thread, None)

    def check(self) -> None:
        """Raise ReadTimeout naming a read that has run longer than the timeout."""
        now = time.monotonic()
        for started, shard, span in list(self._running.values()):
            if now - started > self.timeout_seconds:
                raise ReadTimeout(
                    f"{shard.url}: reading rows {span.start:,} to {span.stop:,} has not ended"
                    f" within {self.timeout_seconds:g} s. Check the disk or the network, or raise"
                    " fetch.timeout_seconds."
                )


def read_with_timeout(watch: Watch, shard: Shard, span: Span, read: Callable[[], Result]) -> Result:
    """Call `read` on a separate thread and return its result.

    Raises what `read` raises, or ReadTimeout when the watch's timeout has passed.
    """
    with DaemonExecutor(1, "streamtrain-read") as executor:
        future = executor.submit(_watched, watch, shard, span, read)
        return wait_for(future, watch, executor)


def wait_for(future: Future[Result], watch: Watch, *executors: "DaemonExecutor") -> Result:
    """Return the future's result.

    Raises ReadTimeout when any read of `watch` exceeds its timeout; `executors` are then abandoned.
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
    """A thread pool of daemon threads, which can be shut down without waiting for them."""

    def __init__(self, num_threads: int, name: str):
        self._max_workers = num_threads  # dask reads this attribute
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{i}", daemon=True)
            for i in range(num_threads)
        ]
        self._abandoned = False
        self._closed = False
        self._lock = threading.Lock()
        for thread in self._threads:
            thread.start()

    def submit(
        self, function: Callable[..., Result], /, *args: Any, **kwargs: Any
    ) -> Future[Result]:
        """Schedule a call; see `concurrent.futures.Executor.submit`.

        Raises RuntimeError after `shutdown`: a thread that was abandoned with a hanging read would
        otherwise wait for threads that no longer exist.
        """
        future: Future[Result] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the executor was shut down")
            self._work.put((future, lambda: function(*args, **kwargs)))
        return future

    def abandon(self) -> None:
        """Do not wait for the threads in `shutdown`, because one of them hangs."""
        self._abandoned = True

    @property
    def abandoned(self) -> bool:
        """Whether `abandon` was called."""
        return self._abandoned

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse new calls and end the threads once the scheduled calls are done.

        Waits for them unless the executor was abandoned. `cancel_futures` is ignored.
        """
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
