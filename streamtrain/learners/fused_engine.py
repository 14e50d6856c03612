"""The fused engine: forward, backward and update of every minibatch of a block in one Numba call a replica, on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from threadpoolctl import threadpool_limits

from streamtrain.config import TrainConfig
from streamtrain.kernels import mlp
from streamtrain.learners.engine import check_state
from streamtrain.learners.model import Shape
from streamtrain.learners.schedule import schedule_rows

_ACTIVATIONS = {"relu": mlp.RELU, "tanh": mlp.TANH, "silu": mlp.SILU, "gelu": mlp.GELU, "identity": mlp.IDENTITY}
_OPTIMIZERS = {"sgd": mlp.SGD, "adam": mlp.ADAM, "adamw": mlp.ADAMW}

#: Adam's epsilon, as torch has it.
EPSILON = 1e-8


class FusedEngine:
    """See `Engine`. Run it inside `one_blas_thread`: its products are small, and learners are what runs in parallel."""

    def __init__(
        self, shape: Shape, parameters_P: np.ndarray, batch_size: int, learning_rates: tuple[float, ...], train: TrainConfig,
        last_row: int | None = None,
    ):  # fmt: skip
        self.batch_size, self.learning_rates = batch_size, learning_rates
        replicas = len(learning_rates)
        self._widths = np.array(shape.widths, dtype=np.int64)
        self._parameters_RP = np.tile(parameters_P.astype(np.float32), (replicas, 1))
        self._gradient_RP = np.zeros_like(self._parameters_RP)
        self._moments_R2P = np.zeros((replicas, 2, len(parameters_P)), dtype=np.float32)
        self._work = np.zeros(mlp.workspace_size(self._widths), dtype=np.float32)
        self._counters_R3 = np.zeros((replicas, 3), dtype=np.int64)  # rows carried, steps, rows of those steps
        self._activation, self._optimizer = _ACTIVATIONS[shape.activation], _OPTIMIZERS[train.optimizer]
        self._huber_delta = np.float32(train.huber_delta if train.loss == "huber" else 0)  # 0: ½r² everywhere
        self._hyper = np.array([
            train.momentum, train.nesterov, train.beta1, train.beta2, EPSILON, train.decay, train.clip_norm or 0.0,
            *schedule_rows(train, last_row),
        ])  # fmt: skip

    @property
    def steps(self) -> int:
        return int(self._counters_R3[0, 1])

    def advance(self, block: np.ndarray, start: int, stop: int) -> np.ndarray:
        """See `Engine.advance`."""
        return np.array([
            mlp.advance(block, start, stop, self.batch_size, self._widths, self._parameters_RP[replica], self._gradient_RP[replica],
                        self._moments_R2P[replica], self._work, self._counters_R3[replica], self._activation, self._huber_delta, self._optimizer,
                        lr, self._hyper)
            for replica, lr in enumerate(self.learning_rates)
        ])  # fmt: skip

    def finish_epoch(self) -> None:
        """See `Engine.finish_epoch`."""
        for replica in range(len(self.learning_rates)):
            mlp.finish(self._parameters_RP[replica], self._gradient_RP[replica], self._moments_R2P[replica], self._counters_R3[replica],
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

    def state(self) -> dict[str, np.ndarray]:
        """See `Engine.state`."""
        return {name: array.copy() for name, array in self._changing().items()}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """See `Engine.load_state`."""
        own = self._changing()
        check_state(state, own)
        for name, array in own.items():
            array[:] = state[name]

    def _changing(self) -> dict[str, np.ndarray]:
        return {
            "parameters": self._parameters_RP, "gradient": self._gradient_RP, "moments": self._moments_R2P, "counters": self._counters_R3,
        }  # fmt: skip


@contextmanager
def one_blas_thread(wanted: bool = True) -> Iterator[None]:
    """BLAS on one thread while inside, for the whole process, and as it was afterwards; does nothing when not `wanted`."""
    if not wanted:
        yield
        return
    with threadpool_limits(limits=1, user_api="blas"):
        yield
