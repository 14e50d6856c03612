"""The contract of engines (training/engine.py) as one check.

It is run over every engine, in every way in which it takes steps.
"""

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from streamtrain.errors import DataError
from streamtrain.training.engine import AccumulatingEngine

#: Learning rates of the engines under test.
RATES = (0.003, 0.01)

#: Constructs a new engine: `make(batch_size, learning_rates)`.
Make = Callable[[int, tuple[float, ...]], AccumulatingEngine]


@cache
def make_rows(count: int) -> np.ndarray:
    """Return a block of four features and a target that depends on three of them; read-only."""
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
    check_gradient_sums(make)
    check_average(make)
    check_batch_sizes(make)


def check_cuts(make: Make, *, batch_size: int, blocks: list[int]) -> None:
    """The steps and the losses do not depend on how the rows are cut into blocks."""
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
    np.testing.assert_allclose(
        whole.model_parameters(), cut.model_parameters(), rtol=1e-4, atol=1e-5
    )
    assert (rows == untouched).all(), "a block is read, never written"


def check_short_minibatch(make: Make) -> None:
    """The rows left at the end of an epoch form a short minibatch; if none are left, no step."""
    rows = make_rows(1000)
    short, full = make(700, RATES), make(300, RATES)
    for engine in (short, full):
        engine.advance(rows, 0, 300)
        engine.finish_epoch()
        engine.finish_epoch()
    assert short.steps == full.steps == 1
    np.testing.assert_allclose(short.parameters(), full.parameters(), rtol=1e-4, atol=1e-5)


def check_losses(make: Make) -> None:
    """Losses are ½r² at the parameters in use when a row is reached.

    Evaluation changes nothing, and is not affected by a partly filled minibatch.
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
    """A replica trains as it would alone; returned arrays are copies."""
    rows, together = make_rows(1000), make(300, RATES)
    together.advance(rows, 0, 1000)
    for replica, rate in enumerate(RATES):
        alone = make(300, (rate,))
        alone.advance(rows, 0, 1000)
        np.testing.assert_allclose(
            together.parameters()[replica], alone.parameters()[0], rtol=1e-4, atol=1e-5
        )
    before = together.parameters()
    together.parameters()[:] = 0
    for array in together.state().values():
        array[:] = 0
    assert (together.parameters() == before).all()
    assert np.abs(before[0] - before[1]).max() > 1e-3


def averaged(trajectory: list[np.ndarray], ends: list[int], fraction: float) -> np.ndarray:
    """Return the average after steps that ended at these rows, by the rule of averaging.py."""
    average, last, due = np.zeros_like(trajectory[0]), 0, 0
    for parameters, rows in zip(trajectory, ends, strict=True):
        if rows >= due:
            share = min(1, (rows - last) / (fraction * rows))
            average = average + share * (parameters - average)
            last, due = rows, rows + max(1, rows // 256)
    return average


def check_average(make: Make) -> None:
    """What is judged is the average of the parameters, by the rule, wherever blocks are cut.

    At 1 row the average skips steps; at 60 the first ten are copied; the last one is short.
    """
    for batch_size, count in ((1, 900), (60, 1000)):
        rows, engine = make_rows(1000)[:count], make(batch_size, RATES)
        assert (engine.model_parameters() == engine.parameters()).all()
        trajectory, ends = [], []
        for start in range(0, count, batch_size):
            ends.append(min(start + batch_size, count))
            engine.advance(rows, start, ends[-1])
            if ends[-1] == count:
                engine.finish_epoch()
            trajectory.append(engine.parameters().astype(np.float64))
        expected = averaged(trajectory, ends, 0.1)
        moved = np.abs(trajectory[-1] - expected).max()
        assert moved > 1e-3
        np.testing.assert_allclose(engine.model_parameters(), expected, atol=1e-3 * moved)
        whole, before = make(batch_size, RATES), engine.evaluate(rows)
        whole.advance(rows, 0, 7)
        whole.advance(rows, 7, count)
        whole.finish_epoch()
        np.testing.assert_allclose(whole.model_parameters(), expected, atol=0.05 * moved)
        state = {**engine.state(), "parameters": engine.model_parameters()}
        engine.load_state(state)
        assert (engine.evaluate(rows) == before).all(), "the average is judged"


def check_batch_sizes(make: Make) -> None:
    """The minibatch size changes between minibatches, and only there; a state goes on from it.

    Another engine of the later size, with the state, takes the steps that are left alone.
    """
    rows, engine = make_rows(1000), make(30, RATES)
    engine.advance(rows, 0, 310)
    with pytest.raises(ValueError, match="10 rows are in one"):
        engine.set_batch_size(100, 0.99)
    engine.finish_epoch()
    before = engine.parameters(), engine.model_parameters(), engine.evaluate(rows)
    engine.set_batch_size(100, 0.99)
    after = engine.parameters(), engine.model_parameters(), engine.evaluate(rows)
    assert all((old == new).all() for old, new in zip(before, after, strict=True))
    engine.advance(rows, 310, 450)
    resumed = make(30, RATES)
    resumed.set_batch_size(100, 0.99)
    resumed.load_state(engine.state())
    for trained in (engine, resumed):
        trained.advance(rows, 450, 610)
        trained.set_batch_size(7, 0.9)
        trained.advance(rows, 610, 1000)
        trained.finish_epoch()
        assert trained.steps == 11 + 3 + 56
    for name, array in engine.state().items():
        assert resumed.state()[name].tobytes() == array.tobytes()
    with pytest.raises(DataError, match="further_steps"):
        make(7, RATES).load_state(engine.state())


def check_gradient_sums(make: Make) -> None:
    """Steps with the gradient sums of two engines are those of one engine with all rows.

    Nothing steps by itself, however many rows are accumulated, and what was not taken is dropped.
    """
    rows = make_rows(1000)
    alone, first, second = make(300, RATES), make(300, RATES), make(300, RATES)
    losses = alone.advance(rows, 0, 900)
    summed_losses = np.zeros(len(RATES))
    for start in (0, 300, 600):
        summed_losses += first.accumulate(rows, start, start + 50)
        summed_losses += first.accumulate(rows, start + 50, start + 100)
        summed_losses += second.accumulate(rows, start + 100, start + 300)
        sum_RP = first.take_gradient_sum() + second.take_gradient_sum()
        assert sum_RP.dtype == np.float32
        assert sum_RP.shape == first.parameters().shape
        assert (first.take_gradient_sum() == 0).all()
        second.accumulate(rows, 0, 1000)
        assert second.steps == first.steps == start // 300
        for engine in (first, second):
            engine.apply_gradient_sum(sum_RP, 300)
    assert first.steps == second.steps == alone.steps == 3
    np.testing.assert_allclose(summed_losses, losses, rtol=1e-4)
    np.testing.assert_allclose(first.parameters(), alone.parameters(), rtol=1e-4, atol=1e-5)
    for name, array in second.state().items():
        assert first.state()[name].tobytes() == array.tobytes(), name


def check_state(make: Make) -> None:
    """Another engine continues bit-identically from a state taken in the middle of a minibatch.

    A state of other shapes is refused, with the name of the array.
    """
    rows = make_rows(1000)
    engine, resumed = make(300, RATES), make(300, RATES)
    engine.advance(rows, 0, 500)
    state = engine.state()
    resumed.load_state(state)
    for trained in (engine, resumed):
        trained.advance(rows, 500, 1000)
        trained.finish_epoch()
    assert resumed.steps == engine.steps == 4
    assert resumed.parameters().tobytes() == engine.parameters().tobytes()
    assert resumed.model_parameters().tobytes() == engine.model_parameters().tobytes()
    with pytest.raises(DataError, match="does not fit: parameters"):
        make(300, RATES[:1]).load_state(state)
