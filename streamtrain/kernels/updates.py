"""The step of an optimizer from a sum of gradients, and the learning rate's schedule."""

import math

import numpy as np
from numba import float32, float64, njit

from streamtrain.kernels.activations import FAST

SGD, ADAM, ADAMW = range(3)


#: A moment smaller than this is zero: that of a weight which no row moves any more (a dead unit's)
#: decays until it is denormal, stays so for ever, since rounding holds it there, and every product
#: with it takes the processor a hundred cycles.
TINY = np.float32(1e-30)


@njit(inline="always")
def _flush(moment):
    """The moment, or zero where nothing would be seen of it beside epsilon or a parameter; a NaN
    passes.
    """
    return float32(0.0) if abs(moment) < TINY else moment


@njit(error_model="numpy")
def rate_factor(begin, end, warmup_rows, cosine_rows):
    """The learning rate's factor for the minibatch `[begin, end)` of the run: see
    learners/schedule.py, which it equals.
    """
    warmth = 1.0 if end >= warmup_rows else end / warmup_rows
    return (
        warmth
        if cosine_rows == 0
        else warmth * 0.5 * (1.0 + math.cos(math.pi * min(1.0, begin / cosine_rows)))
    )


@njit(fastmath=FAST, error_model="numpy")
def step(parameters, gradients, moments, state, optimizer, lr, hyper):
    """Update with the mean gradient of the rows carried, summed over `gradients` (slots, P or
    more), then clear both and count the step.

    `hyper`: momentum, nesterov, beta1, beta2, epsilon, decay, clip, warm-up rows, cosine rows.
    """
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
            moments[0, i] = _flush(momentum * moments[0, i] + g)
            parameters[i] -= rate * (g + momentum * moments[0, i] if nesterov else moments[0, i])
            gradient[i] = float32(0.0)
        return
    keep = float32(1.0 - lr * hyper[5]) if optimizer == ADAMW else float32(1.0)
    added = float32(0.0) if optimizer == ADAMW else decay
    rate = float32(lr / (1.0 - hyper[2] ** steps))
    root = float32(1.0 / math.sqrt(1.0 - hyper[3] ** steps))
    # From float64, and beta2 itself nowhere: held over rows it is so near 1 at a small minibatch
    # that its float32 would be another one, with v off by 2 % at B = 1.
    new1, new2 = float32(1.0 - hyper[2]), float32(1.0 - hyper[3])
    for i in range(parameters.shape[0]):
        g = gradient[i] * share + added * parameters[i]
        m = _flush(beta1 * moments[0, i] + new1 * g)
        v = _flush(moments[1, i] + new2 * (g * g - moments[1, i]))
        moments[0, i], moments[1, i] = m, v
        parameters[i] = keep * parameters[i] - rate * m / (np.sqrt(v) * root + epsilon)
        gradient[i] = float32(0.0)
