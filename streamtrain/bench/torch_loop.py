"""What the step is compared with: a plain PyTorch loop over rows in memory, as in tutorials."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from streamtrain.config import TrainConfig
from streamtrain.training.model import Model, initial_parameters

_OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


class TorchLoop:
    """Eager torch: slices, `zero_grad`, forward, loss, `backward`, `step` of a fused optimizer.

    It runs on `threads` threads of the CPU. `rows` are float32 (rows, features + 1), target last.
    On a GPU they are there from the start, or with `from_host` in pinned memory, from which each
    minibatch is copied. Momentum, decay and betas come from `train`; its schedule and clipping,
    which tutorials do not teach, are left out.
    """

    def __init__(
        self,
        model: Model,
        rows: np.ndarray,
        batch_size: int,
        train: TrainConfig,
        threads: int,
        *,
        from_host: bool = False,
    ):
        self.batch_size, self.threads = batch_size, threads
        self.device = torch.device("cpu" if train.device == "auto" else train.device)
        tensor = torch.from_numpy(rows)
        self.x, self.y = (part.contiguous() for part in (tensor[:, :-1], tensor[:, -1:]))
        self._copies = from_host and self.device.type != "cpu"
        if self.device.type != "cpu":
            for name, part in (("x", self.x), ("y", self.y)):
                setattr(self, name, part.pin_memory() if from_host else part.to(self.device))
        self.network = model.module().to(self.device)
        model.load_flat(self.network, initial_parameters(model, 0, 0))
        self.loss: torch.nn.Module = torch.nn.MSELoss()
        if train.loss == "huber":
            self.loss = torch.nn.HuberLoss(delta=train.huber_delta)
        options = {"betas": (train.beta1, train.beta2)}
        if train.optimizer == "sgd":
            options = {"momentum": train.momentum, "nesterov": train.nesterov}
        self.optimizer: torch.optim.Optimizer = _OPTIMIZERS[train.optimizer](
            self.network.parameters(),
            lr=train.rate,
            weight_decay=train.decay,
            fused=True,
            **options,
        )
        self._next_row = 0

    def take(self, steps: int) -> float:
        """Take `steps` steps, over the rows again and again; return the last minibatch's loss."""
        loss = torch.zeros(())
        with torch_threads(self.threads):
            for _ in range(steps):
                if self._next_row + self.batch_size > len(self.x):
                    self._next_row = 0
                start, stop = self._next_row, self._next_row + self.batch_size
                x, y = self.x[start:stop], self.y[start:stop]
                if self._copies:
                    x = x.to(self.device, non_blocking=True)
                    y = y.to(self.device, non_blocking=True)
                self._next_row = stop
                self.optimizer.zero_grad()
                loss = self.loss(self.network(x), y)
                loss.backward()
                self.optimizer.step()
        return float(loss.detach())  # waits for a GPU too


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Run torch on `threads` threads within the context."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
