"""Intervals cover, contain the value, and are well-formed for any input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from streamtrain.science.intervals import Estimate, measure, paired_ratio, value_of

FLOATS = st.floats(1e-6, 1e6)


@given(
    st.lists(
        st.one_of(st.none(), st.floats(-1e300, 1e300), st.sampled_from([np.nan, np.inf])),
        max_size=15,
    ),
    st.booleans(),
)
def test_any_values_give_a_strict_figure(values, log):
    figure = measure(values, log=log)
    finite = [value for value in values if value is not None and np.isfinite(value)]
    assert figure.n == len(finite)
    assert (figure.value is None) == (not finite)
    if figure.lo is not None:
        assert figure.lo <= figure.value <= figure.hi
        assert np.isfinite([figure.lo, figure.hi]).all()
    else:
        assert figure.hi is None


@pytest.mark.parametrize("log", [pytest.param(False, id="plain"), pytest.param(True, id="log")])
@given(values=st.lists(FLOATS, min_size=2, max_size=9))
def test_below_ten_it_is_the_t_interval(log, values):
    scale = np.log(values) if log else np.asarray(values)
    sem = scale.std(ddof=1) / np.sqrt(len(values))
    lo, hi = scale.mean() + np.array([-1, 1]) * stats.t.ppf(0.975, len(values) - 1) * sem
    lo, hi = (np.exp(lo), np.exp(hi)) if log else (lo, hi)
    figure, median = measure(values, log=log), np.median(values)
    np.testing.assert_allclose(
        [figure.lo, figure.hi], [min(lo, median), max(hi, median)], rtol=1e-9, atol=1e-12
    )


def test_bootstrap_from_ten_is_repeatable_and_covers():
    rng = np.random.default_rng(3)
    assert measure(np.arange(12.0)) == measure(np.arange(12.0))
    covered = sum((figure := measure(rng.normal(size=15))).lo <= 0 <= figure.hi for _ in range(200))
    assert covered >= 180  # 95 % nominal


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=2, max_size=9))
def test_paired_ratio_is_a_geometric_mean_and_inverts(pairs):
    a, b = zip(*pairs, strict=True)
    ratio, inverse = paired_ratio(a, b), paired_ratio(b, a)
    assert ratio.n == len(pairs)
    assert ratio.value == pytest.approx(np.exp(np.mean(np.log(np.divide(a, b)))), rel=1e-9)
    assert ratio.lo is None or ratio.lo <= ratio.value * (1 + 1e-9)
    assert inverse.value * ratio.value == pytest.approx(1)
    if ratio.hi is not None and inverse.lo is not None and 1e-100 < ratio.hi < 1e100:
        assert inverse.lo * ratio.hi == pytest.approx(1)


def test_a_tenth_pair_does_not_widen_the_interval():
    """A ratio of medians ignored the pairing, so ten pairs gave a wider interval than nine."""
    rng, widths = np.random.default_rng(0), {9: 0.0, 12: 0.0}
    for n in widths:
        for _ in range(50):
            shared = rng.normal(0, 1.0, n)
            ratio = paired_ratio(
                np.exp(shared + rng.normal(0, 0.05, n)), np.exp(shared + rng.normal(0, 0.05, n))
            )
            widths[n] += np.log(ratio.hi / ratio.lo)
    assert widths[12] < 1.1 * widths[9]


@pytest.mark.parametrize(
    "n", [pytest.param(1, id="one"), pytest.param(3, id="t"), pytest.param(12, id="bootstrap")]
)
def test_a_sample_against_itself_has_ratio_one(n):
    sample = np.linspace(1, 2, n)
    end = None if n == 1 else 1.0
    assert paired_ratio(sample, sample) == Estimate(value=1.0, lo=end, hi=end, n=n)


def test_two_zeros_have_ratio_one_and_lengths_must_agree():
    assert paired_ratio([0.0, 0.0], [0.0, 0.0]).value == 1.0
    unbounded = paired_ratio([1.0] * 12, [0.0] * 8 + [1.0] * 4)
    assert unbounded.lo is None
    assert unbounded.hi is None
    with pytest.raises(ValueError, match="same length"):
        paired_ratio([1.0], [1.0, 2.0])


def test_figures_that_are_absent_or_unknown_have_no_value():
    assert value_of(Estimate(value=0.0)) == 0.0
    assert value_of(Estimate(value=None)) is None
    assert value_of(None) is None
