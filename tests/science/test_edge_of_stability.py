"""Published experiments on scikit-learn's digits with one scalar target: where sharpness settles
(docs/science.md, acceptance tests 7, 8 and 12).

They are slow: `pytest -m slow tests/science/test_edge_of_stability.py -s` prints the figures. They
need the `sklearn` extra.
"""

import numpy as np
import pytest

from streamtrain.config import TrainConfig
from streamtrain.science.curvature import largest_eigenvalue, stable_curvature
from streamtrain.science.intervals import t_estimate
from streamtrain.science.sharpness import sharpness
from streamtrain.training.fused_engine import FusedEngine, one_blas_thread
from streamtrain.training.model import Shape, initial_parameters
from streamtrain.training.probes import one_torch_thread, probe_shape

pytestmark = pytest.mark.slow

SHAPE = Shape(widths=(64, 32, 32, 1), activation="tanh")


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """Standardised pixels and the digit, float32 (1797, 65), in a fixed random order."""
    table = pytest.importorskip("sklearn.datasets").load_digits()
    rows = np.column_stack([table.data, table.target]).astype(np.float64)
    rows = (rows - rows.mean(axis=0)) / np.maximum(rows.std(axis=0), 1e-9)
    return np.random.default_rng(0).permutation(rows).astype(np.float32)


@pytest.fixture(autouse=True)
def threads():
    with one_blas_thread(), one_torch_thread():
        yield


def test_gradient_descent_settles_at_the_edge_of_stability(digits):
    """Cohen et al. 2021 (arXiv 2103.00065): under full-batch gradient descent λ_max rises to 2/η
    and stays about there.
    """
    lr, steps, rows, probe = 0.1, 3000, digits[:1000], probe_shape(SHAPE)
    engine = FusedEngine(
        SHAPE,
        initial_parameters(SHAPE, 0, 0),
        len(rows),
        (lr,),
        TrainConfig(optimizer="sgd", momentum=0.0),
    )
    line, found = stable_curvature("sgd", lr), []
    for step in range(steps):
        engine.advance(rows, 0, len(rows))
        if step % 100 == 99:
            weights = engine.parameters()[0]
            found.append(
                largest_eigenvalue(
                    lambda v, w=weights: probe.hvp(w, rows, v),
                    probe.num_parameters,
                    steps=20,
                    tolerance=1e-3,
                ).ritz
            )
    late = np.array(found[-len(found) // 3 :]) * lr
    print(
        f"λη at the start {found[0] * lr:.3f}, over the last third {late.min():.3f} to"
        f" {late.max():.3f}, mean {late.mean():.3f}"
    )
    assert line * lr == pytest.approx(2)
    assert found[0] < 0.8 * line
    assert 1.8 <= late.mean() <= 2.4
    assert late.min() >= 1.8
    assert late.max() <= 2.4


def test_adam_settles_at_its_own_edge(digits):
    """Cohen et al. 2022 (arXiv 2207.14484): under full-batch Adam λ_max of the preconditioned
    Hessian settles at 38/η for β₁ = 0.9.
    """
    lr, steps, beta1, beta2 = 3e-4, 20_000, 0.9, 0.99
    rows, probe = digits[:1000], probe_shape(SHAPE)
    engine = FusedEngine(
        SHAPE,
        initial_parameters(SHAPE, 0, 0),
        len(rows),
        (lr,),
        TrainConfig(optimizer="adam", beta1=beta1, beta2=beta2),
    )
    line, found = stable_curvature("adam", lr, beta1=beta1), []
    for step in range(1, steps + 1):
        engine.advance(rows, 0, len(rows))
        if step % 400 == 0:
            weights, second = engine.parameters()[0], engine.state()["moments"][0, 1].astype(float)
            scale = (np.sqrt(second / (1 - beta2**step)) + 1e-8) ** -0.5

            def product(v, weights=weights, scale=scale):
                return scale * probe.hvp(weights, rows, scale * v)

            found.append(
                largest_eigenvalue(product, probe.num_parameters, steps=30, tolerance=1e-3).ritz
                * lr
            )
    late = np.array(found[-len(found) // 3 :])
    print(
        f"preconditioned λη at the start {found[0]:.2f}, over the last third {late.min():.2f} to"
        f" {late.max():.2f}, mean {late.mean():.2f}"
    )
    assert line * lr == pytest.approx(38)
    assert late.min() >= 34
    assert late.max() <= 42


def test_small_and_large_batches_end_at_other_sharpness_by_a_sign_that_is_reported(digits):
    """Keskar et al. 2017: B = 32 against 10 % of the data, with Adam.

    Once at the same η, and once with η tuned for each size. The sign is printed, not required.
    """
    train, held, probe = digits[:1400], digits[1400:], probe_shape(SHAPE)
    sizes, rates, epochs, trials = (32, 140), (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), 60, 5
    phi = {(size, lr): [] for size in sizes for lr in rates}
    losses = {key: [] for key in phi}
    for trial in range(trials):
        random = np.random.default_rng(trial)
        orders = [random.permutation(len(train)) for _ in range(epochs)]
        for size in sizes:
            engine = FusedEngine(
                SHAPE,
                initial_parameters(SHAPE, 0, trial),
                size,
                rates,
                TrainConfig(optimizer="adam", average="off"),
            )
            for order in orders:
                engine.advance(train[order], 0, len(train))
                engine.finish_epoch()
            for lr, weights, loss in zip(
                rates, engine.parameters(), engine.evaluate(held), strict=True
            ):
                losses[size, lr].append(loss)
                phi[size, lr].append(
                    sharpness(
                        lambda w: probe.value_and_grad(w, train),
                        weights.astype(float),
                        1e-3,
                        restarts=8,
                    ).value
                )
    tuned = {
        size: min(rates, key=lambda lr, size=size: np.mean(losses[size, lr])) for size in sizes
    }
    for name, chosen in (("the same η", dict.fromkeys(sizes, 1e-3)), ("η tuned", tuned)):
        ratio = t_estimate(
            np.log(np.array(phi[sizes[1], chosen[sizes[1]]]) / phi[sizes[0], chosen[sizes[0]]])
        )
        gap = t_estimate(
            np.array(losses[sizes[1], chosen[sizes[1]]]) - losses[sizes[0], chosen[sizes[0]]]
        )
        print(
            f"{name} {chosen}: sharpness large/small {np.exp(ratio.value):.2f}"
            f" ({np.exp(ratio.lo):.2f} to {np.exp(ratio.hi):.2f}), held-out loss large -"
            f" small {gap.value:+.4f} ({gap.lo:+.4f} to {gap.hi:+.4f}), {ratio.n}"
            " trials"
        )
        assert np.isfinite([ratio.lo, ratio.hi, gap.lo, gap.hi]).all()
        assert ratio.n == trials
    assert all(value > 0 for values in phi.values() for value in values)
