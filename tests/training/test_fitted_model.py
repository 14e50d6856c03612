"""A trained model is written without torch, as its module would be."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from streamtrain.training.factory import load_factory
from streamtrain.training.fitted_model import FittedModel, save_model
from streamtrain.training.model import Shape, initial_parameters
from streamtrain.training.model_io import load_model
from streamtrain.types import Standardization


def fitted(widths=(3, 5, 4, 1), *, fill=None, shape=None) -> FittedModel:
    shape = shape or Shape(widths=widths, activation="tanh")
    width = shape.num_features + 1
    return FittedModel(
        shape=shape,
        parameters_P=initial_parameters(shape, 7, 0),
        standard=Standardization(mean=np.arange(width) + 0.25, scale=1.0 / (np.arange(width) + 1)),
        features=tuple(f"x{i}" for i in range(shape.num_features)),
        target="y",
        fill=fill,
        datetime="epoch",
    )


@pytest.mark.parametrize("widths", [(3, 1), (1, 1), (3, 5, 4, 1), (3, 1, 1)])
@pytest.mark.parametrize("fills", [True, False])
def test_the_tensors_are_those_of_the_module(widths, fills):
    model = fitted(widths, fill=np.linspace(-1, 1, widths[0]) if fills else None)
    content = model.tensor_bytes()
    assert content == model.network().tensor_bytes()
    state = model.network().state_dict()
    tensors = load(content)
    assert tensors.keys() == state.keys()
    for name, tensor in state.items():
        assert np.array_equal(tensors[name], tensor.numpy())


def test_weights_are_stored_by_output_and_predict_the_closed_form(tmp_path):
    """The flat parameters have the weight (inputs, outputs) of each layer, then its bias."""
    model = fitted((2, 3, 1))
    flat = model.parameters_P
    tensors = load(model.tensor_bytes())
    assert np.array_equal(tensors["layers.0.weight"], flat[:6].reshape(2, 3).T)
    assert np.array_equal(tensors["layers.0.bias"], flat[6:9])
    assert np.array_equal(tensors["layers.2.weight"], flat[9:12].reshape(3, 1).T)
    assert np.array_equal(tensors["layers.2.bias"], flat[12:])
    save_model(model, tmp_path)
    x = np.array([[0.5, -2.0], [3.0, 1.0]])
    z = (x - model.standard.mean[:-1]) * model.standard.scale[:-1]
    hidden = np.tanh(z @ flat[:6].reshape(2, 3) + flat[6:9])
    expected = (hidden @ flat[9:12] + flat[12]) / model.standard.scale[-1] + model.standard.mean[-1]
    np.testing.assert_allclose(load_model(tmp_path).predict(x), expected, rtol=1e-6)


def test_both_forms_are_saved_alike(tmp_path):
    model = fitted()
    for name, form in {"arrays": model, "module": model.network()}.items():
        (tmp_path / name).mkdir()
        save_model(form, tmp_path / name)
    for file in ("model.safetensors", "model.json"):
        assert (tmp_path / "arrays" / file).read_bytes() == (
            tmp_path / "module" / file
        ).read_bytes()


def test_a_factory_is_saved_as_its_module_is(tmp_path, monkeypatch):
    (tmp_path / "fitted_layers.py").write_text(
        "import torch\n"
        "def small(width):\n"
        "    return torch.nn.Sequential(torch.nn.Linear(width, 2), torch.nn.Linear(2, 1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = fitted(shape=load_factory("fitted_layers:small", 3))
    assert model.tensor_bytes() == model.network().tensor_bytes()
    save_model(model, tmp_path)
    network = load_model(tmp_path, model="fitted_layers:small")
    flat = torch.cat([tensor.reshape(-1) for tensor in network.layers.parameters()])
    assert np.array_equal(flat.detach().numpy(), model.parameters_P)


def test_the_module_is_for_use_and_can_be_trained_whatever_the_caller_has_set():
    with torch.inference_mode():
        network = fitted().network()
    assert not network.training
    assert not any(tensor.is_inference() for tensor in network.state_dict().values())
