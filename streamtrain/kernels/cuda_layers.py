"""The layers of a replica on one CUDA block: a tile of rows forward and backward.

Every function is called by all threads of the block. `thread` is the number of the calling one: it
is passed, because Numba's simulator cannot look it up in a function that threads enter and leave at
any time. `memory` is the shared memory as `Layout` divides it, and `m` are the rows of the tile.

A thread takes patches of `patch` rows by 4 columns; rows of neighbouring threads are neighbours.
Lanes pair up by row and by column, so that a 16-byte load of a warp takes two accesses.
"""

# The stubs of numba.cuda describe the host's side of what runs on the device.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalSubscript=false

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import float32, float64

from streamtrain.kernels.activations import GELU, RELU, SILU, TANH
from streamtrain.kernels.cuda_layout import LayerPlace, Layout
from streamtrain.kernels.cuda_source import device, device_source, load4, store4

_SQRT_HALF = np.float32(math.sqrt(0.5))
_NORMAL_PEAK = np.float32(1 / math.sqrt(2 * math.pi))


@dataclass(frozen=True, slots=True)
class Tile:
    """The functions of a tile, each for all threads of the block, with barriers between them.

    Attributes:
        load: (thread, block, row, m, memory): copy rows `[row, row + m)` of the block, and clear
            the rows that the last patches have beyond them.
        forward: (thread, m, memory): compute all hidden layers.
        output: (thread, m, memory, delta) → sum of this thread's losses, float64. Leaves the
            residuals, or Huber's derivative where delta is above 0.
        backward: (thread, m, memory, first): add the rows' gradients to the partial sums; `first`:
            to nothing.
    """

    load: Any
    forward: Any
    output: Any
    backward: Any


def make_tile(layout: Layout, activation: int) -> Tile:
    """Return the functions of a tile for this layout and activation (kernels/activations.py)."""
    scope = {"activate": _make_activate(activation), "through": _make_through(activation)}
    *hidden, last = layout.layers
    forward: list[Any] = []
    backward: list[Any] = [_make_output_backward(layout, last, scope["through"])]
    for number, layer in enumerate(hidden):
        forward.append(device_source("layer", _forward_lines(layout, number, layer), **scope))
    for number, layer in reversed([*enumerate(hidden)]):
        backward.append(device_source("gradient", _gradient_lines(layout, number, layer)))
        if number:
            backward.append(device_source("deltas", _delta_lines(layout, number, layer), **scope))
    return Tile(
        load=_make_load(layout),
        forward=_in_turn(forward, "thread, m, memory"),
        output=_make_output(layout, last),
        backward=_in_turn(backward, "thread, m, memory, first"),
    )


def _in_turn(functions: list[Any], arguments: str) -> Any:
    """Return a function that calls these in turn, with a barrier after each."""
    lines = [f"def phases({arguments}):", "    pass"]
    for number in range(len(functions)):
        lines += [f"    f{number}({arguments})", "    cuda.syncthreads()"]
    return device_source("phases", lines, **{f"f{n}": f for n, f in enumerate(functions)})


def _make_activate(activation: int) -> Any:
    def activate(z):
        if activation == RELU:
            return float32(0.0) if z < float32(0.0) else z
        if activation == TANH:
            return math.tanh(z)
        if activation == SILU:
            return z / (float32(1.0) + math.exp(-z))
        if activation == GELU:
            return float32(0.5) * z * (float32(1.0) + math.erf(z * _SQRT_HALF))
        return z

    return device(activate)


def _make_through(activation: int) -> Any:
    """Return the product with the derivative: of `a`, or of z for SiLU and GELU."""

    def through(d, a):
        if activation == RELU:
            return d if a > float32(0.0) else float32(0.0)
        if activation == TANH:
            return d * (float32(1.0) - a * a)
        if activation == SILU:
            gate = float32(1.0) / (float32(1.0) + math.exp(-a))
            return d * (gate * (float32(1.0) + a * (float32(1.0) - gate)))
        if activation == GELU:
            peak = _NORMAL_PEAK * math.exp(float32(-0.5) * a * a)
            return d * (float32(0.5) * (float32(1.0) + math.erf(a * _SQRT_HALF)) + a * peak)
        return d

    return device(through)


def _make_load(layout: Layout) -> Any:
    T, PAIR, THREADS = layout.tile, 2 * layout.patch, layout.threads
    FIRST, STEP, INPUTS = layout.values[0], layout.steps[0], layout.layers[0].inputs
    TARGETS = layout.targets

    def load(thread, block, row, m, memory):
        features = block.shape[1] - 1
        filled = min((m + PAIR - 1) // PAIR * PAIR, T)
        for k in range(thread, filled * INPUTS, THREADS):
            place, column = k // INPUTS, k % INPUTS
            value = float32(0.0)
            if place < m and column < features:
                value = block[row + place, column]
            memory[FIRST + place * STEP + column] = value
        for k in range(thread, m, THREADS):
            memory[TARGETS + k] = block[row + k, features]

    return device(load)


def _make_output(layout: Layout, last: LayerPlace) -> Any:
    THREADS, TARGETS, RESIDUALS = layout.threads, layout.targets, layout.residuals
    VALUES, STEP = layout.values[-1], layout.steps[-1]
    WEIGHT, BIAS, QUADS = last.begin, last.bias, last.inputs // 4

    def output(thread, m, memory, delta):
        loss = float64(0.0)
        for row in range(thread, m, THREADS):
            s0 = memory[BIAS]
            s1 = s2 = s3 = float32(0.0)
            for quad in range(QUADS):
                a0, a1, a2, a3 = load4(memory, VALUES + row * STEP + 4 * quad)
                w0, w1, w2, w3 = load4(memory, WEIGHT + 4 * quad)
                s0 += a0 * w0
                s1 += a1 * w1
                s2 += a2 * w2
                s3 += a3 * w3
            residual = (s0 + s1) + (s2 + s3) - memory[TARGETS + row]
            cut = residual
            if delta > float32(0.0):
                if residual > delta:
                    cut = delta
                elif residual < -delta:
                    cut = -delta
            loss += float64(cut) * (float64(residual) - 0.5 * float64(cut))
            memory[RESIDUALS + row] = cut
        return loss

    return device(output)


def _make_output_backward(layout: Layout, last: LayerPlace, through: Any) -> Any:
    """Return the gradient of the output layer, and the deltas of the last hidden layer.

    Deltas are written over activations: each is read once, by the thread that writes it.
    """
    THREADS, RESIDUALS, SPLITS = layout.threads, layout.residuals, last.splits
    VALUES, STEP, SOURCES = layout.values[-1], layout.steps[-1], layout.sources[-1]
    WEIGHT, INPUTS, QUADS = last.begin, last.inputs, last.inputs // 4
    SUMS, SIZE, HAS_HIDDEN = last.sums, last.size, len(layout.layers) > 1

    def output_backward(thread, m, memory, first):
        for place in range(thread, (QUADS + 1) * SPLITS, THREADS):
            split, quad = place // (QUADS + 1), place % (QUADS + 1)
            sums = SUMS + split * SIZE
            row = split
            if quad < QUADS:
                w0, w1, w2, w3 = load4(memory, WEIGHT + 4 * quad)
                s0 = s1 = s2 = s3 = float32(0.0)
                while row < m:
                    at = row * STEP + 4 * quad
                    r = memory[RESIDUALS + row]
                    a0, a1, a2, a3 = load4(memory, VALUES + at)
                    s0 += r * a0
                    s1 += r * a1
                    s2 += r * a2
                    s3 += r * a3
                    if HAS_HIDDEN:
                        f0, f1, f2, f3 = load4(memory, SOURCES + at)
                        store4(
                            memory,
                            VALUES + at,
                            through(r * w0, f0),
                            through(r * w1, f1),
                            through(r * w2, f2),
                            through(r * w3, f3),
                        )
                    row += SPLITS
                if not first:
                    o0, o1, o2, o3 = load4(memory, sums + 4 * quad)
                    s0 += o0
                    s1 += o1
                    s2 += o2
                    s3 += o3
                store4(memory, sums + 4 * quad, s0, s1, s2, s3)
            else:
                total = float32(0.0)
                while row < m:
                    total += memory[RESIDUALS + row]
                    row += SPLITS
                # the bias, and the padding after it
                before = float32(0.0) if first else memory[sums + INPUTS]
                zero = float32(0.0)
                store4(memory, sums + INPUTS, before + total, zero, zero, zero)

    return device(output_backward)


def _patch_lines(layout: Layout, columns: int) -> list[str]:
    """Return the lines that deal patches of rows and columns to threads: `row`, `column`."""
    groups = columns // 4
    lines = [
        f"    row_groups = (m + {layout.patch - 1}) // {layout.patch}",
        "    row_groups += row_groups & 1",
        f"    for unit in range(thread, row_groups * {groups}, {layout.threads}):",
    ]
    if groups % 2:
        return [*lines, f"        column, row = unit % {groups} * 4, unit // {groups}"]
    half = groups // 2
    return [
        *lines,
        "        four = unit >> 2",
        f"        column = (four % {half} * 2 + (unit >> 1 & 1)) * 4",
        f"        row = four // {half} * 2 + (unit & 1)",
    ]


def _product_lines(layout: Layout) -> list[str]:
    """Return the lines that add a patch's rows times `b`, four of the inner dimension, to its sums.

    The rows are read from `at`, which moves on to the next four.
    """
    lines: list[str] = []
    for i in range(layout.patch):
        lines += [f"            x0, x1, x2, x3 = load4(memory, at + {i} * apart)"]
        lines += [f"            s{i}{j} += x{k} * b{k}{j}" for k in range(4) for j in range(4)]
    return [*lines, "            at += 4"]


def _forward_lines(layout: Layout, number: int, layer: LayerPlace) -> list[str]:
    patch, step = range(layout.patch), layout.steps[number + 1]
    values, sources = layout.values[number + 1], layout.sources[number + 1]
    lines = ["def layer(thread, m, memory):", *_patch_lines(layout, layer.outputs)]
    lines += [f"        c0, c1, c2, c3 = load4(memory, {layer.bias} + column)"]
    lines += [f"        s{i}{j} = c{j}" for i in patch for j in range(4)]
    lines += [
        f"        at = {layout.values[number]} + row * {layout.steps[number]}",
        f"        b, apart = {layer.begin} + column, row_groups * {layout.steps[number]}",
        f"        for _ in range({layer.inputs // 4}):",
    ]
    for k in range(4):
        names = ", ".join(f"b{k}{j}" for j in range(4))
        lines += [f"            {names} = load4(memory, b + {k * layer.stride})"]
    lines += [*_product_lines(layout), f"            b += {4 * layer.stride}"]
    for i in patch:
        sums = ", ".join(f"s{i}{j}" for j in range(4))
        activated = ", ".join(f"activate(s{i}{j})" for j in range(4))
        lines += [f"        at = (row + {i} * row_groups) * {step} + column"]
        if sources != values:
            lines += [f"        store4(memory, {sources} + at, {sums})"]
        lines += [f"        store4(memory, {values} + at, {activated})"]
    return lines


def _delta_lines(layout: Layout, number: int, layer: LayerPlace) -> list[str]:
    """Return the source of the deltas before a layer, from those after it, over activations."""
    patch, step, above = range(layout.patch), layout.steps[number], layout.steps[number + 1]
    lines = ["def deltas(thread, m, memory, first):", *_patch_lines(layout, layer.inputs)]
    lines += [f"        s{i}{j} = float32(0.0)" for i in patch for j in range(4)]
    lines += [
        f"        at, apart = {layout.values[number + 1]} + row * {above}, row_groups * {above}",
        f"        b = {layer.begin} + column * {layer.stride}",
        f"        for _ in range({layer.outputs // 4}):",
    ]
    for j in range(4):
        names = ", ".join(f"b{k}{j}" for k in range(4))
        lines += [f"            {names} = load4(memory, b + {j * layer.stride})"]
    lines += [*_product_lines(layout), "            b += 4"]
    for i in patch:
        values = ", ".join(f"through(s{i}{j}, f{j})" for j in range(4))
        lines += [
            f"        at = (row + {i} * row_groups) * {step} + column",
            f"        f0, f1, f2, f3 = load4(memory, {layout.sources[number]} + at)",
            f"        store4(memory, {layout.values[number]} + at, {values})",
        ]
    return lines


def _gradient_lines(layout: Layout, number: int, layer: LayerPlace) -> list[str]:
    """Return the source of a layer's gradient: values ⊗ deltas over the rows of each split."""
    inputs, splits, groups = range(4 * layer.quads), layer.splits, layer.outputs // 4
    patches = layer.inputs // len(inputs) * groups
    a, a_step = layout.values[number], layout.steps[number]
    d, d_step = layout.values[number + 1], layout.steps[number + 1]
    lines = [
        "def gradient(thread, m, memory, first):",
        f"    for place in range(thread, {patches * splits}, {layout.threads}):",
        f"        split, unit = place // {patches}, place % {patches}",
        f"        i, j, row = unit // {groups} * {len(inputs)}, unit % {groups} * 4, split",
    ]
    lines += [f"        s{i}{j} = float32(0.0)" for i in inputs for j in range(4)]
    lines += [
        "        while row < m:",
        f"            d0, d1, d2, d3 = load4(memory, {d} + row * {d_step} + j)",
    ]
    for quad in range(layer.quads):
        names = ", ".join(f"x{4 * quad + i}" for i in range(4))
        lines += [f"            {names} = load4(memory, {a + 4 * quad} + row * {a_step} + i)"]
    lines += [f"            s{i}{j} += x{i} * d{j}" for i in inputs for j in range(4)]
    lines += [f"            row += {splits}"]
    lines += [f"        at = {layer.sums} + split * {layer.size} + i * {layer.stride} + j"]
    for i in inputs:
        lines += _add_lines(f"at + {i * layer.stride}", [f"s{i}{j}" for j in range(4)])
    # the bias, by the threads that have the fewest patches
    bias = layer.sums + layer.bias - layer.begin
    return [
        *lines,
        f"    for place in range({layout.threads - 1} - thread,"
        f" {groups * splits}, {layout.threads}):",
        f"        split, j = place // {groups}, place % {groups} * 4",
        "        s0 = s1 = s2 = s3 = float32(0.0)",
        "        row = split",
        "        while row < m:",
        f"            d0, d1, d2, d3 = load4(memory, {d} + row * {d_step} + j)",
        *(f"            s{j} += d{j}" for j in range(4)),
        f"            row += {splits}",
        f"        at = {bias} + split * {layer.size} + j",
        *_add_lines("at", [f"s{j}" for j in range(4)]),
    ]


def _add_lines(at: str, names: list[str]) -> list[str]:
    """Return the lines that add four sums to what is at a place, or replace it."""
    return [
        "        if not first:",
        f"            o0, o1, o2, o3 = load4(memory, {at})",
        *(f"            {name} += o{j}" for j, name in enumerate(names)),
        f"        store4(memory, {at}, {', '.join(names)})",
    ]
