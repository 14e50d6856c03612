"""Computations of the torch engine: the gradient of a minibatch, and whole steps in one call.

Legend of shape suffixes: R replicas, B rows of a minibatch (or of a part of it), D features, P
parameters, S steps.
"""

import types
from collections.abc import Callable
from functools import lru_cache

import torch

from streamtrain.config import TrainConfig
from streamtrain.training.model import Model
from streamtrain.training.torch.optimizers import update_

#: (parameters (R, P), x (B, D), y (B, 1)) → (gradient of the sum of the rows' losses (R, P), those
#: sums, float64 (R,)).
Gradient = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

#: (parameters (R, P), moments, rows (S * B, D + 1), table (S, R, 5)) → sums of losses, float64
#: (R,). Parameters and moments, the average among them, are updated in place.
Steps = Callable[[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor, torch.Tensor], torch.Tensor]

#: Steps per compiled call for minibatches of at most `SMALL_ROWS` rows, where most of the time is
#: the overhead of the call. Compiling takes as many times longer.
STEPS_AT_ONCE, SMALL_ROWS = 4, 128

#: The approximate cost of compiling, and the seconds that it saves per call and per row and
#: replica, on one core.
_COMPILE_SECONDS = 30.0
_SAVED_SECONDS_PER_CALL = 4e-4
_SAVED_SECONDS_PER_ROW = 3e-7


def compiling_pays(run_rows: int, rows: int, replicas: int) -> bool:
    """Return True if compiling calls of `rows` rows saves twice the seconds that it takes."""
    saved_per_call = _SAVED_SECONDS_PER_CALL + _SAVED_SECONDS_PER_ROW * rows * replicas
    return run_rows / rows * saved_per_call > 2 * _COMPILE_SECONDS


def loss_sums(
    model: Model, train: TrainConfig, device: torch.device
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return a function of (parameters (R, P), x (B, D), y (B, 1)) that gives the sums of losses.

    The sum over rows of ½r² or Huber's loss is float64 (R,). With precision bf16 only the matrix
    products use it; residuals and sums do not.
    """
    forward = model.stacked_forward(device)
    low = train.precision == "bf16"

    def sums(parameters_RP: torch.Tensor, x_BD: torch.Tensor, y_B1: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=low, cache_enabled=False):
            outputs_RB1 = forward(parameters_RP, x_BD)
        outputs_RB1 = outputs_RB1.to(torch.float32)
        if train.loss == "huber":
            losses_RB1 = torch.nn.functional.huber_loss(
                outputs_RB1, y_B1.expand_as(outputs_RB1), reduction="none", delta=train.huber_delta
            )
        else:
            losses_RB1 = (outputs_RB1 - y_B1).square() * 0.5
        return losses_RB1.sum(dim=(1, 2), dtype=torch.float64)

    return sums


def eager_gradient(model: Model, train: TrainConfig, device: torch.device) -> Gradient:
    """Return the gradient by torch's autograd.

    It takes half the time of `torch.func.grad` when operations are dispatched one by one.
    """
    sums = loss_sums(model, train, device)

    def gradient(
        parameters_RP: torch.Tensor, x_BD: torch.Tensor, y_B1: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = parameters_RP.detach().requires_grad_()
        with torch.enable_grad():
            losses_R = sums(leaf, x_BD, y_B1)
            (gradient_RP,) = torch.autograd.grad(losses_R.sum(), leaf)
        return gradient_RP, losses_R.detach()

    return gradient


def pure_gradient(model: Model, train: TrainConfig, device: torch.device) -> Gradient:
    """Return the gradient by `torch.func.grad`, which the compiler sees as one graph."""
    sums = loss_sums(model, train, device)

    def total(
        parameters_RP: torch.Tensor, x_BD: torch.Tensor, y_B1: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        losses_R = sums(parameters_RP, x_BD, y_B1)
        return losses_R.sum(), losses_R

    return torch.func.grad(total, has_aux=True)


@lru_cache(maxsize=64)
def compiled_gradient(
    model: Model, train: TrainConfig, device: torch.device, num_rows: int
) -> Gradient:
    """Return `pure_gradient` compiled for `num_rows` rows; cached for the whole process.

    Each number of rows has its own, since shapes are compiled in.
    """
    gradient = pure_gradient(model, train, device)

    def part(
        parameters_RP: torch.Tensor, x_BD: torch.Tensor, y_B1: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return gradient(parameters_RP, x_BD, y_B1)

    return _compile(part)


@lru_cache(maxsize=64)
def compiled_steps(
    model: Model, train: TrainConfig, device: torch.device, batch_size: int, steps: int
) -> Steps:
    """Return a function that takes `steps` whole steps in one compiled call.

    It is cached for the whole process. Each batch size has its own, since shapes are compiled in.
    """
    return _compile(eager_steps(pure_gradient(model, train, device), train))


def eager_steps(gradient: Gradient, train: TrainConfig) -> Steps:
    """Return a function that takes one step per row of the table, operation by operation."""

    def steps(
        parameters_RP: torch.Tensor,
        moments: tuple[torch.Tensor, ...],
        rows: torch.Tensor,
        table_SR5: torch.Tensor,
    ) -> torch.Tensor:
        losses_R = torch.zeros(len(parameters_RP), dtype=torch.float64, device=rows.device)
        for row_R5, batch in zip(table_SR5.unbind(), rows.chunk(len(table_SR5)), strict=True):
            gradient_RP, sums_R = gradient(parameters_RP, batch[:, :-1], batch[:, -1:])
            update_(train, parameters_RP, moments, gradient_RP, row_R5)
            losses_R = losses_R + sums_R
        return losses_R

    return steps


def check_same(eager: tuple[torch.Tensor, ...], compiled: tuple[torch.Tensor, ...]) -> None:
    """Raise RuntimeError if a compiled result differs from the eager one.

    The mean difference must be at most a hundredth of the mean value, so that a wrong compiler does
    not train a model.
    """
    for ours, theirs in zip(eager, compiled, strict=True):
        # The negation also catches NaN.
        if not (ours - theirs).abs().mean() <= 0.01 * ours.abs().mean():
            raise RuntimeError("the compiled step gives other numbers")


def _compile(function: types.FunctionType) -> Callable:
    """Compile a function for the shapes that it is called with.

    Each function gets its own code object, since the compiler limits recompilations per code
    object.
    """
    copy = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        None,
        function.__closure__,
    )
    return torch.compile(copy, fullgraph=True, dynamic=False, options={"compile_threads": 1})
