"""The contract of engines (learners/engine.py) as one check, run over every engine in every way
that it takes steps.
"""

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from streamtrain.errors import DataError
from streamtrain.training.engine import Engine

#: Learning rates of the engines that are made here.
RATES = (0.003, 0.01)

#: Makes an engine that begins anew: `make(batch_size, learning_rates)`.
Make = Callable[[int, tuple[float, ...]], Engine]


@cache
def make_rows(count: int) -> np.ndarray:
    """A block of four features and a target that depends on three of them; not to be written to."""
    rows = np.random.default_rng(0).standard_normal((count, 5)).astype(np.float32)
    rows[:, -1] = np.sin(rows[:, 0]) + rows[:, 1] * rows[:, 2] * 0.3
    return rows


def check_engine(make: Make) -> None:
    check_cuts(make, batch_size=30, blocks=[0, 1000])
    check_cuts(make, batch_size=300, blocks=[0, 1, 250, 251, 900, 900, 1000])
    check_cuts(make, batch_size=700, blocks=[0, 250, 500, 750, 1000])
    check_short_minibatch(make)
    check_losses(make)
    check_replicas(make)
    check_state(make)


def check_cuts(make: Make, *, batch_size: int, blocks: list[int]) -> None:
    """Rows in one call, or in as many blocks as one likes, all smaller than a minibatch: the same
    steps, the same losses.
    """
    rows = make_rows(1000)
    untouched = rows.copy()
    whole, cut = make(batch_size, RATES), make(batch_size, RATES)
    losses = whole.advance(rows, 0, 1000)
    in_parts = [
        cut.advance(rows[start:stop].copy(), 0, stop - start) for start, stop in pairwise(blocks)
    ]
    assert whole.steps == cut.steps == 1000 // batch_size
    assert losses.dtype == np.float64
    assert losses.shape == (len(RATES),)
    np.testing.assert_allclose(losses, np.sum(in_parts, axis=0), rtol=1e-4)
    np.testing.assert_allclose(whole.parameters(), cut.parameters(), rtol=1e-4, atol=1e-5)
    assert (rows == untouched).all(), "a block is read, never written"


def check_short_minibatch(make: Make) -> None:
    """What is left at the end of an epoch is a minibatch of its own, with the mean over its rows;
    nothing left is no step.
    """
    rows = make_rows(1000)
    carried, whole = make(700, RATES), make(300, RATES)
    for engine in (carried, whole):
        engine.advance(rows, 0, 300)
        engine.finish_epoch()
        engine.finish_epoch()
    assert carried.steps == whole.steps == 1
    np.testing.assert_allclose(carried.parameters(), whole.parameters(), rtol=1e-4, atol=1e-5)


def check_losses(make: Make) -> None:
    """Losses are ½r² at the parameters that a row met; to evaluate changes nothing, and a carried
    minibatch has no part in it.
    """
    rows = make_rows(1000)
    engine = make(300, RATES)
    before = engine.evaluate(rows[:300])
    assert before.shape == (len(RATES),), "replicas start from the same weights"
    assert before[0] == before[1], "replicas start from the same weights"
    losses = engine.advance(rows, 0, 100)
    assert (engine.evaluate(rows[:300]) == before).all()
    losses = losses + engine.advance(rows, 100, 300)
    np.testing.assert_allclose(losses, before * 300 / 2, rtol=1e-5)
    assert (engine.evaluate(rows[:300]) < before).all()
    assert (engine.advance(rows, 1000, 1000) == 0).all()


def check_replicas(make: Make) -> None:
    """A replica is what it would be alone; what is handed out is a copy."""
    rows, together = make_rows(1000), make(300, RATES)
    together.advance(rows, 0, 1000)
    for replica, rate in enumerate(RATES):
        alone = make(300, (rate,))
        alone.advance(rows, 0, 1000)
        np.testing.assert_allclose(
            together.parameters()[replica], alone.parameters()[0], rtol=1e-4, atol=1e-5
        )
    kept = together.parameters()
    together.parameters()[:] = 0
    for array in together.state().values():
        array[:] = 0
    assert (together.parameters() == kept).all()
    assert np.abs(kept[0] - kept[1]).max() > 1e-3


def check_state(make: Make) -> None:
    """From a state taken in mid-minibatch another engine goes on bit for bit; a state of other
    shapes is refused by name.
    """
    rows = make_rows(1000)
    engine, resumed = make(300, RATES), make(300, RATES)
    engine.advance(rows, 0, 500)
    state = engine.state()
    resumed.load_state(state)
    for each in (engine, resumed):
        each.advance(rows, 500, 1000)
        each.finish_epoch()
    assert resumed.steps == engine.steps == 4
    assert resumed.parameters().tobytes() == engine.parameters().tobytes()
    with pytest.raises(DataError, match="does not fit: parameters"):
        make(300, RATES[:1]).load_state(state)
