"""The optimizers of the torch engine, for all replicas at once; the same numbers as the fused
engine (kernels/updates.py: step).

What changes from step to step is one row of a table (`step_table`), made ahead in float64: so a
compiled or captured step has no number of its own in it, and the schedule is read from the device's
memory.

Legend of shape suffixes: R replicas, P parameters, S steps.
"""

import numpy as np
import torch

from streamtrain.config import TrainConfig
from streamtrain.training.schedule import rate_factor

#: Adam's epsilon, as torch has it.
EPSILON = 1e-8


def new_moments(train: TrainConfig, parameters_RP: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Zeros: sgd's velocity, or Adam's two means."""
    return tuple(
        torch.zeros_like(parameters_RP) for _ in range(1 if train.optimizer == "sgd" else 2)
    )


def step_table(
    train: TrainConfig,
    learning_rates: tuple[float, ...],
    counts: np.ndarray,
    steps: int,
    rows: int,
    schedule: tuple[int, int],
) -> np.ndarray:
    """What each of S steps needs beside the gradient: float32 (S, R, 4), columns 1 / rows of it,
    rate, 1/√(1 - β₂ᵗ), what decay leaves.

    `counts` (S,): rows of each minibatch. `steps` and `rows` were taken before them; `schedule`:
    see `schedule_rows`.
    """
    ends = rows + np.cumsum(counts)
    factors = [
        rate_factor(int(end - count), int(end), *schedule)
        for end, count in zip(ends, counts, strict=True)
    ]
    rates_SR = np.array(factors)[:, None] * np.array(learning_rates)
    table = np.ones((*rates_SR.shape, 4))
    table[:, :, 0] = 1.0 / counts[:, None]
    table[:, :, 1] = rates_SR
    if train.optimizer != "sgd":
        taken_S1 = steps + 1.0 + np.arange(len(counts))[:, None]
        table[:, :, 1] /= 1.0 - train.beta1**taken_S1
        table[:, :, 2] = 1.0 / np.sqrt(1.0 - train.beta2**taken_S1)
        if train.optimizer == "adamw":
            table[:, :, 3] = 1.0 - rates_SR * train.decay
    return table.astype(np.float32)


def update_(
    train: TrainConfig,
    parameters_RP: torch.Tensor,
    moments: tuple[torch.Tensor, ...],
    gradient_RP: torch.Tensor,
    row_R4: torch.Tensor,
) -> None:
    """One step, in place: `gradient_RP` is the sum over the minibatch, `row_R4` its row of the
    table. The gradient is overwritten.

    SGD and Adam: decay joins the clipped gradient; AdamW (Loshchilov and Hutter 2019, algorithm 2):
    it acts on the parameters.
    """
    share_R1, rate_R1, root_R1, keep_R1 = row_R4.split(1, dim=1)
    gradient_RP.mul_(share_R1)
    if train.clip_norm is not None:
        norm_R1 = gradient_RP.square().sum(dim=1, keepdim=True, dtype=torch.float64).sqrt()
        gradient_RP.mul_((train.clip_norm / norm_R1).clamp(max=1.0).to(torch.float32))
    if train.decay and train.optimizer != "adamw":
        gradient_RP.add_(parameters_RP, alpha=train.decay)
    if train.optimizer == "sgd":
        (velocity,) = moments
        velocity.mul_(train.momentum).add_(gradient_RP)
        parameters_RP.sub_(
            rate_R1
            * (gradient_RP.add(velocity, alpha=train.momentum) if train.nesterov else velocity)
        )
        return
    mean, square = moments
    mean.mul_(train.beta1).add_(gradient_RP, alpha=1 - train.beta1)
    # a beta2 near 1 has no float32 (kernels/updates.py)
    square.lerp_(gradient_RP.square(), 1 - train.beta2)
    step_RP = rate_R1 * mean / (square.sqrt() * root_R1).add_(EPSILON)
    if train.optimizer == "adamw":
        parameters_RP.mul_(keep_R1)
    parameters_RP.sub_(step_RP)
