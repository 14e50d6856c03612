"""What the caller has set in torch changes no model, and stays set."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import streamtrain
from streamtrain.regressor import Regressor
from streamtrain.training.factory import load_factory
from streamtrain.training.fitted_model import save_model
from streamtrain.training.model import Shape
from streamtrain.training.model_io import load_model
from streamtrain.training.network import Network
from streamtrain.types import Standardization

ROWS, FEATURES = 400, 3
SHAPE = Shape(widths=(FEATURES, 8, 1), activation="tanh")
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(ROWS, FEATURES))
Y = X @ [1.0, -2.0, 0.5]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SETTINGS = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "device": lambda: torch.device("meta"),
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def settings_now() -> tuple:
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.random.get_rng_state().numpy().tobytes(),
    )


def network(mean: float = 0.0) -> Network:
    standard = Standardization(
        mean=np.array([*[mean] * FEATURES, 5.0]), scale=np.array([1.0, 2.0, 0.5, 0.1])
    )
    made = Network(SHAPE, standard, tuple("abc"), "y")
    made.load_flat(SHAPE.initial_parameters(1, 0))
    return made.eval()


def fitted(engine: str) -> np.ndarray:
    model = Regressor(hidden=8, max_rows=1024, batch_size=64, engine=engine, random_state=0)
    return model.fit(X, Y).predict(X)


def loaded(tmp_path) -> np.ndarray:
    return load_model(tmp_path).predict(X)


@pytest.fixture
def saved(tmp_path):
    save_model(network(), tmp_path)
    return tmp_path


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("engine", ["fused", "torch"])
def test_a_fit_is_the_same_under_any_setting(setting, engine):
    expected = fitted(engine)
    with setting():
        before = settings_now()
        assert np.array_equal(fitted(engine), expected)
        assert settings_now() == before


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_model_is_loaded_the_same_under_any_setting(setting, saved):
    expected = loaded(saved)
    with setting():
        before = settings_now()
        model = load_model(saved)
        assert np.array_equal(model.predict(X), expected)
        assert settings_now() == before
    # a tensor of inference mode could not be trained further
    model(torch.ones(2, FEATURES)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("name", ["mlp", "Fourier"])
def test_a_factory_constructs_the_same_under_any_setting(setting, name):
    """Also what it draws: float64 numbers would be others."""
    name = f"tests.training.modules:{name}"
    expected = load_factory(name, FEATURES)
    with setting():
        before = settings_now()
        factory = load_factory(name, FEATURES)
        weights = factory.initial_parameters(0, 1)
        buffers = [buffer.clone() for buffer in factory.module().buffers()]
        assert settings_now() == before
    assert factory == expected
    assert np.array_equal(weights, expected.initial_parameters(0, 1))
    for buffer, other in zip(buffers, expected.module().buffers(), strict=True):
        assert torch.equal(buffer, other)


def test_train_and_sweep_and_their_measures_work_under_settings(tmp_path):
    (tmp_path / "t.csv").write_text(
        "a,b,c,y\n" + "".join(f"{a},{b},{c},{y}\n" for (a, b, c), y in zip(X, Y, strict=True))
    )
    flags = {"max_rows": 512, "report": False, "engine": "torch", "hidden": 8, "lr": 0.01}
    with SETTINGS["float64"](), SETTINGS["device"](), SETTINGS["inference_mode"]():
        before = settings_now()
        model = streamtrain.train(tmp_path / "t.csv", out=tmp_path / "train", **flags)
        streamtrain.sweep(
            tmp_path / "t.csv",
            out=tmp_path / "sweep",
            batch_sizes=[64],
            trials=1,
            lr_rule="fixed",
            measure="noise,curvature",
            **flags,
        )
        assert settings_now() == before
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("convert", "error"),
    [
        (lambda model: model.double(), 1e-5),
        (lambda model: model.half(), 1e-2),
        (lambda model: model.to(torch.bfloat16), 0.1),
        (lambda model: model.half().float(), 1e-2),
    ],
    ids=["double", "half", "bfloat16", "half and back"],
)
def test_a_model_of_another_dtype_predicts(convert, error):
    """Standardization stays in float64: a mean of a million is infinite in half precision."""
    x = torch.from_numpy(X + 1e6)
    expected = network(mean=1e6)(x).detach()
    model = convert(network(mean=1e6))
    assert model.mean.dtype == model.scale.dtype == torch.float64
    limit = error * expected.std().item()
    torch.testing.assert_close(model(x).detach(), expected, rtol=0, atol=limit)
    np.testing.assert_allclose(model.predict(x.numpy()), expected[:, 0], rtol=0, atol=limit)
