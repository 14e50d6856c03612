"""Blocks in plan order, built ahead of time by Dask on threads.

The number of blocks in flight is bounded, and so is their memory. Windows are built in parallel,
each on its own one-thread executor. A window is a graph of two tasks per span and a last one:

```
decode 0 ─▶ deal 0 ─▶ decode 1 ─▶ deal 1 ─▶ … ─▶ permute
```

The chain of dependencies makes Dask run the deals in plan order, and keeps one decoded span per
window in memory. Tiny spans share tasks: a task takes 10 kB, more than a hundred rows. A window
that would be one task is built without Dask, whose scheduling takes a quarter of a
millisecond. There is no scheduler process and no open port.
"""

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from queue import SimpleQueue
from threading import Lock
from typing import Any, cast

import dask.threaded
import numpy as np
from dask.callbacks import Callback

from streamtrain.base.budget import Budget
from streamtrain.plan.order import cut_windows
from streamtrain.plan.plan import Window
from streamtrain.stream.block import Block, BufferPool
from streamtrain.stream.chains import Chains
from streamtrain.stream.read_timeout import DaemonExecutor, wait_for
from streamtrain.stream.source import Source
from streamtrain.stream.window import WindowBuild


@dataclass(slots=True)
class FetchStats:
    """Seconds and counts of the stages of a stream, summed over threads.

    Thread-safe through `add`.

    `decode_seconds` covers reading and decoding together, since the decoder pulls the bytes that it
    needs. `wait_seconds` is the time that the consumer waited for a block, and `consumer_seconds`
    the time that it spent between blocks. `read_bytes` and `read_seconds` are for object stores:
    the bytes received, and the duration of the requests; 0 for local files.
    """

    decode_seconds: float = 0.0
    deal_seconds: float = 0.0
    permute_seconds: float = 0.0
    wait_seconds: float = 0.0
    consumer_seconds: float = 0.0
    tasks: int = 0
    blocks: int = 0
    rows: int = 0
    read_bytes: int = 0
    read_seconds: float = 0.0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def add(self, **amounts: float) -> None:
        """Add to the fields named."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def __reduce__(self) -> tuple[type["FetchStats"], tuple[float, ...]]:
        """Travel between processes without the lock."""
        return FetchStats, tuple(self.to_json().values())

    def to_json(self) -> dict[str, float | int]:
        """Return the public fields by name."""
        names = [name for name in self.__dataclass_fields__ if not name.startswith("_")]
        return {name: getattr(self, name) for name in names}


#: At most TASK_SPANS spans share a task, with at most TASK_VALUES values between them.
TASK_VALUES, TASK_SPANS = 2**16, 64


def window_graph(build: WindowBuild, shares: Sequence[range]) -> tuple[dict[Any, Any], Any]:
    """Return the Dask graph of one window and the key of its block.

    The spans of each range of `shares` share a task. The key of every task starts with the kind of
    the task.
    """
    graph: dict[Any, Any] = {}
    last_deal: Any = None
    for i, spans in enumerate(shares):
        graph["decode", i] = (_decode, build, spans, last_deal)
        graph["deal", i] = (_deal, build, spans, ("decode", i))
        last_deal = ("deal", i)
    graph["permute", 0] = (_permute, build, last_deal)
    return graph, ("permute", 0)


def share_tasks(num_rows: Sequence[int], num_columns: int) -> Iterator[range]:
    """Yield the ranges of spans that share a task, given the rows of each span of a window.

    >>> list(share_tasks([40_000, 5_000, 5_000, 40_000], num_columns=5))
    [range(0, 1), range(1, 3), range(3, 4)]
    """
    edges = cut_windows(np.asarray(num_rows), TASK_VALUES // num_columns).tolist()
    for first, last in pairwise(edges):
        for start in range(first, last, TASK_SPANS):
            yield range(start, min(start + TASK_SPANS, last))


def fetch(
    windows: Iterator[Window], source: Source, budget: Budget, stats: FetchStats, pool: BufferPool
) -> Generator[Block, None, None]:
    """Yield the blocks of `windows`, in their order. Closing the generator ends its threads.

    At most `budget.windows` blocks exist at once, including the one that the consumer holds. The
    generator belongs to one thread.

    Raises the error of a failed read in place of its block, and ReadTimeout when a read takes
    longer than `source.watch` allows.
    """
    with closing(_WindowBuilder(source, budget, stats, pool)) as builder:
        for window in windows:
            builder.submit(window)
            if builder.is_full:
                yield from builder.next_block()
        while builder.has_pending:
            yield from builder.next_block()


class _WindowBuilder:
    """Builds windows on threads, and hands out their blocks in the order of submission.

    Belongs to one thread; `close` ends the threads that it started.
    """

    def __init__(self, source: Source, budget: Budget, stats: FetchStats, pool: BufferPool):
        self._source, self._pool, self._stats = source, pool, stats
        self._most_pending = budget.windows - 1  # the consumer holds one more
        self._pending: deque[Future[Block]] = deque()
        self._chains = Chains(source)
        traffic = source.readers.traffic
        self._counted_bytes, self._counted_seconds = traffic.read_bytes, traffic.read_seconds
        # A thread of `_builders` builds a window, and runs Dask's tasks on one of `_lanes`.
        self._builders = DaemonExecutor(budget.readers, "streamtrain-window")
        self._lanes = [
            DaemonExecutor(1, f"streamtrain-lane-{number}") for number in range(budget.readers)
        ]
        self._free_lanes: SimpleQueue[DaemonExecutor] = SimpleQueue()
        for lane in self._lanes:
            self._free_lanes.put(lane)

    @property
    def is_full(self) -> bool:
        """Whether a block must be taken before another window may be submitted."""
        return len(self._pending) >= self._most_pending

    @property
    def has_pending(self) -> bool:
        """Whether the block of a submitted window has not been taken."""
        return bool(self._pending)

    def submit(self, window: Window) -> None:
        """Start to build a window; call it in plan order."""
        self._chains.expect(window)
        self._pending.append(self._builders.submit(self._build, window))

    def next_block(self) -> Iterator[Block]:
        """Yield the block of the window that was submitted first, once it is built.

        Raises what its reads raised, and ReadTimeout when any read takes too long.
        """
        started = time.perf_counter()
        block = wait_for(self._pending[0], self._source.watch, self._builders, *self._lanes)
        self._pending.popleft()
        ready = time.perf_counter()
        self._count_traffic()
        self._stats.add(wait_seconds=ready - started, blocks=1, rows=len(block.rows))
        yield block
        del block  # before the next window is submitted, or the pool would hold one buffer too many
        self._stats.add(consumer_seconds=time.perf_counter() - ready)

    def close(self) -> None:
        """Drop the windows that were not taken, end the threads, and close their files.

        A thread that hangs in a read is left behind, with its files open.
        """
        self._chains.stop()  # or a window would wait for a slice that is not read any more
        for future in self._pending:
            future.cancel()
        self._pending.clear()
        try:
            self._end_threads()
        finally:
            if not self._builders.abandoned:
                self._chains.close()
            self._count_traffic()

    def _end_threads(self) -> None:
        try:
            self._builders.shutdown()  # first, since the window being built needs its lane
        finally:
            for lane in self._lanes:
                lane.shutdown()

    def _count_traffic(self) -> None:
        """Add to the statistics what was read from stores since the last call."""
        traffic = self._source.readers.traffic
        read_bytes, read_seconds = traffic.read_bytes, traffic.read_seconds
        self._stats.add(
            read_bytes=read_bytes - self._counted_bytes,
            read_seconds=read_seconds - self._counted_seconds,
        )
        self._counted_bytes, self._counted_seconds = read_bytes, read_seconds

    def _build(self, window: Window) -> Block:
        """Build a window on a thread of `_builders`."""
        build = WindowBuild(window, self._source, self._pool, self._chains)
        rows_of_spans = [span.num_rows for span in build.spans]
        shares = list(share_tasks(rows_of_spans, self._source.num_columns))
        if len(shares) == 1:
            return _build_whole(build, shares[0], self._stats)
        lane = self._free_lanes.get()
        try:
            graph, key = window_graph(build, shares)
            callbacks = [*Callback.active, _TaskClock(self._stats)._callback]
            return cast(Block, dask.threaded.get(graph, key, pool=lane, callbacks=callbacks))
        finally:
            self._free_lanes.put(lane)


class _TaskClock(Callback):
    """Adds the seconds of each task to the statistics.

    A window runs one task at a time, so the start and the end that it sees belong to one task.
    """

    def __init__(self, stats: FetchStats):
        super().__init__()
        self.stats = stats
        self.started = 0.0

    def _pretask(self, key, dsk, state):
        self.started = time.perf_counter()

    def _posttask(self, key, result, dsk, state, worker_id):
        seconds = time.perf_counter() - self.started
        self.stats.add(tasks=1, **{f"{key[0]}_seconds": seconds})


def _decode(build: WindowBuild, spans: range, last_deal: None) -> list:
    return [build.decode(i) for i in spans]


def _deal(build: WindowBuild, spans: range, decoded: list) -> None:
    for i, columns in zip(spans, decoded, strict=True):
        build.deal(i, columns)


def _build_whole(build: WindowBuild, spans: range, stats: FetchStats) -> Block:
    """Build a window on this thread; it counts as one task."""
    started = time.perf_counter()
    columns = _decode(build, spans, None)
    decoded = time.perf_counter()
    _deal(build, spans, columns)
    dealt = time.perf_counter()
    block = build.permute()
    stats.add(
        tasks=1,
        decode_seconds=decoded - started,
        deal_seconds=dealt - decoded,
        permute_seconds=time.perf_counter() - dealt,
    )
    return block


def _permute(build: WindowBuild, last_deal: None) -> Block:
    return build.permute()
