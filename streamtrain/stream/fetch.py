"""Blocks in plan order, built ahead of use by Dask on threads; bounded in number, so in bytes.

Each window is a graph of two tasks a span and one more, on a one-thread pool of its own; windows
are built in parallel:

```
decode 0 ─▶ deal 0 ─▶ decode 1 ─▶ deal 1 ─▶ … ─▶ permute
```
The chain of dependencies makes
Dask run the deals in plan order, and keeps one decoded span in memory a window. Tiny spans share
tasks: a task takes 10 kB, which is more than a hundred rows do. There is no scheduler process and
no open port.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from queue import SimpleQueue
from threading import Lock
from typing import Any

import dask.threaded
import numpy as np
from dask.callbacks import Callback

from streamtrain.base.budget import Budget
from streamtrain.plan.order import cut_windows
from streamtrain.plan.plan import Window
from streamtrain.stream.block import Block, BufferPool
from streamtrain.stream.chains import Chains
from streamtrain.stream.read_timeout import DaemonExecutor, Watch, wait_for
from streamtrain.stream.source import Source
from streamtrain.stream.window import WindowBuild


@dataclass(slots=True)
class FetchStats:
    """Seconds and counts of the parts of a stream, added up over threads.

    Thread-safe through `add`.

    `decode` is reading and decoding together: the decoder pulls the bytes it needs. `wait_seconds`
    is what the consumer waited for a block; `consumer_seconds` is what it spent between blocks.
    `read_bytes` and `read_seconds` are of object stores: what came, and how long the requests took;
    0 for local files.
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
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def to_json(self) -> dict[str, float | int]:
        names = [name for name in self.__dataclass_fields__ if not name.startswith("_")]
        return {name: getattr(self, name) for name in names}


#: Spans that share a task hold at most so many values, and are at most so many.
TASK_VALUES, TASK_SPANS = 2**16, 64


def window_graph(build: WindowBuild) -> tuple[dict[Any, Any], Any]:
    """The Dask graph of one window and the key of its block; every task's key starts with its
    kind.
    """
    graph: dict[Any, Any] = {}
    done: Any = None
    for i, spans in enumerate(
        share_tasks([span.num_rows for span in build.spans], build.source.num_columns)
    ):
        graph["decode", i] = (_decode, build, spans, done)
        graph["deal", i] = (_deal, build, spans, ("decode", i))
        done = ("deal", i)
    graph["permute", 0] = (_permute, build, done)
    return graph, ("permute", 0)


def share_tasks(num_rows: Sequence[int], num_columns: int) -> Iterator[range]:
    """Which spans of a window go together through a task, given their rows.

    >>> list(share_tasks([40_000, 5_000, 5_000, 40_000], num_columns=5))
    [range(0, 1), range(1, 3), range(3, 4)]
    """
    edges = cut_windows(np.asarray(num_rows), TASK_VALUES // num_columns).tolist()
    for first, last in pairwise(edges):
        for begin in range(first, last, TASK_SPANS):
            yield range(begin, min(begin + TASK_SPANS, last))


def fetch(
    windows: Iterator[Window], source: Source, budget: Budget, stats: FetchStats, pool: BufferPool
) -> Iterator[Block]:
    """Blocks of `windows`, in their order. Closing the iterator ends its threads.

    At most `budget.windows` blocks exist at once, the one in the consumer's hands included. Errors
    of a read are raised where its block would have come, ReadTimeout when one takes longer than
    `source.watch` allows. The iterator itself belongs to one thread.
    """
    with ExitStack() as stack:
        chains, tell_traffic = Chains(source), _traffic_teller(source, stats)
        stack.callback(tell_traffic)  # entered first, left last
        builders = DaemonExecutor(budget.readers, "streamtrain-window")
        # then this: no thread reads by then
        stack.callback(lambda: None if builders.abandoned else chains.close())
        pools = [
            DaemonExecutor(1, f"streamtrain-lane-{number}") for number in range(budget.readers)
        ]
        lanes: SimpleQueue[DaemonExecutor] = SimpleQueue()
        for lane in pools:
            lanes.put(stack.enter_context(lane))
        stack.enter_context(builders)
        waiting: deque[Future[Block]] = deque()
        take = partial(_take, waiting, stats, source.watch, builders, *pools)
        stack.callback(_cancel, waiting)
        stack.callback(chains.stop)
        for window in windows:
            tell_traffic()
            chains.expect(window)
            waiting.append(builders.submit(_build, window, source, chains, pool, lanes, stats))
            if len(waiting) >= budget.windows - 1:
                yield from take()
        while waiting:
            yield from take()
            tell_traffic()


def _traffic_teller(source: Source, stats: FetchStats) -> Callable[[], None]:
    """What adds to `stats` the traffic since it was called last."""
    traffic = source.readers.traffic
    told = traffic.read_bytes, traffic.read_seconds

    def tell() -> None:
        nonlocal told
        now = traffic.read_bytes, traffic.read_seconds
        stats.add(read_bytes=now[0] - told[0], read_seconds=now[1] - told[1])
        told = now

    return tell


def _take(
    waiting: deque[Future[Block]], stats: FetchStats, watch: Watch, *pools: DaemonExecutor
) -> Iterator[Block]:
    started = time.perf_counter()
    block = wait_for(waiting[0], watch, *pools)
    waiting.popleft()
    ready = time.perf_counter()
    stats.add(wait_seconds=ready - started, blocks=1, rows=len(block.rows))
    yield block
    del block  # before the next window is submitted, or the pool would hold one buffer too many
    stats.add(consumer_seconds=time.perf_counter() - ready)


def _cancel(waiting: deque[Future[Block]]) -> None:
    for future in waiting:
        future.cancel()
    waiting.clear()


def _build(
    window: Window,
    source: Source,
    chains: Chains,
    pool: BufferPool,
    lanes: SimpleQueue,
    stats: FetchStats,
) -> Block:
    lane = lanes.get()
    try:
        graph, key = window_graph(WindowBuild(window, source, pool, chains))
        callbacks = [*Callback.active, _TaskClock(stats)._callback]
        return dask.threaded.get(graph, key, pool=lane, callbacks=callbacks)
    finally:
        lanes.put(lane)


class _TaskClock(Callback):
    """Adds each task's seconds to the statistics.

    One window runs one task at a time, so start and end are its own.
    """

    def __init__(self, stats: FetchStats):
        super().__init__()
        self.stats = stats
        self.started = 0.0

    def _pretask(self, key, dsk, state):
        self.started = time.perf_counter()

    def _posttask(self, key, result, dsk, state, worker_id):
        self.stats.add(**{f"{key[0]}_seconds": time.perf_counter() - self.started, "tasks": 1})


def _decode(build: WindowBuild, spans: range, done: None) -> list:
    return [build.decode(i) for i in spans]


def _deal(build: WindowBuild, spans: range, decoded: list) -> None:
    for i, columns in zip(spans, decoded, strict=True):
        build.deal(i, columns)


def _permute(build: WindowBuild, done: None) -> Block:
    return build.permute()
