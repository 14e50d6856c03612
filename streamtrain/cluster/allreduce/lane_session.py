"""A synchronous run on one worker: its lanes, its place in the group, and the learner that every
worker holds alike.
"""

import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from streamtrain.cluster.allreduce.collective import Collective
from streamtrain.cluster.allreduce.lane_engine import LaneEngine, VirtualRows
from streamtrain.cluster.allreduce.lane_feed import LaneFeed, lane_budget
from streamtrain.cluster.allreduce.lane_work import LanesDone, LaneWork
from streamtrain.cluster.allreduce.lanes import lanes_of, take_rows_until
from streamtrain.plan.plan import Plan, make_lanes
from streamtrain.run.prepare import NO_LAST_ROW, Prepared
from streamtrain.training.compute_pool import ComputePool
from streamtrain.training.engine import Engine
from streamtrain.training.engine_choice import ENGINES
from streamtrain.training.fused_engine import one_blas_thread
from streamtrain.training.gradient_accumulator import GradientAccumulator
from streamtrain.training.learner import Learner
from streamtrain.training.model import initial_parameters
from streamtrain.types import Receipt


class LaneSession:
    """The group of one generation, seen from one worker.

    `join` connects it to the others, and raises PeerLost when they do not come.
    """

    def __init__(self, prepared: Prepared, work: LaneWork, join: Callable[[LaneWork], Collective]):
        self.group, self._prepared, self._lanes = work.group, prepared, work.lanes
        self._plans: dict[int, list[Plan]] = {}
        self._epoch, self._done = work.epoch, work.done
        self._trial = work.trial
        owned = lanes_of(work.group.rank, work.group.size, work.lanes)
        budget = lane_budget(prepared, work.lanes, len(owned))
        given = take_rows_until(self._rows_of_lanes(work.epoch), work.batch_size, work.done)
        self._cores = ComputePool(prepared.config.train.threads or 1).__enter__()
        self._feeds: dict[int, LaneFeed] = {}
        try:
            for lane in owned:
                self._feeds[lane] = LaneFeed(
                    prepared,
                    self.lanes,
                    lane,
                    budget,
                    epoch=work.epoch,
                    row=int(given[lane]),
                    last_epoch=prepared.last_epoch,
                )
            self._collective = join(work)
            engine = inner_engine(prepared, work)
            if prepared.engine == "fused":
                engine.cores = self._cores
            self._engine = LaneEngine(
                GradientAccumulator(engine),
                work.batch_size,
                self._feeds,
                self._collective,
                self._rows_of_lanes(work.epoch) - given,
            )
            self._learner = Learner(
                self._engine,
                trial=work.trial,
                first_row=prepared.config.eval.first_row,
                last_row=prepared.last_row,
                holdout=prepared.evaluation,
                loss_scale=prepared.loss_scale,
                target_sd=prepared.target_sd,
                keeps_best=work.keeps_best,
            )
        except BaseException:
            self.close()
            raise

    def train(self, work: LaneWork) -> LanesDone:
        """So many steps more, all workers together; fewer where the run ends. Raises PeerLost."""
        assert (work.epoch, work.done) == (self._epoch, self._done)
        if work.state is not None:
            # the same on all, whatever their processors round
            self._learner.load_state(*work.state)
        started, told, steps = time.perf_counter(), [], 0
        with one_blas_thread(self._prepared.engine == "fused"):
            while steps < work.steps and not self._learner.done:
                left = int(self._rows_of_lanes(self._epoch).sum()) - self._done * work.batch_size
                rows = min((work.steps - steps) * work.batch_size, left)
                told += [
                    one
                    for one in self._learner.consume(VirtualRows(rows), ends_epoch=rows == left)
                    if not isinstance(one, int)
                ]
                taken = -(-rows // work.batch_size)
                steps, self._done = steps + taken, self._done + taken
                if rows == left and not self._learner.done:
                    self._epoch, self._done = self._epoch + 1, 0
                    self._engine.begin_epoch(self._rows_of_lanes(self._epoch))
        if self._learner.done:
            for feed in self._feeds.values():
                feed.end_run()
        first = self.group.rank == 0
        receipt, nulls, stats = Receipt(), Counter(), Counter()
        for feed in self._feeds.values():
            counted = feed.delivered()
            receipt, nulls = receipt + counted[0], nulls + counted[1]
            stats.update(counted[2])
        return LanesDone(
            told=told if first else [],
            state=self._learner.state() if first else None,
            epoch=self._epoch,
            done=self._done,
            steps=steps,
            seconds=time.perf_counter() - started,
            backend=self._collective.backend,
            receipt=receipt,
            nulls=nulls,
            stats=dict(stats),
        )

    def close(self) -> None:
        """Leave the group, and end every thread."""
        if hasattr(self, "_collective"):
            self._collective.close()
        for feed in self._feeds.values():
            feed.close()
        self._cores.__exit__(None, None, None)

    def lanes(self, epoch: int) -> list[Plan]:
        """The plans of an epoch's lanes; the last few epochs' are kept."""
        if epoch not in self._plans:
            prepared = self._prepared
            self._plans[epoch] = make_lanes(
                prepared.source.spans,
                prepared.source.holdout,
                seed=prepared.config.order.seed,
                trial=self._trial,
                epoch=epoch,
                window_rows=prepared.window_rows,
                lanes=self._lanes,
            )
            for old in [number for number in self._plans if number < epoch - 1]:
                del self._plans[old]
        return self._plans[epoch]

    def _rows_of_lanes(self, epoch: int) -> np.ndarray:
        return np.array([plan.num_rows for plan in self.lanes(epoch)], dtype=np.int64)


def inner_engine(prepared: Prepared, work: LaneWork) -> Engine:
    """Return an engine for a `GradientAccumulator`: its minibatch is never full."""
    seed, train = prepared.config.order.seed, prepared.config.train.at(work.batch_size)
    last_row = prepared.last_row if prepared.last_row < NO_LAST_ROW else None
    parameters_P = initial_parameters(prepared.model, seed, work.trial)
    return ENGINES[prepared.engine](
        prepared.model.of_trial(seed, work.trial),
        parameters_P,
        work.batch_size + 1,
        work.lrs,
        train,
        last_row,
    )
