"""The noise scale of Gaussian linear regression, which is known in closed form (docs/science.md §2,
acceptance test 1).
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.science.intervals import Estimate, fieller
from streamtrain.science.noise_scale import (
    adam_scale,
    group_variances,
    noise_scale,
    sqrt_m_slope,
    variance_and_signal,
    variance_and_signal_from_norms,
    weighted_variance_and_signal,
)
from tests.oracles.gaussian import gaussian_noise_scales

EIGENVALUES = np.array([1.6, 1.2, 0.8, 0.4])
ERROR = np.array([0.5, -0.4, 0.3, 0.6])
NOISE = 0.1
EXPERIMENTS, REPLICATES, ROWS = 1000, 16, 128


def gradients(random: np.random.Generator, *shape: int, noise: float = NOISE) -> np.ndarray:
    """Per-example gradients (*shape, 4) of ½r² at D = ERROR."""
    x = random.standard_normal((*shape, 4)) * np.sqrt(EIGENVALUES)
    return x * (x @ ERROR - noise**0.5 * random.standard_normal(shape))[..., None]


def test_closed_form_and_coverage_of_a_thousand_intervals():
    simple, weighted = gaussian_noise_scales(EIGENVALUES, ERROR, NOISE)
    random, inside, inside_weighted, ratios = np.random.default_rng(1), 0, 0, np.zeros(4)
    for _ in range(10):
        g = gradients(random, EXPERIMENTS // 10, REPLICATES, ROWS)
        variance, signal = variance_and_signal(g)
        # H = C is diagonal: B_noise is B_simple of gradients times √λ.
        variance_h, signal_h = variance_and_signal(g * np.sqrt(EIGENVALUES))
        ratios += [variance.sum(), signal.sum(), variance_h.sum(), signal_h.sum()]
        for parts in zip(variance, signal, variance_h, signal_h, strict=True):
            plain, hessian = noise_scale(*parts[:2]), noise_scale(*parts[2:])
            assert plain.n == REPLICATES
            assert plain.kind == "fieller"
            inside += plain.lo <= simple <= plain.hi
            inside_weighted += hessian.lo <= weighted <= hessian.hi
    assert ratios[0] / ratios[1] == pytest.approx(simple, rel=0.01)
    assert ratios[2] / ratios[3] == pytest.approx(weighted, rel=0.01)
    assert inside / EXPERIMENTS == pytest.approx(0.95, abs=0.014)
    assert inside_weighted / EXPERIMENTS == pytest.approx(0.95, abs=0.014)


def test_three_ways_to_the_same_parts():
    g = gradients(np.random.default_rng(2), 512)
    whole = variance_and_signal(g)
    np.testing.assert_allclose(
        variance_and_signal_from_norms(g.mean(axis=0), (g**2).sum(axis=1)), whole, rtol=1e-12
    )
    hessian = np.diag(EIGENVALUES)
    by_root = variance_and_signal(g * np.sqrt(EIGENVALUES))
    np.testing.assert_allclose(
        weighted_variance_and_signal(g, lambda v: v @ hessian), by_root, rtol=1e-10
    )
    rotation = np.linalg.qr(np.random.default_rng(3).standard_normal((4, 4)))[0]
    np.testing.assert_allclose(
        weighted_variance_and_signal(g @ rotation, lambda v: v @ rotation.T @ hessian @ rotation),
        by_root,
        rtol=1e-10,
    )


@pytest.mark.parametrize(("micro", "rows"), [(2, 1), (2, 5), (9, 3), (30, 1)])
def test_micro_batches_are_unbiased(micro, rows):
    random = np.random.default_rng(micro * 10 + rows)
    g = random.standard_normal((4000, micro, rows, 3)).mean(axis=2) + 1.0
    trace, square = variance_and_signal(g, rows)
    assert trace.mean() == pytest.approx(3.0, abs=6 * trace.std() / 4000**0.5)
    assert square.mean() == pytest.approx(3.0, abs=6 * square.std() / 4000**0.5)


def test_a_denominator_that_may_be_zero_gives_a_lower_bound_only():
    random = np.random.default_rng(0)
    found = fieller(5 + random.standard_normal(12), 0.1 + random.standard_normal(12))
    assert found.kind == "fieller lower bound"
    assert found.hi is None
    assert found.lo > 0
    negative = fieller(5 + random.standard_normal(12), -5 + random.standard_normal(12))
    assert negative.value is None
    assert negative.hi is None
    assert fieller([1.0], [2.0]) == Estimate(value=0.5, n=1, kind="fieller")
    with pytest.raises(ValueError, match="same length"):
        fieller([1.0], [1.0, 2.0])


@given(
    st.lists(st.tuples(st.floats(0.5, 2), st.floats(0.5, 2)), min_size=2, max_size=30),
    st.floats(1e-3, 1e3),
    st.floats(1e-3, 1e3),
)
def test_fieller_contains_the_ratio_and_scales_with_units(pairs, up, down):
    a, b = np.array(pairs).T
    one, other = fieller(a, b), fieller(a * up, b * down)
    assert one.kind == other.kind
    for end in ("value", "lo", "hi"):
        before, after = getattr(one, end), getattr(other, end)
        assert (before is None) == (after is None)
        if before is not None:
            expected = before * up / down
            assert after == pytest.approx(expected, rel=1e-4, abs=1e-6 * up / down)
    assert one.lo <= one.value * (1 + 1e-9)
    assert one.hi is None or one.value <= one.hi * (1 + 1e-9)


def test_adam_scale_makes_coordinates_alike():
    np.testing.assert_allclose(adam_scale(np.array([4.0, 0.25]), 0.0), [0.5, 2.0])


def test_sqrt_m_law_of_independent_and_of_correlated_rows():
    random, sizes = np.random.default_rng(7), 4 * 2.0 ** np.arange(6)
    sets = [group_variances(gradients(random, 512, 4).mean(axis=1), 5) for _ in range(12)]
    slope = sqrt_m_slope(sizes, np.array(sets))
    assert slope.lo < -0.5 < slope.hi
    assert slope.hi - slope.lo < 0.1
    assert slope.n == 12
    shared = [
        group_variances(
            gradients(random, 512, 4).mean(axis=1)
            + np.repeat(random.standard_normal((8, 4)), 64, 0),
            5,
        )
        for _ in range(12)
    ]
    assert sqrt_m_slope(sizes, np.array(shared)).lo > -0.4
    assert sqrt_m_slope(sizes, np.array(sets[:1])).lo is None
