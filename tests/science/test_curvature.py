"""Curvature and sharpness where they are exact: quadratics, and rescaled ReLU networks
(docs/science.md §4, §5, acceptance tests 6 and 10).
"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.errors import ConfigError
from streamtrain.science.curvature import (
    largest_eigenvalue,
    rayleigh_on_independent_rows,
    stable_curvature,
)
from streamtrain.science.sharpness import (
    generalization_gap,
    invariance_audit,
    parametric_line,
    random_basis,
    sharpness,
)
from streamtrain.training.model import Shape, initial_parameters
from streamtrain.training.probes import probe_shape, rescale


def symmetric(seed: int, size: int, *, positive: bool = False) -> np.ndarray:
    a = np.random.default_rng(seed).standard_normal((size, size))
    return a @ a.T / size if positive else (a + a.T) / 2


@given(st.integers(0, 1000), st.integers(1, 25))
def test_lanczos_is_exact_when_it_runs_to_the_end(seed, size):
    matrix = symmetric(seed, size)
    found = largest_eigenvalue(lambda v: matrix @ v, size, steps=size, seed=seed)
    exact = np.linalg.eigvalsh(matrix)
    scale = np.abs(exact).max()
    assert found.ritz == pytest.approx(exact[-1], abs=1e-8 * scale)
    assert found.smallest == pytest.approx(exact[0], abs=1e-6 * scale)
    np.testing.assert_allclose(matrix @ found.vector, found.ritz * found.vector, atol=1e-6 * scale)


@given(st.integers(0, 1000), st.integers(1, 30))
def test_the_certificate_holds_after_any_number_of_steps(seed, steps):
    matrix = symmetric(seed, 40)
    found = largest_eigenvalue(lambda v: matrix @ v, 40, steps=steps, seed=seed)
    exact = np.linalg.eigvalsh(matrix)
    assert np.abs(exact - found.ritz).min() <= found.residual + 1e-10
    assert found.ritz <= exact[-1] + 1e-10
    assert (
        np.linalg.norm(matrix @ found.vector - found.ritz * found.vector) <= found.residual + 1e-10
    )
    assert found.steps <= steps
    assert found.record().kind == "lanczos certificate"


def test_a_sample_is_biased_up_and_independent_rows_are_not():
    """Of a population with H = I every sample's λ_max is above 1; vᵀHv on other rows is 1 on
    average.
    """
    random, above, inside = np.random.default_rng(0), [], 0
    for seed in range(60):
        samples = random.standard_normal((9, 200, 10))
        hvps = [lambda v, x=x: x.T @ (x @ v) / len(x) for x in samples]
        found = largest_eigenvalue(hvps[0], 10, steps=10, seed=seed)
        above.append(found.ritz)
        other = rayleigh_on_independent_rows(hvps[1:], found.vector)
        inside += other.lo <= 1 <= other.hi
        assert other.n == 8
        assert other.value < found.ritz
    assert min(above) > 1.1
    assert inside >= 52


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("sgd", {}),
        ("sgd", {"momentum": 0.9}),
        ("sgd", {"momentum": 0.9, "nesterov": True}),
        ("adam", {"beta1": 0.9}),
    ],
    ids=["gd", "heavy-ball", "nesterov", "adam"],
)
@pytest.mark.parametrize("share", [0.98, 1.02])
def test_a_parabola_shrinks_below_the_line_and_grows_beyond_it(optimizer, options, share):
    lr = 0.1
    curvature = share * stable_curvature(optimizer, lr, **options)
    x, velocity = 1.0, 0.0
    for _ in range(2000):
        if optimizer == "sgd":
            velocity = options.get("momentum", 0.0) * velocity + curvature * x
        else:  # Adam with a frozen preconditioner: a moving average of the gradient
            velocity = options["beta1"] * velocity + (1 - options["beta1"]) * curvature * x
        x -= lr * (
            curvature * x + options["momentum"] * velocity if options.get("nesterov") else velocity
        )
    assert (abs(x) < 1e-3) == (share < 1)


def test_no_line_is_known_for_other_optimizers():
    with pytest.raises(ConfigError, match="sgd, adam and adamw"):
        stable_curvature("lion", 0.1)


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(1, 10), st.sampled_from([1e-3, 5e-4]), st.booleans())
def test_sharpness_of_a_quadratic_is_exact_at_its_minimiser(seed, size, epsilon, adaptive):
    """φ = 100·max over signs of ½ Σ H_ij a_i a_j s_i s_j/(1 + f0), every sign tried."""
    matrix, random = symmetric(seed, size, positive=True), np.random.default_rng(seed)
    centre, floor = random.standard_normal(size), 0.3
    found = sharpness(
        _quadratic(matrix, centre, floor), centre, epsilon, adaptive=adaptive, restarts=24
    )
    a = epsilon * (np.abs(centre) + (not adaptive))
    corners = np.array(list(itertools.product([-1, 1], repeat=size))) * a
    exact = 100 * 0.5 * np.einsum("ci,ij,cj->c", corners, matrix, corners).max() / (1 + floor)
    assert found.value == pytest.approx(exact, rel=1e-9)
    assert found.lo == found.value
    assert found.hi is None


def test_sharpness_in_a_subspace_is_that_of_the_quadratic_in_it():
    matrix, basis = symmetric(3, 30, positive=True), random_basis(30, 6, seed=1)
    np.testing.assert_allclose(basis.T @ basis, np.eye(6), atol=1e-12)
    centre = np.random.default_rng(4).standard_normal(30)
    inner = basis.T @ matrix @ basis
    a = 1e-3 * (np.abs(basis.T @ centre) + 1)
    corners = np.array(list(itertools.product([-1, 1], repeat=6))) * a
    exact = 100 * 0.5 * np.einsum("ci,ij,cj->c", corners, inner, corners).max()
    assert sharpness(_quadratic(matrix, centre, 0.0), centre, 1e-3, basis_PD=basis, restarts=16)[
        "value"
    ] == pytest.approx(exact, rel=1e-9)


def test_the_box_and_not_the_minimiser_is_where_the_search_starts():
    """L-BFGS-B started at the minimiser stops at once: one restart from the interior already finds
    a rise.
    """
    matrix = symmetric(0, 5, positive=True)
    assert sharpness(_quadratic(matrix, np.zeros(5), 0.0), np.zeros(5), 1e-3, restarts=1).value > 0
    # flat: no gradient anywhere
    assert sharpness(_quadratic(0 * matrix, np.zeros(5), 0.0), np.zeros(5), 1e-3).value == 0


def test_invariance_audit_of_one_function_written_in_five_ways():
    shape = Shape(widths=(4, 8, 8, 1), activation="relu")
    probe, weights = probe_shape(shape), initial_parameters(shape, 0, 0).astype(float)
    rows = np.random.default_rng(0).standard_normal((256, 5)).astype(np.float32)

    def measured(adaptive: bool):
        return lambda x: (
            sharpness(
                lambda w: probe.value_and_grad(w, rows), x, 1e-3, adaptive=adaptive, restarts=2
            ).value
        )

    def rescaled(x: np.ndarray, factor: float) -> np.ndarray:
        return rescale(shape, x, factor)

    loss = invariance_audit(lambda x: probe.loss(x, rows), rescaled, weights)
    adaptive, keskar = (
        invariance_audit(measured(kind), rescaled, weights) for kind in (True, False)
    )
    assert loss["ratio"] == adaptive["ratio"] == 1.0
    assert set(adaptive["values"]) == {"1", "0.25", "0.5", "2", "4"}
    assert keskar["ratio"] > 1.1


def test_the_line_between_two_models_passes_through_both():
    small, large = np.array([1.0, 0.0]), np.array([0.0, 2.0])
    line = parametric_line(lambda x: float(x @ x), small, large)
    assert line["alpha"][0] == -1
    assert line["alpha"][-1] == 2
    assert len(line["loss"]) == 25
    at = dict(zip(np.round(line["alpha"], 9), line["loss"], strict=True))
    assert at[0.0] == 1
    assert at[1.0] == 4
    assert at[0.5] == pytest.approx(1.25)


def test_generalization_gap_covers_the_difference_of_means():
    random, inside = np.random.default_rng(0), 0
    for _ in range(300):
        gap = generalization_gap(random.exponential(1.0, 400), random.exponential(1.2, 300))
        inside += gap.lo <= 0.2 <= gap.hi
    assert 275 <= inside <= 296
    assert gap.n == 300
    assert generalization_gap(np.ones(3), np.ones(3)).value == 0
    assert generalization_gap(np.ones(1), np.ones(3)).lo is None


def _quadratic(matrix: np.ndarray, centre: np.ndarray, floor: float):
    return lambda x: (
        float(floor + 0.5 * (x - centre) @ matrix @ (x - centre)),
        matrix @ (x - centre),
    )
