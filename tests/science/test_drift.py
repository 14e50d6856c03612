"""The fastest size by rows: the line, its test at the last rung, and what it predicts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from streamtrain.science.drift import fastest, fit
from streamtrain.science.selection import Contender

SIZES = tuple(4**k for k in range(2, 9))
ROWS = (65_536, 262_144, 1_048_576)
ALL_ROWS = 64 * ROWS[-1]


@pytest.mark.parametrize("best", [40, 100, 128, 10_000])
def test_the_fastest_size_is_exact_where_rows_and_costs_follow_the_laws(best):
    # rows to the loss grow as 1 + B/critical, seconds per row fall as 1 + overhead/B
    critical, overhead = 4.0 * best, best / 4
    sizes = contenders(
        lambda log_size: (
            math.log(1 + math.exp(log_size) / critical) + math.log1p(overhead / math.exp(log_size))
        )
    )
    assert math.exp(fastest(sizes, 0)) == pytest.approx(best)


@given(some.lists(some.floats(-5, 5), min_size=3, max_size=7), some.data())
def test_it_is_nearer_to_the_fastest_size_than_to_any_other(times, data):
    batch_sizes = sorted(
        data.draw(
            some.sets(some.integers(1, 2**20), min_size=len(times), max_size=len(times)),
        )
    )
    logs = np.log(batch_sizes)
    sizes = [
        Contender(batch_size=size, log_seconds={0: time})
        for size, time in zip(batch_sizes, times, strict=True)
    ]
    found = fastest(sizes, 0)
    best = times.index(min(times))
    assert (found is None) == (best in (0, len(times) - 1))
    if found is not None:
        low, high = (logs[best - 1] + logs[best]) / 2, (logs[best] + logs[best + 1]) / 2
        assert low - 1e-9 <= found <= high + 1e-9


def test_neighbours_that_are_slower_by_the_last_digit_give_a_size():
    times = {16: 5e-324, 64: 0.0, 256: 5e-324}
    sizes = [Contender(batch_size=size, log_seconds={0: time}) for size, time in times.items()]
    assert math.exp(fastest(sizes, 0)) == pytest.approx(64)


def test_a_neighbour_that_missed_the_target_counts_with_its_bound():
    sizes = [
        Contender(batch_size=16, log_seconds={0: 1.0}),
        Contender(batch_size=64, log_seconds={0: 0.0}),
        Contender(batch_size=256, censored={0: 1.0}),
    ]
    assert math.exp(fastest(sizes, 0)) == pytest.approx(64)


def test_a_line_without_noise_is_found_and_goes_on():
    found = fit(
        [(rows, size_at(rows, 0.25)) for rows in ROWS], [size_at(ROWS[-1], 0.25)] * 3, 2**30
    )
    assert found.is_confirmed
    assert found.per_doubling.value == pytest.approx(2**0.25)
    assert found.expected.value == pytest.approx(math.exp(size_at(ROWS[-1], 0.25)))
    assert found.predicted.value == pytest.approx(math.exp(size_at(2**30, 0.25)))
    assert found.predicted.lo == pytest.approx(found.predicted.hi)


def test_a_line_that_the_last_rung_contradicts_predicts_nothing():
    rungs = [(ROWS[0], 3.0), (ROWS[1], 4.0), (ROWS[2], 4.0)]
    found = fit(rungs, [4.05, 3.95, 4.0], ALL_ROWS)
    assert not found.is_confirmed
    assert found.predicted.value is None
    assert found.expected.lo > math.exp(4.0)


def test_nothing_is_predicted_for_fewer_rows_than_were_tried():
    rungs = [(rows, size_at(rows, 0.25)) for rows in ROWS]
    found = fit(rungs, [size_at(ROWS[-1], 0.25)] * 3, ROWS[-1])
    assert found.is_confirmed
    assert found.predicted.value is None


@pytest.mark.parametrize(("rungs", "trials"), [(2, 3), (3, 2)])
def test_too_few_rungs_or_trials_say_nothing(rungs, trials):
    assert fit([(rows, 3.0) for rows in ROWS[:rungs]], [3.0] * trials, ALL_ROWS) is None


@pytest.mark.parametrize("slope", [0.0, 0.25, 0.5])
@pytest.mark.parametrize(
    ("sweeps", "most"), [(200, 20), pytest.param(4000, 250, marks=pytest.mark.slow)]
)
def test_intervals_hold_the_truth_in_nineteen_of_twenty_sweeps(slope, sweeps, most):
    """`most` errors of `sweeps` are 1 % likely, or less, where each has 5 %.

    The test of a true line is stricter than it should be, as the noise of a fastest size depends on
    where it lies between the sizes tried: it fails in up to 8 %.
    """
    rng = np.random.default_rng(7)
    rejected = outside = slopes = predicted = 0
    for _ in range(sweeps):
        rungs = [(rows, noisy_fastest(rng, rows, slope)) for rows in ROWS]
        repeats = [noisy_fastest(rng, ROWS[-1], slope) for _ in range(5)]
        found = fit(rungs, repeats, ALL_ROWS)
        rejected += not found.is_confirmed
        slopes += not found.per_doubling.lo <= 2**slope <= found.per_doubling.hi
        if found.predicted.value is not None:
            predicted += 1
            truth = math.exp(size_at(ALL_ROWS, slope))
            outside += not found.predicted.lo <= truth <= found.predicted.hi
    assert rejected <= 1.6 * most
    assert slopes <= most
    assert outside <= most
    assert predicted >= 0.9 * sweeps


def size_at(rows, slope):
    """The log of the fastest size: 60 at the first rung, times 2^slope per doubling."""
    return math.log(60) + slope * math.log(rows / ROWS[0])


def contenders(log_seconds):
    return [
        Contender(batch_size=size, log_seconds={0: log_seconds(math.log(size))}) for size in SIZES
    ]


def noisy_fastest(rng, rows, slope):
    """The fastest size as measured: times as 1/B + B around it, with noise of 10 % per size."""
    center = size_at(rows, slope)
    noise = dict(zip(map(math.log, SIZES), rng.normal(0, 0.1, len(SIZES)), strict=True))
    return fastest(
        contenders(lambda log_size: math.log(math.cosh(log_size - center)) + noise[log_size]), 0
    )
