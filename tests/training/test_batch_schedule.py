"""A minibatch size that changes: the engines against a plain loop, and the learner's edges."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.config import TrainConfig
from streamtrain.errors import ConfigError
from streamtrain.plan.batch_sizes import growing_sizes
from streamtrain.records import stages_text
from streamtrain.training.batch_schedule import all_stages, later_stages, rows_to_edge, with_sizes
from streamtrain.training.engine_choice import ENGINES
from streamtrain.training.fused_engine import FusedEngine
from streamtrain.training.learner import Learner
from streamtrain.training.model import Shape, initial_parameters
from streamtrain.training.torch.perceptron import views
from tests.training.contract import RATES, averaged, make_rows

SHAPE = Shape(widths=(4, 8, 1), activation="tanh")
OPTIMIZERS = {
    "adam": {"beta2": 0.9},
    "adam per step": {"beta2": 0.9, "beta2_per": "step"},
    "adamw": {"optimizer": "adamw", "beta2": 0.9},
    "momentum": {"optimizer": "sgd"},
}
#: Rows of the minibatches of 2500 rows when it is 10@0,32@205,2048@400: an epoch ends after 2000.
SIZES = [10] * 21 + [32] * 6 + [2000 - 402] + [500]


def whole_minibatch(step: int) -> int:
    """The size of a whole minibatch in the stage of a step of SIZES."""
    if step < 21:
        return 10
    return 32 if step < 27 else 2048


def plain(train: TrainConfig, lr: float, sizes: list[int]) -> list[np.ndarray]:
    """The parameters after each step of a float64 loop, with Adam as it is defined.

    The bias of the second moment is the product of the beta2 of all steps. A short minibatch has
    the beta2 of a whole one of its stage.
    """
    x = torch.from_numpy(initial_parameters(SHAPE, 0, 0)).double()
    m, v, keep1, keep2, start = torch.zeros_like(x), torch.zeros_like(x), 1.0, 1.0, 0
    trajectory = []
    for step, size in enumerate(sizes):
        rows = torch.from_numpy(make_rows(2500)[start : start + size].astype(np.float64))
        start += size
        leaf = x.clone().requires_grad_()
        (w1, b1), (w2, b2) = views(leaf[None], SHAPE)
        outputs = torch.tanh(rows[:, :-1] @ w1[0] + b1[0]) @ w2[0] + b2[0]
        loss = 0.5 * (outputs - rows[:, -1:]).square().mean()
        (g,) = torch.autograd.grad(loss, leaf)
        if train.optimizer == "sgd":
            m = train.momentum * m + g
            x = x - lr * m
        else:
            beta2 = train.at(whole_minibatch(step)).beta2
            keep1, keep2 = keep1 * train.beta1, keep2 * beta2
            m = train.beta1 * m + (1 - train.beta1) * g
            v = beta2 * v + (1 - beta2) * g * g
            x = x * (1 - lr * train.decay) if train.optimizer == "adamw" else x
            x = x - lr * m / (1 - keep1) / ((v / (1 - keep2)).sqrt() + 1e-8)
        trajectory.append(x.numpy())
    return trajectory


def make_learner(engine: str = "fused", text: str = "10@0,32@205,2048@400", **train) -> Learner:
    config = TrainConfig(batch_schedule=text, device="cpu", compile="off", **train)
    start = initial_parameters(SHAPE, 0, 0)
    made = ENGINES[engine](SHAPE, start, config.batch_size, RATES, config.at(config.batch_size))
    return Learner(
        made,
        trial=0,
        first_row=64,
        last_row=2500,
        holdout=make_rows(100),
        loss_scale=1.0,
        target_sd=1.0,
        stages=later_stages(config),
    )


def feed(learner: Learner, cuts=(0, 2000, 2500), first: int = 0):
    """Train to the end on blocks cut at `cuts`, from row `first` on; the first epoch ends at 2000.

    Returns the evaluations, and the states at the edges between blocks and within them.
    """
    evaluations, edges = [], []
    for start, stop in pairwise(sorted({0, *cuts, 2000, 2500})):
        if stop <= first:
            continue
        block = make_rows(2500)[start:stop]
        row = max(0, first - start)
        while row < len(block):
            last = min(row + learner.rows_to_save, len(block))
            evaluations += learner.consume(block, ends_epoch=stop == 2000, first=row, last=last)
            edges.append((start + last, learner.state()))
            row = last
    return evaluations, edges


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("engine", ["fused", "torch"])
def test_a_changing_size_equals_a_plain_loop(engine, optimizer):
    learner = make_learner(engine, **optimizer)
    evaluations, _ = feed(learner)
    trajectory = plain(TrainConfig(**optimizer), RATES[1], SIZES[:-1])
    assert learner.engine.steps == len(trajectory), "the last 500 rows fill no minibatch"
    learner.engine.finish_epoch()
    trajectory = plain(TrainConfig(**optimizer), RATES[1], SIZES)
    moved = np.abs(trajectory[-1] - initial_parameters(SHAPE, 0, 0)).max()
    found, model = learner.engine.parameters()[1], learner.engine.model_parameters()[1]
    assert np.abs(found - trajectory[-1]).max() < 1e-4 * moved
    expected = averaged(trajectory, np.cumsum(SIZES).tolist(), 0.1)
    assert np.abs(model - expected).max() < 1e-4 * moved
    assert {evaluation.batch_size for evaluation in evaluations} == {10}
    assert learner.engine.batch_size == 2048


@pytest.mark.parametrize("engine", ["fused", "torch"])
def test_blocks_cut_anywhere_and_resuming_at_any_edge_give_the_same(engine):
    """Edges are where the size changes, too; a block ends in minibatches of every size."""
    whole = make_learner(engine)
    evaluations, edges = feed(whole)
    assert {210, 402} <= {row for row, _ in edges}
    learner = make_learner(engine)
    cut, cut_edges = feed(learner, cuts=(3, 207, 210, 231, 402, 1000))
    assert learner.engine.steps == whole.engine.steps
    np.testing.assert_allclose(
        [evaluation.holdout_loss for evaluation in cut],
        [evaluation.holdout_loss for evaluation in evaluations],
        rtol=1e-4,
    )
    for row, state in cut_edges:
        resumed = make_learner(engine)
        resumed.load_state(*state)
        feed(resumed, cuts=(3, 207, 210, 231, 402, 1000), first=row)
        for name, array in learner.engine.state().items():
            assert resumed.engine.state()[name].tobytes() == array.tobytes(), (row, name)


def test_a_size_that_is_passed_over_is_never_taken():
    learner = make_learner(text="100@0,3@110,7@130,50@140")
    feed(learner)
    assert learner.engine.batch_size == 50
    assert learner.engine.steps == 2 + 36 + 10


@given(row=st.integers(0, 500), rows=st.integers(0, 500), size=st.integers(1, 64), data=st.data())
def test_the_edge_is_the_first_one_at_or_after_the_row(row, rows, size, data):
    taken = data.draw(st.integers(0, size - 1))
    wait = rows_to_edge(row, rows, taken, size)
    assert rows + wait >= row
    assert (taken + wait) % size == 0
    assert wait < size or rows + wait - size < row


def test_a_beta2_of_a_later_size_is_checked_before_the_run():
    train = TrainConfig(batch_schedule="64@0,1@1000", beta2=0.9999)
    with pytest.raises(ConfigError, match="makes a step of 1 row forget"):
        later_stages(train)


def test_threads_share_minibatches_from_the_change_on():
    engine = FusedEngine(SHAPE, initial_parameters(SHAPE, 0, 0), 32, RATES, TrainConfig())
    assert engine.state()["gradient"].shape[1] == 1
    engine.set_batch_size(4096, 0.99)
    assert engine.state()["gradient"].shape[1] == 4


@given(rows=st.integers(1, 10**9))
def test_sizes_that_grow_double_with_the_rows_up_to_an_eighth_of_them(rows):
    sizes = growing_sizes(rows)
    assert sizes[0][1] == 0
    assert all(size <= max(1, rows / 8) for size, _ in sizes)
    for (before, _), (size, first_row) in pairwise(sizes):
        assert (size, first_row) == (2 * before, 2048 * size)
    last = sizes[-1][0]
    assert last == 1024 or 8 * last > rows / 4, "the largest power of four that the rows allow"


def test_auto_is_a_schedule_without_the_sizes_that_never_begin():
    auto = TrainConfig(batch_size="auto", lr=0.01)
    chosen = with_sizes(auto, 10**6, 262_145)
    text = "32@0,64@131072,128@262144"
    assert stages_text(all_stages(chosen)) == text
    assert chosen == TrainConfig(batch_schedule=text, lr=0.01)
    assert with_sizes(auto, 10**6, 262_144).sizes[-1] == (64, 131_072)
    assert with_sizes(auto, 100, 10**6).sizes == ((4, 0),)
    constant = TrainConfig(batch_size=7)
    assert with_sizes(constant, 10**6, 262_144) is constant
    with pytest.raises(ConfigError, match=r"^train.batch_size auto is for `train`"):
        assert auto.sizes
