"""The fused engine: forward, backward and update of every minibatch of a block in one Numba call a
replica, on the CPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from streamtrain.config import TrainConfig
from streamtrain.kernels import activations, layers, mlp, updates
from streamtrain.training.compute_pool import (
    LINE,
    ComputePool,
    OneThread,
    Task,
    Workspace,
    aligned_zeros,
)
from streamtrain.training.engine import check_state
from streamtrain.training.model import Shape
from streamtrain.training.schedule import schedule_rows

_ACTIVATIONS = {
    "relu": activations.RELU,
    "tanh": activations.TANH,
    "silu": activations.SILU,
    "gelu": activations.GELU,
    "identity": activations.IDENTITY,
}
_OPTIMIZERS = {"sgd": updates.SGD, "adam": updates.ADAM, "adamw": updates.ADAMW}

#: Adam's epsilon, as torch has it.
EPSILON = 1e-8

#: Rows of a minibatch that is never full.
NO_END = 2**62

#: Rows a slot of a shared minibatch's gradient should have: summing slots then costs little. From
#: twice that on, threads share rows.
SLOT_ROWS = 1024

#: Slots are fewer than `mlp.MOST_SLOTS` where they would be more than this many floats together.
MOST_SLOT_FLOATS = 2**18


def gradient_slots(batch_size: int, num_parameters: int) -> int:
    """Sums that the gradient of a minibatch is gathered in: as many threads can share its rows.

    A constant of the run.
    """
    return max(
        1, min(mlp.MOST_SLOTS, batch_size // SLOT_ROWS, max(2, MOST_SLOT_FLOATS // num_parameters))
    )


class FusedEngine:
    """See `Engine`.

    L: parameters of a replica, and what fills its last cache line. Run it inside `one_blas_thread`:
    its products are small, and replicas and parts are what runs in parallel.

    Set `cores` to share threads with other engines; without, all is done on the caller's thread, to
    the same numbers.
    """

    def __init__(
        self,
        shape: Shape,
        parameters_P: np.ndarray,
        batch_size: int,
        learning_rates: tuple[float, ...],
        train: TrainConfig,
        last_row: int | None = None,
    ):
        self.batch_size, self.learning_rates = batch_size, learning_rates
        self.cores: ComputePool | OneThread = OneThread()
        replicas, slots, parameters = (
            len(learning_rates),
            gradient_slots(batch_size, shape.num_parameters),
            shape.num_parameters,
        )
        # every replica and slot begins a cache line: the rest of its last is unused
        line = -(-parameters // (LINE // 4)) * (LINE // 4)
        self._widths = np.array(shape.widths, dtype=np.int64)
        self._parameters_RP = aligned_zeros((replicas, line))[:, :parameters]
        self._parameters_RP[:] = parameters_P
        self._gradients_RSL = aligned_zeros((replicas, slots, line))
        self._moments_R2L = aligned_zeros((replicas, 2, line))
        # rows carried, steps, rows of those steps
        self._counters_R3 = np.zeros((replicas, 3), dtype=np.int64)
        self._losses_RS, self._turns_R = (
            np.zeros((replicas, slots)),
            np.zeros((replicas, mlp.TURN), dtype=np.int64),
        )
        self._no_squares = np.empty(0, dtype=np.float32)
        self._work_floats = layers.workspace_size(self._widths)
        self._activation, self._optimizer = (
            _ACTIVATIONS[shape.activation],
            _OPTIMIZERS[train.optimizer],
        )
        # 0: ½r² everywhere
        self._huber_delta = np.float32(train.huber_delta if train.loss == "huber" else 0)
        self._hyper = np.array(
            [
                train.momentum,
                train.nesterov,
                train.beta1,
                train.beta2,
                EPSILON,
                train.decay,
                train.clip_norm or 0.0,
                *schedule_rows(train, last_row),
            ]
        )

    @property
    def steps(self) -> int:
        return int(self._counters_R3[0, 1])

    def advance(self, block: np.ndarray, start: int, stop: int) -> np.ndarray:
        """See `Engine.advance`."""
        carried = int(self._counters_R3[0, 0])
        self._turns_R[:] = 0
        self._losses_RS[:] = 0
        cost = self._cost(stop - start, (carried + stop - start) // self.batch_size)
        hands = min(self.cores.threads, self._gradients_RSL.shape[1])
        self.cores.run(
            [
                Task(
                    cost=0 if hand else cost,
                    work=partial(self._advance, replica, hand, hands, block, start, stop, carried),
                )
                for hand in range(hands)
                for replica in range(len(self.learning_rates))
            ]
        )
        return self._losses_RS.sum(axis=1)

    def finish_epoch(self) -> None:
        """See `Engine.finish_epoch`."""
        for replica in range(len(self.learning_rates)):
            mlp.finish(
                self._parameters_RP[replica],
                self._gradients_RSL[replica],
                self._moments_R2L[replica],
                self._counters_R3[replica],
                self._optimizer,
                self.learning_rates[replica],
                self._hyper,
            )

    def parameters(self) -> np.ndarray:
        """See `Engine.parameters`."""
        return self._parameters_RP.copy()

    def evaluate(self, rows: np.ndarray) -> np.ndarray:
        """See `Engine.evaluate`."""
        squares_R = np.zeros(len(self.learning_rates))

        def evaluate(replica: int, workspace: Workspace) -> None:
            squares_R[replica] = mlp.squared_error(
                rows,
                self._widths,
                self._parameters_RP[replica],
                workspace.floats(self._work_floats),
                self._activation,
            )

        self._for_replicas(len(rows), evaluate)
        return squares_R / max(len(rows), 1)

    def gradient_norms(self, rows: np.ndarray) -> np.ndarray:
        """Each row's squared gradient norm |g|² of the training loss, decay apart, at the present
        parameters: float32 (replicas, rows).

        It costs a forward and a backward pass and changes nothing. For |G|² of the same rows see
        `gradient`.
        """
        return self._probe(rows)[0]

    def gradient(self, rows: np.ndarray) -> np.ndarray:
        """The mean gradient of the training loss over rows, decay apart, at the present parameters:
        float32 (replicas, P).
        """
        return self._probe(rows)[1] / np.float32(max(len(rows), 1))

    def state(self) -> dict[str, np.ndarray]:
        """See `Engine.state`."""
        return {name: array.copy() for name, array in self._changing().items()}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """See `Engine.load_state`."""
        own = self._changing()
        check_state(state, own)
        for name, array in own.items():
            array[:] = state[name]

    def _advance(
        self,
        replica: int,
        hand: int,
        hands: int,
        block: np.ndarray,
        start: int,
        stop: int,
        carried: int,
        workspace: Workspace,
    ) -> None:
        mlp.advance(
            block,
            start,
            stop,
            self.batch_size,
            self._widths,
            self._parameters_RP[replica],
            self._gradients_RSL[replica],
            self._moments_R2L[replica],
            workspace.floats(self._work_floats),
            self._counters_R3[replica],
            self._losses_RS[replica],
            self._turns_R[replica],
            carried,
            hand,
            hands,
            self._activation,
            self._huber_delta,
            self._optimizer,
            self.learning_rates[replica],
            self._hyper,
            self._no_squares,
        )

    def _probe(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(each row's |g|², the sum of gradients): a minibatch without end, whose step never
        comes.
        """
        squares_RB = np.zeros((len(self.learning_rates), len(rows)), dtype=np.float32)
        gradients_R1P = np.zeros(
            (len(self.learning_rates), 1, self._parameters_RP.shape[1]), dtype=np.float32
        )

        def probe(replica: int, workspace: Workspace) -> None:
            mlp.advance(
                rows,
                0,
                len(rows),
                NO_END,
                self._widths,
                self._parameters_RP[replica],
                gradients_R1P[replica],
                self._moments_R2L[replica],
                workspace.floats(self._work_floats),
                np.zeros(3, dtype=np.int64),
                np.zeros(1),
                self._turns_R[replica],
                0,
                0,
                1,
                self._activation,
                self._huber_delta,
                self._optimizer,
                0.0,
                self._hyper,
                squares_RB[replica],
            )

        self._for_replicas(len(rows), probe)
        return squares_RB, gradients_R1P[:, 0]

    def _for_replicas(self, num_rows: int, work: Callable[[int, Workspace], None]) -> None:
        self.cores.run(
            [
                Task(cost=self._cost(num_rows, 0), work=partial(work, replica))
                for replica in range(len(self.learning_rates))
            ]
        )

    def _cost(self, num_rows: int, steps: int) -> float:
        """Of one replica, in operations: six a weight and row, and a step's, which are slower, as
        150 a weight (4-32-32-1: 1.4 µs, 56 ns a row).
        """
        return 1.0 + self._parameters_RP.shape[1] * (6.0 * num_rows + 150.0 * steps)

    def _changing(self) -> dict[str, np.ndarray]:
        parameters = self._parameters_RP.shape[1]
        return {
            "parameters": self._parameters_RP,
            "gradient": self._gradients_RSL[..., :parameters],
            "moments": self._moments_R2L[..., :parameters],
            "counters": self._counters_R3,
        }


@contextmanager
def one_blas_thread(wanted: bool = True) -> Iterator[None]:
    """BLAS on one thread while inside, for the whole process, and as it was afterwards; does
    nothing when not `wanted`.
    """
    if not wanted:
        yield
        return
    with threadpool_limits(limits=1, user_api="blas"):
        yield
