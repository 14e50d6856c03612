"""Forward and backward pass of an MLP for a tile of rows that fits the first two caches.

Matrix products accumulate in registers (products.py; BLAS for large layers), and bias and ReLU are
applied before a block leaves the registers. Other activations are one flat loop. The derivatives of
a layer overwrite whichever of its arrays is no longer needed, so the tile of a ReLU network is read
and written in place: 16 KB per layer of 32 units. No memory is allocated.

The parameters of a replica are one flat float32 array: for each layer the weight (inputs, outputs),
then the bias (outputs). z is the input of an activation function, a its output, and d the
derivative of the loss with respect to z.
"""

import numpy as np
from numba import float32, float64, njit

from streamtrain.kernels.activations import (
    FAST,
    IDENTITY,
    RELU,
    TANH,
    activate,
    multiply_by_derivative,
)
from streamtrain.kernels.products import (
    ADD,
    MASK,
    MAX_WEIGHTS,
    SET,
    SHIFT,
    SHIFT_RELU,
    multiply,
    transpose,
)

#: Rows per tile: 128 x 32 float32 activations are 16 KB per layer.
TILE_ROWS = 128


def workspace_size(widths: np.ndarray) -> int:
    """Return how many float32 values a tile's workspace has; see `_forward` for its layout."""
    outputs = np.asarray(widths[1:], dtype=np.int64)
    tiles = TILE_ROWS * (widths[0] + 2 * outputs[:-1].sum() + 1)
    largest_weight = (np.asarray(widths[:-1]) * outputs).max()
    return int(tiles + largest_weight + 1)


@njit
def _largest_weight(widths):
    largest = 0
    for layer in range(widths.shape[0] - 1):
        largest = max(largest, widths[layer] * widths[layer + 1])
    return largest


@njit(inline="always")
def _hidden_layer(below, m, inputs, outputs, weight, bias, z, a, activation):
    """Set a = activation(below · weight + bias) for m rows; all arrays have one axis.

    ReLU and identity leave z unused.
    """
    target = a if activation in (RELU, IDENTITY) else z
    if inputs * outputs <= MAX_WEIGHTS:
        finish = SHIFT_RELU if activation == RELU else SHIFT
        multiply(below, inputs, 1, weight, target, m, outputs, inputs, bias, finish)
        if activation == RELU:
            return
    else:
        product = target.reshape(m, outputs)
        np.dot(below.reshape(m, inputs), weight.reshape(inputs, outputs), product)
        for row in range(m):
            for j in range(outputs):
                product[row, j] += bias[j]
    activate(target, a, activation)


@njit(inline="always")
def _below_layer(d_above, m, inputs, outputs, weight, scratch, d, other, activation):
    """Set d = d_above · weightᵀ times the derivative of the activation below, for m rows.

    All arrays have one axis; `_derivatives` says which arrays `d` and `other` are.
    """
    if inputs * outputs <= MAX_WEIGHTS:
        transpose(weight, inputs, outputs, scratch)
        finish = MASK if activation == RELU else SET
        multiply(d_above, outputs, 1, scratch, d, m, inputs, outputs, d, finish)
        if activation == RELU:
            return
    else:
        product = other if activation == RELU else d
        transposed = weight.reshape(inputs, outputs).T
        np.dot(d_above.reshape(m, outputs), transposed, product.reshape(m, inputs))
    multiply_by_derivative(d, other, activation)


@njit(inline="always")
def _add_layer_gradient(below, d, m, inputs, outputs, gradient, scratch, one):
    """Add belowᵀ · d (the weight) and the sum of d's rows (the bias) to `gradient`.

    All arrays have one axis. `one` is an array with the number 1.
    """
    size = inputs * outputs
    if size <= MAX_WEIGHTS:
        multiply(below, 1, inputs, d, gradient, inputs, outputs, m, one, ADD)
    else:
        product = scratch[:size].reshape(inputs, outputs)
        np.dot(below.reshape(m, inputs).T, d.reshape(m, outputs), product)
        for k in range(size):
            gradient[k] += scratch[k]
    multiply(one, 0, 0, d, gradient[size:], 1, outputs, m, one, ADD)


@njit
def _tiles(work, tile_at, m, width):
    """Return (z, a), each of m rows and one axis, of the hidden layer at `tile_at` in `work`."""
    size, full = m * width, TILE_ROWS * width
    return work[tile_at : tile_at + size], work[tile_at + full : tile_at + full + size]


@njit(inline="always")
def _derivatives(z, a, activation):
    """Return (d, other): d overwrites the array that the derivative does not need."""
    return (z, a) if activation == TANH else (a, z)


@njit
def _forward(rows, widths, parameters, work, activation):
    """Run the hidden layers; return the last activations and the offset of the output layer.

    The workspace contains, in this order: a tile of features, z and a of each hidden layer, a tile
    of residuals, space for the largest weight, and the number 1.
    """
    m, features = rows.shape[0], widths[0]
    for row in range(m):
        for j in range(features):
            work[row * features + j] = rows[row, j]
    tile_at = TILE_ROWS * features
    weight_at = 0
    below = work[: m * features]
    for layer in range(widths.shape[0] - 2):
        inputs, outputs = widths[layer], widths[layer + 1]
        size = inputs * outputs
        z, a = _tiles(work, tile_at, m, outputs)
        bias_at = weight_at + size
        weight = parameters[weight_at:bias_at]
        bias = parameters[bias_at : bias_at + outputs]
        _hidden_layer(below, m, inputs, outputs, weight, bias, z, a, activation)
        weight_at += size + outputs
        tile_at += 2 * TILE_ROWS * outputs
        below = a
    return below, weight_at


@njit(fastmath=FAST, error_model="numpy")
def _residuals(below, rows, weight, bias, out):
    """Set out (m,) = the output of the last layer minus the target."""
    width, target = weight.shape[0], rows.shape[1] - 1
    for row in range(rows.shape[0]):
        total = bias - rows[row, target]
        for j in range(width):
            total += below[row * width + j] * weight[j]
        out[row] = total


@njit(fastmath=FAST, error_model="numpy")
def _losses(residuals, huber_delta):
    """Return the sum of the losses, and replace the residuals by the derivatives of the losses.

    The loss is ½r², or Huber's if `huber_delta` > 0, which is linear beyond it.
    """
    loss = float64(0.0)
    if huber_delta > 0:
        for row in range(residuals.shape[0]):
            residual = residuals[row]
            clipped = residual
            if residual == residual:  # NaN is kept
                clipped = min(max(residual, -huber_delta), huber_delta)
            loss += float64(clipped) * (float64(residual) - 0.5 * float64(clipped))
            residuals[row] = clipped
    else:
        for row in range(residuals.shape[0]):
            loss += 0.5 * float64(residuals[row]) * float64(residuals[row])
    return loss


@njit(inline="always")
def _output_layer(rows, below, weight, bias, residuals, gradient, one, huber_delta):
    """Set the residuals of m rows, add the output layer's gradient; return the sum of losses."""
    m, inputs = rows.shape[0], weight.shape[0]
    _residuals(below, rows, weight, bias, residuals)
    loss = _losses(residuals, huber_delta)
    multiply(residuals, 0, 1, below, gradient, 1, inputs, m, one, ADD)
    multiply(one, 0, 0, residuals, gradient[inputs:], 1, 1, m, one, ADD)
    return loss


@njit(error_model="numpy")
def add_tile(rows, widths, parameters, gradient, work, activation, huber_delta):
    """Add the sum of a tile's gradients to `gradient`; return the sum of the rows' losses.

    `rows` is (m, features + 1) with m <= TILE_ROWS.
    """
    m, layers = rows.shape[0], widths.shape[0] - 1
    end = work.shape[0] - 1
    work[end] = float32(1.0)
    one, scratch = work[end:], work[end - _largest_weight(widths) : end]
    tile_at = end - scratch.shape[0] - TILE_ROWS
    residuals = work[tile_at : tile_at + m]
    below, weight_at = _forward(rows, widths, parameters, work, activation)
    inputs = widths[layers - 1]
    weight = parameters[weight_at : weight_at + inputs]
    bias = parameters[weight_at + inputs]
    added = gradient[weight_at:]
    loss = _output_layer(rows, below, weight, bias, residuals, added, one, huber_delta)
    if layers == 1:
        return loss
    tile_at -= 2 * TILE_ROWS * inputs
    z, a = _tiles(work, tile_at, m, inputs)
    d, other = _derivatives(z, a, activation)
    multiply(residuals, 1, 0, weight, d, m, inputs, 1, d, MASK if activation == RELU else SET)
    if activation != RELU:
        multiply_by_derivative(d, other, activation)
    for layer in range(layers - 2, -1, -1):  # backwards
        inputs, outputs = widths[layer], widths[layer + 1]
        weight_at -= (inputs + 1) * outputs
        below = work[: m * inputs]
        if layer:
            tile_at -= 2 * TILE_ROWS * inputs
            z, below = _tiles(work, tile_at, m, inputs)
        _add_layer_gradient(below, d, m, inputs, outputs, gradient[weight_at:], scratch, one)
        if layer:
            d_above = d
            d, other = _derivatives(z, below, activation)
            weight = parameters[weight_at : weight_at + inputs * outputs]
            _below_layer(d_above, m, inputs, outputs, weight, scratch, d, other, activation)
    return loss


@njit(error_model="numpy")
def tile_squared_error(rows, widths, parameters, work, activation):
    """Return the sum of r² over a tile's rows (m, features + 1), m <= TILE_ROWS; forward only."""
    residuals_at = work.shape[0] - 1 - _largest_weight(widths) - TILE_ROWS
    inputs = widths[widths.shape[0] - 2]
    residuals = work[residuals_at : residuals_at + rows.shape[0]]
    below, weight_at = _forward(rows, widths, parameters, work, activation)
    bias_at = weight_at + inputs
    _residuals(below, rows, parameters[weight_at:bias_at], parameters[bias_at], residuals)
    return 2.0 * _losses(residuals, float32(0.0))
