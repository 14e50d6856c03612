"""Steps on a GPU as a CUDA graph: a step is captured once, and replaying it costs the host one
launch.

The graph reads where it is from the device's memory: the first row of its minibatch, and the row of
the step table. Both move on inside it, so a replay needs no number from the host.
"""

from collections.abc import Callable

import torch

from streamtrain.config import TrainConfig
from streamtrain.kernels.cuda_minibatch import assemble_minibatch, can_launch
from streamtrain.training.torch.compiled_steps import Gradient
from streamtrain.training.torch.optimizers import update_

#: Steps run before the capture, so that libraries have allocated what they keep, and kernels are
#: loaded.
_WARM_UP_STEPS = 3


class ReplayedSteps:
    """Whole minibatches from a ring of rows on the device. Owned by one engine, used on one stream.

    `parameters_RP` and `moments` are moved on in place; `ring` (rows, D + 1) is where all rows will
    lie; it, and every tensor that the graph means, is held here as long as the graph. `most_steps`:
    rows of the step table.
    """

    def __init__(
        self,
        gradient: Gradient,
        train: TrainConfig,
        parameters_RP: torch.Tensor,
        moments: tuple[torch.Tensor, ...],
        ring: torch.Tensor,
        batch_size: int,
        most_steps: int,
    ):
        device, width, replicas = ring.device, ring.shape[1], len(parameters_RP)
        self._gradient, self._train, self._parameters_RP, self._moments, self._ring = (
            gradient,
            train,
            parameters_RP,
            moments,
            ring,
        )
        self.batch_size, self.most_steps = batch_size, most_steps
        self._x = torch.empty((batch_size, width - 1), device=device)
        self._y = torch.empty((batch_size, 1), device=device)
        self._position, self._step = (
            torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2)
        )
        self._table = torch.ones((most_steps, replicas, 4), device=device)
        self._losses_R = torch.zeros(replicas, dtype=torch.float64, device=device)
        self._places = torch.arange(batch_size, device=device)
        self._as_it_lies = torch.empty(0, dtype=torch.int64, device=device)
        self._standard_already = torch.empty(0, dtype=torch.float64, device=device)
        # Numba stays with the first device of a thread, so it serves that one alone.
        self._assemble: Callable[[], None] = (
            self._by_kernel if ring.device.index == 0 and can_launch() else self._by_index
        )
        self._graph = self._capture()

    def __call__(self, rows: torch.Tensor, table_SR4: torch.Tensor) -> torch.Tensor:
        """Take the minibatches of `rows`, a view of the ring, one for each row of the table (on the
        host or the device).

        Returns the sums of losses, float64 (R,); nothing waits for the device.
        """
        steps = len(table_SR4)
        assert rows.untyped_storage().data_ptr() == self._ring.untyped_storage().data_ptr()
        assert steps <= self.most_steps
        self._position.fill_(rows.storage_offset() // self._ring.shape[1])
        self._step.zero_()
        self._losses_R.zero_()
        self._table[:steps].copy_(table_SR4)
        for _ in range(steps):
            self._graph.replay()
        return self._losses_R.clone()

    def _capture(self) -> torch.cuda.CUDAGraph:
        kept = [self._parameters_RP, *self._moments]
        saved = [tensor.clone() for tensor in kept]
        compute = torch.cuda.current_stream(self._ring.device)
        aside = torch.cuda.Stream(self._ring.device)
        aside.wait_stream(compute)
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP_STEPS):
                self._one()
                self._position.zero_()
                self._step.zero_()
        compute.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # other threads may go on allocating
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._one()
        for tensor, before in zip(kept, saved, strict=True):
            tensor.copy_(before)
        return graph

    def _one(self) -> None:
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
        assemble_minibatch(
            self._ring,
            self._as_it_lies,
            self._position,
            self._standard_already,
            self._standard_already,
            self._x,
            self._y,
            stream=torch.cuda.current_stream(self._ring.device).cuda_stream,
        )

    def _by_index(self) -> None:
        """Without the extra [cuda], and on further devices."""
        rows = self._ring.index_select(0, self._places + self._position)
        self._x.copy_(rows[:, :-1])
        self._y.copy_(rows[:, -1:])
