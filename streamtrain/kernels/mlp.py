"""The fused step of a multi-layer perceptron: forward, backward and update of minibatch after minibatch in one call.

Rows are taken in tiles, so that a tile's activations stay in the second-level cache; products are BLAS calls on arrays that
exist already, everything between them is one loop over a tile. Nothing is allocated inside the loop over minibatches.

A replica's parameters are one flat float32 line: for each layer the weight (inputs, outputs), then the bias (outputs).
All of it is one file of over 300 lines, since Numba's disk cache does not notice an edited callee in another one.
The workspace holds, for each layer, `TILE_ROWS` rows of: pre-activations z, activations a, deltas d (see `workspace_size`).
"""

import math

import numpy as np
from llvmlite import ir
from numba import float32, float64, int32, njit
from numba.core import types
from numba.extending import intrinsic

from streamtrain.kernels.atomics import fetch_add, store, wait_beyond

#: Rows of a tile: 128 x 32 float32 of activations are 16 KB a layer.
TILE_ROWS = 128

#: Rows of a part: what one thread adds into one slot at a time, of a minibatch that several threads share.
PART_ROWS = 256

RELU, TANH, SILU, GELU, IDENTITY = range(5)
SGD, ADAM, ADAMW = range(3)

_FAST = {"reassoc", "contract", "nsz", "arcp"}  # never nnan or ninf: a diverged replica must say so

_SQRT_HALF = np.float32(math.sqrt(0.5))
_NORMAL_PEAK = np.float32(1 / math.sqrt(2 * math.pi))


def workspace_size(widths: np.ndarray) -> int:
    """float32 values that `advance` needs beside the parameters: three tiles a layer, and one weight's gradient."""
    outputs = np.asarray(widths[1:], dtype=np.int64)
    return int(3 * TILE_ROWS * outputs.sum() + TILE_ROWS * widths[0] + (np.asarray(widths[:-1]) * outputs).max())


@intrinsic
def _bits_to_float32(typingctx, value):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@njit(inline="always", error_model="numpy")
def _exp(x):
    """e^x in float32, to about 1 ulp, in instructions that vectorise (Cephes `expf`: 2^k times a polynomial)."""
    x = min(max(x, float32(-87.0)), float32(88.0))
    k = np.floor(x * float32(1.44269504) + float32(0.5))
    r = x - k * float32(0.693359375) + k * float32(2.12194440e-4)
    p = float32(1.9875691500e-4)
    p = p * r + float32(1.3981999507e-3)
    p = p * r + float32(8.3334519073e-3)
    p = p * r + float32(4.1665795894e-2)
    p = p * r + float32(1.6666665459e-1)
    p = p * r + float32(5.0000001201e-1)
    return (p * r * r + r + float32(1.0)) * _bits_to_float32((int32(k) + int32(127)) << int32(23))


@njit(inline="always", error_model="numpy")
def _erf(x):
    """The error function to 1.5e-7 (Abramowitz and Stegun 7.1.26)."""
    a = abs(x)
    t = float32(1.0) / (float32(1.0) + float32(0.3275911) * a)
    p = float32(1.061405429)
    p = p * t + float32(-1.453152027)
    p = p * t + float32(1.421413741)
    p = p * t + float32(-0.284496736)
    p = p * t + float32(0.254829592)
    value = float32(1.0) - p * t * _exp(-a * a)
    return value if x >= 0 else -value


@njit(fastmath=_FAST, error_model="numpy")
def _activate(z, a, bias, activation):
    """z += bias; a = activation(z), over a tile (rows, outputs). Long flat loops: the compiler vectorises them."""
    rows, width = z.shape
    for row in range(rows):
        for j in range(width):
            z[row, j] += bias[j]
    flat_z, flat_a = z.reshape(-1), a.reshape(-1)
    if activation == RELU:
        for k in range(flat_z.shape[0]):
            flat_a[k] = float32(0.0) if flat_z[k] < float32(0.0) else flat_z[k]  # noqa: FURB136 - a NaN passes, as in torch
    elif activation == TANH:
        for k in range(flat_z.shape[0]):
            flat_a[k] = float32(1.0) - float32(2.0) / (_exp(float32(2.0) * flat_z[k]) + float32(1.0))
    elif activation == SILU:
        for k in range(flat_z.shape[0]):
            flat_a[k] = flat_z[k] / (float32(1.0) + _exp(-flat_z[k]))
    elif activation == GELU:
        for k in range(flat_z.shape[0]):
            flat_a[k] = float32(0.5) * flat_z[k] * (float32(1.0) + _erf(flat_z[k] * _SQRT_HALF))
    else:
        flat_a[:] = flat_z


@njit(fastmath=_FAST, error_model="numpy")
def _through_activation(d, z, a, bias_gradient, activation):
    """d *= activation'(z); bias_gradient += sum of d's rows."""
    flat_d, flat_z, flat_a = d.reshape(-1), z.reshape(-1), a.reshape(-1)
    if activation == RELU:
        for k in range(flat_d.shape[0]):
            flat_d[k] = flat_d[k] if flat_z[k] > float32(0.0) else float32(0.0)
    elif activation == TANH:
        for k in range(flat_d.shape[0]):
            flat_d[k] *= float32(1.0) - flat_a[k] * flat_a[k]
    elif activation == SILU:
        for k in range(flat_d.shape[0]):
            gate = float32(1.0) / (float32(1.0) + _exp(-flat_z[k]))
            flat_d[k] *= gate * (float32(1.0) + flat_z[k] * (float32(1.0) - gate))
    elif activation == GELU:
        for k in range(flat_d.shape[0]):
            x = flat_z[k]
            flat_d[k] *= float32(0.5) * (float32(1.0) + _erf(x * _SQRT_HALF)) + x * _NORMAL_PEAK * _exp(float32(-0.5) * x * x)
    rows, width = d.shape
    for row in range(rows):
        for j in range(width):
            bias_gradient[j] += d[row, j]


@njit
def _end_of_layers(widths):
    """Where the hidden layers' z, a and d end in the workspace."""
    place = TILE_ROWS * widths[0]
    for layer in range(widths.shape[0] - 2):
        place += 3 * TILE_ROWS * widths[layer + 1]
    return place


@njit
def _forward(x, m, widths, parameters, work, activation):
    """Through the hidden layers: z = a_below W + bias, a = activation(z). Returns the last a and where its weights begin.

    Each layer's z, a, d follow one another in the workspace, after the tile of features.
    """
    place, at, below = TILE_ROWS * widths[0], 0, x
    for layer in range(widths.shape[0] - 2):
        inputs, outputs = widths[layer], widths[layer + 1]
        z = work[place : place + m * outputs].reshape(m, outputs)
        a = work[place + TILE_ROWS * outputs : place + TILE_ROWS * outputs + m * outputs].reshape(m, outputs)
        np.dot(below, parameters[at : at + inputs * outputs].reshape(inputs, outputs), z)
        at += inputs * outputs
        _activate(z, a, parameters[at : at + outputs], activation)
        at += outputs
        place += 3 * TILE_ROWS * outputs
        below = a
    return below, at


@njit(fastmath=_FAST, error_model="numpy")
def _add_tile(rows, widths, parameters, gradient, work, activation, huber_delta, squares):
    """Add the sum of a tile's gradients to `gradient`; returns the sum of the rows' losses.

    `rows` (m, features + 1), m <= TILE_ROWS. The loss is ½r², or Huber's with `huber_delta` > 0 (½r² within, linear beyond).
    `squares`: empty, or (m,) for the rows' |g|² = Σ over layers of (|a|² + 1)|δ|², a the layer's input and δ its output's gradient
    (Goodfellow 2015, arXiv:1510.01799): no row's gradient is ever formed.
    """
    m = rows.shape[0]
    layers = widths.shape[0] - 1
    features = widths[0]
    x = work[: m * features].reshape(m, features)
    for row in range(m):
        for j in range(features):
            x[row, j] = rows[row, j]
    below, at = _forward(x, m, widths, parameters, work, activation)
    place = _end_of_layers(widths)
    # The output layer has one output: its products are sums, and its backward pass begins in the same loop.
    inputs = widths[layers - 1]
    weight, bias = parameters[at : at + inputs], parameters[at + inputs]
    loss = float64(0.0)
    bias_gradient = float32(0.0)
    d_below = work[place - TILE_ROWS * inputs : place - TILE_ROWS * inputs + m * inputs].reshape(m, inputs)
    weight_gradient = gradient[at : at + inputs]
    for row in range(m):
        residual = bias
        for j in range(inputs):
            residual += below[row, j] * weight[j]
        residual -= rows[row, features]
        if huber_delta > 0 and abs(residual) > huber_delta:
            loss += float64(huber_delta) * (abs(float64(residual)) - 0.5 * float64(huber_delta))
            residual = huber_delta if residual > 0 else -huber_delta
        else:
            loss += 0.5 * float64(residual) * float64(residual)
        bias_gradient += residual
        for j in range(inputs):
            weight_gradient[j] += residual * below[row, j]
        if layers > 1:
            for j in range(inputs):
                d_below[row, j] = residual * weight[j]
        if squares.shape[0]:
            squares[row] = residual * residual * (_squared_length(below[row]) + float32(1.0))
    gradient[at + inputs] += bias_gradient
    # Backward through the hidden layers.
    scratch = work[work.shape[0] - _largest_weight(widths) :]
    for layer in range(layers - 2, -1, -1):
        inputs, outputs = widths[layer], widths[layer + 1]
        place -= 3 * TILE_ROWS * outputs
        at -= (inputs + 1) * outputs
        z = work[place : place + m * outputs].reshape(m, outputs)
        a = work[place + TILE_ROWS * outputs : place + TILE_ROWS * outputs + m * outputs].reshape(m, outputs)
        d = work[place + 2 * TILE_ROWS * outputs : place + 2 * TILE_ROWS * outputs + m * outputs].reshape(m, outputs)
        size = inputs * outputs
        _through_activation(d, z, a, gradient[at + size : at + size + outputs], activation)
        if layer:
            below = work[place - 2 * TILE_ROWS * inputs : place - 2 * TILE_ROWS * inputs + m * inputs].reshape(m, inputs)
            d_below = work[place - TILE_ROWS * inputs : place - TILE_ROWS * inputs + m * inputs].reshape(m, inputs)
            np.dot(d, parameters[at : at + size].reshape(inputs, outputs).T, d_below)
        else:
            below = x
        if squares.shape[0]:
            for row in range(m):
                squares[row] += _squared_length(d[row]) * (_squared_length(below[row]) + float32(1.0))
        product = scratch[:size].reshape(inputs, outputs)
        np.dot(below.T, d, product)
        for k in range(size):
            gradient[at + k] += scratch[k]
    return loss


@njit(fastmath=_FAST, error_model="numpy")
def _squared_length(values):
    total = float32(0.0)
    for value in values:
        total += value * value
    return total


@njit
def _largest_weight(widths):
    largest = 0
    for layer in range(widths.shape[0] - 1):
        largest = max(largest, widths[layer] * widths[layer + 1])
    return largest


@njit(error_model="numpy")
def rate_factor(begin, end, warmup_rows, cosine_rows):
    """The learning rate's factor for the minibatch `[begin, end)` of the run: see learners/schedule.py, which it equals."""
    warmth = 1.0 if end >= warmup_rows else end / warmup_rows
    return warmth if cosine_rows == 0 else warmth * 0.5 * (1.0 + math.cos(math.pi * min(1.0, begin / cosine_rows)))


@njit(fastmath=_FAST, error_model="numpy")
def _step(parameters, gradients, moments, state, optimizer, lr, hyper):
    """Update with the mean gradient of the rows carried, summed over `gradients` (slots, P), then clear both and count the step.

    `hyper`: momentum, nesterov, beta1, beta2, epsilon, decay, clip, warm-up rows, cosine rows.
    """
    count = state[0]
    lr = lr * rate_factor(state[2], state[2] + count, hyper[7], hyper[8])
    state[0], state[1], state[2] = 0, state[1] + 1, state[2] + count
    steps = state[1]
    gradient = gradients[0]
    for slot in range(1, gradients.shape[0]):
        for i in range(gradient.shape[0]):
            gradient[i] += gradients[slot, i]
            gradients[slot, i] = float32(0.0)
    momentum, nesterov, beta1, beta2 = float32(hyper[0]), hyper[1], float32(hyper[2]), float32(hyper[3])
    epsilon, decay, clip = float32(hyper[4]), float32(hyper[5]), hyper[6]
    share = float32(1.0 / count)
    if clip > 0:
        squares = float64(0.0)
        for i in range(parameters.shape[0]):
            squares += float64(gradient[i]) * float64(gradient[i])
        norm = math.sqrt(squares) / count
        if norm > clip:
            share *= float32(clip / norm)
    rate = float32(lr)
    if optimizer == SGD:
        for i in range(parameters.shape[0]):
            g = gradient[i] * share + decay * parameters[i]
            moments[0, i] = momentum * moments[0, i] + g
            parameters[i] -= rate * (g + momentum * moments[0, i] if nesterov else moments[0, i])
            gradient[i] = float32(0.0)
        return
    keep = float32(1.0 - lr * hyper[5]) if optimizer == ADAMW else float32(1.0)
    added = float32(0.0) if optimizer == ADAMW else decay
    rate = float32(lr / (1.0 - hyper[2] ** steps))
    root = float32(1.0 / math.sqrt(1.0 - hyper[3] ** steps))
    # From float64: a beta2 held over rows is so near 1 at a small minibatch that its float32 is off by much of 1 - beta2.
    new1, new2 = float32(1.0 - hyper[2]), float32(1.0 - hyper[3])
    for i in range(parameters.shape[0]):
        g = gradient[i] * share + added * parameters[i]
        m = beta1 * moments[0, i] + new1 * g
        v = beta2 * moments[1, i] + new2 * g * g
        moments[0, i], moments[1, i] = m, v
        parameters[i] = keep * parameters[i] - rate * m / (np.sqrt(v) * root + epsilon)
        gradient[i] = float32(0.0)


@njit(error_model="numpy")
def _add_rows(rows, start, end, widths, parameters, gradient, work, activation, huber_delta, squares):
    """Add the gradients of rows `[start, end)` tile by tile; returns the sum of their losses."""
    loss = float64(0.0)
    while start < end:
        tile = min(TILE_ROWS, end - start)
        loss += _add_tile(rows[start : start + tile], widths, parameters, gradient, work, activation, huber_delta, squares[:tile])
        squares = squares[tile:]
        start += tile
    return loss


@njit(nogil=True, cache=True, error_model="numpy")
def advance(
    rows, start, stop, batch_size, widths, parameters, gradients, moments, work, state, losses, turn, carried, activation, huber_delta,
    optimizer, lr, hyper, squares,
):  # fmt: skip
    """Take every minibatch that ends in `[start, stop)` of a block; the rest stays in `gradients` as a sum.

    `gradients` (slots, P): with one slot, minibatches are taken one after another on this thread. With more, any number of
    threads may call this at once with the same arguments but `work`: each minibatch is cut into parts of `PART_ROWS` rows, part p
    is added into slot p mod slots, a thread takes a slot at a time, and the one that finishes a minibatch's last slot sums
    the slots in their order and steps. So the numbers do not depend on how many threads came.

    `state` (int64): rows carried, steps taken, rows of those steps; all are moved on. `carried`: the rows carried before the call.
    `losses` (float64, slots): the sums of the rows' losses are added. `turn` (int64, 16): zeros before the call, then the threads'
    ticket (minibatch and next slot) and, a cache line further, how many slots are done. `squares` (float32): empty, or a place for
    each row of `[start, stop)`, which gets the squared norm of the row's gradient.
    """
    if gradients.shape[0] == 1:
        while start < stop:
            end = min(stop, start + batch_size - state[0])
            state[0] += end - start
            losses[0] += _add_rows(rows, start, end, widths, parameters, gradients[0], work, activation, huber_delta, squares)
            squares = squares[end - start :]
            start = end
            if state[0] == batch_size:
                _step(parameters, gradients, moments, state, optimizer, lr, hyper)
        return
    while True:
        ticket = fetch_add(turn, 0, 1)
        minibatch, slot = ticket >> 16, ticket & 0xFFFF
        # Rows [begin, end) of the block are rows [offset, …) of this minibatch.
        begin, offset = (start, carried) if minibatch == 0 else (start + minibatch * batch_size - carried, 0)
        if begin >= stop:
            return
        end = min(stop, begin + batch_size - offset)
        first, last = offset // PART_ROWS, (offset + end - begin - 1) // PART_ROWS
        slots = min(gradients.shape[0], last - first + 1)
        if slot >= slots:
            wait_beyond(turn, 0, ((minibatch + 1) << 16) - 1)
            continue
        slot = (first + slot) % gradients.shape[0]
        part = first + (slot - first) % gradients.shape[0]
        loss = float64(0.0)
        while part <= last:
            low = max(begin, begin + part * PART_ROWS - offset)
            high = min(end, begin + (part + 1) * PART_ROWS - offset)
            loss += _add_rows(rows, low, high, widths, parameters, gradients[slot], work, activation, huber_delta, squares[low - start :])
            part += gradients.shape[0]
        losses[slot] += loss
        if fetch_add(turn, 8, 1) == slots - 1:
            state[0] += end - begin
            if state[0] == batch_size:
                _step(parameters, gradients, moments, state, optimizer, lr, hyper)
            store(turn, 8, 0)
            store(turn, 0, (minibatch + 1) << 16)


@njit(nogil=True, cache=True, error_model="numpy")
def finish(parameters, gradients, moments, state, optimizer, lr, hyper):
    """Take the carried rows, if any, as a minibatch of their own."""
    if state[0]:
        _step(parameters, gradients, moments, state, optimizer, lr, hyper)


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def squared_error(rows, widths, parameters, work, activation):
    """The sum of r² over rows (any number, features + 1): forward only."""
    layers, features = widths.shape[0] - 1, widths[0]
    total = float64(0.0)
    for start in range(0, rows.shape[0], TILE_ROWS):
        m = min(TILE_ROWS, rows.shape[0] - start)
        x = work[: m * features].reshape(m, features)
        for row in range(m):
            for j in range(features):
                x[row, j] = rows[start + row, j]
        below, at = _forward(x, m, widths, parameters, work, activation)
        for row in range(m):
            residual = parameters[at + widths[layers - 1]] - rows[start + row, features]
            for j in range(widths[layers - 1]):
                residual += below[row, j] * parameters[at + j]
            total += float64(residual) * float64(residual)
    return total
