"""The throughput law and the steps law: fits recover the parameters of made-up figures
(docs/science.md §3, acceptance test 14).
"""

import math
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.science.steps_law import (
    adaptive_batch_bound,
    efficient_batch_size,
    fit_steps,
    fit_steps_law,
    goodput,
)
from streamtrain.science.throughput import StepTime, fit_overlap, fit_step_time, throughput_law

POSITIVE = st.floats(-6, 0).map(lambda x: 10**x)
SIZES = [2.0**k for k in range(4, 21, 2)]


@given(POSITIVE, st.floats(-9, -5).map(lambda x: 10**x), st.floats(0, 5).map(lambda x: 10**x))
def test_the_best_size_and_time_are_those_of_the_formula(alpha, beta, critical):
    step = StepTime(seconds=alpha, seconds_per_row=beta)
    best = step.best_batch_size(critical)
    assert math.isinf(step.crossover_batch_size)
    assert best == pytest.approx(max(1.0, math.sqrt(critical * alpha / beta)))
    if best > 1:
        assert step.best_seconds(7.0, critical) == pytest.approx(
            7 * beta * (math.sqrt(critical) + math.sqrt(alpha / beta)) ** 2
        )
    assert all(
        step.to_target(best * other, 1, critical) >= step.to_target(best, 1, critical) * (1 - 1e-12)
        for other in (1.1, 2, 10)
    )


@given(
    POSITIVE,
    st.floats(-9, -6).map(lambda x: 10**x),
    st.floats(1, 5).map(lambda x: 10**x),
    st.floats(1.5, 30),
)
def test_behind_a_roof_the_optimum_moves_to_the_kink(alpha, beta, critical, slower):
    step = StepTime(seconds=alpha, seconds_per_row=beta, delivery_rate=1 / (slower * beta))
    crossover, best = step.crossover_batch_size, step.best_batch_size(critical)
    assert alpha + beta * crossover == pytest.approx(crossover / step.delivery_rate)
    grid = np.geomspace(1, 1e12, 400)
    assert step.to_target(best, 1, critical) <= min(
        step.to_target(size, 1, critical) for size in grid
    ) * (1 + 1e-9)
    assert best <= max(crossover, 1)
    soft = StepTime(
        seconds=alpha, seconds_per_row=beta, delivery_rate=step.delivery_rate, overlap=4.0
    )
    assert step.at(crossover) <= soft.at(crossover) == pytest.approx(step.at(crossover) * 2**0.25)
    assert soft.best_seconds(1, critical) <= min(
        soft.to_target(size, 1, critical) for size in grid
    ) * (1 + 1e-6)


@given(
    POSITIVE,
    st.floats(-9, -5).map(lambda x: 10**x),
    st.lists(st.sampled_from(SIZES), min_size=2, unique=True),
)
def test_exact_timings_give_the_line_back(alpha, beta, sizes):
    fitted = fit_step_time(sizes, [alpha + beta * size for size in sizes])
    for size in sizes:
        assert fitted.at(size) == pytest.approx(alpha + beta * size, rel=1e-6)


def test_rows_that_cost_nothing_and_lines_that_are_none():
    fitted = fit_step_time([10, 1000], [0.1, 0.1])
    assert fitted.seconds_per_row == 0
    assert math.isinf(fitted.best_batch_size(100.0))
    assert fit_step_time([10, 1000], [0.2, 0.1]).seconds_per_row == 0  # never a negative cost
    with pytest.raises(ValueError, match="at least 2 batch sizes"):
        fit_step_time([10, 10], [0.1, 0.1])


def test_overlap_is_recovered_from_joint_timings():
    made = StepTime(seconds=1e-3, seconds_per_row=1e-6, delivery_rate=5e5, overlap=2.5)
    found = fit_overlap(
        StepTime(seconds=1e-3, seconds_per_row=1e-6, delivery_rate=5e5),
        SIZES,
        [made.at(size) for size in SIZES],
    )
    assert found.overlap == pytest.approx(2.5, rel=0.01)
    wholly = StepTime(seconds=1e-3, seconds_per_row=1e-6, delivery_rate=5e5)
    assert math.isinf(fit_overlap(wholly, SIZES, [wholly.at(size) for size in SIZES]).overlap)


def test_intervals_over_repeats_cover_the_truth():
    random, inside = np.random.default_rng(0), 0
    for _ in range(100):
        seconds = (1e-3 + 1e-6 * np.array(SIZES)) * random.lognormal(0, 0.1, (5, len(SIZES)))
        law = throughput_law(SIZES, seconds, steps=(10.0, 100.0))
        inside += law.best_batch_size.lo <= math.sqrt(1e5) <= law.best_batch_size.hi
        assert law.crossover_batch_size.value is None
        assert law.delivery_rate.value is None
        assert law.alpha_seconds.n == 5
    assert inside >= 88
    assert throughput_law(SIZES, seconds[:1]).alpha_seconds.lo is None


class SleepingLearner:
    """A learner whose step takes α + βB seconds."""

    alpha, beta = 2e-3, 4e-6

    def step(self, batch_size: int) -> float:
        started = time.perf_counter()
        threading.Event().wait(self.alpha + self.beta * batch_size)
        return time.perf_counter() - started


class ThrottledReader:
    """A reader that delivers `rows_per_second` rows per second."""

    rows_per_second = 1e5

    def read(self, rows: int) -> float:
        started = time.perf_counter()
        threading.Event().wait(rows / self.rows_per_second)
        return rows / (time.perf_counter() - started)


def test_a_sleeping_learner_and_a_throttled_reader_are_recognised():
    learner, reader, sizes = SleepingLearner(), ThrottledReader(), [16, 256, 1024, 4096]
    seconds, rates = [], []
    for _ in range(5):  # repeats are interleaved, as in run/timing.py
        seconds.append([min(learner.step(size) for _ in range(2)) for size in sizes])
        rates.append(max(reader.read(1000) for _ in range(2)))
    critical = 50.0
    law = throughput_law(sizes, seconds, steps=(1.0, critical))
    assert law.best_batch_size.value == pytest.approx(
        math.sqrt(critical * learner.alpha / learner.beta), rel=0.25
    )
    behind = throughput_law(sizes, seconds, rates, steps=(1.0, 1e6))
    crossover = learner.alpha / (1 / reader.rows_per_second - learner.beta)
    assert behind.crossover_batch_size.value == pytest.approx(crossover, rel=0.25)
    # √(B_crit·α/β) would be 22,000
    assert behind.best_batch_size.value == behind.crossover_batch_size.value


@given(st.floats(0, 4).map(lambda x: 10**x), st.floats(1, 5).map(lambda x: 10**x))
def test_the_steps_law_gives_its_constants_back(smallest, critical):
    fitted, found, misfit = fit_steps(SIZES, [smallest * (1 + critical / size) for size in SIZES])
    assert found == pytest.approx(critical, rel=1e-3)
    assert fitted == pytest.approx(smallest, rel=1e-3)
    assert misfit < 1e-3


def test_the_critical_size_covers_the_truth_over_trials():
    random, inside = np.random.default_rng(0), 0
    for _ in range(60):
        steps = 10 * (1 + 500 / np.array(SIZES)) * random.lognormal(0, 0.1, (5, len(SIZES)))
        found = fit_steps_law(SIZES, steps)
        inside += found.critical_batch_size.lo <= 500 <= found.critical_batch_size.hi
        assert found.misfit < 0.15
    assert inside >= 53
    assert fit_steps_law(SIZES, steps[0]).critical_batch_size.lo is None
    with pytest.raises(ValueError, match="at least 3"):
        fit_steps([1, 2], [3, 4])


def test_goodput_and_overhead():
    assert goodput(1e6, 1000, 1000) == 5e5
    assert efficient_batch_size(1000) == 200


@given(st.lists(st.floats(1, 1e5), min_size=2, max_size=20))
def test_a_growing_batch_saves_nothing_where_the_useful_batch_stands_still(critical):
    steps = np.arange(len(critical), dtype=float)
    gamma = adaptive_batch_bound(steps, critical)
    assert 0 < gamma <= 1
    assert adaptive_batch_bound(steps, [critical[0]] * len(steps)) == pytest.approx(1)
