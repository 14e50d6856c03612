"""Probes: losses, gradients, per-row gradient norms and Hessian-vector products of a model.

They are computed at given weights, in float64, on the CPU. The formulas of `science/` use them:
`Probe` hides torch, so its methods take and return NumPy arrays. The loss of a row is ½r², or
Huber's loss; every other quantity is a mean over rows. Rows are float32 (N, features + 1) in model
units, target last.

Legend of shape suffixes: N rows, G groups, D features, P parameters, V vectors.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.func import functional_call, grad, vmap

from streamtrain.training.model import Model, Shape
from streamtrain.training.network import double
from streamtrain.training.torch.perceptron import ACTIVATIONS, views

#: Rows per evaluation. More rows are taken in parts, so that activations stay small.
PART_ROWS = 16_384

#: float64 values of per-group gradients in memory at once.
_GRADIENT_VALUES = 2**23

#: Parameters (P,) and features (B, D) → predictions (B,), by torch operations that `torch.func` can
#: differentiate twice.
Outputs = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """A model to be measured. Stateless, so thread-safe.

    `shape` is given for perceptrons: their per-row norms need no per-row gradients. A `huber_delta`
    of 0 means ½r² everywhere.
    """

    outputs: Outputs
    num_parameters: int
    shape: Shape | None = None
    huber_delta: float = 0.0

    def row_losses(self, parameters_P: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the loss of each row: float64 (N,)."""
        weights = double(parameters_P)
        with torch.no_grad():
            return torch.cat(
                [self._losses(weights, some_rows) for some_rows in _parts(rows)]
            ).numpy()

    def loss(self, parameters_P: np.ndarray, rows: np.ndarray) -> float:
        """Return the mean loss."""
        return float(self.row_losses(parameters_P, rows).mean())

    def value_and_grad(
        self, parameters_P: np.ndarray, rows: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Return the mean loss and its gradient, float64 (P,)."""
        weights = double(parameters_P).requires_grad_()
        total = 0.0
        for some_rows in _parts(rows):
            loss = self._losses(weights, some_rows).sum() / len(rows)
            loss.backward()
            total += float(loss.detach())
        assert weights.grad is not None
        return total, weights.grad.numpy()

    def grad(self, parameters_P: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the gradient of the mean loss: float64 (P,)."""
        return self.value_and_grad(parameters_P, rows)[1]

    def group_gradients(self, parameters_P: np.ndarray, rows: np.ndarray, group: int) -> np.ndarray:
        """Return the mean gradient of every `group` consecutive rows: float64 (N // group, P).

        Rows left over at the end are ignored. A `group` of 1 gives per-row gradients.
        """
        weights = double(parameters_P)
        groups = len(rows) // group
        grouped = double(rows[: groups * group]).view(groups, group, -1)
        at_once = max(1, min(_GRADIENT_VALUES // self.num_parameters, PART_ROWS // group))
        if self.shape is None:

            def mean_loss(weights: torch.Tensor, group_rows: torch.Tensor) -> torch.Tensor:
                return self._losses(weights, group_rows).mean()

            per_group = vmap(grad(mean_loss), (None, 0))
            return torch.cat(
                [per_group(weights, some_groups) for some_groups in grouped.split(at_once)]
            ).numpy()
        gradients: list[torch.Tensor] = []
        for some_groups in grouped.split(at_once):
            pieces: list[torch.Tensor] = []
            flat_rows = some_groups.reshape(-1, some_groups.shape[-1])
            for inputs, deltas in self._inputs_and_deltas(self.shape, weights, flat_rows):
                a = inputs.view(len(some_groups), group, -1)
                d = deltas.view(len(some_groups), group, -1)
                pieces += [torch.bmm(a.transpose(1, 2), d).flatten(1), d.sum(1)]
            gradients.append(torch.cat(pieces, dim=1) / group)
        return torch.cat(gradients).numpy()

    def squared_norms(self, parameters_P: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return |g_i|² of each row's gradient: float64 (N,).

        For a perceptron it is exactly Σ over layers of (|a_i|² + 1)|δ_i|², from the inputs a and
        the deltas δ of each layer (Goodfellow 2015, arXiv 1510.01799). For other models it is
        computed from per-row gradients, in parts.
        """
        if self.shape is None:
            at_once = max(1, _GRADIENT_VALUES // self.num_parameters)
            gradients = (
                self.group_gradients(parameters_P, rows[i : i + at_once], 1)
                for i in range(0, len(rows), at_once)
            )
            return np.concatenate([(gradients_NP**2).sum(axis=1) for gradients_NP in gradients])
        weights = double(parameters_P)
        norms: list[torch.Tensor] = []
        for some_rows in _parts(rows):
            squares = torch.zeros(len(some_rows), dtype=torch.float64)
            for a, d in self._inputs_and_deltas(self.shape, weights, some_rows):
                squares += (a.square().sum(1) + 1) * d.square().sum(1)
            norms.append(squares)
        return torch.cat(norms).numpy()

    def hvp(self, parameters_P: np.ndarray, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Return the Hessian of the mean loss times a vector (P,), or times each of (V, P).

        float64, by differentiating the gradient times the vector.
        """
        weights = double(parameters_P).requires_grad_()
        vectors_VP = double(np.atleast_2d(vectors))
        total = torch.zeros_like(vectors_VP)
        for some_rows in _parts(rows):
            loss = self._losses(weights, some_rows).sum()
            gradient = _derivative(loss, weights, create_graph=True)
            for index, vector in enumerate(vectors_VP):
                total[index] += _derivative(gradient @ vector, weights)
        result = (total / len(rows)).numpy()
        return result if np.ndim(vectors) == 2 else result[0]

    def _inputs_and_deltas(
        self, shape: Shape, weights: torch.Tensor, rows: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the inputs a (N, in) and δ = ∂loss/∂pre-activation (N, out) of each layer.

        The gradient of a row with respect to a layer's weight is a ⊗ δ.
        """
        activation = ACTIVATIONS[shape.activation]()
        inputs: list[torch.Tensor] = []
        shifts: list[torch.Tensor] = []
        values = rows[:, :-1]
        outputs = values
        for weight, bias in views(weights[None], shape):
            inputs.append(values.detach())
            # δ is the gradient with respect to a shift of 0 that is added to the pre-activation.
            shift = torch.zeros(len(rows), weight.shape[2], dtype=torch.float64, requires_grad=True)
            shifts.append(shift)
            outputs = values @ weight[0] + bias[0] + shift
            values = activation(outputs)
        loss = self._of_residuals(outputs[:, 0] - rows[:, -1]).sum()
        return list(zip(inputs, torch.autograd.grad(loss, shifts), strict=True))

    def _losses(self, weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return self._of_residuals(self.outputs(weights, rows[:, :-1]) - rows[:, -1])

    def _of_residuals(self, residuals: torch.Tensor) -> torch.Tensor:
        if not self.huber_delta:
            return 0.5 * residuals.square()
        # torch's huber_loss does not support forward-mode differentiation.
        near = residuals.clamp(-self.huber_delta, self.huber_delta)
        return near * (residuals - 0.5 * near)


def probe_model(model: Model, huber_delta: float = 0.0) -> Probe:
    """Return the probe of a model, whose flat parameters are laid out as a learner has them."""
    if isinstance(model, Shape):
        return probe_shape(model, huber_delta)
    return probe_module(model.module(), huber_delta)[0]


def probe_shape(shape: Shape, huber_delta: float = 0.0) -> Probe:
    """Return the probe of a perceptron."""
    forward = shape.stacked_forward(torch.device("cpu"))
    return Probe(
        outputs=lambda weights_P, x_BD: forward(weights_P[None], x_BD)[0, :, 0],
        num_parameters=shape.num_parameters,
        shape=shape,
        huber_delta=huber_delta,
    )


def probe_module(module: torch.nn.Module, huber_delta: float = 0.0) -> tuple[Probe, np.ndarray]:
    """Return the probe of a module, and its trainable parameters, flat, in their order.

    The module maps (B, D) to (B, 1) or (B,). It is called in float64, with its buffers and frozen
    parameters as they are, and is not changed.
    """
    trainable = {name: value for name, value in module.named_parameters() if value.requires_grad}
    others = [
        (name, value)
        for name, value in (*module.named_parameters(), *module.named_buffers())
        if name not in trainable
    ]
    constants = {
        name: value.detach().double() if value.is_floating_point() else value
        for name, value in others
    }
    sizes = [value.numel() for value in trainable.values()]

    def outputs(weights_P: torch.Tensor, x_BD: torch.Tensor) -> torch.Tensor:
        pieces = weights_P.split(sizes)
        parameters = {
            name: piece.view(value.shape)
            for piece, (name, value) in zip(pieces, trainable.items(), strict=True)
        }
        return functional_call(module, {**constants, **parameters}, (x_BD,)).reshape(len(x_BD))

    flat_P = torch.cat([value.detach().reshape(-1) for value in trainable.values()])
    flat = flat_P.double().cpu().numpy()
    return Probe(outputs=outputs, num_parameters=len(flat), huber_delta=huber_delta), flat


def rescale(shape: Shape, parameters_P: np.ndarray, factor: float, layer: int = 0) -> np.ndarray:
    """Return other weights of the same function.

    The parameters of a hidden layer are multiplied by `factor`, and the weight of the next layer is
    divided by it. Raises ValueError unless the activation is relu or identity.
    """
    homogeneous = shape.activation in ("relu", "identity")
    if not homogeneous or not 0 <= layer < len(shape.layers) - 1 or factor <= 0:
        raise ValueError(f"hidden layer {layer} of {shape} cannot be rescaled by {factor}")
    result = np.array(parameters_P)
    starts = np.cumsum([0] + [(inputs + 1) * outputs for inputs, outputs in shape.layers])
    inputs, outputs = shape.layers[layer + 1]
    result[starts[layer] : starts[layer + 1]] *= factor
    result[starts[layer + 1] : starts[layer + 1] + inputs * outputs] /= factor
    return result


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Limit torch to one thread while inside, in the whole process.

    The matrix products of a probe are small, and several threads would only wait for one another.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _derivative(
    value: torch.Tensor, weights: torch.Tensor, *, create_graph: bool = False
) -> torch.Tensor:
    """Return the derivative of a scalar by `weights` (P,): 0 where it does not depend on them."""
    if not value.requires_grad:
        return torch.zeros_like(weights)
    return torch.autograd.grad(
        value, weights, create_graph=create_graph, retain_graph=True, materialize_grads=True
    )[0]


def _parts(rows: np.ndarray) -> list[torch.Tensor]:
    return [double(rows[i : i + PART_ROWS]) for i in range(0, len(rows), PART_ROWS)]
