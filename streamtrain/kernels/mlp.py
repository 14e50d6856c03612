"""The fused step of an MLP: forward, backward and update of many minibatches in one call.

Rows are processed in tiles (layers.py). The gradients of a minibatch are summed in one or more
slots, and the optimizer step (updates.py) follows when its last row has been added. No memory is
allocated.
"""

from numba import float64, njit

from streamtrain.kernels.atomics import fetch_add, fetch_max, load, store, wait_until_above
from streamtrain.kernels.layers import TILE_ROWS, add_tile, tile_squared_error
from streamtrain.kernels.sources import SOURCES
from streamtrain.kernels.updates import step

#: Rows per part of a minibatch. A thread adds one part at a time to a slot.
PART_ROWS = 256

#: The most slots for a minibatch's gradient.
MAX_SLOTS = 16

#: Length of the int64 array that coordinates threads; see `advance`.
TURN = 16 + MAX_SLOTS


@njit(inline="always")
def _add_rows(rows, start, end, widths, parameters, gradient, work, activation, huber_delta):
    """Add the gradients of rows `[start, end)` tile by tile; return the sum of their losses."""
    loss = float64(0.0)
    while start < end:
        tile = min(TILE_ROWS, end - start)
        loss += add_tile(
            rows[start : start + tile],
            widths,
            parameters,
            gradient,
            work,
            activation,
            huber_delta,
        )
        start += tile
    return loss


@njit(inline="always")
def _advance_alone(
    rows,
    start,
    stop,
    batch_size,
    widths,
    parameters,
    gradients,
    moments,
    work,
    state,
    losses,
    activation,
    huber_delta,
    optimizer,
    lr,
    hyper,
):
    """Process minibatches on this thread only: `advance` with one slot."""
    while start < stop:
        end = min(stop, start + batch_size - state[0])
        state[0] += end - start
        losses[0] += _add_rows(
            rows,
            start,
            end,
            widths,
            parameters,
            gradients[0],
            work,
            activation,
            huber_delta,
        )
        start = end
        if state[0] == batch_size:
            step(parameters, gradients, moments, state, optimizer, lr, hyper)


@njit(inline="always")
def _advance_together(
    rows,
    start,
    stop,
    batch_size,
    widths,
    parameters,
    gradients,
    moments,
    work,
    state,
    losses,
    turn,
    carried,
    thread,
    threads,
    activation,
    huber_delta,
    optimizer,
    lr,
    hyper,
):
    """Process minibatches together with other threads: `advance` with several slots."""
    while True:
        minibatch = load(turn, 0)
        # Rows [begin, end) of the block belong to this minibatch, starting at its row `offset`.
        begin, offset = start, carried
        if minibatch > 0:
            begin, offset = start + minibatch * batch_size - carried, 0
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
                loss += _add_rows(
                    rows,
                    low,
                    high,
                    widths,
                    parameters,
                    gradients[slot],
                    work,
                    activation,
                    huber_delta,
                )
                part += gradients.shape[0]
            losses[slot] += loss
            if fetch_add(turn, 8, 1) == slots - 1:
                state[0] += end - begin
                if state[0] == batch_size:
                    step(parameters, gradients, moments, state, optimizer, lr, hyper)
                store(turn, 8, 0)
                store(turn, 0, minibatch + 1)
        wait_until_above(turn, 0, minibatch)


def _kernels(sources):
    """Return (advance, finish, squared_error) with the hash `sources` in their closures.

    kernels/sources.py explains why.
    """

    @njit(nogil=True, cache=True, error_model="numpy")
    def advance(
        rows,
        start,
        stop,
        batch_size,
        widths,
        parameters,
        gradients,
        moments,
        work,
        state,
        losses,
        turn,
        carried,
        thread,
        threads,
        activation,
        huber_delta,
        optimizer,
        lr,
        hyper,
    ):
        """Process rows `[start, stop)` of a block, and carry the rows of an unfinished minibatch.

        The sum of the carried rows' gradients stays in `gradients`. With one slot, this thread
        processes the minibatches one after another. With more slots, several threads may call this
        at once, with equal arguments except `work` and `thread`. A minibatch is cut into parts of
        `PART_ROWS` rows, and part p is added to slot p mod slots. A thread processes one slot at a
        time. The thread that completes the last slot of a minibatch sums the slots in order and
        takes the step, so that results do not depend on the number of threads.

        Args:
            rows: The block, float32 (rows, features + 1), target last.
            start: First row to process.
            stop: End of the rows to process.
            batch_size: Rows per minibatch.
            widths: Widths of all layers, int64.
            parameters: Parameters of the replica, float32 (P,).
            gradients: Sums of gradients, float32 (slots, P or more).
            moments: Of the optimizer, and the average of the parameters; see `step`.
            work: Workspace of this thread; see `workspace_size` in layers.py.
            state: int64 (5,): rows carried and what follows them; see `step`. All are updated.
            losses: Sums of the rows' losses are added, float64 (slots,).
            turn: int64 (TURN,), zeros before the call. [0]: the current minibatch. [8], in the next
                cache line: its completed slots. [16:]: per slot, 1 + the last minibatch that
                claimed it.
            carried: Rows carried before the call.
            thread: Number of this thread. It starts with the slots that it processed in the
                previous minibatch, because they are in its cache.
            threads: Number of threads.
            activation: Activation function; see activations.py.
            huber_delta: Where Huber's loss becomes linear; 0: squared loss.
            optimizer: SGD, ADAM or ADAMW; see updates.py.
            lr: Learning rate before the schedule.
            hyper: Hyperparameters of the optimizer; see `step` in updates.py.
        """
        sources  # noqa: B018 - a use, so that it is in the closure
        if gradients.shape[0] == 1:
            _advance_alone(
                rows,
                start,
                stop,
                batch_size,
                widths,
                parameters,
                gradients,
                moments,
                work,
                state,
                losses,
                activation,
                huber_delta,
                optimizer,
                lr,
                hyper,
            )
        else:
            _advance_together(
                rows,
                start,
                stop,
                batch_size,
                widths,
                parameters,
                gradients,
                moments,
                work,
                state,
                losses,
                turn,
                carried,
                thread,
                threads,
                activation,
                huber_delta,
                optimizer,
                lr,
                hyper,
            )

    @njit(nogil=True, cache=True, error_model="numpy")
    def finish(parameters, gradients, moments, state, optimizer, lr, hyper):
        """Take a step with the carried rows, if any, as a short minibatch."""
        sources  # noqa: B018
        if state[0]:
            step(parameters, gradients, moments, state, optimizer, lr, hyper)

    @njit(nogil=True, cache=True, error_model="numpy")
    def squared_error(rows, widths, parameters, work, activation):
        """Return the sum of r² over any number of rows (rows, features + 1); forward only."""
        sources  # noqa: B018
        total = float64(0.0)
        for start in range(0, rows.shape[0], TILE_ROWS):
            total += tile_squared_error(
                rows[start : start + TILE_ROWS], widths, parameters, work, activation
            )
        return total

    return advance, finish, squared_error


advance, finish, squared_error = _kernels(SOURCES)
