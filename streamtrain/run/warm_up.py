"""The few steps by which a run compiles or loads its kernels before it is timed."""

import time

import numpy as np

from streamtrain.base.budget import reset_peak_rss, rss_bytes
from streamtrain.run.prepare import Prepared
from streamtrain.stream.window import shuffle_few_rows
from streamtrain.training.engine import Engine
from streamtrain.training.engine_choice import check_engine
from streamtrain.training.fused_engine import one_blas_thread
from streamtrain.training.memory_errors import is_out_of_memory


def warm_up(
    prepared: Prepared, sizes: tuple[int, ...] = (), rates: tuple[float, ...] = (1e-9,)
) -> tuple[float, int]:
    """Compile or load every kernel that the run will use, on a few rows.

    Returns the seconds that it took and the resident bytes after it. The peak of resident memory is
    reset, so that what the compiler needs does not count as memory of the run, and no timed region
    includes compilation. `sizes` and `rates` are the batch sizes and learning rates of the run: the
    torch engine compiles a step for each size where that pays.
    """
    started = time.perf_counter()
    take_few_steps(prepared, sizes, rates)
    reset_peak_rss()
    return time.perf_counter() - started, rss_bytes()


def take_few_steps(prepared: Prepared, sizes: tuple[int, ...], rates: tuple[float, ...]) -> None:
    """Compile or load the kernels of a run, as `warm_up` does, and leave the peak of memory."""
    num_rows = shuffle_few_rows(prepared.source)
    # zeros instead of the rows just read, all of which the null policy may have dropped
    rows = np.zeros((num_rows, prepared.source.num_columns), dtype=np.float32)
    with one_blas_thread():
        for size in sizes or (len(rows),):
            try:
                _use_engine(prepared.learner(size, rates, 0).engine, rows)
            except (MemoryError, RuntimeError) as error:
                # The learner of this size ends with that outcome, without affecting the others.
                if not is_out_of_memory(error):
                    raise


def _use_engine(engine: Engine, rows: np.ndarray) -> None:
    """Train and evaluate a few rows."""
    check_engine(engine)
    engine.advance(rows, 0, len(rows))
    engine.finish_epoch()
    engine.evaluate(rows)
