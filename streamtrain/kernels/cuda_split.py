"""Large minibatches of a perceptron on a GPU: many CUDA blocks share the rows of one.

Two kernels per minibatch. `gradient` deals parts of `PART_ROWS` rows to slots, in turn, and one
block adds the gradients of a slot's parts; `step` sums the slots in order and updates. The number
of slots belongs to the run (cuda_layout.py: choose_slots), so the number of multiprocessors changes
no result. Slots hold the sums of a minibatch that is not complete; they are 0 between minibatches.

A slot belongs to one block of `gradient`. The end of that launch orders what the block wrote before
`step`, which follows on the same stream. Within a block the argument of cuda_population.py holds.

Legend of shape suffixes: R replicas, S slots, P padded parameters (`Layout`).
"""

# The stubs of numba.cuda describe the host's side of what runs on the device.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalSubscript=false, reportOperatorIssue=false

from functools import lru_cache
from typing import Any

from numba import cuda, float32, float64, int64

from streamtrain.kernels import cuda_layout
from streamtrain.kernels.cuda_launch import ready
from streamtrain.kernels.cuda_layers import make_tile
from streamtrain.kernels.cuda_layout import Layout
from streamtrain.kernels.cuda_source import device
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
GRADIENT = (_MATRIX, int64, int64, int64, _MATRIX, _CUBE, float64[:, ::1], float32)
STEP = (
    int64,
    _MATRIX,
    _CUBE,
    _CUBE,
    _MATRIX,
    int64[:, ::1],
    float64[::1],
    float64[:, ::1],
)


def make_gradient(layout: Layout, activation: int) -> Any:
    """Return the function that adds gradients to slots; `cuda.jit` compiles it.

    Launch it with R by S blocks, `layout.threads` threads and `layout.dynamic_bytes` of dynamic
    shared memory. Arguments:

        block: float32 (rows, features + 1), target last.
        start, stop: The rows of the block to take, all of one minibatch.
        offset: The rows of this minibatch that were taken before.
        parameters: float32 (R, P).
        gradients: float32 (R, S, P), to which the sums are added.
        losses: float64 (R, S), to which the sums of the rows' losses are added.
        delta: Huber's, float32; 0: ½r².
    """
    tile = make_tile(layout, activation)
    load, forward, output, backward = tile.load, tile.forward, tile.output, tile.backward
    load_sums, collect, add_up = make_load_sums(layout), make_collect(layout), make_add_up(layout)
    T, THREADS, P = layout.tile, layout.threads, layout.num_parameters
    PART = cuda_layout.PART_ROWS

    def gradient(block, start, stop, offset, parameters, gradients, losses, delta):
        replica, slot, thread = cuda.blockIdx.x, cuda.blockIdx.y, cuda.threadIdx.x
        memory = cuda.shared.array(0, float32)
        sums = cuda.shared.array(THREADS, float64)
        slots, end = gradients.shape[1], offset + stop - start
        part = offset // PART
        part += (slot + slots - part % slots) % slots
        if part * PART >= end:  # for all threads of the block alike: none waits at a barrier
            return
        for k in range(thread, P, THREADS):
            memory[k] = parameters[replica, k]
        load_sums(thread, gradients[replica, slot], memory)
        cuda.syncthreads()
        loss = float64(0.0)
        while part * PART < end:
            row = start + max(0, part * PART - offset)
            part_stop = start + min(end, (part + 1) * PART) - offset
            while row < part_stop:
                m = min(T, part_stop - row)
                load(thread, block, row, m, memory)
                cuda.syncthreads()
                forward(thread, m, memory)
                loss += output(thread, m, memory, delta)
                cuda.syncthreads()
                backward(thread, m, memory, False)
                row += m
            part += slots
        for k in range(thread, P, THREADS):
            gradients[replica, slot, k] = collect(memory, k)
        total = add_up(thread, loss, sums)
        if thread == 0:
            losses[replica, slot] += total

    return gradient


def make_step(layout: Layout, optimizer: int) -> Any:
    """Return the function that takes the step of a minibatch; `cuda.jit` compiles it.

    Launch it with a block per replica, threads and shared memory as for `make_gradient`. Arguments:

        carried: The rows of the minibatch.
        parameters, averages: float32 (R, P).
        gradients: float32 (R, S, P); they are cleared.
        moments: float32 (R, 2, P).
        counters: int64 (R, 5), as `state` of updates.py: step; the rows carried are set to 0.
        rates: float64 (R,), before the schedule.
        hyper: float64 (R, 11), as in updates.py: step.
    """
    P, THREADS, MOMENTS = layout.num_parameters, layout.threads, layout.moments
    PART, SUMS = cuda_layout.PART_ROWS, layout.layers[0].sums

    def collect(memory, k):
        return memory[SUMS + k]

    update = make_update(layout, optimizer, device(collect))
    set_scalars, move_average = make_set_scalars(layout, optimizer), make_move_average(layout)

    def step(carried, parameters, gradients, moments, averages, counters, rates, hyper):
        replica, thread = cuda.blockIdx.x, cuda.threadIdx.x
        memory = cuda.shared.array(0, float32)
        sums = cuda.shared.array(THREADS, float64)
        rate, options = rates[replica], hyper[replica]
        steps, rows = counters[replica, 1], counters[replica, 2]
        averaged, due = counters[replica, 3], counters[replica, 4]
        slots = min(gradients.shape[1], (carried + PART - 1) // PART)
        for k in range(thread, P, THREADS):
            memory[k] = parameters[replica, k]
            memory[MOMENTS + k] = moments[replica, 0, k]
            memory[MOMENTS + P + k] = moments[replica, 1, k]
            total = float32(0.0)
            for slot in range(slots):
                total += gradients[replica, slot, k]
                gradients[replica, slot, k] = float32(0.0)
            memory[SUMS + k] = total
        if thread == THREADS - 1:
            # What is left of the zeros that the moments began with.
            power1 = options[2] ** (steps + 1)
            power2 = options[3] ** (steps + 1 + options[10])
            set_scalars(memory, carried, rows, power1, power2, rate, options)
        cuda.syncthreads()
        update(thread, memory, sums, carried, options)
        rows += carried
        averaged, due = move_average(
            thread, memory, averages[replica], rows, averaged, due, options[9]
        )
        for k in range(thread, P, THREADS):
            parameters[replica, k] = memory[k]
            moments[replica, 0, k] = memory[MOMENTS + k]
            moments[replica, 1, k] = memory[MOMENTS + P + k]
        cuda.syncthreads()
        if thread == 0:
            counters[replica, 0], counters[replica, 1], counters[replica, 2] = 0, steps + 1, rows
            counters[replica, 3], counters[replica, 4] = averaged, due

    return step


@lru_cache(maxsize=64)
def compile_gradient(layout: Layout, activation: int) -> Any:
    """Return `make_gradient` compiled for the current device; cached for the process.

    Raises what Numba and its compilers raise.
    """
    return ready(make_gradient(layout, activation), GRADIENT, layout)


@lru_cache(maxsize=64)
def compile_step(layout: Layout, optimizer: int) -> Any:
    """Return `make_step` compiled; see `compile_gradient`."""
    return ready(make_step(layout, optimizer), STEP, layout)
