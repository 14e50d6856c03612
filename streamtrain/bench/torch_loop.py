"""What the step is measured against: a plain PyTorch loop over rows in memory, written the way its
tutorial teaches.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from streamtrain.config import TrainConfig
from streamtrain.training.model import Model


class TorchLoop:
    """Eager torch: slices, `zero_grad`, forward, loss, `backward`, `step` of a fused optimizer, on
    `threads` threads of the CPU.

    `rows`: float32 (rows, features + 1), target last. Momentum, decay and betas are those of
    `train`; its schedule and clipping, which the tutorial does not teach, are left out.
    """

    def __init__(
        self, model: Model, rows: np.ndarray, batch_size: int, train: TrainConfig, threads: int
    ):
        self.device = torch.device("cpu" if train.device == "auto" else train.device)
        tensor = torch.from_numpy(rows).to(self.device)
        self.x, self.y, self.batch_size, self.threads = (
            tensor[:, :-1].contiguous(),
            tensor[:, -1:].contiguous(),
            batch_size,
            threads,
        )
        self.network = model.module().to(self.device)
        self.loss = (
            torch.nn.MSELoss()
            if train.loss == "mse"
            else torch.nn.HuberLoss(delta=train.huber_delta)
        )
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[
            train.optimizer
        ]
        more = (
            {"momentum": train.momentum, "nesterov": train.nesterov}
            if train.optimizer == "sgd"
            else {"betas": (train.beta1, train.beta2)}
        )
        self.optimizer = kind(
            self.network.parameters(), lr=train.rate, weight_decay=train.decay, fused=True, **more
        )
        self._at = 0

    def take(self, steps: int) -> float:
        """Take so many steps, going through the rows again and again; returns the last minibatch's
        loss.
        """
        loss = torch.zeros(())
        with torch_threads(self.threads):
            for _ in range(steps):
                if self._at + self.batch_size > len(self.x):
                    self._at = 0
                x, y = (
                    self.x[self._at : self._at + self.batch_size],
                    self.y[self._at : self._at + self.batch_size],
                )
                self._at += self.batch_size
                self.optimizer.zero_grad()
                loss = self.loss(self.network(x), y)
                loss.backward()
                self.optimizer.step()
        return float(loss.detach())  # waits for a GPU too


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Torch on so many threads while inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
