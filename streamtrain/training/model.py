"""The model: a multi-layer perceptron, or a user-defined module (training/factory.py).

A perceptron without hidden layers is a linear model. The parameters of a model are one flat vector,
and the parameters of all replicas a float32 array (R, P). A perceptron has for each layer the
weight (inputs, outputs), then the bias (outputs).

Torch is imported where a module is made: the fused engine on the CPU trains without it.

Legend of shape suffixes: R replicas, B rows, D features, P parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from streamtrain.plan.order import WEIGHTS, make_key
from streamtrain.types import Json

if TYPE_CHECKING:
    import torch

    from streamtrain.training.factory import Factory


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A perceptron: the widths of its layers, from features to output, and its activation.

    The activation follows every hidden layer.
    """

    widths: tuple[int, ...]
    activation: str

    @property
    def layers(self) -> list[tuple[int, int]]:
        """The (inputs, outputs) of each layer."""
        return list(zip(self.widths[:-1], self.widths[1:], strict=True))

    @property
    def num_parameters(self) -> int:
        """The number of weights and biases."""
        return sum((inputs + 1) * outputs for inputs, outputs in self.layers)

    @property
    def num_features(self) -> int:
        """The number of inputs of the first layer."""
        return self.widths[0]

    @property
    def values_per_row(self) -> int:
        """The number of values that a forward pass keeps per row."""
        return sum(self.widths)

    def for_trial(self, seed: int, trial: int) -> "Shape":
        """Return self: a perceptron has no constants that a trial would draw."""
        return self

    def module(self) -> "torch.nn.Module":
        """Return the layers as a module on the default device, whose weights `load_flat` sets."""
        from streamtrain.training.torch import perceptron

        return perceptron.make_module(self)

    def initial_parameters(self, seed: int, trial: int) -> np.ndarray:
        """Draw from ±1/√inputs uniformly, as `torch.nn.Linear` does: float32 (P,)."""
        random = np.random.Generator(np.random.Philox(key=make_key(seed, trial, WEIGHTS)))
        pieces: list[np.ndarray] = []
        for inputs, outputs in self.layers:
            bound = inputs**-0.5
            pieces.append(random.uniform(-bound, bound, inputs * outputs))
            pieces.append(random.uniform(-bound, bound, outputs))
        return np.concatenate(pieces).astype(np.float32)

    def load_flat(self, module: "torch.nn.Module", flat_P: np.ndarray) -> None:
        """Copy the parameters of one replica, (P,), into a module of this shape."""
        from streamtrain.training.torch import perceptron

        perceptron.load_flat(self, module, flat_P)

    def stacked_forward(
        self, device: "torch.device"
    ) -> "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]":
        """Return a function of (flat parameters (R, P), x (B, D)) that gives (R, B, 1).

        It applies every replica to the same rows, on any device.
        """
        from streamtrain.training.torch import perceptron

        return perceptron.stacked_forward(self)

    def to_json(self) -> Json:
        """Return the JSON form, for the model's file."""
        return {"widths": list(self.widths), "activation": self.activation}


#: What a learner trains. Their common attributes and methods are the contract of a model.
Model: TypeAlias = "Shape | Factory"


def initial_parameters(model: Model, seed: int, trial: int) -> np.ndarray:
    """Return the initial parameters of a trial, float32 (P,).

    They are the same for every batch size and learning rate of the trial.
    """
    return model.initial_parameters(seed, trial)
