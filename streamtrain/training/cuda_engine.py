"""The fused engine on a GPU: one CUDA block trains one replica (kernels/cuda_population.py).

One launch takes all minibatches of the rows that are on the device. Large minibatches take two
launches each, and their rows are shared by many blocks (kernels/cuda_split.py). In Numba's
simulator (`NUMBA_ENABLE_CUDASIM=1`) the engine runs on the CPU, for tests.

Legend of shape suffixes: R replicas, S slots, P parameters, Q padded parameters, C chunks of rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from streamtrain.config import TrainConfig
from streamtrain.errors import ConfigError, first_line
from streamtrain.kernels import cuda_population, cuda_split
from streamtrain.kernels.cuda_launch import configure, run
from streamtrain.kernels.cuda_layout import SPLIT_FROM, Layout, choose_slots, parameter_places
from streamtrain.kernels.cuda_source import SIMULATED
from streamtrain.training.cuda_check import check_steps
from streamtrain.training.cuda_fit import fits, layout_of, shared_bytes
from streamtrain.training.engine import CARRIED, STEPS, check_state, require_whole_minibatch
from streamtrain.training.fused_engine import (
    ACTIVATION_CODES,
    FURTHER_STEPS,
    OPTIMIZER_CODES,
    UNBOUNDED,
    change_beta2,
    hyper_values,
)
from streamtrain.training.memory_errors import is_out_of_memory
from streamtrain.training.model import Model, Shape
from streamtrain.training.torch.device_feed import SLOT_ROWS, DeviceFeed, cuts, train_device
from streamtrain.training.torch.shared_rows import EvaluationRows, SharedBlock


class CudaEngine:
    """See `Engine`. Trains a `Shape` that `fits`.

    `shared_block`: set it to share one copy of each block with other engines.
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
        self.device = train_device(train.device)
        if why := fits(shape, self.device):
            raise ConfigError(f"--engine fused on {self.device}: {why}. Use --engine torch.")
        assert isinstance(shape, Shape)
        self.batch_size = batch_size
        self.learning_rates = learning_rates
        self.shared_block: SharedBlock | None = None
        self.steps = 0
        self._carried = 0  # rows of the unfinished minibatch
        self._shape = shape
        self._train = train
        self._feed: DeviceFeed | None = None
        self._stream = None if self.device.type == "cpu" else torch.cuda.Stream(self.device)
        self._evaluation_rows = EvaluationRows(self.device)
        self._changed_size = False
        self._averages = train.averaged_fraction > 0
        self._hyper = hyper_values(train, last_row)
        self._delta = np.float32(train.huber_delta if train.loss == "huber" else 0)
        replicas = len(learning_rates)
        layout = self._choose_layout()
        self._places_P = parameter_places(layout, shape.widths)
        start_RQ = np.zeros((replicas, layout.num_parameters), dtype=np.float32)
        start_RQ[:, self._places_P] = parameters_P
        with self._on_stream():
            self._parameters_RQ = self._to_device(start_RQ)
            self._moments_R2Q = self._to_device(np.zeros((replicas, 2, start_RQ.shape[1]), "f4"))
            self._average_RQ = self._parameters_RQ.clone()
            self._counters_R5 = self._to_device(np.zeros((replicas, 5), dtype=np.int64))
            self._rates_R = self._to_device(np.array(learning_rates, dtype=np.float64))
        self._set_size()
        self._set_hyper()
        self._wait()
        self._make_kernels(layout)

    def advance(self, block: np.ndarray, start: int, stop: int) -> np.ndarray:
        """See `Engine.advance`."""
        with self._on_stream():
            losses_RS = torch.zeros_like(self._losses_RS)
            for rows in self._rows_on_device(block, start, stop):
                if self._slots > 1:
                    self._take_large(rows, losses_RS)
                    continue
                self._launch(rows, self._sizes_R)
                losses_RS += self._losses_RS
                self._count(len(rows))
            if self._slots > 1:
                self._counters_R5[:, CARRIED] = self._carried
            return losses_RS.cpu().numpy().sum(axis=1)

    def finish_epoch(self) -> None:
        """See `Engine.finish_epoch`."""
        if not self._carried:
            return
        with self._on_stream():
            if self._slots > 1:
                self._step(self._carried)
            else:
                sizes_R = torch.full_like(self._sizes_R, self._carried)
                nothing = torch.empty((0, self._shape.widths[0] + 1), device=self.device)
                self._launch(nothing, sizes_R)
            self._wait()
        self.steps += 1
        self._carried = 0

    def set_batch_size(self, batch_size: int, beta2: float) -> None:
        """See `Engine.set_batch_size`."""
        require_whole_minibatch(self._carried)
        change_beta2(self._hyper, self.steps, beta2)
        self.batch_size, self._changed_size = batch_size, True
        self._feed = None
        self._set_size()
        self._set_hyper()
        self._wait()
        self._make_kernels(self._choose_layout())

    def parameters(self) -> np.ndarray:
        """See `Engine.parameters`."""
        return self._compact(self._parameters_RQ)

    def model_parameters(self) -> np.ndarray:
        """See `Engine.model_parameters`."""
        return self._compact(self._model_RQ)

    def evaluate(self, rows: np.ndarray) -> np.ndarray:
        """See `Engine.evaluate`."""
        replicas, chunks = len(self.learning_rates), -(-len(rows) // cuda_population.CHUNK_ROWS)
        if not chunks:
            return np.zeros(replicas)
        with self._on_stream():
            on_device = self._evaluation_rows(rows)
            squares_RC = torch.empty((replicas, chunks), dtype=torch.float64, device=self.device)
            launch = self._configure(self._evaluate_kernel, (chunks, replicas))
            run(launch, *_arguments(on_device, self._model_RQ, squares_RC))
            return squares_RC.cpu().numpy().sum(axis=1) / len(rows)

    def state(self) -> dict[str, np.ndarray]:
        """See `Engine.state`."""
        arrays = {
            "parameters": self.parameters(),
            "gradient": self._compact(self._gradients),
            "moments": self._compact(self._moments_R2Q),
            "counters": self._to_host(self._counters_R5),
        }
        if self._averages:
            arrays["average"] = self.model_parameters()
        if self._changed_size:
            arrays["further_steps"] = self._hyper[FURTHER_STEPS:].copy()
        return arrays

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """See `Engine.load_state`."""
        check_state(state, self.state())
        padded = {
            "parameters": self._parameters_RQ,
            "gradient": self._gradients,
            "moments": self._moments_R2Q,
        }
        if self._averages:
            padded["average"] = self._average_RQ
        with self._on_stream():
            for name, tensor in padded.items():
                self._fill(tensor, state[name])
            self._counters_R5.copy_(torch.from_numpy(np.array(state["counters"])))
        if self._changed_size:
            self._hyper[FURTHER_STEPS:] = state["further_steps"]
            self._set_hyper()
        self._wait()
        self._carried, self.steps = state["counters"][0, [CARRIED, STEPS]].tolist()

    def accumulate(self, block: np.ndarray, start: int, stop: int) -> np.ndarray:
        """See `AccumulatingEngine.accumulate`."""
        batch_size, sizes_R = self.batch_size, self._sizes_R
        with self._on_stream():
            self.batch_size, self._sizes_R = UNBOUNDED, torch.full_like(sizes_R, UNBOUNDED)
        try:
            return self.advance(block, start, stop)
        finally:
            self.batch_size, self._sizes_R = batch_size, sizes_R

    def take_gradient_sum(self) -> np.ndarray:
        """See `AccumulatingEngine.take_gradient_sum`."""
        return self._swap(np.float32(0), 0)

    def apply_gradient_sum(self, sum_RP: np.ndarray, rows: int) -> None:
        """See `AccumulatingEngine.apply_gradient_sum`."""
        self._swap(sum_RP, rows)
        self.finish_epoch()

    def check(self) -> None:
        """Compare a few steps with the fused engine on the CPU, once per kernel and process.

        Raises ConfigError when they differ, so that a GPU or a compiler that is wrong does not
        train, and when the GPU cannot take them. Lack of memory is raised as it comes.
        """
        if SIMULATED:
            return
        most = SPLIT_FROM if self._slots > 1 else 1024
        size = min(self.batch_size, most)
        train: Any = self._train  # frozen, so hashable
        try:
            check_steps(CudaEngine, self._shape, train, size)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise ConfigError(
                f"--engine fused on {self.device}: it cannot take a step ({first_line(error)})."
                " Use --engine torch."
            ) from error

    @property
    def _model_RQ(self) -> torch.Tensor:
        """The parameters that are judged and delivered."""
        return self._average_RQ if self._averages else self._parameters_RQ

    def _choose_layout(self) -> Layout:
        layout = layout_of(self._shape, self.batch_size, shared_bytes(self.device))
        assert layout is not None
        return layout

    def _make_kernels(self, layout: Layout) -> None:
        """Compile the kernels for the layout, or take the ones that are compiled."""
        activation = ACTIVATION_CODES[self._shape.activation]
        optimizer = OPTIMIZER_CODES[self._train.optimizer]
        self._layout, replicas = layout, len(self.learning_rates)
        try:
            self._evaluate_kernel = cuda_population.compile_evaluate(layout, activation)
            if self._slots > 1:
                gradient = cuda_split.compile_gradient(layout, activation)
                step = cuda_split.compile_step(layout, optimizer)
                self._add_gradients = self._configure(gradient, (replicas, self._slots))
                self._take_step = self._configure(step, replicas)
            else:
                advance = cuda_population.compile_advance(layout, activation, optimizer)
                self._advance = self._configure(advance, replicas)
        # Numba and NVIDIA's compilers raise anything.
        except Exception as error:
            raise ConfigError(
                f"--engine fused on {self.device}: the kernel could not be compiled"
                f" ({type(error).__name__}: {first_line(error)}). Use --engine torch."
            ) from error

    def _configure(self, kernel: Any, blocks: int | tuple[int, int]) -> Any:
        stream = 0 if self._stream is None else self._stream.cuda_stream
        layout = self._layout
        return configure(kernel, blocks, layout.threads, stream, layout.dynamic_bytes)

    def _launch(self, rows: torch.Tensor, sizes_R: torch.Tensor) -> None:
        run(
            self._advance,
            *_arguments(rows),
            0,
            len(rows),
            *_arguments(
                sizes_R,
                self._parameters_RQ,
                self._gradients,
                self._moments_R2Q,
                self._average_RQ,
                self._counters_R5,
                self._losses_RS[:, 0],
                self._rates_R,
                self._hyper_RH,
            ),
            self._delta,
        )

    def _take_large(self, rows: torch.Tensor, losses_RS: torch.Tensor) -> None:
        """Take the minibatches that end in these rows, each in two launches."""
        start = 0
        while start < len(rows):
            stop = min(len(rows), start + self.batch_size - self._carried)
            run(
                self._add_gradients,
                *_arguments(rows),
                start,
                stop,
                self._carried,
                *_arguments(self._parameters_RQ, self._gradients, losses_RS),
                self._delta,
            )
            self._count(stop - start)
            if not self._carried:
                self._step(self.batch_size)
            start = stop

    def _step(self, carried: int) -> None:
        """Take the step of a minibatch whose gradient is in the slots."""
        run(
            self._take_step,
            carried,
            *_arguments(
                self._parameters_RQ,
                self._gradients,
                self._moments_R2Q,
                self._average_RQ,
                self._counters_R5,
                self._rates_R,
                self._hyper_RH,
            ),
        )

    def _count(self, rows: int) -> None:
        """Count rows, and the steps that they complete."""
        taken = self._carried + rows
        self.steps += taken // self.batch_size
        self._carried = taken % self.batch_size

    def _rows_on_device(self, block: np.ndarray, start: int, stop: int) -> Iterator[torch.Tensor]:
        if self.device.type == "cpu":
            return iter([torch.from_numpy(block[start:stop].copy())])
        on_device = None if self.shared_block is None else self.shared_block.rows(block)
        if on_device is not None and self._slots > 1:
            return iter([on_device[start:stop]])
        if on_device is not None:
            # Nothing interrupts a launch, and the watchdog of a GPU that has a display ends one
            # after a few seconds: a block of small minibatches would take longer.
            pieces = cuts(start, stop, self._carried, self.batch_size, SLOT_ROWS)
            return (on_device[first:last] for first, last in pieces)
        if self._feed is None:
            self._feed = DeviceFeed(self.device, block.shape[1], self.batch_size)
        return self._feed(block, start, stop, self._carried)

    def _set_size(self) -> None:
        """Make what depends on the minibatch size: slots, which are empty, and losses."""
        replicas, parameters = self._parameters_RQ.shape
        self._slots = slots = choose_slots(self.batch_size, self._shape.num_parameters)
        sizes = np.full(replicas, self.batch_size, dtype=np.int64)
        # (R, Q) for one slot, (R, S, Q) for several
        shape = (replicas, slots, parameters) if slots > 1 else (replicas, parameters)
        with self._on_stream():
            self._sizes_R = self._to_device(sizes)
            self._gradients = self._to_device(np.zeros(shape, dtype=np.float32))
            self._losses_RS = self._to_device(np.zeros((replicas, slots)))

    def _set_hyper(self) -> None:
        with self._on_stream():
            self._hyper_RH = self._to_device(np.tile(self._hyper, (len(self.learning_rates), 1)))

    def _swap(self, sum_RP: np.ndarray | np.float32, rows: int) -> np.ndarray:
        """Set the gradient sum and its rows; return the sum before."""
        replicas = len(self.learning_rates)
        before_RSP = self._compact(self._gradients).reshape(replicas, -1, len(self._places_P))
        with self._on_stream():
            self._gradients.zero_()
            self._fill(self._gradients[:, 0] if self._slots > 1 else self._gradients, sum_RP)
            self._counters_R5[:, CARRIED] = rows
        self._wait()
        self._carried = rows
        return before_RSP.sum(axis=1, dtype=np.float32)

    def _fill(self, tensor: torch.Tensor, values: np.ndarray | np.float32) -> None:
        """Copy values without padding to the device; the padding is 0."""
        padded = np.zeros(tensor.shape, dtype=np.float32)
        padded[..., self._places_P] = values
        tensor.copy_(torch.from_numpy(padded))

    def _compact(self, tensor: torch.Tensor) -> np.ndarray:
        """Return a copy on the host without the padding."""
        return np.ascontiguousarray(self._to_host(tensor)[..., self._places_P])

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)

    def _to_host(self, tensor: torch.Tensor) -> np.ndarray:
        with self._on_stream():
            return tensor.cpu().numpy().copy()

    def _wait(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Let torch work on the engine's own stream, beside those of other engines."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield


def _arguments(*tensors: torch.Tensor) -> list[Any]:
    """Return what a kernel takes: tensors of the device, arrays in the simulator."""
    return [each.numpy() if each.device.type == "cpu" else each for each in tensors]
