"""An engine whose minibatches are gathered from the lanes of all workers.

Each worker adds the gradients of its own rows, and all take the same step with the sum over
workers.

The sums of lanes are kept separate until all of them are known, and are then added in lane order. A
worker has zeros in place of the lanes of others, and a sum with zeros is exact: so losses and
parameters are bit-identical for any number of workers. Where that tensor would be large, each
worker adds its own lanes first, and they agree only to float32 summation order.
"""

from collections.abc import Mapping

import numpy as np

from streamtrain.cluster.allreduce.collective import Collective
from streamtrain.cluster.allreduce.lane_feed import LaneFeed
from streamtrain.cluster.allreduce.lanes import take_rows
from streamtrain.errors import ConfigError
from streamtrain.training.engine import AccumulatingEngine

#: Lanes are kept apart in a tensor of up to this many bytes.
APART_BYTES = 2**20


class LaneEngine:
    """See `Engine`.

    The blocks it is given have a length only (`rows_without_columns`): the rows it trains on come
    from the lanes. `rows_left`: the rows that each lane still has in this epoch, int64 (lanes,).
    All workers must make the same calls in the same order.
    """

    def __init__(
        self,
        engine: AccumulatingEngine,
        batch_size: int,
        feeds: Mapping[int, LaneFeed],
        collective: Collective,
        rows_left: np.ndarray,
    ):
        self._engine = engine
        self.batch_size = batch_size
        self._feeds = feeds
        self._collective = collective
        self.learning_rates = engine.learning_rates
        self.steps = engine.steps
        replicas, parameters = engine.parameters().shape
        self._sums_LRP = np.zeros(
            shape_of_sums(len(rows_left), replicas, parameters), dtype=np.float32
        )
        self._apart = len(self._sums_LRP) == len(rows_left)
        self._losses_LR = np.zeros((len(rows_left), replicas))
        self.start_epoch(rows_left)

    def start_epoch(self, rows_left: np.ndarray) -> None:
        """Set the rows that each lane has in the next epoch."""
        self._rows_left, self._done = rows_left.copy(), 0
        self._take = take_rows(self._rows_left, self.batch_size)

    def advance(self, block: np.ndarray, start: int, stop: int) -> np.ndarray:
        """See `Engine.advance`. Raises PeerLostError."""
        rows = stop - start
        while rows:
            count = min(rows, int(self._take.sum()) - self._done)
            self._add(self._done, self._done + count)
            self._done += count
            rows -= count
            if self._done == self.batch_size:
                self._step()
        self._collective.sum(self._losses_LR)
        losses_R = self._losses_LR.sum(axis=0)
        self._losses_LR[:] = 0
        return losses_R

    def finish_epoch(self) -> None:
        """See `Engine.finish_epoch`. Raises PeerLostError."""
        if self._done:
            self._step()

    def set_batch_size(self, batch_size: int, beta2: float) -> None:
        """Refuse: lanes give equal parts of one size; `check_options` refuses such runs before."""
        raise ConfigError("train.batch_schedule is for one machine.")

    def parameters(self) -> np.ndarray:
        """See `Engine.parameters`."""
        return self._engine.parameters()

    def model_parameters(self) -> np.ndarray:
        """See `Engine.model_parameters`."""
        return self._engine.model_parameters()

    def evaluate(self, rows: np.ndarray) -> np.ndarray:
        """See `Engine.evaluate`."""
        return self._engine.evaluate(rows)

    def state(self) -> dict[str, np.ndarray]:
        """See `Engine.state`; call it between minibatches only."""
        return self._engine.state()

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """See `Engine.load_state`; call it between minibatches only."""
        self._engine.load_state(state)
        self.steps = self._engine.steps

    def _add(self, first: int, last: int) -> None:
        """Add the gradients of our part of rows `[first, last)` of the minibatch.

        The rows of a minibatch are ordered by lane.
        """
        ends = np.cumsum(self._take)
        for lane, feed in self._feeds.items():
            lane_start = int(ends[lane] - self._take[lane])
            rows = min(last, int(ends[lane])) - max(first, lane_start)
            if rows <= 0:
                continue
            for block, start, stop in feed.take(rows):
                self._losses_LR[lane] += self._engine.accumulate(block, start, stop)
            self._sums_LRP[lane if self._apart else 0] += self._engine.take_gradient_sum()

    def _step(self) -> None:
        self._collective.sum(self._sums_LRP)
        summed_RP = self._sums_LRP[0].copy()
        for lane in range(1, len(self._sums_LRP)):
            summed_RP += self._sums_LRP[lane]
        self._engine.apply_gradient_sum(summed_RP, self._done)
        self.steps = self._engine.steps
        self._sums_LRP[:] = 0
        self._rows_left, self._done = self._rows_left - self._take, 0
        self._take = take_rows(self._rows_left, self.batch_size)


def shape_of_sums(lanes: int, replicas: int, parameters: int) -> tuple[int, int, int]:
    """Return the shape of the tensor that is summed at each step: (lanes, replicas, parameters).

    The lanes share one sum where the tensor would be larger than APART_BYTES.
    """
    apart = lanes * replicas * parameters * 4 <= APART_BYTES
    return lanes if apart else 1, replicas, parameters


def rows_without_columns(count: int) -> np.ndarray:
    """Return a block of `count` rows that takes no memory: the rows themselves are in lanes."""
    return np.empty((count, 0), dtype=np.float32)
