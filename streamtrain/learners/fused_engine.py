"""The fused engine: forward, backward and update of every minibatch of a block in one Numba call a replica, on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from threadpoolctl import threadpool_limits

from streamtrain.config import TrainConfig
from streamtrain.kernels import mlp
from streamtrain.learners.model import Shape

_ACTIVATIONS = {"relu": mlp.RELU, "tanh": mlp.TANH, "silu": mlp.SILU, "gelu": mlp.GELU, "identity": mlp.IDENTITY}
_OPTIMIZERS = {"sgd": mlp.SGD, "adam": mlp.ADAM}

#: Adam's epsilon, as torch has it.
EPSILON = 1e-8

#: Huber's delta: 0 means ½r² everywhere.
NO_HUBER = np.float32(0)


class FusedEngine:
    """See `Engine`. Run it inside `one_blas_thread`: its products are small, and learners are what runs in parallel."""

    def __init__(self, shape: Shape, parameters_P: np.ndarray, batch_size: int, learning_rates: tuple[float, ...], train: TrainConfig):
        self.batch_size, self.learning_rates = batch_size, learning_rates
        replicas = len(learning_rates)
        self._widths = np.array(shape.widths, dtype=np.int64)
        self._parameters_RP = np.tile(parameters_P.astype(np.float32), (replicas, 1))
        self._gradient_RP = np.zeros_like(self._parameters_RP)
        self._moments_R2P = np.zeros((replicas, 2, len(parameters_P)), dtype=np.float32)
        self._work = np.zeros(mlp.workspace_size(self._widths), dtype=np.float32)
        self._state_R2 = np.zeros((replicas, 2), dtype=np.int64)
        self._activation, self._optimizer = _ACTIVATIONS[shape.activation], _OPTIMIZERS[train.optimizer]
        self._hyper = np.array([train.momentum, 0.0, train.beta1, train.beta2, EPSILON, 0.0, 0.0])

    @property
    def steps(self) -> int:
        return int(self._state_R2[0, 1])

    def advance(self, block: np.ndarray, start: int, stop: int) -> np.ndarray:
        """See `Engine.advance`."""
        return np.array([
            mlp.advance(block, start, stop, self.batch_size, self._widths, self._parameters_RP[replica], self._gradient_RP[replica],
                        self._moments_R2P[replica], self._work, self._state_R2[replica], self._activation, NO_HUBER, self._optimizer,
                        lr, self._hyper)
            for replica, lr in enumerate(self.learning_rates)
        ])  # fmt: skip

    def finish_epoch(self) -> None:
        """See `Engine.finish_epoch`."""
        for replica in range(len(self.learning_rates)):
            mlp.finish(self._parameters_RP[replica], self._gradient_RP[replica], self._moments_R2P[replica], self._state_R2[replica],
                       self._optimizer, self.learning_rates[replica], self._hyper)  # fmt: skip

    def parameters(self) -> np.ndarray:
        """See `Engine.parameters`."""
        return self._parameters_RP.copy()

    def evaluate(self, rows: np.ndarray) -> np.ndarray:
        """See `Engine.evaluate`."""
        return np.array([
            mlp.squared_error(rows, self._widths, parameters, self._work, self._activation) / max(len(rows), 1)
            for parameters in self._parameters_RP
        ])  # fmt: skip


@contextmanager
def one_blas_thread(wanted: bool = True) -> Iterator[None]:
    """BLAS on one thread while inside, for the whole process, and as it was afterwards; does nothing when not `wanted`."""
    if not wanted:
        yield
        return
    with threadpool_limits(limits=1, user_api="blas"):
        yield
