"""A population of perceptrons on a GPU: one CUDA block trains one replica.

One launch takes every minibatch that ends in a range of rows. Parameters, moments, gradient sums
and a tile of rows lie in shared memory for as long as the launch takes. No block waits for another,
so the number of multiprocessors changes no result, and all sums have a fixed order.

The numbers are those of kernels/mlp.py and updates.py to rounding. In Numba's simulator
(`NUMBA_ENABLE_CUDASIM=1`) every line runs without a GPU. It shows no error in the order of
accesses, so the order is argued here.

- Every branch and loop around a barrier depends on values that all threads of a block hold alike
  (rows, the counters, hyperparameters), never on `thread`: all threads meet at each barrier.
- Shared memory changes hands at barriers only. `load` fills the tile, and the phases of forward and
  backward each end with a barrier (cuda_layers.py). `output` writes residuals between two. In
  `update` and `move_average`, parameter k and its moments, average and gradient belong to thread k
  modulo the threads, here and in the loops that load and store them; the partial sums that
  `update` reads were written before the barrier that ends `backward`, and the next tile is
  multiplied after the barrier that ends the step.
- The scalars of a step are written by the last thread between two barriers before `backward`. The
  next write of them is after the barrier that ends the step.
- `sums` is used by the norm of a step and by the losses; the barrier that ends the step is between.
- Counters and losses are written by thread 0 after the barrier in `add_up`, behind which no thread
  reads them. A replica's rows of global memory belong to its block.

Legend of shape suffixes: R replicas, P padded parameters (`Layout`), C chunks of rows.
"""

# The stubs of numba.cuda describe the host's side of what runs on the device.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalSubscript=false, reportOperatorIssue=false

from functools import lru_cache
from typing import Any

from numba import cuda, float32, float64, int64

from streamtrain.kernels.cuda_launch import ready
from streamtrain.kernels.cuda_layers import make_tile
from streamtrain.kernels.cuda_layout import Layout
from streamtrain.kernels.cuda_update import (
    make_add_up,
    make_collect,
    make_load_sums,
    make_move_average,
    make_set_scalars,
    make_update,
)

_MATRIX, _CUBE = float32[:, ::1], float32[:, :, ::1]

#: The arguments of the kernels.
ADVANCE = (
    _MATRIX,
    int64,
    int64,
    int64[::1],
    _MATRIX,
    _MATRIX,
    _CUBE,
    _MATRIX,
    int64[:, ::1],
    float64[::1],
    float64[::1],
    float64[:, ::1],
    float32,
)
EVALUATE = (_MATRIX, _MATRIX, float64[:, ::1])

#: Rows that one block evaluates. A constant, so that the order of the sums is one.
CHUNK_ROWS = 2048


def make_advance(layout: Layout, activation: int, optimizer: int) -> Any:
    """Return the function that trains; `cuda.jit` compiles it.

    Launch it with a block per replica, `layout.threads` threads and `layout.dynamic_bytes` of
    dynamic shared memory. Arguments:

        block: float32 (rows, features + 1), target last.
        start, stop: The rows of the block to train on. None, and the number of rows carried as the
            batch size: take the step of a short minibatch.
        batch_sizes: int64 (R,).
        parameters, gradients, moments, averages: float32 (R, P), moments (R, 2, P); gradients are
            the sums of the rows carried.
        counters: int64 (R, 5), as `state` of updates.py: step.
        losses: float64 (R,); the sums of the rows' losses are written to it.
        rates: float64 (R,), before the schedule.
        hyper: float64 (R, 11), as in updates.py: step.
        delta: Huber's, float32; 0: ½r².
    """
    tile = make_tile(layout, activation)
    collect = make_collect(layout)
    update = make_update(layout, optimizer, collect)
    set_scalars = make_set_scalars(layout, optimizer)
    add_up, move_average = make_add_up(layout), make_move_average(layout)
    T, THREADS, P, MOMENTS = layout.tile, layout.threads, layout.num_parameters, layout.moments
    load_sums = make_load_sums(layout)
    load, forward, output, backward = tile.load, tile.forward, tile.output, tile.backward

    def advance(
        block,
        start,
        stop,
        batch_sizes,
        parameters,
        gradients,
        moments,
        averages,
        counters,
        losses,
        rates,
        hyper,
        delta,
    ):
        replica, thread = cuda.blockIdx.x, cuda.threadIdx.x
        memory = cuda.shared.array(0, float32)
        sums = cuda.shared.array(THREADS, float64)
        batch, rate, options = batch_sizes[replica], rates[replica], hyper[replica]
        carried, steps, rows = counters[replica, 0], counters[replica, 1], counters[replica, 2]
        averaged, due = counters[replica, 3], counters[replica, 4]
        for k in range(thread, P, THREADS):
            memory[k] = parameters[replica, k]
            memory[MOMENTS + k] = moments[replica, 0, k]
            memory[MOMENTS + P + k] = moments[replica, 1, k]
        load_sums(thread, gradients[replica], memory)
        # What is left of the zeros that the moments began with; one factor per step.
        power1 = options[2] ** (steps + 1)
        power2 = options[3] ** (steps + 1 + options[10])
        cuda.syncthreads()
        loss = float64(0.0)
        row, first = start, carried == 0
        while row < stop or carried == batch:
            end = min(stop, row + batch - carried)
            carried += end - row
            if row == end:  # the size is that of a short minibatch, which ends here
                if thread == THREADS - 1:
                    set_scalars(memory, carried, rows, power1, power2, rate, options)
                cuda.syncthreads()
            while row < end:
                m = min(T, end - row)
                load(thread, block, row, m, memory)
                cuda.syncthreads()
                forward(thread, m, memory)
                loss += output(thread, m, memory, delta)
                if thread == THREADS - 1 and row + m == end and carried == batch:
                    set_scalars(memory, carried, rows, power1, power2, rate, options)
                cuda.syncthreads()
                backward(thread, m, memory, first)
                first = False
                row += m
            if carried == batch:
                update(thread, memory, sums, carried, options)
                steps += 1
                power1 *= options[2]
                power2 *= options[3]
                rows += carried
                carried = 0
                first = True
                averaged, due = move_average(
                    thread, memory, averages[replica], rows, averaged, due, options[9]
                )
                cuda.syncthreads()
        for k in range(thread, P, THREADS):
            parameters[replica, k] = memory[k]
            moments[replica, 0, k] = memory[MOMENTS + k]
            moments[replica, 1, k] = memory[MOMENTS + P + k]
            gradients[replica, k] = float32(0.0) if first else collect(memory, k)
        total = add_up(thread, loss, sums)
        if thread == 0:
            losses[replica] = total
            counters[replica, 0], counters[replica, 1], counters[replica, 2] = carried, steps, rows
            counters[replica, 3], counters[replica, 4] = averaged, due

    return advance


def make_evaluate(layout: Layout, activation: int) -> Any:
    """Return the function that evaluates; `cuda.jit` compiles it.

    Launch it with C by R blocks, threads and shared memory as for `make_advance`. C comes first: a
    grid has at most 65,535 blocks in its second dimension. Arguments: rows, float32
    (N, features + 1); parameters, float32 (R, P); and the sums of r² of each chunk of `CHUNK_ROWS`
    rows, float64 (R, C), which are written.
    """
    tile = make_tile(layout, activation)
    T, THREADS, P = layout.tile, layout.threads, layout.num_parameters
    load, forward, output, add_up = tile.load, tile.forward, tile.output, make_add_up(layout)

    def evaluate(rows, parameters, squares):
        chunk, replica, thread = cuda.blockIdx.x, cuda.blockIdx.y, cuda.threadIdx.x
        memory = cuda.shared.array(0, float32)
        sums = cuda.shared.array(THREADS, float64)
        for k in range(thread, P, THREADS):
            memory[k] = parameters[replica, k]
        total = float64(0.0)
        row = chunk * CHUNK_ROWS
        stop = min(rows.shape[0], row + CHUNK_ROWS)
        while row < stop:
            m = min(T, stop - row)
            load(thread, rows, row, m, memory)
            cuda.syncthreads()
            forward(thread, m, memory)
            total += 2.0 * output(thread, m, memory, float32(0.0))
            cuda.syncthreads()
            row += m
        total = add_up(thread, total, sums)
        if thread == 0:
            squares[replica, chunk] = total

    return evaluate


@lru_cache(maxsize=64)
def compile_advance(layout: Layout, activation: int, optimizer: int) -> Any:
    """Return `make_advance` compiled for the current device; cached for the process.

    Raises what Numba and its compilers raise.
    """
    return ready(make_advance(layout, activation, optimizer), ADVANCE, layout)


@lru_cache(maxsize=64)
def compile_evaluate(layout: Layout, activation: int) -> Any:
    """Return `make_evaluate` compiled; see `compile_advance`."""
    return ready(make_evaluate(layout, activation), EVALUATE, layout)
