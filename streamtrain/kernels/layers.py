"""Forward and backward through an MLP's layers for a tile of rows, whose activations stay in the
first two caches.

Products are gathered in registers (products.py; BLAS for large layers), bias and ReLU in the same
breath; other activations are one flat loop. The derivatives of a layer are written over what is no
longer needed of it: a ReLU network's tile is read and written in one place, 16 KB a layer of 32.
Nothing is allocated anywhere.

A replica's parameters are one flat float32 line: for each layer the weight (inputs, outputs), then
the bias (outputs). z is what an activation is given, a what it gives, d the derivatives of the loss
by z.
"""

import numpy as np
from numba import float32, float64, int64, njit, uint64

from streamtrain.kernels.activations import FAST, IDENTITY, RELU, TANH, activate, through_activation
from streamtrain.kernels.products import (
    ADD,
    MASK,
    MOST_WEIGHTS,
    SET,
    SHIFT,
    SHIFT_RELU,
    multiply,
    transpose,
)

#: Rows of a tile: 128 x 32 float32 of activations are 16 KB a layer.
TILE_ROWS = 128


def workspace_size(widths: np.ndarray) -> int:
    """float32 values that a tile needs beside the parameters: see `_forward`."""
    outputs = np.asarray(widths[1:], dtype=np.int64)
    return int(
        TILE_ROWS * (widths[0] + 2 * outputs[:-1].sum() + 1)
        + (np.asarray(widths[:-1]) * outputs).max()
        + 1
    )


@njit
def _largest_weight(widths):
    largest = 0
    for layer in range(widths.shape[0] - 1):
        largest = max(largest, widths[layer] * widths[layer + 1])
    return largest


@njit(inline="always")
def _hidden_layer(below, m, inputs, outputs, weight, bias, z, a, activation):
    """A = activation(below · weight + bias) for m rows, one axis each.

    ReLU and identity need no z.
    """
    target = a if activation in (RELU, IDENTITY) else z
    if inputs * outputs <= MOST_WEIGHTS:
        multiply(
            below,
            inputs,
            1,
            weight,
            target,
            m,
            outputs,
            inputs,
            bias,
            SHIFT_RELU if activation == RELU else SHIFT,
        )
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
    """D = d_above · weightᵀ times the derivative of the activation below the weight, for m rows,
    one axis each; see `_derivatives`.
    """
    if inputs * outputs <= MOST_WEIGHTS:
        transpose(weight, inputs, outputs, scratch)
        multiply(
            d_above,
            outputs,
            1,
            scratch,
            d,
            m,
            inputs,
            outputs,
            d,
            MASK if activation == RELU else SET,
        )
        if activation == RELU:
            return
    else:
        product = other if activation == RELU else d
        np.dot(
            d_above.reshape(m, outputs),
            weight.reshape(inputs, outputs).T,
            product.reshape(m, inputs),
        )
    through_activation(d, other, activation)


@njit(inline="always")
def _add_layer_gradient(below, d, m, inputs, outputs, gradient, scratch, one):
    """Gradient += belowᵀ · d (the weight), then the sum of d's rows (the bias), one axis each."""
    size = inputs * outputs
    if size <= MOST_WEIGHTS:
        multiply(below, 1, inputs, d, gradient, inputs, outputs, m, one, ADD)
    else:
        np.dot(
            below.reshape(m, inputs).T,
            d.reshape(m, outputs),
            scratch[:size].reshape(inputs, outputs),
        )
        for k in range(size):
            gradient[k] += scratch[k]
    multiply(one, 0, 0, d, gradient[size:], 1, outputs, m, one, ADD)


@njit
def _tiles(work, place, m, width):
    """(z, a) of a hidden layer whose tiles begin at `place` of the workspace, each of m rows, one
    axis.
    """
    size, full = m * width, TILE_ROWS * width
    return work[place : place + size], work[place + full : place + full + size]


@njit(inline="always")
def _derivatives(z, a, activation):
    """(d, other): where a layer's d is written, over the one that its derivative does not need, and
    the other one.
    """
    return (z, a) if activation == TANH else (a, z)


@njit
def _forward(rows, widths, parameters, work, activation):
    """Through the hidden layers.

    Returns the last activations, one axis, and where the output layer's weights begin.

    The workspace: a tile of features, each hidden layer's z and a, a tile of residuals, one weight,
    the number 1.
    """
    m, features = rows.shape[0], widths[0]
    for row in range(m):
        for j in range(features):
            work[row * features + j] = rows[row, j]
    place, at, below = TILE_ROWS * features, 0, work[: m * features]
    for layer in range(widths.shape[0] - 2):
        inputs, outputs = widths[layer], widths[layer + 1]
        size = inputs * outputs
        z, a = _tiles(work, place, m, outputs)
        weight, bias = parameters[at : at + size], parameters[at + size : at + size + outputs]
        _hidden_layer(below, m, inputs, outputs, weight, bias, z, a, activation)
        at += size + outputs
        place += 2 * TILE_ROWS * outputs
        below = a
    return below, at


@njit(fastmath=FAST, error_model="numpy")
def _residuals(below, rows, weight, bias, out):
    """Out (m,) = the output layer minus the target."""
    width, target = uint64(weight.shape[0]), rows.shape[1] - 1
    for row in range(uint64(rows.shape[0])):
        total = bias - rows[row, target]
        for j in range(width):
            total += below[row * width + j] * weight[j]
        out[row] = total


@njit(fastmath=FAST, error_model="numpy")
def _losses(residuals, huber_delta):
    """The sum of the losses; residuals become the losses' derivatives. ½r², or Huber's with
    `huber_delta` > 0: linear beyond it.
    """
    loss = float64(0.0)
    if huber_delta > 0:
        for row in range(residuals.shape[0]):
            residual = residuals[row]
            cut = (
                min(max(residual, -huber_delta), huber_delta) if residual == residual else residual
            )
            loss += float64(cut) * (float64(residual) - 0.5 * float64(cut))
            residuals[row] = cut
    else:
        for row in range(residuals.shape[0]):
            loss += 0.5 * float64(residuals[row]) * float64(residuals[row])
    return loss


@njit(inline="always")
def _length(values, row, width):
    """|v|² of a row of `values`, one axis; unsigned, since a number that may be negative stops
    vectorisation.
    """
    total = float32(0.0)
    for k in range(width):
        value = values[row * width + k]
        total += value * value
    return total


@njit(fastmath=FAST, error_model="numpy")
def _add_squares(squares, below, d, inputs, outputs, is_last):
    """Squares += (|below|² + 1)|d|² for each row, from 0 in the last layer; does nothing when there
    is no place for them.
    """
    for row in range(uint64(squares.shape[0])):
        square = _length(d, row, uint64(outputs)) * (
            _length(below, row, uint64(inputs)) + float32(1.0)
        )
        squares[row] = square if is_last else squares[row] + square


@njit(inline="always")
def _output_layer(rows, below, weight, bias, residuals, gradient, one, huber_delta, squares):
    """Residuals of the output layer's m rows, and its gradient, added; returns the sum of the
    losses.
    """
    m, inputs = rows.shape[0], weight.shape[0]
    _residuals(below, rows, weight, bias, residuals)
    loss = _losses(residuals, huber_delta)
    multiply(residuals, 0, 1, below, gradient, 1, inputs, m, one, ADD)
    multiply(one, 0, 0, residuals, gradient[inputs:], 1, 1, m, one, ADD)
    _add_squares(squares, below, residuals, inputs, int64(1), True)
    return loss


@njit(error_model="numpy")
def add_tile(rows, widths, parameters, gradient, work, activation, huber_delta, squares):
    """Add the sum of a tile's gradients to `gradient`; returns the sum of the rows' losses.

    `rows` (m, features + 1), m <= TILE_ROWS. `squares`: empty, or (m,) for the rows' |g|² = Σ over
    layers of (|a|² + 1)|δ|², a the layer's input and δ its output's gradient (Goodfellow 2015,
    arXiv:1510.01799): no row's gradient is ever formed.
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
    loss = _output_layer(
        rows,
        below,
        weight,
        parameters[at + inputs],
        residuals,
        gradient[at:],
        one,
        huber_delta,
        squares,
    )
    if layers == 1:
        return loss
    place -= 2 * TILE_ROWS * inputs
    z, a = _tiles(work, place, m, inputs)
    d, other = _derivatives(z, a, activation)
    multiply(residuals, 1, 0, weight, d, m, inputs, 1, d, MASK if activation == RELU else SET)
    if activation != RELU:
        through_activation(d, other, activation)
    for layer in range(layers - 2, -1, -1):  # down: a layer's d comes from the one above it
        inputs, outputs = widths[layer], widths[layer + 1]
        at -= (inputs + 1) * outputs
        below = work[: m * inputs]
        if layer:
            place -= 2 * TILE_ROWS * inputs
            z, below = _tiles(work, place, m, inputs)
        _add_layer_gradient(below, d, m, inputs, outputs, gradient[at:], scratch, one)
        _add_squares(squares, below, d, inputs, outputs, False)
        if layer:
            d_above = d
            d, other = _derivatives(z, below, activation)
            _below_layer(
                d_above,
                m,
                inputs,
                outputs,
                parameters[at : at + inputs * outputs],
                scratch,
                d,
                other,
                activation,
            )
    return loss


@njit(error_model="numpy")
def tile_squared_error(rows, widths, parameters, work, activation):
    """The sum of r² over a tile's rows (m, features + 1): forward only."""
    place, inputs = (
        work.shape[0] - 1 - _largest_weight(widths) - TILE_ROWS,
        widths[widths.shape[0] - 2],
    )
    residuals = work[place : place + rows.shape[0]]
    below, at = _forward(rows, widths, parameters, work, activation)
    _residuals(below, rows, parameters[at : at + inputs], parameters[at + inputs], residuals)
    return 2.0 * _losses(residuals, float32(0.0))
