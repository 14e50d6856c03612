"""The model: a multi-layer perceptron (linear when there is no hidden layer), or a module of the
user's own (learners/factory.py).

Its parameters are one flat vector. A perceptron's lie in one row of a float32 array (replicas, P):
for each layer the weight (inputs, outputs), then the bias (outputs).

Legend of shape suffixes: R replicas, B rows, D features, P parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from streamtrain.plan.order import WEIGHTS, make_key
from streamtrain.training.factory import Factory
from streamtrain.types import Json, Standardization

ACTIVATIONS = {
    "relu": torch.nn.ReLU,
    "tanh": torch.nn.Tanh,
    "silu": torch.nn.SiLU,
    "gelu": torch.nn.GELU,
    "identity": torch.nn.Identity,
}
_FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "identity": lambda x: x,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Layer widths, from the features to the one output, and the activation after every hidden
    layer.
    """

    widths: tuple[int, ...]
    activation: str

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each layer."""
        return list(zip(self.widths[:-1], self.widths[1:], strict=True))

    @property
    def num_parameters(self) -> int:
        return sum((inputs + 1) * outputs for inputs, outputs in self.layers)

    @property
    def num_features(self) -> int:
        return self.widths[0]

    @property
    def values_a_row(self) -> int:
        """Numbers that a forward pass keeps for each row."""
        return sum(self.widths)

    def of_trial(self, seed: int, trial: int) -> "Shape":
        """Itself: a perceptron holds nothing but its parameters."""
        return self

    def module(self) -> torch.nn.Module:
        """The layers as a plain module; its weights are for `load_flat` to set."""
        modules: list[torch.nn.Module] = []
        for inputs, outputs in self.layers:
            modules += [torch.nn.Linear(inputs, outputs), ACTIVATIONS[self.activation]()]
        return torch.nn.Sequential(*modules[:-1])

    def initial_parameters(self, seed: int, trial: int) -> np.ndarray:
        """Uniform in ±1/√inputs, as `torch.nn.Linear` draws them: float32 (P,)."""
        random = np.random.Generator(np.random.Philox(key=make_key(seed, trial, WEIGHTS)))
        parts = []
        for inputs, outputs in self.layers:
            bound = inputs**-0.5
            parts += [
                random.uniform(-bound, bound, inputs * outputs),
                random.uniform(-bound, bound, outputs),
            ]
        return np.concatenate(parts).astype(np.float32)

    def load_flat(self, module: torch.nn.Module, flat_P: np.ndarray) -> None:
        """Give a module of this shape the parameters of one replica."""
        linear = [part for part in module.modules() if isinstance(part, torch.nn.Linear)]
        pairs = views(torch.from_numpy(np.array(flat_P, dtype=np.float32))[None], self)
        with torch.no_grad():
            for part, (weight, bias) in zip(linear, pairs, strict=True):
                part.weight.copy_(weight[0].T)
                part.bias.copy_(bias[0, 0])

    def stacked_forward(
        self, device: torch.device
    ) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """A function of (flat parameters (R, P), x (B, D)) that gives (R, B, 1): every replica on
        the same rows.
        """
        activation = _FUNCTIONS[self.activation]

        def forward(flat_RP: torch.Tensor, x_BD: torch.Tensor) -> torch.Tensor:
            *hidden_layers, (weight, bias) = views(flat_RP, self)
            values = x_BD.expand(len(flat_RP), *x_BD.shape)
            for hidden_weight, hidden_bias in hidden_layers:
                values = activation(torch.baddbmm(hidden_bias, values, hidden_weight))
            return torch.baddbmm(bias, values, weight)

        return forward

    def to_json(self) -> Json:
        """What a model's file says of it."""
        return {"widths": list(self.widths), "activation": self.activation}


#: What a learner trains: the parts they share are one contract.
Model = Shape | Factory


def initial_parameters(model: Model, seed: int, trial: int) -> np.ndarray:
    """The weights of a trial, float32 (P,): the same for every batch size and learning rate of the
    trial.
    """
    return model.initial_parameters(seed, trial)


def views(flat_RP: torch.Tensor, shape: Shape) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(weight (replicas, inputs, outputs), bias (replicas, 1, outputs)) of each layer, as views of
    the flat parameters.

    By one `split`, whose gradient is one concatenation; that of a slice is as long as all
    parameters.
    """
    replicas = flat_RP.shape[0]
    parts = iter(
        flat_RP.split(
            [size for inputs, outputs in shape.layers for size in (inputs * outputs, outputs)],
            dim=1,
        )
    )
    return [
        (next(parts).view(replicas, inputs, outputs), next(parts).view(replicas, 1, outputs))
        for inputs, outputs in shape.layers
    ]


class Network(torch.nn.Module):
    """A trained model on raw features, float32 (rows, features) → (rows, 1), in the target's own
    units.

    `features` and `target` name the columns. Normalisation is folded in as buffers, in float64,
    before and after the layers; so is imputation, when `fill`, float64 (features,), says what
    stands for a value that is not finite. `transform` says which function made the features
    (stream/transform.py); the model takes what it returns.
    """

    def __init__(
        self,
        shape: Model,
        standard: Standardization,
        features: tuple[str, ...],
        target: str,
        *,
        fill: np.ndarray | None = None,
        transform: Json | None = None,
    ):
        super().__init__()
        self.shape, self.features, self.target, self.transform = shape, features, target, transform
        self.register_buffer(
            "fill", None if fill is None else torch.from_numpy(np.array(fill, dtype=np.float64))
        )
        for name, values in (("mean", standard.mean), ("scale", standard.scale)):
            self.register_buffer(name, torch.from_numpy(np.array(values, dtype=np.float64)))
        self.layers = shape.module()

    @property
    def is_coarse(self) -> bool:
        """Whether float32 rounds predictions too much: by more than 2^-11 of the target's
        deviation, since its mean lies that far from 0.
        """
        return abs(float(self.mean[-1] * self.scale[-1])) > 2**13

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Predictions for raw features (rows, features): (rows, 1) float32."""
        return self.predict(x).to(torch.float32)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """The same before it is rounded to float32.

        (rows, 1) float64. It matters where the model `is_coarse`.
        """
        standard = self._standardize(x)
        if self.fill is not None:
            standard = torch.where(standard.isfinite(), standard, self._standardize(self.fill))
        return self.layers(standard).to(torch.float64) / self.scale[-1] + self.mean[-1]

    def _standardize(self, x: torch.Tensor) -> torch.Tensor:
        return ((x.to(torch.float64) - self.mean[:-1]) * self.scale[:-1]).to(torch.float32)

    def load_flat(self, flat_P: np.ndarray) -> None:
        """Take over the parameters of one replica."""
        self.shape.load_flat(self.layers, flat_P)
