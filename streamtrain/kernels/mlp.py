"""The fused step of a multi-layer perceptron: forward, backward and update of minibatch after minibatch in one call.

Rows are taken in tiles, so that a tile's activations stay in the first two caches. Products are gathered in registers (products.py;
BLAS for large layers), bias and ReLU in the same breath; other activations are one flat loop. Nothing is allocated anywhere.

A replica's parameters are one flat float32 line: for each layer the weight (inputs, outputs), then the bias (outputs).
All of it is one file of over 300 lines, since Numba's disk cache does not notice an edited callee in another one.
"""

import math

import numpy as np
from llvmlite import ir
from numba import float32, float64, int32, int64, njit
from numba.core import types
from numba.extending import intrinsic

from streamtrain.kernels.atomics import fetch_add, fetch_max, load, store, wait_beyond
from streamtrain.kernels.products import ADD, MASK, MOST_WEIGHTS, SET, SHIFT, SHIFT_RELU, multiply, transpose

#: Rows of a tile: 128 x 32 float32 of activations are 16 KB a layer.
TILE_ROWS = 128

#: Rows of a part: what one thread adds into one slot at a time, of a minibatch that several threads share.
PART_ROWS = 256

#: The most slots of a minibatch's gradient, and the int64 values that threads take turns by.
MOST_SLOTS = 16
TURN = 16 + MOST_SLOTS

RELU, TANH, SILU, GELU, IDENTITY = range(5)
SGD, ADAM, ADAMW = range(3)

_FAST = {"reassoc", "contract", "nsz", "arcp"}  # never nnan or ninf: a diverged replica must say so

_SQRT_HALF = np.float32(math.sqrt(0.5))
_NORMAL_PEAK = np.float32(1 / math.sqrt(2 * math.pi))


def workspace_size(widths: np.ndarray) -> int:
    """float32 values that `advance` needs beside the parameters: see `_forward`."""
    outputs = np.asarray(widths[1:], dtype=np.int64)
    return int(TILE_ROWS * (widths[0] + 3 * outputs[:-1].sum() + 1) + (np.asarray(widths[:-1]) * outputs).max() + 1)


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
def _activate(z, a, activation):
    """a = activation(z), one axis each, apart in memory: long flat loops, which the compiler vectorises."""
    if activation == RELU:
        for k in range(z.shape[0]):
            a[k] = float32(0.0) if z[k] < float32(0.0) else z[k]  # noqa: FURB136 - a NaN passes, as in torch
    elif activation == TANH:
        for k in range(z.shape[0]):
            a[k] = float32(1.0) - float32(2.0) / (_exp(float32(2.0) * z[k]) + float32(1.0))
    elif activation == SILU:
        for k in range(z.shape[0]):
            a[k] = z[k] / (float32(1.0) + _exp(-z[k]))
    elif activation == GELU:
        for k in range(z.shape[0]):
            a[k] = float32(0.5) * z[k] * (float32(1.0) + _erf(z[k] * _SQRT_HALF))


@njit(fastmath=_FAST, error_model="numpy")
def _through_activation(d, z, a, activation):
    """d *= activation'(z), one axis each."""
    if activation == RELU:
        for k in range(d.shape[0]):
            d[k] = d[k] if a[k] > float32(0.0) else float32(0.0)
    elif activation == TANH:
        for k in range(d.shape[0]):
            d[k] *= float32(1.0) - a[k] * a[k]
    elif activation == SILU:
        for k in range(d.shape[0]):
            gate = float32(1.0) / (float32(1.0) + _exp(-z[k]))
            d[k] *= gate * (float32(1.0) + z[k] * (float32(1.0) - gate))
    elif activation == GELU:
        for k in range(d.shape[0]):
            x = z[k]
            d[k] *= float32(0.5) * (float32(1.0) + _erf(x * _SQRT_HALF)) + x * _NORMAL_PEAK * _exp(float32(-0.5) * x * x)


@njit(inline="always")
def _hidden_layer(below, m, inputs, outputs, weight, bias, z, a, activation):
    """a = activation(below · weight + bias) for m rows, one axis each; ReLU and identity need no z."""
    target = a if activation == RELU or activation == IDENTITY else z
    if inputs * outputs <= MOST_WEIGHTS:
        multiply(below, inputs, 1, weight, target, m, outputs, inputs, bias, SHIFT_RELU if activation == RELU else SHIFT)
        if activation == RELU:
            return
    else:
        product = target.reshape(m, outputs)
        np.dot(below.reshape(m, inputs), weight.reshape(inputs, outputs), product)
        for row in range(m):
            for j in range(outputs):
                product[row, j] += bias[j]
    _activate(target, a, activation)


@njit(inline="always")
def _below_layer(d, m, inputs, outputs, weight, scratch, d_below, z_below, a_below, activation):
    """d_below = d · weightᵀ times the derivative of the activation below, for m rows, one axis each."""
    if inputs * outputs <= MOST_WEIGHTS:
        transpose(weight, inputs, outputs, scratch)
        multiply(d, outputs, 1, scratch, d_below, m, inputs, outputs, a_below, MASK if activation == RELU else SET)
        if activation == RELU:
            return
    else:
        np.dot(d.reshape(m, outputs), weight.reshape(inputs, outputs).T, d_below.reshape(m, inputs))
    _through_activation(d_below, z_below, a_below, activation)


@njit(inline="always")
def _add_layer_gradient(below, d, m, inputs, outputs, gradient, scratch, one):
    """gradient += belowᵀ · d (the weight), then the sum of d's rows (the bias), one axis each."""
    size = inputs * outputs
    if size <= MOST_WEIGHTS:
        multiply(below, 1, inputs, d, gradient, inputs, outputs, m, one, ADD)
    else:
        np.dot(below.reshape(m, inputs).T, d.reshape(m, outputs), scratch[:size].reshape(inputs, outputs))
        for k in range(size):
            gradient[k] += scratch[k]
    multiply(one, 0, 0, d, gradient[size:], 1, outputs, m, one, ADD)


@njit
def _tiles(work, place, m, width):
    """(z, a, d) of a hidden layer whose tiles begin at `place` of the workspace, each of m rows, one axis."""
    size, full = m * width, TILE_ROWS * width
    return work[place : place + size], work[place + full : place + full + size], work[place + 2 * full : place + 2 * full + size]


@njit
def _forward(rows, widths, parameters, work, activation):
    """Through the hidden layers. Returns the last activations, one axis, and where the output layer's weights begin.

    The workspace: a tile of features, each hidden layer's z, a and d, a tile of residuals, one weight, the number 1.
    """
    m, features = rows.shape[0], widths[0]
    for row in range(m):
        for j in range(features):
            work[row * features + j] = rows[row, j]
    place, at, below = TILE_ROWS * features, 0, work[: m * features]
    for layer in range(widths.shape[0] - 2):
        inputs, outputs = widths[layer], widths[layer + 1]
        size = inputs * outputs
        z, a, _ = _tiles(work, place, m, outputs)
        weight, bias = parameters[at : at + size], parameters[at + size : at + size + outputs]
        _hidden_layer(below, m, inputs, outputs, weight, bias, z, a, activation)
        at += size + outputs
        place += 3 * TILE_ROWS * outputs
        below = a
    return below, at


@njit(fastmath=_FAST, error_model="numpy")
def _residuals(below, rows, weight, bias, out):
    """out (m,) = the output layer minus the target."""
    width, target = weight.shape[0], rows.shape[1] - 1
    for row in range(rows.shape[0]):
        total = bias - rows[row, target]
        values = below[row * width : (row + 1) * width]
        for j in range(width):
            total += values[j] * weight[j]
        out[row] = total


@njit(fastmath=_FAST, error_model="numpy")
def _losses(residuals, huber_delta):
    """The sum of the losses; residuals become the losses' derivatives. ½r², or Huber's with `huber_delta` > 0: linear beyond it."""
    loss = float64(0.0)
    if huber_delta > 0:
        for row in range(residuals.shape[0]):
            residual = residuals[row]
            cut = min(max(residual, -huber_delta), huber_delta) if residual == residual else residual  # noqa: PLR0124 - NaN
            loss += float64(cut) * (float64(residual) - 0.5 * float64(cut))
            residuals[row] = cut
    else:
        for row in range(residuals.shape[0]):
            loss += 0.5 * float64(residuals[row]) * float64(residuals[row])
    return loss


@njit(error_model="numpy")
def _add_tile(rows, widths, parameters, gradient, work, activation, huber_delta, squares):
    """Add the sum of a tile's gradients to `gradient`; returns the sum of the rows' losses.

    `rows` (m, features + 1), m <= TILE_ROWS. `squares`: empty, or (m,) for the rows' |g|² = Σ over layers of (|a|² + 1)|δ|², a the
    layer's input and δ its output's gradient (Goodfellow 2015, arXiv:1510.01799): no row's gradient is ever formed.
    """
    m, layers = rows.shape[0], widths.shape[0] - 1
    end = work.shape[0] - 1
    work[end] = float32(1.0)
    one, scratch = work[end:], work[end - _largest_weight(widths) : end]
    place = end - scratch.shape[0] - TILE_ROWS
    residuals = work[place : place + m]
    below, at = _forward(rows, widths, parameters, work, activation)
    inputs = widths[layers - 1]
    weight = parameters[at : at + inputs]
    _residuals(below, rows, weight, parameters[at + inputs], residuals)
    loss = _losses(residuals, huber_delta)
    # The output layer's gradient, then down: a layer's d comes from the one above it.
    multiply(residuals, 0, 1, below, gradient[at:], 1, inputs, m, one, ADD)
    multiply(one, 0, 0, residuals, gradient[at + inputs :], 1, 1, m, one, ADD)
    _add_squares(squares, below, residuals, inputs, int64(1), layers - 1, layers)
    for layer in range(layers - 2, -1, -1):
        inputs, outputs = widths[layer], widths[layer + 1]
        place -= 3 * TILE_ROWS * outputs
        z, a, d = _tiles(work, place, m, outputs)
        if layer == layers - 2:
            multiply(residuals, 1, 0, weight, d, m, outputs, 1, a, MASK if activation == RELU else SET)
            if activation != RELU:
                _through_activation(d, z, a, activation)
        at -= (inputs + 1) * outputs
        below = work[: m * inputs]
        if layer:
            z, below, d_below = _tiles(work, place - 3 * TILE_ROWS * inputs, m, inputs)
            weight_here = parameters[at : at + inputs * outputs]
            _below_layer(d, m, inputs, outputs, weight_here, scratch, d_below, z, below, activation)
        _add_layer_gradient(below, d, m, inputs, outputs, gradient[at:], scratch, one)
        _add_squares(squares, below, d, inputs, outputs, layer, layers)
    return loss


@njit(fastmath=_FAST, error_model="numpy")
def _add_squares(squares, below, d, inputs, outputs, layer, layers):
    """squares += (|below|² + 1)|d|² for each row, from 0 in the last layer; does nothing when there is no place for them."""
    for row in range(squares.shape[0]):
        square = float32(0.0)
        for value in d[row * outputs : (row + 1) * outputs]:
            square += value * value
        length = float32(1.0)
        for value in below[row * inputs : (row + 1) * inputs]:
            length += value * value
        squares[row] = square * length + (squares[row] if layer < layers - 1 else float32(0.0))


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


@njit(inline="always")
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
    rows, start, stop, batch_size, widths, parameters, gradients, moments, work, state, losses, turn, carried, thread, threads, activation, huber_delta,
    optimizer, lr, hyper, squares,
):  # fmt: skip
    """Take every minibatch that ends in `[start, stop)` of a block; the rest stays in `gradients` as a sum.

    `gradients` (slots, P): with one slot, minibatches are taken one after another on this thread. With more, any number of
    threads may call this at once with the same arguments but `work` and `thread`: each minibatch is cut into parts of `PART_ROWS`
    rows, part p is added into slot p mod slots, a thread takes a slot at a time, and the one that finishes a minibatch's last slot
    sums the slots in their order and steps. So the numbers do not depend on how many threads came. Thread `thread` of `threads`
    begins with the slots that it had before, which are in its cache.

    `state` (int64): rows carried, steps taken, rows of those steps; all are moved on. `carried`: the rows carried before the call.
    `losses` (float64, slots): the sums of the rows' losses are added. `turn` (int64, `TURN` values): zeros before the call; then the
    minibatch that the threads are at, a cache line further how many of its slots are done, then the minibatches each slot was taken
    for. `squares` (float32): empty, or a place for
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
        minibatch = load(turn, 0)
        # Rows [begin, end) of the block are rows [offset, …) of this minibatch.
        begin, offset = (start, carried) if minibatch == 0 else (start + minibatch * batch_size - carried, 0)
        if begin >= stop:
            return
        end = min(stop, begin + batch_size - offset)
        first, last = offset // PART_ROWS, (offset + end - begin - 1) // PART_ROWS
        slots = min(gradients.shape[0], last - first + 1)
        for number in range(gradients.shape[0]):
            slot = (thread * gradients.shape[0] // threads + number) % gradients.shape[0]
            part = first + (slot - first) % gradients.shape[0]
            if part > last or fetch_max(turn, 16 + slot, minibatch + 1) > minibatch:
                continue
            loss = float64(0.0)
            while part <= last:
                low = max(begin, begin + part * PART_ROWS - offset)
                high = min(end, begin + (part + 1) * PART_ROWS - offset)
                own = squares[low - start :]
                loss += _add_rows(rows, low, high, widths, parameters, gradients[slot], work, activation, huber_delta, own)
                part += gradients.shape[0]
            losses[slot] += loss
            if fetch_add(turn, 8, 1) == slots - 1:
                state[0] += end - begin
                if state[0] == batch_size:
                    _step(parameters, gradients, moments, state, optimizer, lr, hyper)
                store(turn, 8, 0)
                store(turn, 0, minibatch + 1)
        wait_beyond(turn, 0, minibatch)


@njit(nogil=True, cache=True, error_model="numpy")
def finish(parameters, gradients, moments, state, optimizer, lr, hyper):
    """Take the carried rows, if any, as a minibatch of their own."""
    if state[0]:
        _step(parameters, gradients, moments, state, optimizer, lr, hyper)


@njit(nogil=True, cache=True, error_model="numpy")
def squared_error(rows, widths, parameters, work, activation):
    """The sum of r² over rows (any number, features + 1): forward only."""
    place = work.shape[0] - 1 - _largest_weight(widths) - TILE_ROWS
    inputs = widths[widths.shape[0] - 2]
    total = float64(0.0)
    for start in range(0, rows.shape[0], TILE_ROWS):
        tile = rows[start : start + TILE_ROWS]
        residuals = work[place : place + tile.shape[0]]
        below, at = _forward(tile, widths, parameters, work, activation)
        _residuals(below, tile, parameters[at : at + inputs], parameters[at + inputs], residuals)
        total += 2.0 * _losses(residuals, float32(0.0))
    return total
