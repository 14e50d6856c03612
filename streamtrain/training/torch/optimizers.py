"""The optimizers of the torch engine, for all replicas at once.

They give the same numbers as the optimizers of the fused engine (kernels/updates.py: step). What
changes from step to step is one row of a table (`step_table`), computed beforehand in float64. So a
compiled or captured step has no number built in, and reads the schedule from the device's memory.

Legend of shape suffixes: R replicas, P parameters, S steps.
"""

import numpy as np
import torch

from streamtrain.config import TrainConfig
from streamtrain.training.averaging import average_shares
from streamtrain.training.engine import ADAM_EPSILON
from streamtrain.training.schedule import rate_factors


def count_moments(train: TrainConfig) -> int:
    """Return the number of moments: SGD's velocity, or Adam's two."""
    return 1 if train.optimizer == "sgd" else 2


def new_moments(train: TrainConfig, parameters_RP: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return zeros for the moments, and then the average of the parameters unless it is off."""
    moments = [torch.zeros_like(parameters_RP) for _ in range(count_moments(train))]
    return (*moments, parameters_RP.clone()) if train.averaged_fraction else tuple(moments)


def step_table(
    train: TrainConfig,
    learning_rates: tuple[float, ...],
    counts: np.ndarray,
    steps: int,
    rows: int,
    schedule: tuple[int, int],
    averaged: tuple[int, int],
    further_steps: float = 0.0,
) -> np.ndarray:
    """Return what each of S steps needs besides the gradient: float32 (S, R, 5).

    The columns are 1 / rows of the minibatch, the learning rate, 1/√(1 - β₂ᵗ), the factor that
    weight decay leaves, and the share by which the average moves. `counts` (S,) are the rows of
    each minibatch; `steps` and `rows` were taken before them. `schedule`: see `schedule_rows`.
    `averaged`: the rows of the last and the next update of the average; see `average_shares`.
    `further_steps`: see training/engine.py.
    """
    ends = rows + np.cumsum(counts)
    rates_SR = rate_factors(ends - counts, ends, *schedule)[:, None] * np.array(learning_rates)
    table = np.ones((*rates_SR.shape, 5))
    table[:, :, 0] = 1.0 / counts[:, None]
    table[:, :, 1] = rates_SR
    if train.optimizer != "sgd":
        taken_S1 = steps + 1.0 + np.arange(len(counts))[:, None]
        table[:, :, 1] /= 1.0 - train.beta1**taken_S1
        table[:, :, 2] = 1.0 / np.sqrt(1.0 - train.beta2 ** (taken_S1 + further_steps))
        if train.optimizer == "adamw":
            table[:, :, 3] = 1.0 - rates_SR * train.decay
    table[:, :, 4] = average_shares(ends, train.averaged_fraction, *averaged)[0][:, None]
    return table.astype(np.float32)


def update_(
    train: TrainConfig,
    parameters_RP: torch.Tensor,
    moments: tuple[torch.Tensor, ...],
    gradient_RP: torch.Tensor,
    row_R5: torch.Tensor,
) -> None:
    """Take one step in place, and move the average if there is one.

    `gradient_RP` is the sum over the minibatch, and is overwritten; `row_R5` is the step's row of
    the table. A share of 0 leaves the average as it is. For SGD and Adam, weight decay is added to
    the clipped gradient; for AdamW (Loshchilov and Hutter 2019, algorithm 2) it acts on the
    parameters.
    """
    _move_(train, parameters_RP, moments[: count_moments(train)], gradient_RP, row_R5)
    if train.averaged_fraction:
        moments[-1].lerp_(parameters_RP, row_R5[:, 4:])


def _move_(
    train: TrainConfig,
    parameters_RP: torch.Tensor,
    moments: tuple[torch.Tensor, ...],
    gradient_RP: torch.Tensor,
    row_R5: torch.Tensor,
) -> None:
    inverse_R1, rate_R1, root_R1, keep_R1, _ = row_R5.split(1, dim=1)
    gradient_RP.mul_(inverse_R1)
    if train.clip_norm is not None:
        norm_R1 = gradient_RP.square().sum(dim=1, keepdim=True, dtype=torch.float64).sqrt()
        gradient_RP.mul_((train.clip_norm / norm_R1).clamp(max=1.0).to(torch.float32))
    if train.decay and train.optimizer != "adamw":
        gradient_RP.add_(parameters_RP, alpha=train.decay)
    if train.optimizer == "sgd":
        (velocity,) = moments
        velocity.mul_(train.momentum).add_(gradient_RP)
        direction_RP = velocity
        if train.nesterov:
            direction_RP = gradient_RP.add(velocity, alpha=train.momentum)
        parameters_RP.sub_(rate_R1 * direction_RP)
        return
    mean, square = moments
    mean.mul_(train.beta1).add_(gradient_RP, alpha=1 - train.beta1)
    # A beta2 near 1 is not representable in float32, but 1 - beta2 is (kernels/updates.py).
    square.lerp_(gradient_RP.square(), 1 - train.beta2)
    step_RP = rate_R1 * mean / (square.sqrt() * root_R1).add_(ADAM_EPSILON)
    if train.optimizer == "adamw":
        parameters_RP.mul_(keep_R1)
    parameters_RP.sub_(step_RP)
