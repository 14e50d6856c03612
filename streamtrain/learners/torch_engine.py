"""The torch engine: eager torch on any device; all learning rates of a learner as one batched product.

Legend of shape suffixes: R replicas, B rows of a minibatch (or of a part of it), D features, P parameters.
"""

import numpy as np
import torch

from streamtrain.config import TrainConfig
from streamtrain.learners.engine import check_state
from streamtrain.learners.model import Shape, views
from streamtrain.learners.schedule import schedule_rows

#: Rows of one forward pass: a larger minibatch is taken in parts whose gradients add up, so that activations stay in the cache.
PART_ROWS = 4_096

_FUNCTIONS = {
    "relu": torch.relu, "tanh": torch.tanh, "silu": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu, "identity": lambda x: x,
}  # fmt: skip


class TorchEngine:
    """See `Engine`. The gradient is of the mean of ½r² over a minibatch; sums are divided once, at the step."""

    def __init__(
        self, shape: Shape, parameters_P: np.ndarray, batch_size: int, learning_rates: tuple[float, ...], train: TrainConfig,
        last_row: int | None = None,
    ):  # fmt: skip
        schedule_rows(train, last_row)
        self.batch_size, self.learning_rates, self.steps = batch_size, learning_rates, 0
        self.device = torch.device("cpu" if train.device == "auto" else train.device)
        self._train, self._shape, self._activation, replicas = train, shape, _FUNCTIONS[shape.activation], len(learning_rates)
        self._flat_RP = torch.from_numpy(np.tile(parameters_P, (replicas, 1))).to(self.device).requires_grad_()
        self._flat_RP.grad = torch.zeros_like(self._flat_RP)
        self._lr_R1 = torch.tensor(learning_rates, dtype=torch.float32, device=self.device)[:, None]
        self._moments = [torch.zeros_like(self._flat_RP, requires_grad=False) for _ in range(2 if train.optimizer == "adam" else 1)]
        self._carried = 0

    def advance(self, block: np.ndarray, start: int, stop: int) -> np.ndarray:
        """See `Engine.advance`."""
        rows = torch.from_numpy(block[start:stop]).to(self.device)
        losses_R = torch.zeros(len(self.learning_rates), dtype=torch.float64, device=self.device)
        done = 0
        while done < len(rows):
            part = min(self.batch_size - self._carried, PART_ROWS, len(rows) - done)
            losses_R += self._add_gradient(rows[done : done + part])
            done += part
            self._carried += part
            if self._carried == self.batch_size:
                self._step()
        return losses_R.cpu().numpy()

    def finish_epoch(self) -> None:
        """See `Engine.finish_epoch`."""
        if self._carried:
            self._step()

    def parameters(self) -> np.ndarray:
        """See `Engine.parameters`."""
        return self._flat_RP.detach().cpu().numpy().copy()

    @torch.no_grad()
    def evaluate(self, rows: np.ndarray) -> np.ndarray:
        """See `Engine.evaluate`."""
        squares_R = torch.zeros(len(self.learning_rates), dtype=torch.float64, device=self.device)
        for part in torch.from_numpy(rows).to(self.device).split(PART_ROWS):
            squares_R += (self._forward(part[:, :-1]) - part[:, -1:]).square().sum(dim=(1, 2), dtype=torch.float64)
        return (squares_R / max(len(rows), 1)).cpu().numpy()

    def state(self) -> dict[str, np.ndarray]:
        """See `Engine.state`."""
        tensors = {"parameters": self._flat_RP, "gradient": self._flat_RP.grad, "moments": torch.stack(self._moments, 1)}
        arrays = {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}
        return {**arrays, "counters": np.array([self._carried, self.steps])}

    @torch.no_grad()
    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """See `Engine.load_state`."""
        check_state(state, self.state())
        self._flat_RP.copy_(torch.from_numpy(state["parameters"]))
        self._flat_RP.grad.copy_(torch.from_numpy(state["gradient"]))
        for moment, saved in zip(self._moments, torch.from_numpy(state["moments"]).unbind(1), strict=True):
            moment.copy_(saved)
        self._carried, self.steps = state["counters"].tolist()

    def _forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Outputs (R, B, 1)."""
        *hidden_layers, (weight, bias) = views(self._flat_RP, self._shape)
        values = x_BD.expand(len(self.learning_rates), *x_BD.shape)
        for hidden_weight, hidden_bias in hidden_layers:
            values = self._activation(torch.baddbmm(hidden_bias, values, hidden_weight))
        return torch.baddbmm(bias, values, weight)

    def _add_gradient(self, rows: torch.Tensor) -> torch.Tensor:
        """Add the sum of the rows' gradients of ½r²; returns the sum of ½r², float64 (R,)."""
        halves_RB1 = (self._forward(rows[:, :-1]) - rows[:, -1:]).square() * 0.5
        halves_RB1.sum().backward()
        return halves_RB1.detach().sum(dim=(1, 2), dtype=torch.float64)

    @torch.no_grad()
    def _step(self) -> None:
        gradient, train = self._flat_RP.grad.div_(self._carried), self._train
        self.steps += 1
        if train.optimizer == "sgd":
            (velocity,) = self._moments
            velocity.mul_(train.momentum).add_(gradient)
            self._flat_RP.sub_(self._lr_R1 * velocity)
        else:
            mean, square = self._moments
            mean.lerp_(gradient, 1 - train.beta1)
            square.mul_(train.beta2).addcmul_(gradient, gradient, value=1 - train.beta2)
            rate_R1 = self._lr_R1 / (1 - train.beta1**self.steps)
            root = (square / (1 - train.beta2**self.steps)).sqrt_().add_(1e-8)
            self._flat_RP.sub_(rate_R1 * mean / root)
        gradient.zero_()
        self._carried = 0
