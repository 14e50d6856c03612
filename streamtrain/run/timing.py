"""Throughput, measured separately from convergence, in interleaved repeats.

Times the step alone at each batch size, on a block in memory, and the stream without training.
"""

import math
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np

from streamtrain.base.budget import default_readers
from streamtrain.records import DeliveryTimed, Emit, StepsTimed
from streamtrain.run.prepare import TIMED_ROWS, Prepared
from streamtrain.stream.block import Block
from streamtrain.stream.fetch import FetchStats
from streamtrain.training.engine import Engine
from streamtrain.training.engine_choice import running

#: The fewest timing repeats; a sweep with more trials has one repeat per trial.
REPEATS = 5

#: Larger minibatches are timed on this many rows only: the update at their end is negligible.
MOST_TIMED_ROWS = 2**20

#: A smaller block is repeated up to about this many rows. A minibatch of a million rows would
#: otherwise need one call per few rows.
LEAST_TIMED_ROWS = 2**14

#: A timed region takes about this long, or one step.
REGION_SECONDS = 0.12

#: After a short run regions are shorter, down to this; five of them still suffice to compare sizes.
SHORTEST_REGION_SECONDS = 0.015

#: The timing takes about this fraction of the time of the passes, between the two limits above.
TIMED_SHARE = 0.1

#: The stream is at rest when none of its tasks has ended for this long.
REST_SECONDS = 0.06

#: Rests shrink in proportion to the regions, down to this, which is longer than a task.
SHORTEST_REST_SECONDS = 0.02

#: A stream that has not come to rest after this long is timed anyway.
LONGEST_WAIT_SECONDS = 5.0


def measure_throughput(
    prepared: Prepared,
    batch_sizes: tuple[int, ...],
    emit: Emit,
    repeats: int = REPEATS,
    *,
    first_repeat: int = 0,
    pass_seconds: float = math.inf,
    of_one_training: bool = False,
) -> None:
    """Emit a `delivery` record per repeat, and a `timing` record per repeat and batch size.

    `timing`: steps of one replica on a block in memory. `delivery`: blocks of the stream without
    training. `core_seconds` is the processor time of all threads, because steps and delivery share
    the cores in training (`science/cells.py`).

    The sizes take turns within a repeat, so that a drift in the machine's speed affects all of them
    alike. Warm-up is not timed, and no step is timed while the stream still reads ahead. Each trial
    needs its own repeat: trials that shared a repeat would share its noise, and an interval over
    trials would be too narrow. Repeats are numbered from `first_repeat`.

    `pass_seconds` is the time that the passes of the run took. All regions and rests together take
    about a tenth of it, but each region takes 15 to 120 ms, and each rest 20 to 60 ms.

    `of_one_training`: the sizes are those of one training, of which only the sum is of interest. So
    they share the region of one size.
    """
    region, rest = _durations(pass_seconds, repeats, 1 if of_one_training else len(batch_sizes))
    step_region = region / len(batch_sizes) if of_one_training else region
    stats = FetchStats()
    threads = prepared.config.train.threads or default_readers()
    with closing(prepared.blocks(0, stats)) as blocks:
        block = _timed_block(next(block.rows for block in blocks if len(block.rows)))
        next(blocks)
        engines = {size: prepared.learner(size, (1e-6,), 0).engine for size in batch_sizes}
        with running(engines.values(), threads):
            rows = {
                size: _rows_per_region(engine, block, step_region)
                for size, engine in engines.items()
            }
            for repeat in range(first_repeat, first_repeat + repeats):
                emit(_time_delivery(blocks, stats, repeat, region, rest))
                for size, engine in engines.items():
                    core_started = time.process_time()
                    seconds = _train(engine, block, rows[size])
                    core_seconds = time.process_time() - core_started
                    emit(
                        StepsTimed(
                            batch_size=size,
                            repeat=repeat,
                            rows=rows[size],
                            seconds=seconds,
                            core_seconds=core_seconds,
                        )
                    )


def timing_seconds(pass_seconds: float, repeats: int, sizes: int) -> float:
    """Return about how long `measure_throughput` takes after passes of so many seconds.

    To find how many steps fill a region takes about a region and a half per size.
    """
    region, rest = _durations(pass_seconds, repeats, sizes)
    return repeats * ((sizes + 1) * region + 2 * rest) + 1.5 * sizes * region


def _durations(pass_seconds: float, repeats: int, sizes: int) -> tuple[float, float]:
    """Return the seconds of a region and of a rest; see `measure_throughput`.

    A repeat has a region per size and one of delivery, with a rest before and after.
    """
    whole = repeats * ((sizes + 1) * REGION_SECONDS + 2 * REST_SECONDS)
    part = min(1.0, TIMED_SHARE * pass_seconds / whole)
    region = max(part * REGION_SECONDS, min(SHORTEST_REGION_SECONDS, REGION_SECONDS))
    return region, max(part * REST_SECONDS, min(SHORTEST_REST_SECONDS, REST_SECONDS))


def _time_delivery(
    blocks: Iterator[Block], stats: FetchStats, repeat: int, region: float, rest: float
) -> DeliveryTimed:
    """Take blocks for one region, and count the time until the stream is at rest again.

    The stream is at rest before and after, with the same number of windows read ahead. So as many
    rows are built in the timed region as are taken.
    """
    _wait_until_at_rest(stats, rest)
    started, core_started = time.perf_counter(), time.process_time()
    delivered = 0
    while delivered == 0 or time.perf_counter() - started < region:
        delivered += len(next(blocks).rows)
    _wait_until_at_rest(stats, rest)
    core_seconds = time.process_time() - core_started
    return DeliveryTimed(
        repeat=repeat,
        rows=delivered,
        seconds=time.perf_counter() - started - rest,
        core_seconds=core_seconds,
        cores=default_readers(),
    )


def _wait_until_at_rest(stats: FetchStats, rest: float) -> None:
    """Wait until the stream has read ahead as far as it may."""
    started = last_change = time.perf_counter()
    tasks_ended = stats.tasks
    while (
        time.perf_counter() - last_change < rest
        and time.perf_counter() - started < LONGEST_WAIT_SECONDS
    ):
        time.sleep(rest / 20)
        if stats.tasks != tasks_ended:
            tasks_ended, last_change = stats.tasks, time.perf_counter()


def _timed_block(rows: np.ndarray) -> np.ndarray:
    """Return a copy of the first rows, repeated if there are few."""
    rows = rows[:TIMED_ROWS]
    return np.tile(rows, (max(1, LEAST_TIMED_ROWS // len(rows)), 1))


def _rows_per_region(engine: Engine, block: np.ndarray, region: float) -> int:
    """Return the rows of the whole minibatches that fill a timed region.

    The first minibatch is not timed: it warms up. The faster of two tries counts. If one slow try
    were believed, every region would be a few steps long, and what it measured would be the call.
    """
    size = min(engine.batch_size, MOST_TIMED_ROWS)
    _train(engine, block, size)
    steps = 1
    while (seconds := min(_train(engine, block, steps * size) for _ in range(2))) < region / 4:
        steps *= 4
    return size * max(1, round(steps * region / seconds))


def _train(engine: Engine, block: np.ndarray, rows: int) -> float:
    """Train on `rows` rows, going through the block repeatedly; return the seconds it took."""
    started, done = time.perf_counter(), 0
    while done < rows:
        stop = min(len(block), rows - done)
        engine.advance(block, 0, stop)
        done += stop
    return time.perf_counter() - started
