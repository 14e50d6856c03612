"""A loss is flat when another doubling of the rows hardly improves what was reached and held."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.science.flatness import (
    FLAT,
    best_loss,
    fall_per_doubling,
    halfway,
    hardly_gains,
    is_flat,
)
from streamtrain.science.run_log import Curve


def curve(losses, first=1024, **fields):
    """Return a curve evaluated at row 0 and at first · 2^(k/2), with a step for each row."""
    rows = [0, *(round(first * 2 ** (k / 2)) for k in range(len(losses) - 1))]
    return Curve(
        batch_size=1, lr=0.1, trial=0, rows=rows, steps=rows, holdout_loss=losses, **fields
    )


@given(st.integers(1, 2**40))
def test_every_second_point_is_halfway(first):
    rows = [round(first * 2 ** (k / 2)) for k in range(8)]
    for point, before, half in zip(rows[2:], rows[1:], rows, strict=False):
        assert half <= halfway(point)
        assert first == 1 or before > halfway(point) or before == half


@given(st.floats(0.01, 4))
def test_a_power_law_falls_by_its_exponent(exponent):
    losses = [2.0, *(2 ** (-exponent * k / 2) for k in range(12))]
    # what is held is the loss one evaluation before, at both ends of the doubling
    assert fall_per_doubling([curve(losses)]) == pytest.approx(1 - 2**-exponent)
    assert is_flat(fall_per_doubling([curve(losses)])) == (1 - 2**-exponent < FLAT)


@given(st.lists(st.floats(0.1, 10) | st.just(math.nan), min_size=2, max_size=20))
def test_more_rows_never_raise_the_best_loss(losses):
    one = curve(losses)
    best = [best_loss([one], row) for row in one.rows]
    assert best == sorted(best, reverse=True)
    fall = fall_per_doubling([one])
    assert fall is None or 0 <= fall <= 1


def test_a_loss_that_rises_is_flat_and_one_that_never_fell_is_not():
    assert is_flat(fall_per_doubling([curve([2.0, 1.0, 0.5, 0.5, 0.6, 0.7, 0.8])]))
    assert fall_per_doubling([curve([1.0, 1.2, 1.1, 1.3, 1.2])]) is None
    assert not is_flat(None)
    assert is_flat(fall_per_doubling([curve([1.0, 0.0, 0.0, 0.0, 0.0])]))


@given(st.floats(0.01, 0.99), st.floats(0.0, 0.3))
def test_a_gain_is_judged_by_the_smaller_of_loss_and_explained_part(loss, fall):
    before = loss / (1 - fall)
    curves = [curve([2.0, *[before] * 3, *[loss] * 3])]
    scale = min(before, max(1 - loss, FLAT))
    if abs((before - loss) / scale - FLAT) > 1e-9:
        assert hardly_gains(curves) == (before - loss < FLAT * scale)
    if loss < 0.5:  # as `train` judges it
        assert abs(fall - FLAT) < 1e-9 or hardly_gains(curves) == is_flat(fall)


def test_a_weak_signal_that_still_grows_is_not_flat():
    weak = [curve([1.02, *[0.970] * 3, *[0.965] * 3])]
    assert is_flat(fall_per_doubling(weak))
    assert not hardly_gains(weak)
    assert not hardly_gains([curve([1.0, 1.2, 1.1, 1.3, 1.2])])  # no loss was held
    assert hardly_gains([curve([1.0, 0.0, 0.0, 0.0, 0.0])])  # there is nothing left to gain
    assert hardly_gains([curve([1.02, *[0.99995] * 3, *[0.9999] * 3])])  # nothing is explained


def test_a_learner_that_failed_does_not_count():
    good, failed = curve([2.0, *[1.0] * 6]), curve([2.0, *[0.1] * 6], outcome="failed")
    assert best_loss([good, failed]) == 1.0
    assert best_loss([failed]) == math.inf
