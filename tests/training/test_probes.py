"""Probes equal plain autograd: a full Hessian, per-row loops, the trained network itself."""

import numpy as np
import pytest
import torch

from streamtrain.training.model import Shape, initial_parameters
from streamtrain.training.network import Network
from streamtrain.training.probes import Probe, probe_module, probe_shape, rescale
from streamtrain.types import Standardization

SHAPES = [
    Shape(widths=(4, 1), activation="identity"),
    Shape(widths=(4, 6, 5, 1), activation="relu"),
    Shape(widths=(4, 7, 1), activation="gelu"),
    Shape(widths=(4, 3, 3, 1), activation="tanh"),
    Shape(widths=(4, 5, 1), activation="silu"),
]
ROWS = np.random.default_rng(0).standard_normal((50, 5)).astype(np.float32)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.activation)
deltas = pytest.mark.parametrize("huber_delta", [0.0, 0.4], ids=["mse", "huber"])


@shapes
@deltas
def test_every_way_to_a_gradient_agrees(shape, huber_delta):
    probe, weights = probe_shape(shape, huber_delta), initial_parameters(shape, 1, 0)
    plain = Probe(
        outputs=probe.outputs, num_parameters=probe.num_parameters, huber_delta=huber_delta
    )
    value, gradient = probe.value_and_grad(weights, ROWS)
    assert value == pytest.approx(probe.row_losses(weights, ROWS).mean())
    assert probe.loss(weights, ROWS) == pytest.approx(value)
    expected = np.array([probe.grad(weights, ROWS[i : i + 1]) for i in range(len(ROWS))])
    of_groups = expected[:49].reshape(7, 7, -1).mean(axis=1)
    for tested in (probe, plain):
        np.testing.assert_allclose(tested.group_gradients(weights, ROWS, 1), expected, atol=1e-12)
        np.testing.assert_allclose(
            tested.squared_norms(weights, ROWS), (expected**2).sum(axis=1), rtol=1e-10
        )
    np.testing.assert_allclose(probe.group_gradients(weights, ROWS, 7), of_groups, atol=1e-12)
    np.testing.assert_allclose(gradient, expected.mean(axis=0), atol=1e-12)


@shapes
@deltas
def test_products_with_the_hessian_are_those_of_the_full_one(shape, huber_delta):
    probe, weights = probe_shape(shape, huber_delta), initial_parameters(shape, 2, 0)
    rows = torch.from_numpy(ROWS.astype(np.float64))
    of_weights = torch.from_numpy(weights.astype(np.float64))
    full = torch.autograd.functional.hessian(
        lambda w: probe._losses(w, rows).mean(), of_weights
    ).numpy()
    vectors = np.random.default_rng(1).standard_normal((3, probe.num_parameters))
    np.testing.assert_allclose(probe.hvp(weights, ROWS, vectors), vectors @ full, atol=1e-10)
    np.testing.assert_allclose(probe.hvp(weights, ROWS, vectors[0]), full @ vectors[0], atol=1e-10)


@shapes
def test_any_module_has_the_same_probe(shape):
    network = Network(shape, Standardization.identity(5), tuple("abcd"), "y")
    network.load_flat(initial_parameters(shape, 0, 0))
    probe, flat = probe_module(network.layers)
    expected = probe_shape(shape)
    np.testing.assert_allclose(
        probe.row_losses(flat, ROWS),
        expected.row_losses(initial_parameters(shape, 0, 0), ROWS),
        atol=1e-12,
    )
    assert probe.squared_norms(flat, ROWS).sum() == pytest.approx(
        expected.squared_norms(initial_parameters(shape, 0, 0), ROWS).sum()
    )
    assert all(
        parameter.dtype == torch.float32 and parameter.grad is None
        for parameter in network.parameters()
    )


def test_frozen_parameters_and_buffers_are_constants():
    module = torch.nn.Sequential(
        torch.nn.Linear(4, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 1)
    )
    module[0].requires_grad_(False)
    probe, flat = probe_module(module)
    assert probe.num_parameters == len(flat) == 3 + 3 + 3 + 1
    predicted = module(torch.from_numpy(ROWS[:, :4]))[:, 0].detach().numpy()
    np.testing.assert_allclose(
        probe.row_losses(flat, ROWS), 0.5 * (predicted - ROWS[:, 4]) ** 2, rtol=1e-4, atol=1e-6
    )
    assert np.abs(probe.hvp(flat, ROWS, flat)).max() > 0


def test_parts_add_up(monkeypatch):
    probe, weights = probe_shape(SHAPES[1]), initial_parameters(SHAPES[1], 0, 0)

    def measure():
        value, gradient = probe.value_and_grad(weights, ROWS)
        product = probe.hvp(weights, ROWS, weights)
        return np.array([value]), gradient, product, probe.squared_norms(weights, ROWS)

    whole = measure()
    monkeypatch.setattr("streamtrain.training.probes.PART_ROWS", 7)
    for in_parts, expected in zip(measure(), whole, strict=True):
        np.testing.assert_allclose(in_parts, expected, atol=1e-12)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_rescaled_weights_are_the_same_function(layer, factor):
    probe, weights = probe_shape(SHAPES[1]), initial_parameters(SHAPES[1], 0, 0)
    other = rescale(SHAPES[1], weights.astype(float), factor, layer)
    assert np.abs(other - weights).max() > 0.1
    np.testing.assert_allclose(
        probe.row_losses(other, ROWS), probe.row_losses(weights, ROWS), rtol=1e-10
    )
    with pytest.raises(ValueError, match="cannot be rescaled"):
        rescale(SHAPES[3], weights, factor)


def test_a_model_that_ignores_its_weights_has_no_curvature():
    probe = Probe(outputs=lambda weights_P, x_BD: x_BD[:, 0], num_parameters=3)
    product = probe.hvp(np.ones(3, np.float32), ROWS, np.eye(3))
    np.testing.assert_array_equal(product, np.zeros((3, 3)))
