"""Steps on a GPU as a CUDA graph: captured once, then replayed at the cost of one launch per step.

The graph reads its position from the device's memory: the first row of its minibatch, and its row
of the step table. It advances both itself, so a replay needs no number from the host.
"""

from collections.abc import Callable

import torch

from streamtrain.config import TrainConfig
from streamtrain.kernels.cuda_minibatch import assemble_minibatch, can_launch
from streamtrain.training.torch.compiled_steps import Gradient
from streamtrain.training.torch.optimizers import update_

#: Steps before the capture, after which libraries have made their lasting allocations and kernels
#: are loaded.
_WARM_UP_STEPS = 3


class ReplayedSteps:
    """Takes whole minibatches from a ring of rows on the device; used by one engine, on one stream.

    `parameters_RP` and `moments` are updated in place. `ring` (rows, D + 1) is where all rows will
    be. The object refers to it, and to every tensor that the graph uses, as long as the graph
    exists. `max_steps` is the number of rows of the step table.
    """

    def __init__(
        self,
        gradient: Gradient,
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
        # Numba uses the first device of a thread only, so other devices need the torch way.
        self._assemble: Callable[[], None] = self._by_index
        if ring.device.index == 0 and can_launch():
            self._assemble = self._by_kernel
        self._graph = self._capture()

    def __call__(self, rows: torch.Tensor, table_SR5: torch.Tensor) -> torch.Tensor:
        """Take the minibatches of `rows`, a view of the ring, one per row of the table.

        The table may be on the host or on the device. Returns the sums of losses, float64 (R,);
        nothing waits for the device.
        """
        steps = len(table_SR5)
        assert rows.untyped_storage().data_ptr() == self._ring.untyped_storage().data_ptr()
        assert steps <= self.max_steps
        self._position.fill_(rows.storage_offset() // self._ring.shape[1])
        self._step.zero_()
        self._losses_R.zero_()
        self._table[:steps].copy_(table_SR5)
        for _ in range(steps):
            self._graph.replay()
        return self._losses_R.clone()

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Warm up and capture a step, and restore what the warm-up changed."""
        changed = [self._parameters_RP, *self._moments]
        saved = [tensor.clone() for tensor in changed]
        compute = torch.cuda.current_stream(self._ring.device)
        aside = torch.cuda.Stream(self._ring.device)
        aside.wait_stream(compute)
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP_STEPS):
                self._take_step()
                self._position.zero_()
                self._step.zero_()
        compute.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # "thread_local": other threads may allocate during the capture.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._take_step()
        for tensor, before in zip(changed, saved, strict=True):
            tensor.copy_(before)
        return graph

    def _take_step(self) -> None:
        self._assemble()
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
        """Assemble the minibatch by torch: without the extra [cuda], or on another device."""
        rows = self._ring.index_select(0, self._offsets + self._position)
        self._x.copy_(rows[:, :-1])
        self._y.copy_(rows[:, -1:])
