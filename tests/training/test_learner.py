"""A learner cuts blocks where it evaluates, and reports how each replica ended."""

import numpy as np
import pytest

from streamtrain.config import TrainConfig
from streamtrain.records import Evaluation, ReplicaEnded
from streamtrain.training.learner import Learner, evaluation_rows
from streamtrain.training.model import Shape, initial_parameters
from tests.training.contract import RATES, make_rows


def outcomes_of(records) -> list[str]:
    return [record.outcome for record in records if isinstance(record, ReplicaEnded)]


def make_learner(engine, holdout, last_row, *, target_sd=1.0) -> Learner:
    return Learner(
        engine,
        trial=0,
        first_row=16,
        last_row=last_row,
        holdout=holdout,
        loss_scale=1.0,
        target_sd=target_sd,
    )


def test_evaluation_points():
    assert list(evaluation_rows(1024, 5000)) == [0, 1024, 1448, 2048, 2896, 4096, 5000]
    assert list(evaluation_rows(1024, 10)) == [0, 10]


def test_learner_cuts_at_points_and_at_the_end_of_an_epoch(make_engine):
    rows = make_rows(100)
    engine = make_engine(batch_size=32)
    learner = make_learner(engine, rows, 150, target_sd=2.0)
    records = [
        *learner.consume(rows[:60], ends_epoch=False),
        *learner.consume(rows[60:], ends_epoch=True),
    ]
    assert not learner.done
    records += [*learner.consume(rows, ends_epoch=True), *learner.finish()]
    assert learner.done
    evaluations = [
        record for record in records if isinstance(record, Evaluation) and record.lr == RATES[0]
    ]
    points = [(record.rows, record.steps) for record in evaluations]
    # 100 rows are three steps and a short one. The run ends at row 150, within a minibatch of which
    # it has 18 rows.
    assert points == [
        (0, 0),
        (16, 0),
        (23, 0),
        (32, 1),
        (45, 1),
        (64, 2),
        (91, 2),
        (128, 4),
        (150, 5),
    ]
    assert outcomes_of(records) == ["finished", "finished"]
    last = evaluations[-1]
    assert last.holdout_rmse == pytest.approx(last.holdout_loss**0.5 * 2.0)


def test_an_epoch_whose_last_window_is_empty_ends_all_the_same(make_engine):
    """The null policy may drop all of its rows: the partly filled minibatch still gets its step."""
    rows, engine = make_rows(100), make_engine(batch_size=32)
    learner = make_learner(engine, rows, 1000)
    list(learner.consume(rows, ends_epoch=False))
    assert engine.steps == 3
    assert list(learner.consume(rows[:0], ends_epoch=True)) == []
    assert engine.steps == 4
    assert learner.rows == 100


def test_a_finite_loss_beyond_the_limit_is_a_divergence(make_engine, monkeypatch):
    rows, outcomes = make_rows(320), []
    for limit in (1e6, 1e-6):
        monkeypatch.setattr("streamtrain.training.learner.DIVERGED_LOSS", limit)
        learner = make_learner(make_engine(), rows, 320)
        outcomes += outcomes_of([*learner.consume(rows, ends_epoch=True), *learner.finish()])
    assert outcomes == ["finished"] * len(RATES) + ["diverged"] * len(RATES)


def test_a_loss_that_one_row_makes_is_no_divergence(make_engine):
    """No model can learn the target of an outlier that is held out."""
    rows = make_rows(320)
    holdout = rows.copy()
    holdout[7, -1] = 1e6
    learner = make_learner(make_engine(), holdout, 320)
    records = [*learner.consume(rows, ends_epoch=True), *learner.finish()]
    assert outcomes_of(records) == ["finished"] * len(RATES)


def test_divergence_is_an_outcome(make_engine):
    rows = make_rows(3200)
    shape = Shape(widths=(4, 1), activation="relu")
    engine = type(make_engine())(
        shape,
        initial_parameters(shape, 0, 0),
        32,
        (0.01, 50.0),
        TrainConfig(optimizer="sgd", device="cpu"),
    )
    learner = make_learner(engine, rows, 3200)
    records = [*learner.consume(rows, ends_epoch=True), *learner.finish()]
    assert outcomes_of(records) == ["finished", "diverged"]
    losses = [record.holdout_loss for record in records if isinstance(record, Evaluation)]
    assert all(loss is None or np.isfinite(loss) for loss in losses)
