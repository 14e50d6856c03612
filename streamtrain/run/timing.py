"""Throughput, measured apart from convergence: the step alone at each batch size, and the stream
alone, in interleaved repeats.
"""

import time

import numpy as np

from streamtrain.base.budget import default_readers
from streamtrain.records import DeliveryTimed, Emit, StepsTimed
from streamtrain.run.prepare import TIMED_ROWS, Prepared
from streamtrain.stream.fetch import FetchStats
from streamtrain.training.compute_pool import ComputePool
from streamtrain.training.engine import Engine
from streamtrain.training.fused_engine import one_blas_thread

#: At least so many; a sweep of more trials takes one for each.
REPEATS = 5

#: Of a minibatch larger than this only so many rows are timed: the step at its end no longer
#: counts.
MOST_TIMED_ROWS = 2**20

#: Fewer rows than these are timed again and again in one block: else a minibatch of a million takes
#: a call for each handful of them.
LEAST_TIMED_ROWS = 2**14

#: A timed region takes at least this long, or one step.
REGION_SECONDS = 0.12


#: The stream is at rest when no task of it ended for so long; what never rests is timed all the
#: same.
REST_SECONDS, LONGEST_WAIT_SECONDS = 0.06, 5.0


@one_blas_thread()
def measure_throughput(
    prepared: Prepared, batch_sizes: tuple[int, ...], emit: Emit, repeats: int = REPEATS
) -> None:
    """Emit `timing` records (one replica's step at each size, on a block in memory) and `delivery`
    records (blocks, no training).

    `core_seconds` is the processor time of all threads: in training, steps and delivery share the
    cores (`science/cells.py`). The sizes take turns within a repeat, so that a drift of the
    machine's speed meets all of them alike. Warm-up is outside, and no step is timed while the
    stream still reads ahead. A trial needs a repeat of its own: two that share one share its noise,
    and an interval over trials would be too narrow.
    """
    stats = FetchStats()
    blocks = prepared.blocks(0, stats)
    with ComputePool(prepared.config.train.threads or default_readers()) as cores:
        try:
            block = _timed_block(next(block.rows for block in blocks if len(block.rows)))
            next(blocks)
            engines = {size: prepared.learner(size, (1e-6,), 0).engine for size in batch_sizes}
            for engine in engines.values() if prepared.engine == "fused" else ():
                engine.cores = cores
            rows = {size: _rows_a_region(engine, block) for size, engine in engines.items()}
            for repeat in range(repeats):
                _rest(stats)
                wall, core = time.perf_counter(), time.process_time()
                delivered = 0
                while delivered == 0 or time.perf_counter() - wall < REGION_SECONDS:
                    delivered += len(next(blocks).rows)
                _rest(
                    stats
                    # what was read ahead before is read ahead again: as many rows
                    # were built as were taken
                )
                core_seconds = time.process_time() - core
                emit(
                    DeliveryTimed(
                        repeat=repeat,
                        rows=delivered,
                        seconds=time.perf_counter() - wall - REST_SECONDS,
                        core_seconds=core_seconds,
                        cores=default_readers(),
                    )
                )
                for size, engine in engines.items():
                    core, seconds = time.process_time(), _train(engine, block, rows[size])
                    emit(
                        StepsTimed(
                            batch_size=size,
                            repeat=repeat,
                            rows=rows[size],
                            seconds=seconds,
                            core_seconds=time.process_time() - core,
                        )
                    )
        finally:
            blocks.close()


def _rest(stats: FetchStats) -> None:
    """Wait until the stream has filled its buffers."""
    ended, since, began = stats.tasks, time.perf_counter(), time.perf_counter()
    while (
        time.perf_counter() - since < REST_SECONDS
        and time.perf_counter() - began < LONGEST_WAIT_SECONDS
    ):
        time.sleep(REST_SECONDS / 20)
        if stats.tasks != ended:
            ended, since = stats.tasks, time.perf_counter()


def _timed_block(rows: np.ndarray) -> np.ndarray:
    """A copy of the first rows, repeated where there are few."""
    rows = rows[:TIMED_ROWS]
    return np.tile(rows, (max(1, LEAST_TIMED_ROWS // len(rows)), 1))


def _rows_a_region(engine: Engine, block: np.ndarray) -> int:
    """Whole minibatches that fill a timed region: from a second try, since the first one warms
    up.
    """
    size = min(engine.batch_size, MOST_TIMED_ROWS)
    _train(engine, block, size)
    steps, seconds = 1, _train(engine, block, size)
    while seconds < REGION_SECONDS / 4:
        steps *= 4
        seconds = _train(engine, block, steps * size)
    return size * max(1, round(steps * REGION_SECONDS / seconds))


def _train(engine: Engine, block: np.ndarray, rows: int) -> float:
    """Seconds to train on `rows` rows, going through the block as often as needed."""
    started, done = time.perf_counter(), 0
    while done < rows:
        stop = min(len(block), rows - done)
        engine.advance(block, 0, stop)
        done += stop
    return time.perf_counter() - started
