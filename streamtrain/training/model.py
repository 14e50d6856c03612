"""The model: a multi-layer perceptron, or a user-defined module (training/factory.py).

A perceptron without hidden layers is a linear model. The parameters of a model are one flat vector,
and the parameters of all replicas a float32 array (R, P). A perceptron has for each layer the
weight (inputs, outputs), then the bias (outputs).

Legend of shape suffixes: R replicas, B rows, D features, P parameters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike

from streamtrain.errors import DataError
from streamtrain.plan.order import WEIGHTS, make_key
from streamtrain.training.factory import Factory
from streamtrain.training.usual_torch import usual_torch
from streamtrain.types import Datetime, Json, Standardization

#: Rows of an array that are predicted together.
_TILE_ROWS = 1024

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


class Linear(torch.nn.Linear):
    """A layer whose weights are set after it is made.

    Nothing is drawn for them, so that torch's global generator stays where it is. (Layers made on
    the device `meta` draw nothing either, but to give them memory imports SymPy: half a second.)
    """

    def reset_parameters(self) -> None:
        """Leave the weights uninitialized."""


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

    def module(self) -> torch.nn.Module:
        """Return the layers as a module on the default device, whose weights `load_flat` sets."""
        modules: list[torch.nn.Module] = []
        for inputs, outputs in self.layers:
            linear = Linear(inputs, outputs, dtype=torch.float32)
            modules += [linear, ACTIVATIONS[self.activation]()]
        return torch.nn.Sequential(*modules[:-1])

    def initial_parameters(self, seed: int, trial: int) -> np.ndarray:
        """Draw from ±1/√inputs uniformly, as `torch.nn.Linear` does: float32 (P,)."""
        random = np.random.Generator(np.random.Philox(key=make_key(seed, trial, WEIGHTS)))
        pieces: list[np.ndarray] = []
        for inputs, outputs in self.layers:
            bound = inputs**-0.5
            pieces.append(random.uniform(-bound, bound, inputs * outputs))
            pieces.append(random.uniform(-bound, bound, outputs))
        return np.concatenate(pieces).astype(np.float32)

    def load_flat(self, module: torch.nn.Module, flat_P: np.ndarray) -> None:
        """Copy the parameters of one replica, (P,), into a module of this shape."""
        linear = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
        pairs = views(torch.from_numpy(np.array(flat_P, dtype=np.float32))[None], self)
        with torch.no_grad():
            for layer, (weight, bias) in zip(linear, pairs, strict=True):
                layer.weight.copy_(weight[0].T)
                layer.bias.copy_(bias[0, 0])

    def stacked_forward(
        self, device: torch.device
    ) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Return a function of (flat parameters (R, P), x (B, D)) that gives (R, B, 1).

        It applies every replica to the same rows.
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
        """Return the JSON form, for the model's file."""
        return {"widths": list(self.widths), "activation": self.activation}


#: What a learner trains. Their common attributes and methods are the contract of a model.
Model = Shape | Factory


def initial_parameters(model: Model, seed: int, trial: int) -> np.ndarray:
    """Return the initial parameters of a trial, float32 (P,).

    They are the same for every batch size and learning rate of the trial.
    """
    return model.initial_parameters(seed, trial)


def views(flat_RP: torch.Tensor, shape: Shape) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return (weight (R, inputs, outputs), bias (R, 1, outputs)) of each layer.

    They are views of the flat parameters, made by one `split`: its gradient is one concatenation,
    while the gradient of every slice would be as long as all parameters.
    """
    replicas = flat_RP.shape[0]
    sizes = [size for inputs, outputs in shape.layers for size in (inputs * outputs, outputs)]
    pieces = iter(flat_RP.split(sizes, dim=1))
    return [
        (next(pieces).view(replicas, inputs, outputs), next(pieces).view(replicas, 1, outputs))
        for inputs, outputs in shape.layers
    ]


class Network(torch.nn.Module):
    """A trained model on raw features: float32 (rows, features) → (rows, 1), in the target's units.

    `features` and `target` are the names of the columns. Standardization is part of the model, as
    buffers, and is done in float64, also after `half()`, which changes the layers alone. So is
    imputation when `fill` is given: float64 (features,), the values that replace non-finite ones.
    `transform` names the function that computed the features (stream/transform.py); the model takes
    the output of that function. `datetime`: what dates and times became in training (`--datetime`).
    """

    fill: torch.Tensor | None
    mean: torch.Tensor
    scale: torch.Tensor

    _layers_dtype = torch.float32

    def __init__(
        self,
        shape: Model,
        standard: Standardization,
        features: tuple[str, ...],
        target: str,
        *,
        fill: np.ndarray | None = None,
        transform: Json | None = None,
        datetime: Datetime | None = None,
    ):
        super().__init__()
        self.shape = shape
        self.features = features
        self.target = target
        self.transform = transform
        self.datetime = datetime
        self.register_buffer("fill", None if fill is None else double(fill))
        self.register_buffer("mean", double(standard.mean))
        self.register_buffer("scale", double(standard.scale))
        self.layers = shape.module()

    @property
    def is_coarse(self) -> bool:
        """True when float32 is too coarse for predictions.

        That is when the target's mean is so far from 0 that rounding changes a prediction by more
        than 2^-11 of the target's standard deviation.
        """
        return abs(float(self.mean[-1] * self.scale[-1])) > 2**13

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Predict from raw features (rows, features): float32 (rows, 1)."""
        return self._predict(x).to(torch.float32)

    @overload
    def predict(self, x: torch.Tensor) -> torch.Tensor: ...

    @overload
    def predict(self, x: ArrayLike) -> np.ndarray: ...

    def predict(self, x: Any) -> Any:
        """Predict from raw features without rounding to float32.

        A tensor (rows, features) gives a tensor, float64 (rows, 1). An array gives an array,
        float64 (rows,), and so does a table with column names, from which the features are taken by
        name. The difference to float32 matters when the model `is_coarse`.

        Raises DataError for another number of features, and for a feature that a table lacks.
        """
        if isinstance(x, torch.Tensor):
            return self._predict(x)
        x = self._features_of(x)
        tiles = [_padded(x[start : start + _TILE_ROWS]) for start in range(0, len(x), _TILE_ROWS)]
        with usual_torch(), torch.inference_mode():
            predictions = [self._predict(torch.from_numpy(tile))[:, 0].numpy() for tile in tiles]
        return np.concatenate([np.empty(0), *predictions])[: len(x)]

    def _predict(self, x: torch.Tensor) -> torch.Tensor:
        standard = self._standardize(x)
        if self.fill is not None:
            standard = torch.where(standard.isfinite(), standard, self._standardize(self.fill))
        return self.layers(standard).to(torch.float64) / self.scale[-1] + self.mean[-1]

    def _standardize(self, x: torch.Tensor) -> torch.Tensor:
        self._check_width(x.shape)
        standard = (x.to(torch.float64) - self.mean[:-1]) * self.scale[:-1]
        return standard.to(self._layers_dtype)

    def _features_of(self, x: Any) -> np.ndarray:
        is_arrow = hasattr(x, "column_names")
        names = x.column_names if is_arrow else getattr(x, "columns", None)
        if names is not None:
            missing = [name for name in self.features if name not in names]
            if missing:
                raise DataError(
                    f"the table has no column {missing[0]!r}; the model takes"
                    f" {', '.join(self.features)}. Pass an array to go by the order of the columns."
                )
            x = x.select(self.features) if is_arrow else x[list(self.features)]
        x = np.asarray(x, dtype=np.float64)
        self._check_width(x.shape)
        return x

    def _check_width(self, shape: Sequence[int]) -> None:
        if not shape or shape[-1] != len(self.features):
            raise DataError(
                f"the model takes {len(self.features)} features ({', '.join(self.features)}), and"
                f" got values of shape {tuple(shape)}. Pass (rows, {len(self.features)})."
            )

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "Network":
        """Move the model or change the dtype of its layers; standardization stays in float64.

        In half precision a mean above 65,504 would be infinite.
        """
        buffers = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        one = torch.ones((), dtype=self._layers_dtype, device=self.mean.device)
        self._layers_dtype = fn(one).dtype
        for name, before in buffers.items():
            after = getattr(self, name)
            if after.dtype != before.dtype:
                setattr(self, name, before.to(after.device))
        return self

    def load_flat(self, flat_P: np.ndarray) -> None:
        """Set the parameters to the values of one replica, (P,)."""
        self.shape.load_flat(self.layers, flat_P)


def _padded(x: np.ndarray) -> np.ndarray:
    """Return a copy filled up to _TILE_ROWS rows with zeros.

    BLAS rounds matrix products of different shapes differently; with tiles of one shape the
    prediction of a row does not depend on the other rows.
    """
    return np.concatenate([x, np.zeros((_TILE_ROWS - len(x), x.shape[1]))])


def double(values: np.ndarray) -> torch.Tensor:
    """Return a copy of values as a tensor of float64."""
    return torch.from_numpy(np.array(values, dtype=np.float64))
