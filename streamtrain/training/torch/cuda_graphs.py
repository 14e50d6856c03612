"""Steps on a GPU as a CUDA graph: captured once, then replayed at the cost of one launch per step.

The graph reads its position from the device's memory: the first row of its minibatch, and its row
of the step table. It advances both itself, so a replay needs no number from the host.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from streamtrain.config import TrainConfig
from streamtrain.errors import first_line
from streamtrain.kernels.cuda_launch import can_launch
from streamtrain.kernels.cuda_minibatch import assemble_minibatch
from streamtrain.training.torch.compiled_steps import Gradient, check_same, eager_steps
from streamtrain.training.torch.optimizers import update_

#: Steps before the capture, after which libraries have made their lasting allocations and kernels
#: are loaded.
_WARM_UP_STEPS = 3


class ReplayedSteps:
    """Takes whole minibatches from a ring of rows on the device; used by one engine, on one stream.

    `parameters_RP` and `moments` are updated in place. `ring` (rows, D + 1) is where all rows will
    be. The object refers to it, and to every tensor that the graph uses, as long as the graph
    exists. `max_steps` is the number of rows of the step table. `eager` is the gradient that a
    replayed step is compared with before it is used; RuntimeError is raised when they differ.

    Attributes:
        assembler: what assembles minibatches: "numba", or "torch" on a device other than the first
            and where Numba cannot launch kernels.
        numba_failure: why Numba's kernel is not used although Numba can launch kernels, or "".
    """

    def __init__(
        self,
        gradient: Gradient,
        eager: Gradient,
        train: TrainConfig,
        parameters_RP: torch.Tensor,
        moments: tuple[torch.Tensor, ...],
        ring: torch.Tensor,
        batch_size: int,
        max_steps: int,
    ):
        device, width, replicas = ring.device, ring.shape[1], len(parameters_RP)
        self._gradient = gradient
        self._train = train
        self._parameters_RP = parameters_RP
        self._moments = moments
        self._ring = ring
        self.batch_size = batch_size
        self.max_steps = max_steps
        self._x = torch.empty((batch_size, width - 1), dtype=torch.float32, device=device)
        self._y = torch.empty((batch_size, 1), dtype=torch.float32, device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._step = torch.zeros(1, dtype=torch.int64, device=device)
        self._table = torch.ones((max_steps, replicas, 5), dtype=torch.float32, device=device)
        self._losses_R = torch.zeros(replicas, dtype=torch.float64, device=device)
        self._offsets = torch.arange(batch_size, device=device)
        # Empty arguments of the kernel: rows in their order, and already standardized.
        self._no_order = torch.empty(0, dtype=torch.int64, device=device)
        self._no_scaling = torch.empty(0, dtype=torch.float64, device=device)
        # The table is copied from pinned memory, one half of it after the other.
        self._pinned = torch.empty((2, max_steps, replicas, 5), pin_memory=True)
        self._copied = [torch.cuda.Event(), torch.cuda.Event()]
        self._half = 0
        self.assembler, self.numba_failure = self._choose_assembler()
        self._graph = self._capture()
        self._check(eager)

    def __call__(self, rows: torch.Tensor, table_SR5: torch.Tensor) -> torch.Tensor:
        """Take the minibatches of `rows`, a view of the ring, one per row of the table.

        The table is on the host. Returns the sums of losses, float64 (R,); nothing waits for the
        device, unless two tables before this one are still being copied.
        """
        steps = len(table_SR5)
        assert rows.untyped_storage().data_ptr() == self._ring.untyped_storage().data_ptr()
        assert steps <= self.max_steps
        half, self._half = self._half, 1 - self._half
        # The host may overwrite pinned memory only when the last copy from it has ended.
        self._copied[half].synchronize()
        self._pinned[half, :steps].copy_(table_SR5)
        self._table[:steps].copy_(self._pinned[half, :steps], non_blocking=True)
        self._copied[half].record(torch.cuda.current_stream(self._ring.device))
        self._position.fill_(rows.storage_offset() // self._ring.shape[1])
        self._step.zero_()
        self._losses_R.zero_()
        for _ in range(steps):
            self._graph.replay()
        return self._losses_R.clone()

    def _choose_assembler(self) -> tuple[str, str]:
        """Return `assembler` and `numba_failure`, after trying the kernel once.

        Whatever Numba raises leaves the assembly to torch: its exceptions have no common base.
        """
        # Numba uses the first device of a thread only.
        if (self._ring.device.index or 0) or not can_launch():
            return "torch", ""
        try:
            self._by_kernel()
        except Exception as error:
            return "torch", f"{type(error).__name__}: {first_line(error)}"
        return "numba", ""

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Warm up and capture a step; nothing of the model changes, not even by a failure.

        The stream of the capture is this graph's own. Graphs that were captured on one stream share
        the workspace of cuBLAS, and could not be replayed side by side.
        """
        compute = torch.cuda.current_stream(self._ring.device)
        aside = torch.cuda.Stream(self._ring.device)
        aside.wait_stream(compute)
        with self._restored():
            with torch.cuda.stream(aside):
                try:
                    for _ in range(_WARM_UP_STEPS):
                        self._take_step()
                        self._position.zero_()
                        self._step.zero_()
                finally:
                    compute.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # "thread_local": other threads may allocate during the capture.
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                self._take_step()
        return graph

    def _check(self, eager: Gradient) -> None:
        """Raise RuntimeError if a replayed step differs from the eager one; nothing changes."""
        generator = torch.Generator().manual_seed(0)
        rows = self._ring[: self.batch_size]
        rows.copy_(torch.randn(rows.shape, generator=generator))
        table_1R5 = torch.tensor([1 / self.batch_size, 0.01, 1.0, 1.0, 0.5])
        table_1R5 = table_1R5.expand(1, len(self._parameters_RP), 5).contiguous()
        start_RP = self._parameters_RP.clone()
        expected_RP, expected = start_RP.clone(), tuple(each.clone() for each in self._moments)
        steps = eager_steps(eager, self._train)
        expected_R = steps(expected_RP, expected, rows, table_1R5.to(rows.device))
        with self._restored():
            losses_R = self(rows, table_1R5)
            check_same(
                (expected_R, *expected, expected_RP - start_RP),
                (losses_R, *self._moments, self._parameters_RP - start_RP),
            )

    @contextmanager
    def _restored(self) -> Iterator[None]:
        """Restore parameters, moments and the current stream on leaving, also by an exception.

        After a capture that fails, torch leaves the stream of the capture current.
        """
        changed = [self._parameters_RP, *self._moments]
        saved = [tensor.clone() for tensor in changed]
        stream = torch.cuda.current_stream(self._ring.device)
        try:
            yield
        finally:
            torch.cuda.set_stream(stream)
            for tensor, before in zip(changed, saved, strict=True):
                tensor.copy_(before)

    def _take_step(self) -> None:
        if self.assembler == "numba":
            self._by_kernel()
        else:
            self._by_index()
        gradient_RP, losses_R = self._gradient(self._parameters_RP, self._x, self._y)
        update_(
            self._train,
            self._parameters_RP,
            self._moments,
            gradient_RP,
            self._table.index_select(0, self._step)[0],
        )
        self._losses_R.add_(losses_R)
        self._position.add_(self.batch_size)
        self._step.add_(1)

    def _by_kernel(self) -> None:
        """Assemble the minibatch by the Numba kernel."""
        assemble_minibatch(
            self._ring,
            self._no_order,
            self._position,
            self._no_scaling,
            self._no_scaling,
            self._x,
            self._y,
            stream=torch.cuda.current_stream(self._ring.device).cuda_stream,
        )

    def _by_index(self) -> None:
        """Assemble the minibatch by torch."""
        rows = self._ring.index_select(0, self._offsets + self._position)
        self._x.copy_(rows[:, :-1])
        self._y.copy_(rows[:, -1:])
