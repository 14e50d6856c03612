"""Torch engines for tests, and the comparison of two results."""

from itertools import pairwise

import numpy as np

from streamtrain.config import TrainConfig
from streamtrain.training.factory import Factory, load_factory
from streamtrain.training.model import Shape, initial_parameters
from streamtrain.training.torch.torch_engine import TorchEngine
from tests.training.contract import RATES

SHAPE = Shape(widths=(4, 8, 8, 1), activation="tanh")
OPTIMIZERS = {
    "adam": {"optimizer": "adam", "weight_decay": 0.01},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1},
    "sgd": {"optimizer": "sgd"},
    "nesterov": {"optimizer": "sgd", "nesterov": True, "weight_decay": 0.01},
}
LOSSES = {"mse": {"loss": "mse"}, "huber": {"loss": "huber", "huber_delta": 0.4}}


def make_engine(
    model=SHAPE, batch_size=32, engine=TorchEngine, last_row=None, **train
) -> TorchEngine:
    train = {"device": "cpu", "compile": "off", **train}
    return engine(
        model, initial_parameters(model, 0, 0), batch_size, RATES, TrainConfig(**train), last_row
    )


def factory(name: str) -> Factory:
    return load_factory(f"tests.training.modules:{name}", 4)


def trained(engine, rows, stops=()) -> tuple[np.ndarray, np.ndarray]:
    """Train on rows, in calls cut at `stops`, as one epoch; return (parameters, sums of losses)."""
    cuts = [0, *stops, len(rows)]
    losses = np.zeros(len(engine.learning_rates))
    for start, stop in pairwise(cuts):
        losses += engine.advance(rows, start, stop)
    engine.finish_epoch()
    return engine.parameters(), losses


def assert_same(actual, expected, rtol=1e-4, atol=2e-6) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)
