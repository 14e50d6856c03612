"""DEFF where it is known: independent rows, clusters of known variance, sorted rows
(docs/science.md §6, acceptance test 13).
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.science.shuffle_quality import (
    design_effect,
    intraclass_correlation,
    is_bad_shuffle,
)


def minibatches(g: np.ndarray, clusters: np.ndarray | None = None):
    """ρ of per-row gradients (K, B, P)."""
    return intraclass_correlation(
        g.mean(axis=1), (g**2).sum(axis=2).mean(axis=1), g.shape[1], clusters
    )


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.5], ids="shift={}".format)
@pytest.mark.parametrize("rows", [8, 64])
def test_a_shared_shift_of_known_variance(shift, rows):
    """Rows of a minibatch share a normal shift: ρ = s²/(s² + 1), DEFF = 1 + (B - 1)ρ; 95 %
    intervals, 200 of them.
    """
    random, inside, values, truth = np.random.default_rng(rows), 0, [], shift**2 / (shift**2 + 1)
    for _ in range(200):
        g = random.standard_normal((40, rows, 3)) + shift * random.standard_normal((40, 1, 3))
        rho = minibatches(g)
        deff = design_effect(rho, rows)
        values.append(deff.value)
        inside += rho.lo <= truth <= rho.hi
        assert deff.n == 40
        assert deff.kind == "jackknife"
    assert np.mean(values) == pytest.approx(1 + (rows - 1) * truth, rel=0.05)
    assert 178 <= inside <= 199


def test_independent_rows_are_not_called_a_bad_shuffle_and_sorted_ones_are():
    random = np.random.default_rng(0)
    g = random.standard_normal((64 * 128, 2))
    fair = sum(
        is_bad_shuffle(
            design_effect(minibatches(g[random.permutation(len(g))].reshape(64, 128, 2)), 128)
        )
        for _ in range(100)
    )
    assert fair <= 5
    in_order = minibatches(np.sort(g, axis=0).reshape(64, 128, 2))
    assert in_order.value > 0.99
    assert is_bad_shuffle(design_effect(in_order, 128))
    assert design_effect(in_order, 128).value > 125


def test_minibatches_of_one_window_are_not_independent_of_one_another():
    """Four minibatches share each window's shift: the jackknife over windows covers, the one over
    minibatches does not.
    """
    random, inside, truth = np.random.default_rng(3), {True: 0, False: 0}, 0.2
    for _ in range(150):
        shift = np.repeat(random.standard_normal((12, 1, 1)), 4, axis=0) * 0.5
        g = random.standard_normal((48, 32, 1)) + shift
        for by_window in inside:
            rho = minibatches(g, np.repeat(np.arange(12), 4) if by_window else None)
            assert rho.n == (12 if by_window else 48)
            inside[by_window] += rho.lo <= truth <= rho.hi
    assert inside[True] >= 125
    assert inside[True] > inside[False] + 15


def test_few_windows_do_not_hide_what_their_rows_share():
    """Sixteen windows of sixteen minibatches: the mean was 6 % too low at a true 0.2, and 90 % of
    the intervals covered.
    """
    random, found, windows = np.random.default_rng(1), [], np.repeat(np.arange(8), 8)
    for _ in range(300):
        found.append(
            minibatches(
                random.standard_normal((64, 8, 5))
                + 0.5 * np.repeat(random.standard_normal((8, 1, 5)), 8, axis=0),
                windows,
            )
        )
    assert np.mean([rho.value for rho in found]) == pytest.approx(0.2, abs=0.01)
    assert sum(rho.lo <= 0.2 <= rho.hi for rho in found) >= 270


@given(st.integers(2, 30), st.integers(2, 50), st.integers(0, 100))
def test_bounds_hold_for_any_rows(count, rows, seed):
    g = np.random.default_rng(seed).standard_normal((count, rows, 2)) ** 3
    rho = minibatches(g)
    assert -1 / (rows - 1) - 1e-9 <= rho.value <= 1
    assert 0 <= design_effect(rho, rows).value <= rows


def test_equal_gradients_have_no_spread_to_speak_of():
    assert minibatches(np.ones((4, 8, 1))).value == 0
    assert minibatches(np.arange(4.0).repeat(8).reshape(4, 8, 1)).value == 1
