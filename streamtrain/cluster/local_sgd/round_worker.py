"""Local SGD: a share of a round on a worker, and the average of shares on the driver.

Each share takes steps of its own on minibatches of batch_size / shares rows, from the same
parameters; after the round the driver averages parameters and moments (Stich 2019,
arXiv:1805.09767; McMahan et al. 2017, arXiv:1602.05629, for the weights). A minibatch is the global
one: shares together take as many rows a step as one machine would, and as many steps an epoch. With
plain SGD and a round of one step this is the synchronous step, exactly.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from streamtrain.cluster.local_sgd.rounds import Share
from streamtrain.run.prepare import NO_LAST_ROW, Prepared
from streamtrain.stream.block import BufferPool
from streamtrain.stream.fetch import FetchStats, fetch
from streamtrain.stream.nulls import NullCounts
from streamtrain.training.compute_pool import ComputePool
from streamtrain.training.engine import Engine
from streamtrain.training.engine_choice import ENGINES
from streamtrain.training.fused_engine import one_blas_thread
from streamtrain.training.model import initial_parameters
from streamtrain.types import Json, Receipt

#: What of an engine's state is averaged, and what stays a share's own: the rows of a minibatch that
#: is not full, and counters.
AVERAGED, OWN = ("parameters", "moments"), ("gradient", "counters")

State = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShareWork:
    """One share of a round, and the state that it begins at.

    `batch_size` is the global one, of which there are `shares` parts.
    """

    share: Share
    batch_size: int
    lrs: tuple[float, ...]
    trial: int
    shares: int
    state: State | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShareDone:
    """`rows` were trained on.

    `weight` of them (and of rows carried before) are in the steps that were taken. `losses`: sums,
    (replicas,).
    """

    state: State
    rows: int
    weight: int
    losses: np.ndarray
    receipt: Receipt
    nulls: NullCounts = field(default_factory=Counter)
    stats: Json = field(default_factory=dict)
    seconds: float = 0.0


def share_engine(
    prepared: Prepared, batch_size: int, lrs: tuple[float, ...], trial: int, shares: int
) -> Engine:
    """An engine for a share: its part of every minibatch, with a schedule in rows of its own."""
    seed, train = prepared.config.order.seed, prepared.config.train.at(batch_size)
    train = train.model_copy(update={"warmup_rows": train.warmup_rows // shares})
    last_row = prepared.last_row // shares if prepared.last_row < NO_LAST_ROW else None
    parameters_P = initial_parameters(prepared.model, seed, trial)
    return ENGINES[prepared.engine](
        prepared.model.of_trial(seed, trial),
        parameters_P,
        batch_size // shares,
        lrs,
        train,
        last_row,
    )


def train_share(prepared: Prepared, work: ShareWork) -> ShareDone:
    """The Dask task of a round: read the share's windows, train on them, and give back what it
    became.
    """
    engine = share_engine(prepared, work.batch_size, work.lrs, work.trial, work.shares)
    if work.state is not None:
        engine.load_state(work.state)
    before = _rows_in_steps(engine.state())
    losses, receipt, stats, nulls = np.zeros(len(work.lrs)), Receipt(), FetchStats(), Counter()
    rows, left, seconds = 0, work.share.rows, 0.0
    pool = BufferPool(
        prepared.budget.window_rows, prepared.source.num_columns, keep=prepared.budget.windows
    )
    fused = prepared.engine == "fused"
    with (
        one_blas_thread(fused),
        ComputePool(prepared.config.train.threads or 1) as cores,
        closing(
            fetch(iter(work.share.windows), prepared.source, prepared.budget, stats, pool)
        ) as blocks,
    ):
        if fused:
            engine.cores = cores
        for window in work.share.windows:
            block = next(blocks)
            started = time.perf_counter()
            wanted = min(left, window.num_rows)
            left -= wanted
            taken = len(block.rows) if wanted == window.num_rows else min(wanted, len(block.rows))
            losses += engine.advance(block.rows, 0, taken)
            rows, receipt, nulls = rows + taken, receipt + block.receipt, nulls + block.nulls
            del block
            seconds += time.perf_counter() - started
        if work.share.ends_epoch:
            engine.finish_epoch()
    state = engine.state()
    return ShareDone(
        state=state,
        rows=rows,
        weight=_rows_in_steps(state) - before,
        losses=losses,
        receipt=receipt,
        nulls=nulls,
        stats=stats.to_json(),
        seconds=seconds + stats.wait_seconds,
    )


def average(states: Sequence[State], weights: Sequence[int]) -> State:
    """The weighted mean of parameters and moments, in float64, in the order of the shares; the
    first one's where no step was taken.
    """
    total = sum(weights)
    if not total:
        return {name: states[0][name] for name in AVERAGED}
    mean: State = {}
    for name in AVERAGED:
        summed = np.zeros(states[0][name].shape)
        for state, weight in zip(states, weights, strict=True):
            if weight:
                summed += weight * state[name].astype(np.float64)
        mean[name] = (summed / total).astype(np.float32)
    return mean


def whole_state(engine: Engine, averaged: Mapping[str, np.ndarray], counters: np.ndarray) -> State:
    """The state of the driver's own engine after a round: the average, no carried rows, and as many
    steps as `counters` say.
    """
    own = engine.state()
    own["gradient"][:] = 0
    own["counters"][...] = counters
    own["counters"][..., 0] = 0
    return {**own, **{name: averaged[name].reshape(own[name].shape) for name in AVERAGED}}


def _rows_in_steps(state: State) -> int:
    """The engines' last counter: rows of the steps that were taken."""
    return int(state["counters"].reshape(-1, 3)[0, 2])
