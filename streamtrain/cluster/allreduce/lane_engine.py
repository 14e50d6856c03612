"""An engine whose minibatches are gathered from the lanes of all workers: each adds the gradients
of its own rows, and one sum steps all.

The sums of lanes stay apart until all of them are known, and are then added in the order of lanes.
Other workers' lanes are zeros in ours, and a sum with zeros is exact: so losses and parameters are
the same bits for any number of workers. Where that tensor would be large, each worker adds its own
lanes first: then they are the same to float32 summation order.
"""

from collections.abc import Mapping

import numpy as np

from streamtrain.cluster.allreduce.collective import Collective
from streamtrain.cluster.allreduce.lane_feed import LaneFeed
from streamtrain.cluster.allreduce.lanes import take_rows
from streamtrain.training.gradient_accumulator import GradientAccumulator

#: Sums of lanes are kept apart in a tensor up to this many bytes.
APART_BYTES = 2**20


class LaneEngine:
    """See `Engine`.

    The rows it is given have a length alone (`VirtualRows`): what is trained on comes from the
    lanes.

    `left`: rows that each lane still has in this epoch, int64 (lanes,). All workers call everything
    in the same order.
    """

    def __init__(
        self,
        gradients: GradientAccumulator,
        batch_size: int,
        feeds: Mapping[int, LaneFeed],
        collective: Collective,
        left: np.ndarray,
    ):
        self._gradients, self.batch_size, self._feeds, self._collective = (
            gradients,
            batch_size,
            feeds,
            collective,
        )
        self.learning_rates = gradients.engine.learning_rates
        replicas, parameters = gradients.engine.parameters().shape
        self._sums_LRP = np.zeros(shape_of_sums(len(left), replicas, parameters), dtype=np.float32)
        self._apart = len(self._sums_LRP) == len(left)
        self._losses_LR = np.zeros((len(left), replicas))
        self.begin_epoch(left)

    @property
    def steps(self) -> int:
        return self._gradients.engine.steps

    def begin_epoch(self, left: np.ndarray) -> None:
        """Rows of each lane of the epoch that comes next."""
        self._left, self._done = left.copy(), 0
        self._take = take_rows(self._left, self.batch_size)

    def advance(self, block: "VirtualRows", start: int, stop: int) -> np.ndarray:
        """See `Engine.advance`. Raises PeerLost."""
        rows = stop - start
        while rows:
            taken = min(rows, int(self._take.sum()) - self._done)
            self._add(self._done, self._done + taken)
            self._done += taken
            rows -= taken
            if self._done == self.batch_size:
                self._step()
        self._collective.sum(self._losses_LR)
        losses_R = self._losses_LR.sum(axis=0)
        self._losses_LR[:] = 0
        return losses_R

    def finish_epoch(self) -> None:
        """See `Engine.finish_epoch`."""
        if self._done:
            self._step()

    def parameters(self) -> np.ndarray:
        return self._gradients.engine.parameters()

    def evaluate(self, rows: np.ndarray) -> np.ndarray:
        return self._gradients.engine.evaluate(rows)

    def state(self) -> dict[str, np.ndarray]:
        """See `Engine.state`; between minibatches."""
        return self._gradients.engine.state()

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """See `Engine.load_state`; between minibatches."""
        self._gradients.engine.load_state(state)

    def _add(self, first: int, last: int) -> None:
        """Rows `[first, last)` of the minibatch, whose rows are ordered by lane: those that are
        ours.
        """
        ends = np.cumsum(self._take)
        for lane, feed in self._feeds.items():
            begin = max(first, int(ends[lane] - self._take[lane]))
            rows = min(last, int(ends[lane])) - begin
            if rows <= 0:
                continue
            for block, start, stop in feed.take(rows):
                self._losses_LR[lane] += self._gradients.add(block, start, stop)
            self._sums_LRP[lane if self._apart else 0] += self._gradients.take()

    def _step(self) -> None:
        self._collective.sum(self._sums_LRP)
        summed_RP = self._sums_LRP[0].copy()
        for lane in range(1, len(self._sums_LRP)):
            summed_RP += self._sums_LRP[lane]
        self._gradients.step(summed_RP, self._done)
        self._sums_LRP[:] = 0
        self._left, self._done = self._left - self._take, 0
        self._take = take_rows(self._left, self.batch_size)


def shape_of_sums(lanes: int, replicas: int, parameters: int) -> tuple[int, int, int]:
    """Of the tensor that is summed a step: lanes apart, or added up where that would be large."""
    return lanes if lanes * replicas * parameters * 4 <= APART_BYTES else 1, replicas, parameters


class VirtualRows:
    """So many rows, which lie in lanes."""

    def __init__(self, rows: int):
        self._rows = rows

    def __len__(self) -> int:
        return self._rows
