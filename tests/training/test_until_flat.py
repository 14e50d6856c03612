"""Training until flat ends at a row that follows from rows and losses alone."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.config import TrainConfig
from streamtrain.records import Evaluation, ReplicaEnded, UntilFlat
from streamtrain.science.flatness import FLAT
from streamtrain.training.fused_engine import FusedEngine
from streamtrain.training.learner import Learner, evaluation_rows
from streamtrain.training.model import Shape, initial_parameters
from streamtrain.training.until_flat import (
    LEAST_ROWS,
    MOST_EPOCHS,
    MOST_ROWS,
    FlatStop,
    limits_until_flat,
    points_until_flat,
)
from tests.training.contract import make_rows

EPOCH = 1000


def noisy_rows(count: int) -> np.ndarray:
    """Rows whose target cannot be predicted exactly, so that the loss becomes flat."""
    rows = make_rows(count).copy()
    rows[:, -1] += 0.1 * np.random.default_rng(1).standard_normal(count).astype(np.float32)
    return rows


@given(st.integers(1, 2**40), st.integers(1, 2**17))
def test_limits_are_an_epoch_at_least_and_many_rows_or_epochs_at_most(epoch_rows, holdout_rows):
    limits = limits_until_flat(TrainConfig(), epoch_rows, holdout_rows)
    assert limits is not None
    assert limits.first_row <= limits.least_rows <= limits.most_rows
    assert limits.least_rows >= epoch_rows
    assert limits.least_rows == epoch_rows or epoch_rows < LEAST_ROWS
    assert limits.most_rows <= max(epoch_rows, min(MOST_ROWS, MOST_EPOCHS * epoch_rows))


@pytest.mark.parametrize(
    "train",
    [
        {"epochs": 1},
        {"max_rows": 10},
        {"max_time": 1.0},
        {"early_stop": 2},
        {"schedule": "cosine"},
    ],
    ids=lambda train: next(iter(train)),
)
def test_a_key_that_fixes_the_length_keeps_it(train):
    assert limits_until_flat(TrainConfig(**train), EPOCH, 100) is None


def test_without_held_out_rows_nothing_can_be_judged():
    assert limits_until_flat(TrainConfig(), EPOCH, 0) is None


@given(st.integers(1, 10**6), st.integers(1, 5000), st.integers(1, 2000))
def test_points_ascend_and_include_what_the_end_of_an_epoch_is_judged_by(
    epoch_rows, holdout_rows, first_row
):
    limits = limits_until_flat(TrainConfig(), epoch_rows, holdout_rows)
    assert limits is not None
    points = list(points_until_flat(evaluation_rows(first_row, limits.most_rows), limits))
    assert all(a < b for a, b in pairwise(points))
    least = limits.least_rows
    assert {0, (least + 1) // 2, least, limits.most_rows} <= set(points)
    assert all(point >= min(limits.first_row, (least + 1) // 2) for point in points[1:])


def make_learner(lr: float = 0.02, most_rows: int = 2**20, **options) -> Learner:
    shape = Shape(widths=(4, 8, 1), activation="tanh")
    train = TrainConfig(optimizer="sgd" if lr > 1 else "adam")
    engine = FusedEngine(shape, initial_parameters(shape, 0, 0), 32, (lr,), train)
    limits = UntilFlat(first_row=250, least_rows=EPOCH, most_rows=most_rows, fall=FLAT)
    return Learner(
        engine,
        trial=0,
        first_row=64,
        last_row=most_rows,
        holdout=noisy_rows(200),
        loss_scale=1.0,
        target_sd=1.0,
        until_flat=limits,
        **options,
    )


def train(learner: Learner, cuts=(0, EPOCH), edge: int | None = None):
    """Train on epochs cut at `cuts`; return the records, and the state at edge number `edge`."""
    rows, records, edges, state = noisy_rows(EPOCH), [], 0, None
    while not learner.done:
        for start, stop in pairwise(cuts):
            records += learner.consume(rows[start:stop], ends_epoch=stop == EPOCH)
            if edges == edge:
                state = learner.state()
            edges += 1
    return [*records, *learner.finish()], state


def outcome(records) -> ReplicaEnded:
    return records[-1]


def test_it_ends_where_the_last_doubling_improved_the_loss_by_less_than_1_percent():
    learner = make_learner()
    records, _ = train(learner)
    ended = outcome(records)
    assert EPOCH <= ended.rows < learner.last_row
    assert ended.outcome == "finished"
    assert ended.fall_per_doubling is not None
    assert ended.fall_per_doubling < FLAT
    percent = f"{100 * ended.fall_per_doubling:.2g} %"
    assert ended.reason == f"flat: the last doubling of rows improved the loss by {percent}"
    losses = [record.holdout_loss for record in records if isinstance(record, Evaluation)]
    assert losses[-1] < 0.5 * losses[0]


@settings(max_examples=10)
@given(st.lists(st.integers(1, EPOCH - 1), max_size=4, unique=True))
def test_blocks_cut_anywhere_end_at_the_same_row_with_the_same_losses(cuts):
    def results(learner, cuts):
        records, _ = train(learner, cuts)
        return [(record.rows, getattr(record, "holdout_loss", None)) for record in records]

    whole = results(make_learner(), (0, EPOCH))
    # a cut within a minibatch changes the order of summation, never where training ends
    cut = results(make_learner(), (0, *sorted(32 * (row // 32) for row in cuts if row > 31), EPOCH))
    assert cut == whole


@pytest.mark.parametrize("edge", [0, 1, 5])
def test_a_resumed_learner_ends_as_the_unbroken_one(edge):
    whole = make_learner()
    expected, state = train(whole, edge=edge)
    assert state is not None
    resumed = make_learner()
    resumed.load_state(*state)
    records, _ = train(resumed)
    assert outcome(records) == outcome(expected)
    assert (resumed.engine.parameters() == whole.engine.parameters()).all()


def test_the_limit_ends_it_and_says_so():
    ended = outcome(train(make_learner(lr=0.002, most_rows=3000))[0])
    assert ended.rows == 3000
    assert ended.reason.startswith("not flat at the limit of 3,000 rows: ")


def test_a_loss_that_is_not_finite_ends_it_after_an_epoch():
    ended = outcome(train(make_learner(lr=1e6))[0])
    assert ended.outcome == "diverged"
    assert EPOCH <= ended.rows <= 2 * EPOCH


def test_a_copy_that_does_not_decide_hands_its_state_to_one_that_does():
    """All-reduce: the learners of workers go on, and the driver's learner ends the training."""
    rows, worker, driver = noisy_rows(EPOCH), make_learner(ends_when_flat=False), make_learner()
    alone = outcome(train(make_learner())[0])
    while not driver.done:
        for _ in worker.consume(rows, ends_epoch=True):
            pass
        driver.load_state(*worker.state())
    assert not worker.done
    assert alone.rows <= driver.rows < alone.rows + EPOCH
    ended = list(driver.finish())[-1]
    assert isinstance(ended, ReplicaEnded)
    assert ended.fall_per_doubling == alone.fall_per_doubling


def test_evaluations_after_the_end_change_nothing():
    limits = UntilFlat(first_row=1, least_rows=8, most_rows=100, fall=FLAT)
    stop = FlatStop(limits, 1, (0.1,), 0)
    for rows, loss in enumerate([2.0, *[1.0] * 9]):
        stop.add(rows, rows, np.array([loss]))
    assert stop.ends
    reason = stop.reason
    stop.add(20, 20, np.array([0.1]))
    assert stop.reason == reason
    assert stop.state()["rows"][-1] == 8
