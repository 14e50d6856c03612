"""The fused step of a multi-layer perceptron: forward, backward and update of minibatch after
minibatch in one call.

Rows are taken in tiles (layers.py), a minibatch's gradients are summed in one or more slots, and
the step (updates.py) is taken where its last row was added. Nothing is allocated anywhere.
"""

from numba import float64, njit

from streamtrain.kernels.atomics import fetch_add, fetch_max, load, store, wait_beyond
from streamtrain.kernels.layers import TILE_ROWS, add_tile, tile_squared_error
from streamtrain.kernels.sources import SOURCES
from streamtrain.kernels.updates import step

#: Rows of a part: what one thread adds into one slot at a time, of a minibatch that several threads
#: share.
PART_ROWS = 256

#: The most slots of a minibatch's gradient, and the int64 values that threads take turns by.
MOST_SLOTS = 16
TURN = 16 + MOST_SLOTS


@njit(inline="always")
def _add_rows(
    rows, start, end, widths, parameters, gradient, work, activation, huber_delta, squares
):
    """Add the gradients of rows `[start, end)` tile by tile; returns the sum of their losses."""
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
            squares[:tile],
        )
        squares = squares[tile:]
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
    squares,
):
    """Minibatch after minibatch on this thread: see `advance`, with one slot."""
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
            squares,
        )
        squares = squares[end - start :]
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
    squares,
):
    """Minibatch after minibatch with whoever comes: see `advance`, with several slots."""
    while True:
        minibatch = load(turn, 0)
        # Rows [begin, end) of the block are rows [offset, …) of this minibatch.
        begin, offset = (
            (start, carried) if minibatch == 0 else (start + minibatch * batch_size - carried, 0)
        )
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
                    own,
                )
                part += gradients.shape[0]
            losses[slot] += loss
            if fetch_add(turn, 8, 1) == slots - 1:
                state[0] += end - begin
                if state[0] == batch_size:
                    step(parameters, gradients, moments, state, optimizer, lr, hyper)
                store(turn, 8, 0)
                store(turn, 0, minibatch + 1)
        wait_beyond(turn, 0, minibatch)


def _kernels(sources):
    """(advance, finish, squared_error), which the disk cache keeps by `sources`: see
    kernels/sources.py.
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
        squares,
    ):
        """Take every minibatch that ends in `[start, stop)` of a block; the rest stays in
        `gradients` as a sum.

        `gradients` (slots, P or more): with one slot, minibatches are taken one after another on
        this thread. With more, any number of threads may call this at once with the same arguments
        but `work` and `thread`: each minibatch is cut into parts of `PART_ROWS` rows, part p is
        added into slot p mod slots, a thread takes a slot at a time, and the one that finishes a
        minibatch's last slot sums the slots in their order and steps. So the numbers do not depend
        on how many threads came. Thread `thread` of `threads` begins with the slots that it had
        before, which are in its cache.

        `state` (int64): rows carried, steps taken, rows of those steps; all are moved on.
        `carried`: the rows carried before the call. `losses` (float64, slots): the sums of the
        rows' losses are added. `turn` (int64, `TURN` values): zeros before the call; then the
        minibatch that the threads are at, a cache line further how many of its slots are done, then
        the minibatches each slot was taken for. `squares` (float32): empty, or a place for each row
        of `[start, stop)`, which gets the squared norm of the row's gradient.
        """
        sources  # noqa: B018 - being here, it is in the closure
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
                squares,
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
                squares,
            )

    @njit(nogil=True, cache=True, error_model="numpy")
    def finish(parameters, gradients, moments, state, optimizer, lr, hyper):
        """Take the carried rows, if any, as a minibatch of their own."""
        sources  # noqa: B018
        if state[0]:
            step(parameters, gradients, moments, state, optimizer, lr, hyper)

    @njit(nogil=True, cache=True, error_model="numpy")
    def squared_error(rows, widths, parameters, work, activation):
        """The sum of r² over rows (any number, features + 1): forward only."""
        sources  # noqa: B018
        total = float64(0.0)
        for start in range(0, rows.shape[0], TILE_ROWS):
            total += tile_squared_error(
                rows[start : start + TILE_ROWS], widths, parameters, work, activation
            )
        return total

    return advance, finish, squared_error


advance, finish, squared_error = _kernels(SOURCES)
