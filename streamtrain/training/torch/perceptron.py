"""A perceptron in torch: its layers as a module, and all replicas as one batched function.

Legend of shape suffixes: R replicas, B rows, D features, P parameters.
"""

from collections.abc import Callable

import numpy as np
import torch

from streamtrain.training.model import Shape

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


def make_module(shape: Shape) -> torch.nn.Module:
    """Return the layers as a module on the default device, whose weights `load_flat` sets."""
    modules: list[torch.nn.Module] = []
    for inputs, outputs in shape.layers:
        linear = Linear(inputs, outputs, dtype=torch.float32)
        modules += [linear, ACTIVATIONS[shape.activation]()]
    return torch.nn.Sequential(*modules[:-1])


def load_flat(shape: Shape, module: torch.nn.Module, flat_P: np.ndarray) -> None:
    """Copy the parameters of one replica, (P,), into a module of `make_module`."""
    linear = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
    pairs = views(torch.from_numpy(np.array(flat_P, dtype=np.float32))[None], shape)
    with torch.no_grad():
        for layer, (weight, bias) in zip(linear, pairs, strict=True):
            layer.weight.copy_(weight[0].T)
            layer.bias.copy_(bias[0, 0])


def stacked_forward(shape: Shape) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return a function of (flat parameters (R, P), x (B, D)) that gives (R, B, 1).

    It applies every replica to the same rows.
    """
    activation = _FUNCTIONS[shape.activation]

    def forward(flat_RP: torch.Tensor, x_BD: torch.Tensor) -> torch.Tensor:
        *hidden_layers, (weight, bias) = views(flat_RP, shape)
        values = x_BD.expand(len(flat_RP), *x_BD.shape)
        for hidden_weight, hidden_bias in hidden_layers:
            values = activation(torch.baddbmm(hidden_bias, values, hidden_weight))
        return torch.baddbmm(bias, values, weight)

    return forward


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
