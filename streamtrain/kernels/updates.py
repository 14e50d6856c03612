"""The optimizer step from a sum of gradients, the learning-rate schedule, and averaged weights."""

import math

import numpy as np
from numba import float32, float64, njit

from streamtrain.kernels.activations import FAST

SGD, ADAM, ADAMW = range(3)


#: Moments smaller than this are set to zero. If the gradient of a weight stays 0 (in a dead unit),
#: its moment decays until it is denormal. Rounding then keeps it from reaching 0, and every product
#: with it takes about a hundred cycles.
TINY = np.float32(1e-30)


@njit(inline="always")
def _flush(moment):
    """Return the moment, or 0 if it is too small to affect a parameter; NaN is kept."""
    return float32(0.0) if abs(moment) < TINY else moment


@njit(error_model="numpy")
def rate_factor(begin, end, warmup_rows, cosine_rows):
    """Return the learning-rate factor for the minibatch of rows `[begin, end)` of the run.

    It equals `rate_factors` of training/schedule.py.
    """
    warmup = 1.0 if end >= warmup_rows else end / warmup_rows
    if cosine_rows == 0:
        return warmup
    return warmup * 0.5 * (1.0 + math.cos(math.pi * min(1.0, begin / cosine_rows)))


@njit(fastmath=FAST, error_model="numpy")
def step(parameters, gradients, moments, state, optimizer, lr, hyper):
    """Update the parameters with the mean gradient of the rows carried, and clear sums and count.

    Args:
        parameters: float32 (P,).
        gradients: Sums of gradients in slots, float32 (slots, P or more).
        moments: Momentum, or first and second moment, and the average of the parameters unless it
            is off, float32 (2 or 3, P).
        state: int64: rows carried, steps taken, rows of those steps, rows at which the average was
            last updated and rows at which it next is.
        optimizer: SGD, ADAM or ADAMW.
        lr: Learning rate before the schedule.
        hyper: Momentum, nesterov, beta1, beta2, epsilon, decay, clip, warm-up rows, cosine rows,
            fraction of the rows that the average spans (0: no average), steps to add in the bias
            correction of the second moment (see `further_steps` in training/engine.py).
    """
    _move(parameters, gradients, moments, state, optimizer, lr, hyper)
    if hyper[9] > 0 and state[2] >= state[4]:
        _average(parameters, moments[2], state, hyper[9])


@njit(fastmath=FAST, error_model="numpy")
def _average(parameters, average, state, fraction):
    """Move the average towards the parameters by the rows since its last update.

    training/averaging.py states the rule.
    """
    rows = state[2]
    share = (rows - state[3]) / (fraction * rows)
    state[3], state[4] = rows, rows + max(1, rows // 256)
    if share >= 1.0:
        for i in range(parameters.shape[0]):
            average[i] = parameters[i]
        return
    weight = float32(share)
    for i in range(parameters.shape[0]):
        average[i] += weight * (parameters[i] - average[i])


@njit(fastmath=FAST, error_model="numpy")
def _move(parameters, gradients, moments, state, optimizer, lr, hyper):
    """Update parameters and moments, and count the step: `step` without the average."""
    count = state[0]
    lr = lr * rate_factor(state[2], state[2] + count, hyper[7], hyper[8])
    state[0], state[1], state[2] = 0, state[1] + 1, state[2] + count
    steps = state[1]
    gradient = gradients[0]
    for slot in range(1, gradients.shape[0]):
        for i in range(parameters.shape[0]):
            gradient[i] += gradients[slot, i]
            gradients[slot, i] = float32(0.0)
    momentum, nesterov, beta1 = float32(hyper[0]), hyper[1], float32(hyper[2])
    epsilon, decay, clip = float32(hyper[4]), float32(hyper[5]), hyper[6]
    scale = float32(1.0 / count)
    if clip > 0:
        squares = float64(0.0)
        for i in range(parameters.shape[0]):
            squares += float64(gradient[i]) * float64(gradient[i])
        norm = math.sqrt(squares) / count
        if norm > clip:
            scale *= float32(clip / norm)
    rate = float32(lr)
    if optimizer == SGD:
        for i in range(parameters.shape[0]):
            g = gradient[i] * scale + decay * parameters[i]
            moments[0, i] = _flush(momentum * moments[0, i] + g)
            parameters[i] -= rate * (g + momentum * moments[0, i] if nesterov else moments[0, i])
            gradient[i] = float32(0.0)
        return
    keep = float32(1.0 - lr * hyper[5]) if optimizer == ADAMW else float32(1.0)
    added = float32(0.0) if optimizer == ADAMW else decay
    rate = float32(lr / (1.0 - hyper[2] ** steps))
    # An integer power is rounded otherwise, so it stays where the minibatch size never changed.
    kept = hyper[3] ** steps if hyper[10] == 0 else hyper[3] ** (steps + hyper[10])
    root = float32(1.0 / math.sqrt(1.0 - kept))
    # 1 - beta is computed in float64, and beta2 itself is never rounded to float32: if defined per
    # row, it is so close to 1 at small minibatches that rounding would change v by 2 % at B = 1.
    new1, new2 = float32(1.0 - hyper[2]), float32(1.0 - hyper[3])
    for i in range(parameters.shape[0]):
        g = gradient[i] * scale + added * parameters[i]
        m = _flush(beta1 * moments[0, i] + new1 * g)
        v = _flush(moments[1, i] + new2 * (g * g - moments[1, i]))
        moments[0, i], moments[1, i] = m, v
        parameters[i] = keep * parameters[i] - rate * m / (np.sqrt(v) * root + epsilon)
        gradient[i] = float32(0.0)
