"""The other sides deliver every row: one that skipped rows would make the ratios meaningless."""

from functools import partial

import numpy as np
import pytest
import torch

from streamtrain.bench.baselines import (
    Groups,
    decode,
    expert_loop,
    gather_loop,
    load_tensor,
    tuned_loop,
)
from tests.bench.conftest import ROWS

LOOPS = [
    pytest.param(expert_loop, id="expert"),
    pytest.param(partial(tuned_loop, threads=2), id="tuned"),
]


def ids(minibatches, batch_size):
    """Return the row numbers of an epoch, in order.

    Checks the shape and type of every minibatch, and that its values belong together.
    """
    numbers = []
    for x, y in minibatches:
        assert x.dtype == y.dtype == torch.float32
        assert x.shape[1:] == (2,)
        assert y.shape == (len(x), 1)
        assert 0 < len(x) <= batch_size
        assert torch.equal(x[:, 1], -x[:, 0])
        assert torch.equal(y[:, 0], 3 * x[:, 0])
        numbers += x[:, 0].int().tolist()
    return numbers


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_delivers_every_row_once_in_an_order_of_its_seed(numbered, loop):
    def epoch(seed, batch_size=100):
        return ids(loop(Groups(numbered), batch_size, seed=seed), batch_size)

    order = epoch(0)
    assert sorted(order) == list(range(ROWS))
    assert order != sorted(order)
    assert order == epoch(0, batch_size=1024)
    assert order != epoch(1)


def test_the_tuned_loop_gives_the_experts_rows(numbered):
    assert ids(expert_loop(Groups(numbered), 64, seed=3), 64) == ids(
        tuned_loop(Groups(numbered), 64, seed=3, threads=3), 64
    )


@pytest.mark.parametrize("loop", LOOPS)
def test_an_abandoned_loop_ends_its_threads(numbered, loop):
    minibatches = loop(Groups(numbered), 64, seed=0)
    next(minibatches)
    minibatches.close()  # the fixture `no_leaks` checks for threads


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(1, id="one"),
        pytest.param(701, id="a row more than a group"),
        pytest.param(ROWS, id="all"),
    ],
)
def test_decode_counts_whole_groups_up_to_the_rows_asked(numbered, asked):
    groups = Groups(numbered)
    done = decode(groups, asked, threads=2)
    assert asked <= done <= asked + max(group.num_rows for group in groups.items)
    assert done == sum(group.num_rows for group in groups.first(asked))
    assert sum(group.num_rows for group in groups.items) == ROWS


@pytest.mark.parametrize(
    "rows", [pytest.param(999, id="within a group"), pytest.param(ROWS, id="all")]
)
def test_the_gather_in_memory_delivers_every_row_once(numbered, rows):
    data = load_tensor(Groups(numbered), rows, threads=2)
    np.testing.assert_array_equal(data[:, 0].numpy(), np.arange(rows))
    order = ids(gather_loop(data, 100, seed=0), 100)
    assert sorted(order) == list(range(rows))
    assert order != sorted(order)
