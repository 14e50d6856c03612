"""The torch engine: any module on any device, all replicas of a learner in one batched product.

On the CPU a step is eager or compiled as a whole (compiled_steps.py). On a GPU, rows arrive through
pinned memory (device_feed.py), and steps are replayed from a CUDA graph (cuda_graphs.py). For
minibatches that are cut by a block's end or are larger than a part, gradients are accumulated.

Legend of shape suffixes: R replicas, B rows of a step or part, W columns, P parameters, S steps.
"""

import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np
import torch

from streamtrain.base.budget import default_readers
from streamtrain.config import TrainConfig
from streamtrain.errors import first_line
from streamtrain.training.averaging import average_shares
from streamtrain.training.engine import (
    PART_ROWS,
    check_state,
    further_steps,
    require_whole_minibatch,
)
from streamtrain.training.model import Model
from streamtrain.training.schedule import schedule_rows
from streamtrain.training.torch.compiled_steps import (
    SMALL_ROWS,
    STEPS_AT_ONCE,
    Gradient,
    Steps,
    check_same,
    compiled_gradient,
    compiled_steps,
    compiling_pays,
    eager_gradient,
    eager_steps,
    loss_sums,
)
from streamtrain.training.torch.cuda_graphs import ReplayedSteps
from streamtrain.training.torch.device_feed import DeviceFeed, train_device
from streamtrain.training.torch.optimizers import count_moments, new_moments, step_table, update_
from streamtrain.training.torch.shared_rows import EvaluationRows, SharedBlock
from streamtrain.training.usual_torch import torch_settings

#: Rows per forward pass on a GPU.
DEVICE_PART_ROWS = 131_072

#: Steps per step table.
TABLE_STEPS = 4_096


class TorchEngine:
    """See `Engine`. Trains any model.

    `shared_block`: set it to share one copy of each block on a GPU with other engines. Gradients
    are summed over the rows of a minibatch, and divided by their number once, at the step.
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
        self.batch_size = batch_size
        self.learning_rates = learning_rates
        self.steps = 0
        self.device = train_device(train.device)
        self._model = shape
        self._train = train
        # torch counts the cores of the machine, not those of a quota
        self._threads = train.threads or min(torch.get_num_threads(), default_readers())
        self._schedule = schedule_rows(train, last_row)
        self._last_row = last_row
        with torch.no_grad():
            start_RP = np.tile(parameters_P.astype(np.float32), (len(learning_rates), 1))
            self._parameters_RP = torch.from_numpy(start_RP).to(self.device)
            self._gradient_RP = torch.zeros_like(self._parameters_RP)
            self._moments = new_moments(train, self._parameters_RP)
        self._carried = 0  # rows of the unfinished minibatch
        self._rows = 0  # rows of the steps taken
        self._averaged = (0, 0)  # rows of the last and the next update of the average
        self._part_rows = PART_ROWS if self.device.type == "cpu" else DEVICE_PART_ROWS
        self._half_squares = loss_sums(shape, train.model_copy(update={"loss": "mse"}), self.device)
        self._gradient: Gradient = eager_gradient(shape, train, self.device)
        self._further_steps: float | None = None  # None: the minibatch size has not changed
        self._evaluation_rows = EvaluationRows(self.device)
        self.shared_block: SharedBlock | None = None
        self._feed: DeviceFeed | None = None
        if self.device.type == "cuda":
            self._feed = DeviceFeed(self.device, shape.num_features + 1, batch_size)
        self._forget_steps()

    def advance(self, block: np.ndarray, start: int, stop: int) -> np.ndarray:
        """See `Engine.advance`."""
        self.prepare_steps()
        losses_R = torch.zeros(len(self.learning_rates), dtype=torch.float64, device=self.device)
        with self._settings(), torch.no_grad():
            for rows in self._rows_on_device(block, start, stop):
                done = 0
                while done < len(rows):
                    remaining = len(rows) - done
                    if not self._carried and (taken := self._whole_rows(remaining)):
                        losses_R += self._take_whole(rows[done : done + taken])
                    else:
                        taken = min(self.batch_size - self._carried, self._part_rows, remaining)
                        losses_R += self._add_gradient(rows[done : done + taken])
                        self._carried += taken
                        if self._carried == self.batch_size:
                            self._step()
                    done += taken
            return losses_R.cpu().numpy()

    def finish_epoch(self) -> None:
        """See `Engine.finish_epoch`."""
        if self._carried:
            with self._settings(), torch.no_grad():
                self._step()

    def accumulate(self, block: np.ndarray, start: int, stop: int) -> np.ndarray:
        """See `AccumulatingEngine.accumulate`."""
        if self._feed is None and self.batch_size > self._part_rows:
            self.prepare_steps()  # compiles the gradient of a part; whole steps are not used here
        losses_R = torch.zeros(len(self.learning_rates), dtype=torch.float64, device=self.device)
        with self._settings(), torch.no_grad():
            for rows in self._rows_on_device(block, start, stop):
                for part in rows.split(self._part_rows):
                    losses_R += self._add_gradient(part)
            self._carried += stop - start
            return losses_R.cpu().numpy()

    def take_gradient_sum(self) -> np.ndarray:
        """See `AccumulatingEngine.take_gradient_sum`."""
        sum_RP = self._gradient_RP.cpu().numpy().copy()
        self._gradient_RP.zero_()
        self._carried = 0
        return sum_RP

    @torch.no_grad()
    def apply_gradient_sum(self, sum_RP: np.ndarray, rows: int) -> None:
        """See `AccumulatingEngine.apply_gradient_sum`."""
        self._gradient_RP.copy_(torch.from_numpy(sum_RP))
        self._carried = rows
        self.finish_epoch()

    def set_batch_size(self, batch_size: int, beta2: float) -> None:
        """See `Engine.set_batch_size`. Steps are then compiled or captured again."""
        require_whole_minibatch(self._carried)
        self._further_steps = further_steps(
            self.steps, self._further_steps or 0.0, self._train.beta2, beta2
        )
        self._train = self._train.model_copy(update={"beta2": beta2})
        self.batch_size = batch_size
        if self.device.type == "cuda":
            # Steps in flight read the ring and what was captured.
            torch.cuda.current_stream(self.device).synchronize()
        if self._feed is not None:
            self._feed = DeviceFeed(self.device, self._model.num_features + 1, batch_size)
        self._forget_steps()

    def parameters(self) -> np.ndarray:
        """See `Engine.parameters`."""
        return self._parameters_RP.cpu().numpy().copy()

    def model_parameters(self) -> np.ndarray:
        """See `Engine.model_parameters`."""
        return self._model_RP.cpu().numpy().copy()

    @torch.no_grad()
    def evaluate(self, rows: np.ndarray) -> np.ndarray:
        """See `Engine.evaluate`. The forward pass has the precision of training."""
        squares_R = torch.zeros(len(self.learning_rates), dtype=torch.float64, device=self.device)
        with self._settings():
            for some_rows in self._evaluation_rows(rows).split(self._part_rows):
                x, y = some_rows[:, :-1], some_rows[:, -1:]
                squares_R += 2 * self._half_squares(self._model_RP, x, y)
            return (squares_R / max(len(rows), 1)).cpu().numpy()

    def state(self) -> dict[str, np.ndarray]:
        """See `Engine.state`."""
        tensors = {
            "parameters": self._parameters_RP,
            "gradient": self._gradient_RP,
            "moments": torch.stack(self._moments[: count_moments(self._train)], 1),
        }
        if self._train.averaged_fraction:
            tensors["average"] = self._model_RP
        arrays = {name: tensor.cpu().numpy().copy() for name, tensor in tensors.items()}
        if self._further_steps is not None:
            arrays["further_steps"] = np.array([self._further_steps])
        arrays["counters"] = np.array([self._carried, self.steps, self._rows, *self._averaged])
        return arrays

    @torch.no_grad()
    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """See `Engine.load_state`."""
        check_state(state, self.state())
        self._parameters_RP.copy_(torch.from_numpy(state["parameters"]))
        self._gradient_RP.copy_(torch.from_numpy(state["gradient"]))
        saved = [*torch.from_numpy(state["moments"]).unbind(1)]
        if self._train.averaged_fraction:
            saved.append(torch.from_numpy(state["average"]))
        for moment, saved_moment in zip(self._moments, saved, strict=True):
            moment.copy_(saved_moment)
        self._carried, self.steps, self._rows, *averaged = state["counters"].tolist()
        self._averaged = (averaged[0], averaged[1])
        if self._further_steps is not None:
            self._further_steps = float(state["further_steps"][0])

    def prepare_steps(self) -> float:
        """Compile or capture whole steps, if that is wanted and pays; return the seconds it took.

        The state of the engine does not change, and a second call does nothing. `advance` calls
        this method; call it before, to keep these seconds out of a measurement. If the compiler
        fails, steps stay eager, and a warning gives the reason.
        """
        if self._ready:
            return 0.0
        started, self._ready = time.perf_counter(), True
        try:
            with self._settings(), torch.no_grad(), warnings.catch_warnings():
                # torch's compiler warns of its own deprecated internals
                warnings.simplefilter("ignore")
                if self._feed is not None:
                    self._capture(self._feed)
                elif self._wants_compiling():
                    self._compile()
        except (MemoryError, torch.cuda.OutOfMemoryError):
            raise
        # Compilers raise anything. The numbers do not depend on compiling.
        except Exception as error:
            self._compiled_rows, self._steps_at_once, self._replayed = 0, 0, None
            warnings.warn(
                f"minibatches of {self.batch_size:,}: the step could not be compiled"
                f" ({type(error).__name__}: {first_line(error)}), so it is taken operation by"
                " operation. Install a C++ compiler, or use --set train.compile=off.",
                stacklevel=2,
            )
        if self._replayed is not None and self._replayed.numba_failure:
            warnings.warn(
                "torch assembles the minibatches, since Numba's kernel could not be used"
                f" ({self._replayed.numba_failure}). Compare streamtrain doctor.",
                stacklevel=2,
            )
        return time.perf_counter() - started

    def _forget_steps(self) -> None:
        """Forget compiled and captured steps, which have the minibatch size built in."""
        self._part_gradient = self._gradient
        self._replayed: ReplayedSteps | None = None
        self._compiled: Steps | None = None
        self._steps_at_once = 0
        self._compiled_rows = 0
        self._ready = False

    def _compile(self) -> None:
        """Compile the step, or the gradient of a part, and compare it with the eager one.

        Each is used once, on copies. Raises RuntimeError when they differ. With clipping only the
        gradient is compiled: torch's C++ backend cannot yet fuse a norm over all parameters
        (pytorch#196570).
        """
        generator = torch.Generator().manual_seed(0)
        size, width = self.batch_size, self._model.num_features + 1
        whole = size <= self._part_rows and self._train.clip_norm is None
        at_once = STEPS_AT_ONCE if size <= SMALL_ROWS else 1
        num_rows = at_once * size if whole else min(size, self._part_rows)
        rows = torch.randn((num_rows, width), generator=generator, dtype=torch.float32)
        rows = rows.to(self.device)
        if not whole:
            gradient = self._compiled_gradient(num_rows)
            x, y = rows[:, :-1], rows[:, -1:]
            eager = self._gradient(self._parameters_RP, x, y)
            check_same(eager, gradient(self._parameters_RP, x, y))
            self._part_gradient, self._compiled_rows = gradient, len(rows)
            return
        steps = compiled_steps(
            self._model,
            self._train,  # pyright: ignore[reportArgumentType] - frozen, so hashable
            self.device,
            size,
            at_once,
        )
        table = self._table(np.full(at_once, size))
        results: list[tuple[torch.Tensor, ...]] = []
        for take in (eager_steps(self._gradient, self._train), steps):
            parameters_RP = self._parameters_RP.clone()
            moments = tuple(moment.clone() for moment in self._moments)
            losses_R = take(parameters_RP, moments, rows, table)
            results.append((losses_R, *moments, parameters_RP - self._parameters_RP))
        check_same(*results)
        self._compiled, self._steps_at_once = steps, at_once

    def _capture(self, feed: DeviceFeed) -> None:
        if self._train.compile == "off" or self.batch_size > feed.slot_rows:
            return
        gradient = self._gradient
        if self._train.compile == "on":
            gradient = self._compiled_gradient(self.batch_size)
        self._replayed = ReplayedSteps(
            gradient,
            self._gradient,
            self._train,
            self._parameters_RP,
            self._moments,
            feed.ring,
            self.batch_size,
            TABLE_STEPS,
        )

    def _compiled_gradient(self, num_rows: int) -> Gradient:
        train = self._train  # frozen, so hashable
        return compiled_gradient(self._model, train, self.device, num_rows)  # pyright: ignore

    def _wants_compiling(self) -> bool:
        """Return True if compiling is on, or saves several times the seconds that it takes."""
        if self._train.compile != "auto":
            return self._train.compile == "on"
        rows, replicas = min(self.batch_size, self._part_rows), len(self.learning_rates)
        return self._last_row is not None and compiling_pays(self._last_row, rows, replicas)

    def _rows_on_device(self, block: np.ndarray, start: int, stop: int) -> Iterator[torch.Tensor]:
        if self._feed is None:
            return iter([torch.from_numpy(block[start:stop])])
        on_device = None if self.shared_block is None else self.shared_block.rows(block)
        return self._feed(block, start, stop, self._carried, on_device)

    def _whole_rows(self, remaining: int) -> int:
        """Return how many of the remaining rows the next call for whole steps takes, maybe 0."""
        steps = remaining // self.batch_size if self._replayed is not None else 0
        if self._steps_at_once:
            steps = remaining // self.batch_size // self._steps_at_once * self._steps_at_once
        return min(steps, TABLE_STEPS) * self.batch_size

    def _take_whole(self, rows: torch.Tensor) -> torch.Tensor:
        """Take whole minibatches, compiled or replayed; return the sums of losses (R,)."""
        steps = len(rows) // self.batch_size
        counts = np.full(steps, self.batch_size)
        table = self._table(counts)
        self._count(counts)
        if self._replayed is not None:
            return self._replayed(rows, table)
        assert self._compiled is not None
        losses_R = torch.zeros(len(self.learning_rates), dtype=torch.float64)
        row_parts = rows.split(self._steps_at_once * self.batch_size)
        table_parts = table.split(self._steps_at_once)
        for row_part, table_part in zip(row_parts, table_parts, strict=True):
            losses_R += self._compiled(self._parameters_RP, self._moments, row_part, table_part)
        return losses_R

    def _add_gradient(self, rows: torch.Tensor) -> torch.Tensor:
        """Add the rows' gradients to the minibatch's; return the sums of losses, float64 (R,)."""
        gradient = self._part_gradient if len(rows) == self._compiled_rows else self._gradient
        gradient_RP, losses_R = gradient(self._parameters_RP, rows[:, :-1], rows[:, -1:])
        self._gradient_RP += gradient_RP
        return losses_R

    def _step(self) -> None:
        counts = np.array([self._carried])
        row_R5 = self._table(counts)[0].to(self.device)
        update_(self._train, self._parameters_RP, self._moments, self._gradient_RP, row_R5)
        self._gradient_RP.zero_()
        self._count(counts)
        self._carried = 0

    @property
    def _model_RP(self) -> torch.Tensor:
        """The parameters that are judged and delivered."""
        return self._moments[-1] if self._train.averaged_fraction else self._parameters_RP

    def _table(self, counts: np.ndarray) -> torch.Tensor:
        table_SR5 = step_table(
            self._train,
            self.learning_rates,
            counts,
            self.steps,
            self._rows,
            self._schedule,
            self._averaged,
            self._further_steps or 0.0,
        )
        return torch.from_numpy(table_SR5)

    def _count(self, counts: np.ndarray) -> None:
        """Count steps of these rows (S,) as taken."""
        ends_S = self._rows + np.cumsum(counts)
        _, *averaged = average_shares(ends_S, self._train.averaged_fraction, *self._averaged)
        self._averaged = (averaged[0], averaged[1])
        self.steps += len(counts)
        self._rows = int(ends_S[-1])

    def _settings(self) -> AbstractContextManager[None]:
        return torch_settings(self.device, self._threads, tf32=self._train.precision == "tf32")
