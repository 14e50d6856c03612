"""The exact oracle: its own identities, and the real trainer against it (docs/science.md §8,
acceptance tests 2 to 5).
"""

import itertools
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamtrain.config import TrainConfig
from streamtrain.science.crossing import first_crossing
from streamtrain.science.oracle import GaussianLinear
from streamtrain.science.steps_law import fit_steps_law
from streamtrain.training.fused_engine import FusedEngine, one_blas_thread
from streamtrain.training.model import Shape
from tests.oracles.gaussian import isotropic_best_lr, spectral_radius, stationary_excess

LAMBDA = np.array([1.6, 1.2, 0.8, 0.4])
NOISE = 0.1
#: docs/science.md §0: four standardised features, E D_i² = 0.225.
PAGE = GaussianLinear(eigenvalues=LAMBDA, noise_variance=NOISE, start=np.full(4, 0.225))
#: The trainer's linear model: four features and a bias, started at 0. w* = (0.5, -0.4, 0.3, 0.6),
#: intercept 0.4.
TRUTH = np.array([0.5, -0.4, 0.3, 0.6, 0.4])
TRAINED = GaussianLinear(
    eigenvalues=np.append(LAMBDA, 1.0),
    noise_variance=NOISE,
    start=TRUTH**2,
    kurtosis=np.array([3.0, 3.0, 3.0, 3.0, 1.0]),
)
SGD = TrainConfig(optimizer="sgd", momentum=0.0)
SHAPE = Shape(widths=(4, 1), activation="identity")


def make_rows(random: np.random.Generator, rows: int) -> np.ndarray:
    """Gaussian features with eigenvalues LAMBDA, and their noisy target: float32 (rows, 5)."""
    block = np.empty((rows, 5), dtype=np.float32)
    random.standard_normal(out=block, dtype=np.float32)
    block[:, :4] *= np.sqrt(LAMBDA).astype(np.float32)
    block[:, 4] *= np.float32(NOISE**0.5)
    block[:, 4] += block[:, :4] @ TRUTH[:4].astype(np.float32) + np.float32(TRUTH[4])
    return block


def trained_excess(
    seed: int,
    batch_size: int,
    learning_rates: tuple[float, ...],
    points: np.ndarray,
) -> np.ndarray:
    """The exact excess loss of one run of the real trainer after each number of steps.

    The result is (2, learning rates, points): of the weights in training, and of their average,
    which is what is judged.
    """
    random = np.random.default_rng(seed)
    engine = FusedEngine(SHAPE, np.zeros(5, np.float32), batch_size, learning_rates, SGD)
    curve = []
    for steps in np.diff(points, prepend=0):
        if steps:
            rows = make_rows(random, int(steps) * batch_size)
            engine.advance(rows, 0, len(rows))
        error = np.stack([engine.parameters(), engine.model_parameters()]).astype(float) - TRUTH
        with np.errstate(over="ignore", invalid="ignore"):
            curve.append(0.5 * error**2 @ TRAINED.eigenvalues)
    return np.moveaxis(np.array(curve), 0, -1)


#: Minibatch size → the number of runs, and the steps of each.
RUNS = {1: (700, 400), 8: (500, 200), 64: (300, 60), 1024: (120, 20)}


@cache
def trained_curves(batch_size: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Return a learning rate, numbers of steps, and curves (2, runs, points) as trained_excess."""
    seeds, last = RUNS[batch_size]
    lr = 0.4 * TRAINED.largest_stable_lr(batch_size)
    points = np.round(np.linspace(1, last**0.5, 15) ** 2).astype(int)
    points = np.maximum(points, np.arange(1, 16))
    curves = [trained_excess(seed, batch_size, (lr,), points)[:, 0] for seed in range(seeds)]
    return lr, points, np.stack(curves, axis=1)


@pytest.fixture(autouse=True, scope="module")
def blas():
    with one_blas_thread():
        yield


def test_the_figures_of_the_page():
    """At one η, 1000 and a million rows need the same steps; tuned, so do all sizes past 1000."""
    assert PAGE.steps_to(1e-3, 1e3, 0.01) == PAGE.steps_to(1e-3, 1e6, 0.01) == 481
    assert [math.ceil(PAGE.best(1e-3, size)[1]) for size in (10, 100, 1000, 1e6)] == [90, 12, 5, 5]


@pytest.mark.parametrize("averaged", [False, True], ids=["last", "averaged"])
@pytest.mark.parametrize("batch_size", RUNS)
def test_the_trainers_mean_loss_curve_is_the_oracles(batch_size, averaged):
    (seeds, last), (lr, points, both) = RUNS[batch_size], trained_curves(batch_size)
    curves = both[int(averaged)]
    expected = TRAINED.excess(points, batch_size, lr)
    if averaged:
        expected = TRAINED.curve([batch_size] * last, lr, SGD.average_fraction)[points]
        assert expected[-1] < 0.5 * TRAINED.excess([last], batch_size, lr)[0] or batch_size > 8
    errors = (curves.mean(axis=0) - expected) / (curves.std(axis=0, ddof=1) / seeds**0.5)
    assert points.size == 15, errors
    assert np.abs(errors).max() < 3, errors


@cache
def changing_curves() -> tuple[list[int], float, np.ndarray, np.ndarray]:
    """Return minibatch sizes, and otherwise as `trained_curves`."""
    sizes = [8] * 60 + [64] * 20 + [1024] * 5
    points = np.array([1, 20, 60, 61, 65, 80, 81, 83, 85])
    lr, curves = 0.4 * TRAINED.largest_stable_lr(8), []
    for seed in range(400):
        random, curve = np.random.default_rng(seed), []
        engine = FusedEngine(SHAPE, np.zeros(5, np.float32), 8, (lr,), SGD)
        for step, size in enumerate(sizes, start=1):
            if size != engine.batch_size:
                engine.set_batch_size(size, SGD.beta2)
            engine.advance(make_rows(random, size), 0, size)
            if step in points:
                weights = np.stack([engine.parameters()[0], engine.model_parameters()[0]])
                curve.append(0.5 * (weights.astype(float) - TRUTH) ** 2 @ TRAINED.eigenvalues)
        curves.append(curve)
    return sizes, lr, points, np.moveaxis(np.array(curves), -1, 0)


@pytest.mark.parametrize("averaged", [False, True], ids=["last", "averaged"])
def test_it_is_the_oracles_too_where_the_minibatch_size_changes(averaged):
    """The curve is then the product of the matrices of the sizes, step by step."""
    sizes, lr, points, both = changing_curves()
    curves = both[int(averaged)]
    expected = TRAINED.curve(sizes, lr, SGD.average_fraction if averaged else 0.0)[points]
    spread = curves.std(axis=0, ddof=1) / len(curves) ** 0.5
    errors = (curves.mean(axis=0) - expected) / spread
    assert np.abs(errors).max() < 3, errors
    assert expected[-1] < 0.2 * expected[2], "larger minibatches lower the floor"


def test_fitted_critical_batch_size_agrees_with_the_oracles_own_fit():
    """B_crit is fitted to crossings of real training runs at the oracle's best η.

    There are three targets and 8 groups of seeds. At its best η a small batch ends just below the
    target, so the crossing is that of a group's mean curve, like the oracle's.
    """
    sizes, groups, fitted = [4, 16, 64, 256, 1024], 8, []
    for target in (1e-2, 3.16e-3, 1e-3):
        steps = np.zeros((groups, len(sizes)))
        for index, size in enumerate(sizes):
            lr, needed = TRAINED.best(target, size)
            seeds = 16 if size < 256 else 4
            points = np.unique(
                np.concatenate(
                    [[0], np.round(np.append(np.linspace(0.4, 1.6, 9), 2) * needed + 0.5)]
                ).astype(int)
            )
            curves = np.array(
                [
                    trained_excess(1000 * index + seed, size, (lr,), points)[0, 0]
                    for seed in range(groups * seeds)
                ]
            )
            means = curves.reshape(groups, seeds, -1).mean(axis=1)
            steps[:, index] = [first_crossing(points, mean, target) or np.nan for mean in means]
        assert np.isfinite(steps).all(), steps
        found = fit_steps_law(sizes, steps).critical_batch_size
        own = TRAINED.critical_batch_size(target, sizes)
        assert found.lo <= own <= found.hi, (target, found, own)
        fitted.append(found.value)
    assert 5 < fitted[2] / fitted[0] < 20  # tenfold for tenfold lower excess
    exact = [
        PAGE.critical_batch_size(target, 10.0 ** np.arange(1, 7)) for target in (1e-2, 1e-3, 1e-4)
    ]
    assert all(6 < after / before < 14 for before, after in itertools.pairwise(exact))


@given(st.floats(0, 6), st.lists(st.floats(0.01, 10), min_size=1, max_size=6), st.booleans())
def test_spectral_radius_crosses_one_at_the_stability_boundary(log_size, eigenvalues, bias):
    kurtosis = np.array([3.0] * len(eigenvalues) + [1.0] * bias)
    model = GaussianLinear(
        eigenvalues=np.array(eigenvalues + [1.0] * bias),
        noise_variance=1.0,
        start=np.ones(kurtosis.size),
        kurtosis=kurtosis,
    )
    size = round(10**log_size)
    top = model.largest_stable_lr(size)
    assert spectral_radius(model, size, top) == pytest.approx(1, abs=1e-6)
    assert spectral_radius(model, size, 0.98 * top) < 1 < spectral_radius(model, size, 1.02 * top)
    assert math.isinf(stationary_excess(model, size, 1.001 * top))


def test_the_trainer_diverges_just_beyond_the_boundary_and_not_just_below():
    top = TRAINED.largest_stable_lr(1024)
    below, beyond = trained_excess(0, 1024, (0.95 * top, 1.05 * top), np.array([0, 300]))[0]
    assert below[-1] < below[0] / 20
    assert not beyond[-1] < 1e6 * beyond[0]


@given(st.integers(0, 12), st.floats(1e-5, 1e-4))
def test_floors_are_equal_at_equal_small_ratio_of_rate_to_batch(doublings, ratio):
    size = 2**doublings
    lr = ratio * size
    if lr > 0.02:
        return
    floors = [stationary_excess(TRAINED, 1, ratio), stationary_excess(TRAINED, size, lr)]
    assert floors[1] == pytest.approx(floors[0], rel=0.05)
    assert TRAINED.excess([2**30], size, lr)[0] == pytest.approx(floors[1], rel=1e-6)


@given(st.integers(1, 8), st.integers(0, 12), st.floats(0.1, 5))
def test_isotropic_and_noiseless_has_its_known_best_rate(dimensions, doublings, eigenvalue):
    size = 2**doublings
    model = GaussianLinear(
        eigenvalues=np.full(dimensions, eigenvalue),
        noise_variance=0.0,
        start=np.full(dimensions, 0.3),
    )
    lr, contraction = isotropic_best_lr(eigenvalue, dimensions, size)
    first, second = model.excess([1, 2], size, lr)
    assert second / first == pytest.approx(contraction)
    assert all(model.excess([1], size, lr * other)[0] >= first for other in (0.9, 1.1))


@given(st.floats(0.001, 0.9), st.sampled_from([1, 3, 100, math.inf]), st.integers(0, 40))
@example(0.8125, 100, 1)  # an eigenvalue below zero
def test_the_closed_curve_is_the_recursion(share, size, steps):
    lr = share * TRAINED.largest_stable_lr(size)
    A, b = TRAINED.transition(size, lr)
    m = TRAINED.start
    for _ in range(steps):
        m = A @ m + b
    assert TRAINED.excess([steps], size, lr)[0] == pytest.approx(
        0.5 * TRAINED.eigenvalues @ m, rel=1e-9
    )
    if math.isfinite(size):
        curve = TRAINED.curve([size] * steps, lr)
        np.testing.assert_allclose(curve, TRAINED.excess(range(steps + 1), size, lr), rtol=1e-9)
        # An average over less than a step is the weights themselves.
        np.testing.assert_allclose(TRAINED.curve([size] * steps, lr, 1e-9), curve)


def test_the_curve_of_averages_has_the_joint_second_moments():
    """The same recursion on the whole (2d, 2d) matrix, for d = 1, where it can be written out."""
    model = GaussianLinear(eigenvalues=np.ones(1), noise_variance=0.1, start=np.ones(1))
    lr, size, fraction, last = 0.2, 2, 0.3, 0
    moments, expected = np.ones((2, 2)), [0.5]  # of (D, its average)
    for step in range(1, 40):
        expand = np.diag([1 - lr, 1.0])
        noise = lr**2 / size * np.diag([2 * moments[0, 0] + 0.1, 0])
        moments = expand @ moments @ expand + noise
        a = min(1, (step * size - last) / (fraction * step * size))
        mix, last = np.array([[1, 0], [a, 1 - a]]), step * size
        moments = mix @ moments @ mix.T
        expected.append(0.5 * moments[1, 1])
    np.testing.assert_allclose(model.curve([size] * 39, lr, fraction), expected)


def test_the_floor_above_the_target_is_never_reached():
    assert math.isinf(PAGE.steps_to(1e-6, 1, 0.1))
    assert PAGE.steps_to(10.0, 1, 0.1) == 0
    lr, steps = PAGE.best(1e-3, 64)
    assert PAGE.steps_to(1e-3, 64, lr) == math.ceil(steps)
    assert all(
        PAGE.interpolated_steps_to(1e-3, 64, lr * other) >= steps - 1e-3
        for other in (0.8, 0.95, 1.05, 1.25)
    )
