"""Probes: losses, gradients, per-row gradient norms and Hessian-vector products of a model at given
weights, in float64 on the CPU.

They are what `science/` measures with: `Probe` hides torch, so that its callables take and give
NumPy arrays. The loss of a row is ½r², or Huber's; all else is the mean over rows. Rows are float32
(N, features + 1), target last, model units.

Legend: N rows, G groups, D features, P parameters, V vectors.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch.func import functional_call, grad, jvp, vmap

from streamtrain.training.model import ACTIVATIONS, Model, Shape, views

#: Rows of one evaluation: more are taken in parts, so that activations stay small.
PART_ROWS = 16_384

#: float64 values of per-group gradients held at once by torch.
_GRADIENT_VALUES = 2**23

#: Parameters (P,) and features (B, D) → predictions (B,); of torch operations that `torch.func`
#: differentiates twice.
Outputs = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """A model to be measured.

    `shape` is given for layered perceptrons, whose per-row norms need no per-row gradient.

    `huber_delta` 0 means ½r² everywhere. Thread-safe: it holds no state.
    """

    outputs: Outputs
    num_parameters: int
    shape: Shape | None = None
    huber_delta: float = 0.0

    def row_losses(self, parameters_P: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The loss of each row: float64 (N,)."""
        weights = _double(parameters_P)
        with torch.no_grad():
            return torch.cat([self._losses(weights, part) for part in _parts(rows)]).numpy()

    def loss(self, parameters_P: np.ndarray, rows: np.ndarray) -> float:
        """The mean loss."""
        return float(self.row_losses(parameters_P, rows).mean())

    def value_and_grad(
        self, parameters_P: np.ndarray, rows: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """The mean loss and its gradient, float64 (P,)."""
        weights = _double(parameters_P).requires_grad_()
        total = 0.0
        for part in _parts(rows):
            loss = self._losses(weights, part).sum() / len(rows)
            loss.backward()
            total += float(loss.detach())
        return total, weights.grad.numpy()

    def grad(self, parameters_P: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The gradient of the mean loss: float64 (P,)."""
        return self.value_and_grad(parameters_P, rows)[1]

    def group_gradients(self, parameters_P: np.ndarray, rows: np.ndarray, group: int) -> np.ndarray:
        """The mean gradient of each `group` consecutive rows: float64 (N // group, P); a rest is
        left out. `group` 1: per row.
        """
        weights, groups = _double(parameters_P), len(rows) // group
        grouped = _double(rows[: groups * group]).view(groups, group, -1)
        at_once = max(1, min(_GRADIENT_VALUES // self.num_parameters, PART_ROWS // group))
        if self.shape is None:
            of_each = vmap(
                grad(lambda weights, part: self._losses(weights, part).mean()), (None, 0)
            )
            return torch.cat([of_each(weights, part) for part in grouped.split(at_once)]).numpy()
        found = []
        for part in grouped.split(at_once):
            pieces = []
            for a, d in self._inputs_and_deltas(weights, part.reshape(-1, part.shape[-1])):
                a, d = (values.view(len(part), group, -1) for values in (a, d))
                pieces += [torch.bmm(a.transpose(1, 2), d).flatten(1), d.sum(1)]
            found.append(torch.cat(pieces, dim=1) / group)
        return torch.cat(found).numpy()

    def squared_norms(self, parameters_P: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """|g_i|² of each row's gradient: float64 (N,).

        Of a perceptron exactly Σ over layers of (|a_i|² + 1)|δ_i|², from each layer's inputs a and
        deltas δ (Goodfellow 2015, arXiv 1510.01799); of another model from per-row gradients, a
        part of the rows at a time.
        """
        if self.shape is None:
            at_once = max(1, _GRADIENT_VALUES // self.num_parameters)
            parts = [
                self.group_gradients(parameters_P, rows[i : i + at_once], 1)
                for i in range(0, len(rows), at_once)
            ]
            return np.concatenate([(part**2).sum(axis=1) for part in parts])
        weights = _double(parameters_P)
        pairs = (self._inputs_and_deltas(weights, part) for part in _parts(rows))
        return torch.cat(
            [
                sum((a.square().sum(1) + 1) * d.square().sum(1) for a, d in layers)
                for layers in pairs
            ]
        ).numpy()

    def hvp(self, parameters_P: np.ndarray, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """The Hessian of the mean loss times a vector (P,), or times each of (V, P): forward over
        reverse, float64.
        """
        _load_forward_mode()
        weights, many = _double(parameters_P), _double(np.atleast_2d(vectors))
        total = torch.zeros_like(many)
        for part in _parts(rows):
            gradient = grad(lambda weights, part=part: self._losses(weights, part).sum())
            for at, vector in enumerate(many):
                total[at] += jvp(gradient, (weights,), (vector,))[1]
        result = (total / len(rows)).detach().numpy()
        return result if np.ndim(vectors) == 2 else result[0]

    def _inputs_and_deltas(
        self, weights: torch.Tensor, rows: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of a perceptron's layers: inputs a (N, in) and δ = ∂loss/∂pre-activation (N, out); a
        row's weight gradient is a ⊗ δ.
        """
        inputs, shifts, values, activation = (
            [],
            [],
            rows[:, :-1],
            ACTIVATIONS[self.shape.activation](),
        )
        for weight, bias in views(weights[None], self.shape):
            inputs.append(values.detach())
            shifts.append(
                torch.zeros(len(rows), weight.shape[2], dtype=torch.float64, requires_grad=True)
            )
            before = values @ weight[0] + bias[0] + shifts[-1]
            values = activation(before)
        loss = self._of_residuals(before[:, 0] - rows[:, -1]).sum()
        # δ is the gradient at a shift of 0
        return list(zip(inputs, torch.autograd.grad(loss, shifts), strict=True))

    def _losses(self, weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return self._of_residuals(self.outputs(weights, rows[:, :-1]) - rows[:, -1])

    def _of_residuals(self, residuals: torch.Tensor) -> torch.Tensor:
        if not self.huber_delta:
            return 0.5 * residuals.square()
        # torch's own huber_loss has no forward mode
        near = residuals.clamp(-self.huber_delta, self.huber_delta)
        return near * (residuals - 0.5 * near)


def probe_model(model: Model, huber_delta: float = 0.0) -> Probe:
    """The probe of what a learner trains, with its flat parameters as `model.py` or `factory.py`
    lay them out.
    """
    if isinstance(model, Shape):
        return probe_shape(model, huber_delta)
    return probe_module(model.module(), huber_delta)[0]


def probe_shape(shape: Shape, huber_delta: float = 0.0) -> Probe:
    """The probe of a perceptron."""
    forward = shape.stacked_forward(torch.device("cpu"))
    return Probe(
        outputs=lambda weights_P, x_BD: forward(weights_P[None], x_BD)[0, :, 0],
        num_parameters=shape.num_parameters,
        shape=shape,
        huber_delta=huber_delta,
    )


def probe_module(module: torch.nn.Module, huber_delta: float = 0.0) -> tuple[Probe, np.ndarray]:
    """The probe of any module from (B, D) to (B, 1) or (B,), and its trainable parameters, flat in
    the order of `parameters()`.

    The module is called in float64, with its buffers and frozen parameters as they are; it is not
    changed.
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
        own = {
            name: part.view(value.shape)
            for part, (name, value) in zip(weights_P.split(sizes), trainable.items(), strict=True)
        }
        return functional_call(module, {**constants, **own}, (x_BD,)).reshape(len(x_BD))

    flat = (
        torch.cat([value.detach().reshape(-1) for value in trainable.values()])
        .double()
        .cpu()
        .numpy()
    )
    return Probe(outputs=outputs, num_parameters=len(flat), huber_delta=huber_delta), flat


def rescale(shape: Shape, parameters_P: np.ndarray, factor: float, layer: int = 0) -> np.ndarray:
    """The same function with other weights: a hidden layer times `factor`, the next one's weight
    divided by it; relu and identity only.
    """
    if (
        shape.activation not in ("relu", "identity")
        or not 0 <= layer < len(shape.layers) - 1
        or factor <= 0
    ):
        raise ValueError(f"hidden layer {layer} of {shape} cannot be rescaled by {factor}")
    result = np.array(parameters_P)
    begins = np.cumsum([0] + [(inputs + 1) * outputs for inputs, outputs in shape.layers])
    inputs, outputs = shape.layers[layer + 1]
    result[begins[layer] : begins[layer + 1]] *= factor
    result[begins[layer + 1] : begins[layer + 1] + inputs * outputs] /= factor
    return result


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Torch on one thread while inside, for the whole process: a probe's products are small, and
    threads would wait for one another.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _load_forward_mode() -> None:
    """Torch scripts its own decompositions when forward mode is first used, and warns that
    scripting is deprecated.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))


def _double(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))


def _parts(rows: np.ndarray) -> list[torch.Tensor]:
    return [_double(rows[i : i + PART_ROWS]) for i in range(0, len(rows), PART_ROWS)]
