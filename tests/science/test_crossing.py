"""Crossings case by case (docs/science.md §1), and the automatic target as the smallest loss that
the rule finds reached.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.science.crossing import (
    automatic_target,
    first_crossing,
    round_up,
    rows_to_reach,
    smallest_target,
)

CASES = [
    pytest.param([0, 1, 2], [4.0, 1.0, 0.5], 2.0, 0.5, id="interpolated-in-log-loss"),
    pytest.param(
        [0, 10, 20, 30], [1.0, 0.4, 0.6, 0.3], 0.5, None, id="crossing-at-the-last-evaluation"
    ),
    pytest.param(
        [0, 10, 20, 30, 40], [1.0, 0.4, 0.6, 0.5, 0.3], 0.5, 30.0, id="a-dip-of-one-evaluation"
    ),
    pytest.param(
        [0, 10, 10, 10], [1.0, 0.5, 0.5, 0.5], 0.5, None, id="no-new-step-confirms-nothing"
    ),
    pytest.param([0, 0, 0, 1, 2], [1.0, 1.0, 1.0, 0.5, 0.5], 0.5, 1.0, id="large-batch-that-waits"),
    pytest.param([0, 1, 2], [0.4, 0.3, 0.2], 0.5, 0.0, id="below-from-the-start"),
    pytest.param([0, 1, 2, 3], [1.0, None, 0.4, 0.3], 0.5, 2.0, id="nan-before-the-crossing"),
    pytest.param([0, 1, 2, 3], [1.0, 0.4, None, 0.3], 0.5, None, id="nan-after-the-dip"),
    pytest.param([], [], 0.5, None, id="nothing"),
    pytest.param([0], [1.0], 0.5, None, id="one-evaluation"),
]
CURVES = st.lists(
    st.tuples(st.integers(0, 3), st.one_of(st.none(), st.floats(0.01, 10))), min_size=1, max_size=12
).map(lambda rows: (np.cumsum([step for step, _ in rows]).tolist(), [loss for _, loss in rows]))


@pytest.mark.parametrize(("steps", "losses", "target", "expected"), CASES)
def test_first_crossing(steps, losses, target, expected):
    found = first_crossing(steps, losses, target)
    assert found is None if expected is None else found == pytest.approx(expected)


@given(CURVES)
def test_the_smallest_target_is_reached_and_anything_smaller_is_not(curve):
    smallest = smallest_target(*curve)
    if math.isfinite(smallest):
        assert first_crossing(*curve, smallest) is not None
        assert first_crossing(*curve, smallest * (1 - 1e-9)) is None


@given(CURVES, st.floats(0.01, 10), st.floats(1, 3))
def test_a_larger_target_is_reached_no_later(curve, target, factor):
    hard, easy = first_crossing(*curve, target), first_crossing(*curve, target * factor)
    assert hard is None or easy <= hard + 1e-9


@given(st.lists(st.lists(CURVES, min_size=2, max_size=2), min_size=1, max_size=6))
def test_automatic_target_is_reached_by_three_sizes_in_every_trial(sizes):
    target = automatic_target({size: [trials] for size, trials in enumerate(sizes)})
    learned = [
        trials
        for trials in sizes
        if all(math.isfinite(smallest_target(*curve)) for curve in trials)
    ]
    if target is None:
        assert not learned
        return
    reached = [
        trials
        for trials in sizes
        if all(first_crossing(*curve, target) is not None for curve in trials)
    ]
    assert len(reached) >= min(3, len(learned))


def test_automatic_target_takes_the_best_rate_and_rounds_up():
    curve = ([0, 1, 2, 3], [1.0, 0.5, 0.12341, 0.1])
    worse = ([0, 1, 2, 3], [1.0, 0.9, 0.8, 0.7])
    assert automatic_target({64: [[worse], [curve]]}) == 0.124
    assert automatic_target({}) is None


@given(st.floats(1e-9, 1e9))
def test_round_up_never_goes_below(value):
    assert value <= round_up(value) <= value * 1.0101
    assert float(f"{round_up(value):.3g}") == round_up(value)


def test_rows_to_reach_recovers_a_power_law_over_its_floor():
    rows = [round(1024 * 2 ** (k / 2)) for k in range(20)]
    losses = [0.1 + 3 * row**-0.5 for row in rows]
    assert rows_to_reach(rows, losses, 0.1 + 3 * 1e-4, floor=0.1) == pytest.approx(1e8, rel=1e-6)
    assert rows_to_reach(rows, losses, 0.1, floor=0.1) is None
    assert rows_to_reach(rows, [1.0] * 20, 0.5) is None
