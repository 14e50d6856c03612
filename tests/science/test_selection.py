"""The choice among sizes: its bound holds in whole simulated sweeps of known truth."""

import math

import numpy as np
import pytest

from streamtrain.science.selection import LOOKS, Contender, Selection, next_look, select

SIZES = np.array([16, 64, 256, 1024, 4096, 16384, 65536, 262144])
WITHIN = 0.2
TIMING_SD = 0.03 / math.sqrt(5)


def log_times(critical: float) -> np.ndarray:
    """Return log T(B) ∝ (1 + critical / B)(α + βB), less its minimum."""
    times = np.log((1 + critical / SIZES) * (2 + 0.06 * SIZES))
    return times - times.min()


def sweep(mean, sd, rng, *, censored_above=math.inf, heavy=False) -> tuple[Selection, int]:
    """Run trials in looks until the choice is settled; return it and the number of trials."""
    sizes = len(mean)
    reached: list[dict[int, float]] = [{} for _ in range(sizes)]
    missed: list[dict[int, float]] = [{} for _ in range(sizes)]
    active, done = set(range(sizes)), 0
    timing = TIMING_SD * rng.standard_normal(sizes)
    while (look := next_look(done)) is not None:
        for trial in range(done, look):
            block = 0.2 * rng.standard_normal()
            noise = rng.standard_t(3, sizes) / 3**0.5 if heavy else rng.standard_normal(sizes)
            for i in active:
                value = mean[i] + block + np.broadcast_to(sd, sizes)[i] * noise[i]
                into = missed if value > censored_above else reached
                into[i][trial] = min(value, censored_above) + timing[i]
        done = look
        contenders = [
            Contender(batch_size=int(SIZES[i]), log_seconds=reached[i], censored=missed[i])
            for i in range(sizes)
        ]
        selection = select(contenders, within=WITHIN, timing_variance=TIMING_SD**2)
        if selection.settled:
            break
        active = {i for i in active if int(SIZES[i]) not in selection.dropped}
    return selection, done


CASES = {
    "critical 300": (log_times(300), 0.15, {}),
    "critical 3,000": (log_times(3000), 0.3, {}),
    "all equal": (np.zeros(8), 0.15, {}),
    "unlike variances": (log_times(300), np.array([0.3] * 3 + [0.15] + [0.1] * 4), {}),
    "heavy tails": (log_times(300), 0.15, {"heavy": True}),
    "censored": (log_times(300), 0.15, {"censored_above": 0.5}),
}


def error_rates(case: str, sweeps: int) -> tuple[float, float]:
    """Return how often the bound was false, and a settled choice worse than the wish."""
    mean, sd, options = CASES[case]
    rng = np.random.default_rng(1)
    false = worse = 0
    for _ in range(sweeps):
        selection, _ = sweep(mean, sd, rng, **options)
        if selection.batch_size is None:
            continue
        truth = math.expm1(mean[list(SIZES).index(selection.batch_size)] - mean.min())
        false += selection.regret.hi is not None and truth > selection.regret.hi + 1e-12
        worse += selection.settled and truth > WITHIN
    return false / sweeps, worse / sweeps


@pytest.mark.parametrize("case", CASES)
def test_the_bound_holds(case):
    false, worse = error_rates(case, 40)
    assert false <= 0.15  # 5 % and three standard errors
    assert worse <= 0.15


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_bound_is_false_in_at_most_five_percent_of_sweeps(case):
    false, worse = error_rates(case, 2000)
    assert false <= 0.05
    assert worse <= 0.05


def test_one_size_is_settled_and_one_trial_is_not():
    alone = select([Contender(batch_size=64, log_seconds={0: 1.0})], within=WITHIN)
    assert alone.settled
    assert alone.regret.hi == 0
    pair = [Contender(batch_size=size, log_seconds={0: float(size)}) for size in (1, 2)]
    single = select(pair, within=WITHIN)
    assert single.batch_size == 1
    assert not single.settled
    assert single.regret.hi is None


def test_nothing_is_chosen_where_no_size_reached_the_target():
    missed = [Contender(batch_size=size, censored={0: 1.0, 1: 1.0}) for size in (1, 2)]
    assert select(missed, within=WITHIN).batch_size is None


def test_a_size_that_is_far_slower_is_dropped():
    rng = np.random.default_rng(0)
    slow, fast = rng.normal(1.0, 0.1, 5), rng.normal(0.0, 0.1, 5)
    pair = [
        Contender(batch_size=1, log_seconds=dict(enumerate(slow))),
        Contender(batch_size=2, log_seconds=dict(enumerate(fast))),
    ]
    selection = select(pair, within=WITHIN)
    assert selection.batch_size == 2
    assert selection.dropped == (1,)
    assert selection.settled
    assert LOOKS[0] == next_look(0)
