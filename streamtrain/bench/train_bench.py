"""`streamtrain bench train`: the same learner fed from shards and from a block in memory: what the
loader costs a run.

Streaming is in full flow: an open stream of epoch after epoch, whose stock of blocks is used up
before a region is timed.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np

from streamtrain.base.budget import default_readers
from streamtrain.bench.stream_bench import take_turns
from streamtrain.config import Config
from streamtrain.errors import ConfigError
from streamtrain.run.prepare import TIMED_ROWS, Prepared, prepare, warm_up
from streamtrain.science.intervals import measure, paired_ratio
from streamtrain.stream.block import Block
from streamtrain.stream.fetch import FetchStats
from streamtrain.training.compute_pool import ComputePool
from streamtrain.training.engine import Engine
from streamtrain.training.fused_engine import one_blas_thread
from streamtrain.types import Json

REPEATS = 5

#: A timed region takes at least this long, and two blocks.
REGION_SECONDS = 1.0


class Stream:
    """Blocks without end, of all the epochs that are asked for."""

    def __init__(self, prepared: Prepared):
        self.windows = prepared.budget.windows
        self._blocks: Iterator[Block] = prepared.blocks(0, FetchStats())

    def use_up(self, engine: Engine | None) -> None:
        """Take what is ready, and as much again: what comes then was read while the caller
        worked.
        """
        for _ in range(2 * self.windows):
            self.feed(engine)

    def rate(self, engine: Engine, rows: int) -> float:
        """Rows a second of a learner on the next rows."""
        started, done = time.perf_counter(), 0
        while done < rows:
            done += self.feed(engine)
        return done / (time.perf_counter() - started)

    def feed(self, engine: Engine | None) -> int:
        """Hand the next block to a learner, or to nobody; returns its rows."""
        rows = self.next_rows()
        if engine is not None:
            engine.advance(rows, 0, len(rows))
        return len(rows)

    def next_rows(self) -> np.ndarray:
        """The rows of the next block that has any."""
        return next(block.rows for block in self._blocks if len(block.rows))

    def close(self) -> None:
        self._blocks.close()


def measure_train(config: Config, *, repeats: int = REPEATS) -> Json:
    """Time a learner at each of `config.sweep.batch_sizes`, fed from `config.data.path` and from a
    block in memory.

    Rates are rows a second. On one thread and on all for the fused engine; readers are those of a
    run. `bound` is the share of the resident rate that is left when step and delivery share the
    cores: in core-nanoseconds a row, cores over threads times step over step plus delivery, at most
    1. Raises ConfigError for fewer than one repeat, and what `prepare` raises.
    """
    if repeats < 1:
        raise ConfigError(f"--repeats is {repeats}; it takes at least 1.")
    sizes, cores = config.sweep.batch_sizes, default_readers()
    prepared = prepare(config, learners=len(sizes), rates=1)
    compile_seconds, _ = warm_up(prepared)
    fused = prepared.engine == "fused"
    counts = sorted({1, config.train.threads or cores}) if fused else [cores]
    with ExitStack() as stack:
        stack.enter_context(one_blas_thread(fused))
        stream = Stream(prepared)
        stack.callback(stream.close)
        block = stream.next_rows()[:TIMED_ROWS].copy()
        sides, delivery_core_seconds = {}, []
        for count in counts:
            team = stack.enter_context(ComputePool(count))
            for size in sizes:
                engine = prepared.learner(size, (1e-6,), 0).engine
                engine.cores = team
                sides |= _sides(stream, engine, block, size, count)

        def deliver() -> float:
            stream.use_up(None)
            started, before, rows = time.perf_counter(), time.process_time(), 0
            for _ in range(2 * stream.windows):
                rows += stream.feed(None)
            delivery_core_seconds.append((time.process_time() - before) / rows)
            return rows / (time.perf_counter() - started)

        samples = take_turns(sides | {("delivery",): deliver}, repeats, warm=[])
    delivery_seconds = float(np.median(delivery_core_seconds))
    cells = [
        cell(samples, size, count, cores, delivery_seconds) for size in sizes for count in counts
    ]
    return {
        "data": prepared.source.dataset.url,
        "rows": prepared.source.dataset.num_rows,
        "features": prepared.model.num_features,
        "hidden": list(config.model.hidden),
        "engine": prepared.engine,
        "readers": prepared.budget.readers,
        "cores": cores,
        "repeats": repeats,
        "compile_seconds": compile_seconds,
        "delivery_rows_per_second": measure(samples["delivery",], log=True)["value"],
        "delivery_core_nanoseconds": delivery_seconds * 1e9,
        "cells": cells,
        "limit": limit(cells),
    }


def _sides(
    stream: Stream, engine: Engine, block: np.ndarray, size: int, count: int
) -> dict[tuple, object]:
    """Streaming and resident, of one engine on as many rows a region."""

    def resident(rows: int) -> float:
        started, done = time.perf_counter(), 0
        while done < rows:
            engine.advance(block, 0, len(block))
            done += len(block)
        return done / (time.perf_counter() - started)

    def streaming() -> float:
        stream.use_up(engine)
        return stream.rate(engine, rows)

    resident(1)
    rows = max(round(resident(4 * len(block)) * REGION_SECONDS), 2)
    return {
        ("streaming", size, count): streaming,
        ("resident", size, count): lambda: resident(rows),
    }


def cell(
    samples: dict[tuple, list[float]], size: int, threads: int, cores: int, delivery_seconds: float
) -> Json:
    """A batch size on so many threads. `delivery_seconds`: core-seconds a row."""
    streaming, resident = samples["streaming", size, threads], samples["resident", size, threads]
    rates = {"streaming": measure(streaming, log=True), "resident": measure(resident, log=True)}
    ratio, lo, hi = paired_ratio(streaming, resident)
    return {
        "batch_size": size,
        "threads": threads,
        "streaming_rows_per_second": rates["streaming"]["value"],
        "resident_rows_per_second": rates["resident"]["value"],
        "ratio": ratio,
        "bound": bound(threads / rates["resident"]["value"], delivery_seconds, threads, cores),
        "intervals": {
            "streaming_rows_per_second": rates["streaming"].to_json(),
            "resident_rows_per_second": rates["resident"].to_json(),
            "ratio": {"value": ratio, "n": len(streaming), "lo": lo, "hi": hi},
        },
    }


def bound(step: float, delivery: float, threads: int, cores: int) -> float:
    """The share of the resident rate that is possible when step and delivery, core-seconds a row,
    share the cores.

    >>> bound(100, 25, 2, 2), bound(100, 25, 1, 2)
    (0.8, 1.0)
    """
    return min(1.0, cores / threads * step / (step + delivery))


def limit(cells: list[Json]) -> str:
    """One sentence: what keeps a streaming run from being faster."""
    slower = [c for c in cells if c["ratio"] < 0.95]
    worst = min(slower or cells, key=lambda c: c["ratio"] / c["bound"])
    where = (
        f"minibatches of {worst['batch_size']:,} on {worst['threads']}"
        f" thread{'s' if worst['threads'] > 1 else ''}"
    )
    share = worst["ratio"] / worst["bound"]
    if not slower:
        return (
            f"The step is the limit everywhere: the loader costs {max(0.0, 1 - worst['ratio']):.1%}"
            f" at most ({where})."
        )
    if share >= 0.95:
        return (
            f"The cores are the limit: step and delivery share them, and reach {share:.0%} of what"
            f" that leaves at worst ({where})."
        )
    return (
        f"Delivery is the limit at {where}: {worst['ratio']:.2f} of the resident rate, where"
        f" sharing the cores leaves {worst['bound']:.2f}."
    )
