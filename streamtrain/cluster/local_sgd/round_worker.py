"""Local SGD: a share of a round on a worker, and the average of the shares on the driver.

Each share starts from the same parameters and takes its own steps, on minibatches of batch_size /
shares rows; after the round the driver averages parameters and moments (Stich 2019,
arXiv:1805.09767; McMahan et al. 2017, arXiv:1602.05629, for the weights). The minibatch size is the
global one: the shares together take as many rows per step, and as many steps per epoch, as one
machine would. With plain SGD and rounds of one step this is exactly the synchronous step.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from streamtrain.cluster.local_sgd.rounds import Share
from streamtrain.run.prepare import Prepared
from streamtrain.stream.block import BufferPool
from streamtrain.stream.delivered_rows import DeliveredRows
from streamtrain.stream.fetch import fetch
from streamtrain.training.engine import CARRIED, ROWS_IN_STEPS, STEPS, Engine
from streamtrain.training.engine_choice import running

#: The parts of an engine's state that are averaged; the last exists unless `train.average` is off.
AVERAGED = ("parameters", "moments", "average")

#: The parts that each share keeps: the rows of a minibatch that is not full, and counters.
KEPT_BY_SHARE = ("gradient", "counters")

State = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShareTask:
    """One share of a round, and the engine's state at its start (None: a new engine).

    `batch_size` is the global one, of which each of the `shares` takes an equal part.
    """

    share: Share
    batch_size: int
    lrs: tuple[float, ...]
    trial: int
    shares: int
    state: State | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShareResult:
    """A share after its round; `rows` were trained on.

    `weight`: the rows in the steps that were taken, including rows carried from before. `losses`:
    sums of ½r², float64 (replicas,).
    """

    state: State
    rows: int
    weight: int
    losses: np.ndarray
    delivered: DeliveredRows
    seconds: float = 0.0


def train_share(prepared: Prepared, task: ShareTask) -> ShareResult:
    """Read the windows of a share and train on them; the Dask task of a round."""
    engine = prepared.make_engine(task.batch_size, task.lrs, task.trial, parts=task.shares)
    if task.state is not None:
        engine.load_state(task.state)
    rows_before = rows_in_steps(engine.state())
    losses, delivered = np.zeros(len(task.lrs)), DeliveredRows()
    stats = delivered.stats
    rows, rows_left, seconds = 0, task.share.rows, 0.0
    budget = prepared.budget
    buffers = BufferPool(budget.window_rows, prepared.source.num_columns, keep=budget.windows)
    with (
        running([engine], prepared.config.train.threads or 1),
        closing(fetch(iter(task.share.windows), prepared.source, budget, stats, buffers)) as blocks,
    ):
        for window in task.share.windows:
            block = next(blocks)
            started = time.perf_counter()
            planned_rows = min(rows_left, window.num_rows)
            rows_left -= planned_rows
            # The null policy may have dropped rows of the window.
            whole_window = planned_rows == window.num_rows
            block_rows = len(block.rows) if whole_window else min(planned_rows, len(block.rows))
            losses += engine.advance(block.rows, 0, block_rows)
            rows += block_rows
            delivered.add_block(block)
            del block
            seconds += time.perf_counter() - started
        if task.share.ends_epoch:
            engine.finish_epoch()
    state = engine.state()
    return ShareResult(
        state=state,
        rows=rows,
        weight=rows_in_steps(state) - rows_before,
        losses=losses,
        delivered=delivered,
        seconds=seconds + stats.wait_seconds,
    )


def average(states: Sequence[State], weights: Sequence[int]) -> State:
    """Return the weighted mean of what is averaged, summed in float64 in the order of shares.

    When no step was taken, returns the state of the first share.
    """
    total, names = sum(weights), averaged_names(states[0])
    if not total:
        return {name: states[0][name] for name in names}
    mean: State = {}
    for name in names:
        summed = np.zeros(states[0][name].shape)
        for state, weight in zip(states, weights, strict=True):
            if weight:
                summed += weight * state[name].astype(np.float64)
        mean[name] = (summed / total).astype(np.float32)
    return mean


def joint_counters(states: Sequence[State]) -> np.ndarray:
    """Return the counters of all shares together.

    The steps are the most that any share took, since shares step in parallel; rows are summed.
    """
    counters = max((state["counters"] for state in states), key=_steps).copy()
    counters[..., ROWS_IN_STEPS] = sum(map(rows_in_steps, states))
    return counters


def joint_state(engine: Engine, averaged: Mapping[str, np.ndarray], counters: np.ndarray) -> State:
    """Return the state of the driver's engine after a round.

    It has the averages, no carried rows, and the steps of `counters`.
    """
    state = engine.state()
    state["gradient"][:] = 0
    state["counters"][...] = counters
    state["counters"][..., CARRIED] = 0
    for name in averaged_names(state):
        state[name] = averaged[name].reshape(state[name].shape)
    return state


def rows_in_steps(state: State) -> int:
    """Return the rows of the steps that an engine has taken."""
    return int(state["counters"][..., ROWS_IN_STEPS].flat[0])


def averaged_names(state: State) -> tuple[str, ...]:
    """Return the names in `AVERAGED` that an engine's state has."""
    return tuple(name for name in AVERAGED if name in state)


def _steps(counters: np.ndarray) -> int:
    return int(counters[..., STEPS].flat[0])
