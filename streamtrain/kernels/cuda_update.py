"""The step of a replica on one CUDA block: what the kernels that take steps share.

The numbers are those of kernels/updates.py to rounding. Every function is called by all threads of
the block; `thread` is the number of the calling one, and `memory` the shared memory as `Layout`
divides it.
"""

# The stubs of numba.cuda describe the host's side of what runs on the device.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalSubscript=false, reportOperatorIssue=false

import math
from collections.abc import Callable
from typing import Any

from numba import cuda, float32, float64

from streamtrain.kernels.cuda_layout import Layout
from streamtrain.kernels.cuda_source import device, device_source
from streamtrain.kernels.updates import ADAMW, SGD, TINY


def make_collect(layout: Layout) -> Any:
    """Return a function of (memory, k): parameter k's gradient sum, in the order of splits."""
    lines = ["def collect(memory, k):"]
    for layer in layout.layers:
        lines += [
            f"    if k < {layer.begin + layer.size}:",
            f"        at = {layer.sums - layer.begin} + k",
            "        total = memory[at]",
            f"        for _ in range({layer.splits - 1}):",
            f"            at += {layer.size}",
            "            total += memory[at]",
            "        return total",
        ]
    return device_source("collect", [*lines, "    return float32(0.0)"])


def make_load_sums(layout: Layout) -> Any:
    """Return a function that puts carried sums into each layer's first split, and clears the rest.

    Padding of the parameters is never added to, so it is cleared here for good.
    """
    lines = ["def load_sums(thread, gradient, memory):"]
    for layer in layout.layers:
        lines += [
            f"    for k in range(thread, {layer.splits * layer.size}, {layout.threads}):",
            "        value = float32(0.0)",
            f"        if k < {layer.size}:",
            f"            value = gradient[{layer.begin} + k]",
            f"        memory[{layer.sums} + k] = value",
        ]
    return device_source("load_sums", lines)


def make_set_scalars(layout: Layout, optimizer: int) -> Any:
    """Return what computes, for the coming update, the rate, 1/√(1 - β₂ᵗ), and what decay leaves.

    One thread calls it while the others are busy.
    """
    SCALARS = layout.scalars

    def set_scalars(memory, carried, rows, power1, power2, lr, options):
        factor = float64(1.0)
        if rows + carried < options[7]:
            factor = (rows + carried) / options[7]
        if options[8] > 0.0:
            factor *= 0.5 * (1.0 + math.cos(math.pi * min(1.0, rows / options[8])))
        rate = lr * factor
        if optimizer == SGD:
            memory[SCALARS] = float32(rate)
        else:
            memory[SCALARS] = float32(rate / (1.0 - power1))
            memory[SCALARS + 1] = float32(1.0 / math.sqrt(1.0 - power2))
        memory[SCALARS + 2] = float32(1.0 - rate * options[5])

    return device(set_scalars)


def make_add_up(layout: Layout) -> Any:
    """Return a function of (thread, value, sums): the sum over all threads, in their order.

    `sums`: float64 (threads,) in shared memory. It has a barrier after the writes.
    """
    THREADS = layout.threads

    def add_up(thread, value, sums):
        sums[thread] = value
        cuda.syncthreads()
        total = float64(0.0)
        for k in range(THREADS):
            total += sums[k]
        return total

    return device(add_up)


def make_move_average(layout: Layout) -> Any:
    """Return what moves one replica's average by the rule of training/averaging.py.

    A function of (thread, memory, averages (P,), rows, averaged, due, fraction): the rows at which
    the average was last moved and at which it next is.
    """
    P, THREADS = layout.num_parameters, layout.threads

    def move_average(thread, memory, averages, rows, averaged, due, fraction):
        if fraction > 0.0 and rows >= due:
            share = (rows - averaged) / (fraction * rows)
            averaged, due = rows, rows + max(1, rows // 256)
            weight = float32(min(1.0, share))
            for k in range(thread, P, THREADS):
                before = averages[k]
                if share >= 1.0:
                    averages[k] = memory[k]
                else:
                    averages[k] = before + weight * (memory[k] - before)
        return averaged, due

    return device(move_average)


def make_update(layout: Layout, optimizer: int, collect: Callable) -> Any:
    """Return the step with the mean of the sums, as updates.py: step; the sums are left.

    `collect`: of (memory, k), the sum of parameter k's gradient.
    """
    SCALARS, MOMENTS = layout.scalars, layout.moments
    P, THREADS = layout.num_parameters, layout.threads
    add_up = make_add_up(layout)

    def clipped(thread, memory, sums, carried, clip):
        """Return the factor of the sums: 1 / rows, less where the norm is above `clip`."""
        share = float32(1.0 / carried)
        if clip <= 0.0:
            return share
        squares = float64(0.0)
        for k in range(thread, P, THREADS):
            g = float64(collect(memory, k))
            squares += g * g
        norm = math.sqrt(add_up(thread, squares, sums)) / carried
        if norm > clip:
            share *= float32(clip / norm)
        return share

    scale = device(clipped)

    def update(thread, memory, sums, carried, options):
        share = scale(thread, memory, sums, carried, options[6])
        rate, root, keep = memory[SCALARS], memory[SCALARS + 1], memory[SCALARS + 2]
        decay, epsilon = float32(options[5]), float32(options[4])
        momentum, nesterov = float32(options[0]), options[1] != 0.0
        beta1, new1 = float32(options[2]), float32(1.0 - options[2])
        new2 = float32(1.0 - options[3])
        for k in range(thread, P, THREADS):
            p, m = memory[k], memory[MOMENTS + k]
            g = collect(memory, k) * share
            if optimizer != ADAMW:
                g += decay * p
            if optimizer == SGD:
                m = momentum * m + g
                m = float32(0.0) if abs(m) < TINY else m
                memory[k] = p - rate * (g + momentum * m if nesterov else m)
            else:
                v = memory[MOMENTS + P + k]
                m = beta1 * m + new1 * g
                v += new2 * (g * g - v)
                m = float32(0.0) if abs(m) < TINY else m
                v = float32(0.0) if abs(v) < TINY else v
                memory[MOMENTS + P + k] = v
                if optimizer == ADAMW:
                    p *= keep
                memory[k] = p - rate * m / (math.sqrt(v) * root + epsilon)
            memory[MOMENTS + k] = m

    return device(update)
