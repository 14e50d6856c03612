"""The fused engine: forward pass, backward pass and update in Numba, on the CPU.

One call trains a replica on every minibatch of a block.

Legend of shape suffixes: R replicas, S slots, P parameters, L parameters rounded up to whole cache
lines, M two moments and an average.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from streamtrain.config import TrainConfig
from streamtrain.kernels import activations, layers, mlp, updates
from streamtrain.training.compute_pool import (
    CACHE_LINE_BYTES,
    CallerThread,
    ComputePool,
    Task,
    Workspace,
    aligned_zeros,
)
from streamtrain.training.engine import (
    ADAM_EPSILON,
    CARRIED,
    STEPS,
    check_state,
    further_steps,
    require_whole_minibatch,
)
from streamtrain.training.model import Model, Shape
from streamtrain.training.schedule import schedule_rows

ACTIVATION_CODES = {
    "relu": activations.RELU,
    "tanh": activations.TANH,
    "silu": activations.SILU,
    "gelu": activations.GELU,
    "identity": activations.IDENTITY,
}
OPTIMIZER_CODES = {"sgd": updates.SGD, "adam": updates.ADAM, "adamw": updates.ADAMW}

#: Where `hyper` of the kernel's `step` has what changes with the minibatch size.
_BETA2, FURTHER_STEPS = 3, 10

#: Batch size of a minibatch that is never full.
UNBOUNDED = 2**62

#: Rows per slot of a minibatch that several threads share; summing the slots then costs little in
#: comparison. Minibatches of at least twice this many rows are shared.
SLOT_ROWS = 1024

#: The number of slots is reduced where together they would hold more floats than this.
MAX_SLOT_FLOATS = 2**18


def gradient_slots(batch_size: int, num_parameters: int) -> int:
    """Return the number of partial sums (slots) that a minibatch's gradient is gathered in.

    At most that many threads can share the rows of a minibatch. It depends on the run only, never
    on the number of threads, so that threads do not change a result.
    """
    by_memory = max(2, MAX_SLOT_FLOATS // num_parameters)
    return max(1, min(mlp.MAX_SLOTS, batch_size // SLOT_ROWS, by_memory))


def hyper_values(train: TrainConfig, last_row: int | None) -> np.ndarray:
    """Return the options of a step, `hyper` of kernels/updates.py: step, float64 (11,)."""
    return np.array(
        [
            train.momentum,
            train.nesterov,
            train.beta1,
            train.beta2,
            ADAM_EPSILON,
            train.decay,
            train.clip_norm or 0.0,
            *schedule_rows(train, last_row),
            train.averaged_fraction,
            0.0,
        ]
    )


def change_beta2(hyper: np.ndarray, steps: int, beta2: float) -> None:
    """Change β₂ in `hyper_values` after a number of steps, which keep their bias correction."""
    hyper[FURTHER_STEPS] = further_steps(steps, hyper[FURTHER_STEPS], hyper[_BETA2], beta2)
    hyper[_BETA2] = beta2


class FusedEngine:
    """See `Engine`. Trains a `Shape` only.

    Use it inside `engine_choice.running`, which sets `cores`, or inside `one_blas_thread`: the
    matrix products are small, and parallelism is across replicas and across the parts of a
    minibatch. Until `cores` is set, everything runs on the caller's thread, with the same results.
    """

    def __init__(
        self,
        shape: Model,
        parameters_P: np.ndarray,
        batch_size: int,
        learning_rates: tuple[float, ...],
        train: TrainConfig,
        last_row: int | None = None,
    ):
        if not isinstance(shape, Shape):
            raise TypeError(f"the fused engine trains perceptrons, not {shape.name}")
        self.batch_size = batch_size
        self.learning_rates = learning_rates
        self.cores: ComputePool | CallerThread = CallerThread()
        replicas = len(learning_rates)
        parameters = shape.num_parameters
        # Every replica and slot starts on a cache line; the rest of its last line is unused.
        line_floats = CACHE_LINE_BYTES // 4
        padded = -(-parameters // line_floats) * line_floats
        self._widths = np.array(shape.widths, dtype=np.int64)
        self._parameters_RP = aligned_zeros((replicas, padded))[:, :parameters]
        self._parameters_RP[:] = parameters_P
        # two rows of the optimizer, and the average of the parameters unless it is off
        self._averages = train.averaged_fraction > 0
        self._moments_RML = aligned_zeros((replicas, 2 + self._averages, padded))
        if self._averages:
            self._moments_RML[:, 2, :parameters] = parameters_P
        # rows of the unfinished minibatch, steps, rows of those steps, and the rows of the last and
        # the next update of the average
        self._counters_R5 = np.zeros((replicas, 5), dtype=np.int64)
        self._changed_size = False
        self._make_slots()
        self._turns_R = np.zeros((replicas, mlp.TURN), dtype=np.int64)
        self._work_floats = layers.workspace_size(self._widths)
        self._activation = ACTIVATION_CODES[shape.activation]
        self._optimizer = OPTIMIZER_CODES[train.optimizer]
        # 0 means ½r² everywhere
        self._huber_delta = np.float32(train.huber_delta if train.loss == "huber" else 0)
        self._hyper = hyper_values(train, last_row)

    @property
    def steps(self) -> int:
        """See `Engine.steps`."""
        return int(self._counters_R5[0, STEPS])

    def advance(self, block: np.ndarray, start: int, stop: int) -> np.ndarray:
        """See `Engine.advance`."""
        return self._train(block, start, stop, self.batch_size)

    def finish_epoch(self) -> None:
        """See `Engine.finish_epoch`."""
        for replica in range(len(self.learning_rates)):
            mlp.finish(
                self._parameters_RP[replica],
                self._gradients_RSL[replica],
                self._moments_RML[replica],
                self._counters_R5[replica],
                self._optimizer,
                self.learning_rates[replica],
                self._hyper,
            )

    def accumulate(self, block: np.ndarray, start: int, stop: int) -> np.ndarray:
        """See `AccumulatingEngine.accumulate`."""
        return self._train(block, start, stop, UNBOUNDED)

    def take_gradient_sum(self) -> np.ndarray:
        """See `AccumulatingEngine.take_gradient_sum`."""
        parameters = self._parameters_RP.shape[1]
        sum_RP = self._gradients_RSL[..., :parameters].sum(axis=1, dtype=np.float32)
        self._gradients_RSL[:] = 0
        self._counters_R5[:, CARRIED] = 0
        return sum_RP

    def apply_gradient_sum(self, sum_RP: np.ndarray, rows: int) -> None:
        """See `AccumulatingEngine.apply_gradient_sum`."""
        self._gradients_RSL[:] = 0
        self._gradients_RSL[:, 0, : sum_RP.shape[1]] = sum_RP
        self._counters_R5[:, CARRIED] = rows
        self.finish_epoch()

    def set_batch_size(self, batch_size: int, beta2: float) -> None:
        """See `Engine.set_batch_size`."""
        require_whole_minibatch(int(self._counters_R5[0, CARRIED]))
        change_beta2(self._hyper, self.steps, beta2)
        self.batch_size, self._changed_size = batch_size, True
        self._make_slots()

    def parameters(self) -> np.ndarray:
        """See `Engine.parameters`."""
        return self._parameters_RP.copy()

    def model_parameters(self) -> np.ndarray:
        """See `Engine.model_parameters`."""
        return self._model_RP.copy()

    def evaluate(self, rows: np.ndarray) -> np.ndarray:
        """See `Engine.evaluate`."""
        squares_R, model_RP = np.zeros(len(self.learning_rates)), self._model_RP

        def evaluate(replica: int, workspace: Workspace) -> None:
            squares_R[replica] = mlp.squared_error(
                rows,
                self._widths,
                model_RP[replica],
                workspace.floats(self._work_floats),
                self._activation,
            )

        self._for_replicas(len(rows), evaluate)
        return squares_R / max(len(rows), 1)

    def state(self) -> dict[str, np.ndarray]:
        """See `Engine.state`."""
        return {name: array.copy() for name, array in self._state_arrays().items()}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """See `Engine.load_state`."""
        arrays = self._state_arrays()
        check_state(state, arrays)
        for name, array in arrays.items():
            array[:] = state[name]

    def _train(self, block: np.ndarray, start: int, stop: int, batch_size: int) -> np.ndarray:
        """Do `advance` with minibatches of `batch_size` rows."""
        carried = int(self._counters_R5[0, CARRIED])
        self._turns_R[:] = 0
        self._losses_RS[:] = 0
        cost = self._cost(stop - start, (carried + stop - start) // batch_size)
        # Of the threads of a replica only the first is required; the others are helpers.
        threads = min(self.cores.threads, self._gradients_RSL.shape[1])
        tasks: list[Task] = []
        for thread in range(threads):
            for replica in range(len(self.learning_rates)):
                work = partial(
                    self._advance, replica, thread, threads, block, start, stop, batch_size, carried
                )
                tasks.append(Task(cost=0 if thread else cost, work=work))
        self.cores.run(tasks)
        return self._losses_RS.sum(axis=1)

    def _advance(
        self,
        replica: int,
        thread: int,
        threads: int,
        block: np.ndarray,
        start: int,
        stop: int,
        batch_size: int,
        carried: int,
        workspace: Workspace,
    ) -> None:
        mlp.advance(
            block,
            start,
            stop,
            batch_size,
            self._widths,
            self._parameters_RP[replica],
            self._gradients_RSL[replica],
            self._moments_RML[replica],
            workspace.floats(self._work_floats),
            self._counters_R5[replica],
            self._losses_RS[replica],
            self._turns_R[replica],
            carried,
            thread,
            threads,
            self._activation,
            self._huber_delta,
            self._optimizer,
            self.learning_rates[replica],
            self._hyper,
        )

    def _for_replicas(self, num_rows: int, work: Callable[[int, Workspace], None]) -> None:
        self.cores.run(
            [
                Task(cost=self._cost(num_rows, 0), work=partial(work, replica))
                for replica in range(len(self.learning_rates))
            ]
        )

    def _cost(self, num_rows: int, steps: int) -> float:
        """Return the cost of a task for one replica, in operations.

        Six per weight and row. A step counts as 150 per weight, since its operations are slower
        (4-32-32-1: 1.4 µs per step, 56 ns per row).
        """
        return 1.0 + self._parameters_RP.shape[1] * (6.0 * num_rows + 150.0 * steps)

    def _state_arrays(self) -> dict[str, np.ndarray]:
        parameters = self._parameters_RP.shape[1]
        arrays = {
            "parameters": self._parameters_RP,
            "gradient": self._gradients_RSL[..., :parameters],
            "moments": self._moments_RML[:, :2, :parameters],
            "counters": self._counters_R5,
        }
        if self._averages:
            arrays["average"] = self._model_RP
        if self._changed_size:
            arrays["further_steps"] = self._hyper[FURTHER_STEPS:]
        return arrays

    def _make_slots(self) -> None:
        """Make the slots in which minibatches of the batch size are summed, empty."""
        replicas, parameters = self._parameters_RP.shape
        slots = gradient_slots(self.batch_size, parameters)
        self._gradients_RSL = aligned_zeros((replicas, slots, self._moments_RML.shape[2]))
        self._losses_RS = np.zeros((replicas, slots))

    @property
    def _model_RP(self) -> np.ndarray:
        """A view of the parameters that are judged and delivered."""
        if not self._averages:
            return self._parameters_RP
        return self._moments_RML[:, 2, : self._parameters_RP.shape[1]]


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread while inside, in the whole process."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield
