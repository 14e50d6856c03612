"""`streamtrain bench train`: the same learner fed from shards and from memory.

The difference is what the loader costs a run. The stream is in full flow: epoch after epoch of one
open stream, whose blocks in stock are used up before a region is timed.
"""

import time
from contextlib import ExitStack
from functools import partial

import numpy as np

from streamtrain.base.budget import default_readers
from streamtrain.base.units import format_percent
from streamtrain.bench.bench_verdict import figure, ratio_figure, require_positive
from streamtrain.bench.stream_bench import REPEATS, Side, take_turns
from streamtrain.config import Config
from streamtrain.run.prepare import TIMED_ROWS, Prepared, prepare
from streamtrain.run.sweep_plan import bench_sizes
from streamtrain.run.warm_up import warm_up
from streamtrain.stream.fetch import FetchStats
from streamtrain.training.cuda_engine import CudaEngine
from streamtrain.training.engine import Engine
from streamtrain.training.engine_choice import is_on_gpu, running
from streamtrain.training.torch.shared_rows import SharedBlock
from streamtrain.training.torch.torch_engine import TorchEngine
from streamtrain.types import Json

#: A timed region takes at least this long, and two blocks.
REGION_SECONDS = 1.0

#: What a side is called: ("delivery",), or ("streaming", "resident" or "on the GPU", batch size,
#: threads).
Key = tuple[str | int, ...]
Samples = dict[Key, list[float]]


class Stream:
    """Blocks without end, epoch after epoch."""

    def __init__(self, prepared: Prepared):
        self.windows = prepared.budget.windows
        self._blocks = prepared.blocks(0, FetchStats())

    def use_up(self, engine: Engine | None) -> None:
        """Take the blocks that are ready, and as many again.

        The blocks after them are read while the caller works.
        """
        for _ in range(2 * self.windows):
            self.feed(engine)

    def rate(self, engine: Engine, rows: int) -> float:
        """Return the rows per second of an engine on at least the next `rows` rows."""
        started, done = time.perf_counter(), 0
        while done < rows:
            done += self.feed(engine)
        return done / (time.perf_counter() - started)

    def feed(self, engine: Engine | None) -> int:
        """Take the next block, train the engine on it if there is one, and return its rows."""
        rows = self.next_rows()
        if engine is not None:
            engine.advance(rows, 0, len(rows))
        return len(rows)

    def next_rows(self) -> np.ndarray:
        """Return the rows of the next block that has any."""
        return next(block.rows for block in self._blocks if len(block.rows))

    def close(self) -> None:
        """End the threads that read ahead."""
        self._blocks.close()


def measure_train(config: Config, *, repeats: int = REPEATS) -> Json:
    """Time a learner at each of `config.sweep.batch_sizes`, fed from shards and from memory.

    The shards are at `config.data.path`; a block in memory is the alternative. Rates are in rows
    per second. The fused engine is timed on one thread and on all; the readers are as many as in a
    run. `bound` is the fraction of the resident rate that is possible when step and delivery share
    the cores; see `bound`. With an engine on a GPU both sides copy their rows there, and
    `on_gpu_rows_per_second` is the rate with the block on the GPU from the start.

    Raises ConfigError for fewer than one repeat, and whatever `prepare` raises.
    """
    require_positive("--repeats", repeats)
    sizes, cores = bench_sizes(config), default_readers()
    prepared = prepare(config, learners=len(sizes), rates=1)
    compile_seconds, _ = warm_up(prepared)
    thread_counts = [cores]
    if prepared.engine == "fused":
        thread_counts = sorted({1, config.train.threads or cores})
    delivery_seconds_per_row: list[float] = []
    with ExitStack() as stack:
        stream = Stream(prepared)
        stack.callback(stream.close)
        block = stream.next_rows()[:TIMED_ROWS].copy()
        sides: dict[Key, Side] = {}
        for threads in thread_counts:
            engines = {size: prepared.learner(size, (1e-6,), 0).engine for size in sizes}
            stack.enter_context(running(engines.values(), threads))
            for size, engine in engines.items():
                streaming, resident = _sides(stream, engine, block)
                sides["streaming", size, threads] = streaming
                sides["resident", size, threads] = resident
                if is_on_gpu(engine):
                    on_gpu = prepared.learner(size, (1e-6,), 0).engine
                    sides["on the GPU", size, threads] = _gpu_side(on_gpu, block)
        sides["delivery",] = partial(_deliver, stream, delivery_seconds_per_row)
        samples = take_turns(sides, repeats, warm=[])
    delivery = figure(samples["delivery",])
    delivery_seconds = float(np.median(delivery_seconds_per_row))
    cells = [
        cell(samples, size, threads, cores, delivery_seconds)
        for size in sizes
        for threads in thread_counts
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
        "delivery_rows_per_second": delivery["value"],
        "delivery_core_nanoseconds": delivery_seconds * 1e9,
        "cells": cells,
        "limit": limit(cells),
        "intervals": {"delivery_rows_per_second": delivery},
    }


def _deliver(stream: Stream, core_seconds_per_row: list[float]) -> float:
    """Return the rows per second of delivery alone; append its processor time per row."""
    stream.use_up(None)
    started, processor_started = time.perf_counter(), time.process_time()
    rows = sum(stream.feed(None) for _ in range(2 * stream.windows))
    core_seconds_per_row.append((time.process_time() - processor_started) / rows)
    return rows / (time.perf_counter() - started)


def _sides(stream: Stream, engine: Engine, block: np.ndarray) -> tuple[Side, Side]:
    """Return the streaming and the resident side of one engine, with equal rows per region."""

    def streaming() -> float:
        stream.use_up(engine)
        return stream.rate(engine, rows)

    rows = _rows_per_region(engine, block)
    return streaming, partial(_resident_rate, engine, block, rows)


def _gpu_side(engine: Engine, block: np.ndarray) -> Side:
    """Return the side of an engine on a GPU whose block is there."""
    assert isinstance(engine, CudaEngine | TorchEngine)
    engine.shared_block = SharedBlock(engine.device)
    engine.shared_block.put(block)
    return partial(_resident_rate, engine, block, _rows_per_region(engine, block))


def _rows_per_region(engine: Engine, block: np.ndarray) -> int:
    _resident_rate(engine, block, 1)  # warms up
    return max(round(_resident_rate(engine, block, 4 * len(block)) * REGION_SECONDS), 2)


def _resident_rate(engine: Engine, block: np.ndarray, rows: int) -> float:
    """Return the rows per second of an engine on at least `rows` rows of a block in memory."""
    started, done = time.perf_counter(), 0
    while done < rows:
        engine.advance(block, 0, len(block))
        done += len(block)
    return done / (time.perf_counter() - started)


def cell(samples: Samples, size: int, threads: int, cores: int, delivery_seconds: float) -> Json:
    """Return the figures of a batch size on `threads` threads.

    `delivery_seconds` is the processor time of delivery per row, in core-seconds.
    """
    streaming = figure(samples["streaming", size, threads])
    resident = figure(samples["resident", size, threads])
    on_gpu = samples.get(("on the GPU", size, threads))
    ratio = ratio_figure(samples["streaming", size, threads], samples["resident", size, threads])
    return {
        "batch_size": size,
        "threads": threads,
        "streaming_rows_per_second": streaming["value"],
        "resident_rows_per_second": resident["value"],
        "on_gpu_rows_per_second": None if on_gpu is None else figure(on_gpu)["value"],
        "ratio": ratio["value"],
        "bound": bound(threads / resident["value"], delivery_seconds, threads, cores),
        "intervals": {
            "streaming_rows_per_second": streaming,
            "resident_rows_per_second": resident,
            "ratio": ratio,
        },
    }


def bound(step: float, delivery: float, threads: int, cores: int) -> float:
    """Return the fraction of the resident rate that is possible when the cores are shared.

    `step` and `delivery` are the core-seconds per row of both. The bound is cores over threads
    times step over step plus delivery, at most 1.

    >>> bound(100, 25, 2, 2), bound(100, 25, 1, 2)
    (0.8, 1.0)
    """
    return min(1.0, cores / threads * step / (step + delivery))


def limit(cells: list[Json]) -> str:
    """Return one sentence on what keeps a streaming run from being faster."""
    slower = [cell for cell in cells if cell["ratio"] < 0.95]
    worst = min(slower or cells, key=lambda cell: cell["ratio"] / cell["bound"])
    plural = "s" if worst["threads"] > 1 else ""
    where = f"minibatches of {worst['batch_size']:,} on {worst['threads']} thread{plural}"
    fraction = worst["ratio"] / worst["bound"]
    if not slower:
        cost = format_percent(max(0.0, 1 - worst["ratio"]), 1)
        return f"The step is the limit everywhere: the loader costs {cost} at most ({where})."
    if fraction >= 0.95:
        return (
            "The cores are the limit: step and delivery share them, and reach at worst"
            f" {format_percent(fraction)} of what sharing leaves ({where})."
        )
    return (
        f"Delivery is the limit at {where}: {worst['ratio']:.2f} of the resident rate, where"
        f" sharing the cores leaves {worst['bound']:.2f}."
    )
