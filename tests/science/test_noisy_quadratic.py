"""The noisy quadratic model: exact moments, and Zhang et al.'s direction for momentum
(docs/science.md acceptance test 9).
"""

import math

import numpy as np
import pytest

from streamtrain.science.steps_law import fit_steps
from tests.oracles.noisy_quadratic import NoisyQuadratic


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_moments_are_those_of_many_runs(momentum):
    model, random, runs = NoisyQuadratic.harmonic(5), np.random.default_rng(0), 20_000
    theta, velocity = np.sqrt(model.start) * np.ones((runs, 5)), np.zeros((runs, 5))
    lr, size, checks = 0.3 * (1 - momentum), 4, {1: None, 5: None, 30: None}
    for step in range(1, 31):
        gradient = model.curvature * theta + np.sqrt(model.noise / size) * random.standard_normal(
            (runs, 5)
        )
        velocity = momentum * velocity + gradient
        theta = theta - lr * velocity
        if step in checks:
            checks[step] = 0.5 * theta**2 @ model.curvature
    exact = model.risk(list(checks), size, lr, momentum)
    for sample, expected in zip(checks.values(), exact, strict=True):
        assert abs(sample.mean() - expected) < 4 * sample.std() / runs**0.5
    assert model.risk([0], size, lr, momentum)[0] == pytest.approx(0.5 * model.curvature.sum())


def test_momentum_is_sgd_at_small_batches_and_has_a_larger_useful_batch():
    model, sizes = NoisyQuadratic.harmonic(10_000, groups=24), 8.0 ** np.arange(0, 7)
    target = 0.02 * model.risk([0], 1, 0.0)[0]
    sgd, heavy = (
        [model.best_steps(target, size, momentum, rates=24) for size in sizes]
        for momentum in (0.0, 0.9)
    )
    assert all(map(math.isfinite, sgd + heavy))
    assert heavy[0] == pytest.approx(sgd[0], rel=0.1)  # the same η/(1 - β), the same steps
    assert (
        heavy[-1] < sgd[-1] / 5
    )  # with a large condition number momentum pays once noise does not dominate
    assert fit_steps(sizes, heavy)[1] > 5 * fit_steps(sizes, sgd)[1]


def test_lumped_neighbours_have_the_risk_of_all():
    whole, lumped = NoisyQuadratic.harmonic(300), NoisyQuadratic.harmonic(300, groups=60)
    assert lumped.curvature.size < 70
    steps = [0, 10, 300, 5000]
    np.testing.assert_allclose(
        lumped.risk(steps, 4, 0.05, 0.5), whole.risk(steps, 4, 0.05, 0.5), rtol=0.01
    )


def test_what_is_unstable_never_arrives():
    model = NoisyQuadratic.harmonic(3)
    assert math.isinf(model.steps_to(0.01, 16, 2.5))
    assert math.isinf(model.risk([10_000], 16, 2.5)[0])
    assert math.isinf(model.steps_to(1e-9, 1, 0.5))  # the floor is higher
