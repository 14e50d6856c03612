"""The recommendation rule, clause by clause (docs/science.md §7)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.science.rule import Candidate, recommend


def reached(size, seconds):
    return Candidate(
        batch_size=size, status="reached", trials=len(seconds), seconds=dict(enumerate(seconds))
    )


NOISE = np.array([0.0, 0.02, -0.02, 0.01, -0.01])


def test_the_smallest_equivalent_size_is_recommended():
    cells = [
        reached(256, 1.01 * np.exp(NOISE)),
        reached(1024, np.exp(NOISE)),
        reached(4096, 1.4 * np.exp(NOISE)),
    ]
    choice = recommend(cells)
    assert (choice.batch_size, choice.best, choice.equivalent, choice.conclusive) == (
        256,
        1024,
        (256, 1024),
        True,
    )
    assert choice.ratios[4096].value == pytest.approx(1.4)
    assert choice.more_trials == 0


def test_an_interval_across_one_is_not_conclusive_and_says_how_many_trials_would_be():
    choice = recommend([reached(64, [1.0, 1.1, 0.9]), reached(256, [1.2, 1.0, 1.3])])
    assert not choice.conclusive
    assert choice.more_trials >= 1
    assert choice.batch_size == 64


def test_the_trials_that_it_asks_for_are_enough_when_nothing_else_changes():
    """With few trials t is wide: one more than three was advised where four were not enough."""
    for spread in (0.05, 0.065, 0.08):
        few = recommend(
            [reached(64, 1.1 * np.exp(np.array([-spread, 0.0, spread]))), reached(256, np.ones(3))]
        )
        total = 3 + few.more_trials
        assert total < 10
        noise = np.linspace(-1, 1, total)
        noise *= spread / noise.std(ddof=1)  # the mean and the standard deviation that three had
        assert recommend(
            [reached(64, 1.1 * np.exp(noise)), reached(256, np.ones(total))]
        ).conclusive


def test_one_trial_is_never_conclusive_and_only_the_best_is_in_the_set():
    choice = recommend([reached(64, [1.001]), reached(256, [1.0]), reached(1024, [9.0])])
    assert (choice.batch_size, choice.equivalent, choice.conclusive, choice.more_trials) == (
        256,
        (256,),
        False,
        None,
    )


def test_one_trial_of_the_only_size_is_not_conclusive_either():
    found = recommend([reached(64, [1.0])])
    assert (found.batch_size, found.conclusive, found.more_trials) == (64, False, None)
    assert recommend([reached(64, [1.0, 2.0])]).conclusive  # there is nothing to compare it with


@pytest.mark.parametrize("status", ["not_reached", "diverged", "out_of_memory", "failed"])
def test_ineligible_sizes_are_never_chosen(status):
    out = Candidate(batch_size=1, status=status, trials=2, seconds={0: 1e-9, 1: 1e-9})
    assert recommend([out, reached(64, [1.0, 1.1])]).batch_size == 64
    nothing = recommend([out])
    assert nothing.batch_size is None
    assert not nothing.conclusive
    assert nothing.equivalent == ()


def test_a_censored_trial_makes_a_size_ineligible():
    half = Candidate(batch_size=1, status="reached", trials=2, seconds={0: 0.1})
    assert recommend([half, reached(64, [1.0, 1.1])]).batch_size == 64


@given(
    st.lists(st.lists(st.floats(0.1, 10), min_size=3, max_size=3), min_size=1, max_size=6),
    st.randoms(),
)
def test_laws(seconds, random):
    cells = [reached(2**k, values) for k, values in enumerate(seconds)]
    choice = recommend(cells)
    assert choice.best in choice.equivalent
    assert choice.batch_size == min(choice.equivalent)
    assert choice.conclusive == all(
        choice.ratios[c.batch_size].lo > 1 for c in cells if c.batch_size not in choice.equivalent
    )
    random.shuffle(cells)
    assert recommend(cells) == choice


def test_ten_trials_use_the_paired_bootstrap():
    base = np.linspace(1, 2, 12)
    choice = recommend([reached(64, 3 * base), reached(256, base)])
    assert choice.ratios[64].lo == pytest.approx(3)
    assert choice.conclusive
