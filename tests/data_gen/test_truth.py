"""The truth of generated data: quadrature has converged and agrees with a Monte Carlo sample."""

import numpy as np
import pytest

from data_gen import KINDS, friedman, teacher

ROWS = 200_000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_variances_agree_with_a_sample(kind: str, seed: int) -> None:
    made = KINDS[kind](seed)
    x = made.draw(np.random.default_rng(seed + 10), ROWS)
    y = made.function(x).astype("float64")
    design = np.column_stack([*x, np.ones(ROWS)]).astype("float64")
    squared_error = (y - design @ np.linalg.lstsq(design, y)[0]) ** 2
    squared_deviation = (y - y.mean()) ** 2
    _agree(squared_deviation, made.variance)
    _agree(squared_error, made.variance - made.linear_variance, floor=1e-9 * made.variance)


def _agree(sample: np.ndarray, expected: float, floor: float = 0.0) -> None:
    error = sample.std() / len(sample) ** 0.5
    assert abs(sample.mean() - expected) <= 4 * error + floor


@pytest.mark.parametrize(
    "response", [np.hypot, lambda x0, u: np.arctan2(u, x0)], ids=["friedman2", "friedman3"]
)
def test_friedman_quadrature_has_converged(response) -> None:
    np.testing.assert_allclose(
        friedman.moments(response), friedman.moments(response, refine=1.3), rtol=1e-10
    )


def test_teacher_quadrature_has_converged() -> None:
    generator = np.random.default_rng(0)
    layers = [
        (generator.normal(size=(a, b)) / a**0.5, generator.normal(size=b) / a**0.5)
        for a, b in ((4, 16), (16, 16), (16, 1))
    ]
    np.testing.assert_allclose(
        teacher.moments(layers), teacher.moments(layers, nodes=24), rtol=1e-6
    )


@pytest.mark.parametrize("noise", [0.0, 0.1, 2.0])
def test_losses_are_in_standardised_units(noise: float) -> None:
    truth = KINDS["friedman2"](0).truth(noise)
    assert truth.best_loss == pytest.approx(noise**2 / (1 + noise**2))
    assert truth.target_variance == pytest.approx(truth.noiseless_variance * (1 + noise**2))
    assert truth.best_loss <= truth.best_linear_loss < 1
    linear = KINDS["linear"](0).truth(noise)
    assert linear.best_linear_loss == pytest.approx(linear.best_loss)
    assert linear.noiseless_variance == 7.5
