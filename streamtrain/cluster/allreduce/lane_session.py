"""A synchronous run on one worker: its lanes, its rank, and its copy of the learner."""

import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from streamtrain.cluster.allreduce.collective import Collective
from streamtrain.cluster.allreduce.lane_engine import LaneEngine, rows_without_columns
from streamtrain.cluster.allreduce.lane_feed import LaneFeed, lane_budget
from streamtrain.cluster.allreduce.lane_work import LaneResult, LaneTask
from streamtrain.cluster.allreduce.lanes import lanes_of, take_rows_until
from streamtrain.plan.plan import Plan, make_lanes
from streamtrain.records import Record
from streamtrain.run.prepare import Prepared
from streamtrain.stream.delivered_rows import DeliveredRows
from streamtrain.training.engine_choice import running
from streamtrain.training.learner import Learner


class LaneSession:
    """One worker's part in the group of one generation. Owned by one thread.

    `join` connects this worker to the others, and raises PeerLostError when they do not appear.
    """

    def __init__(self, prepared: Prepared, task: LaneTask, join: Callable[[LaneTask], Collective]):
        self.group = task.group
        self._prepared = prepared
        self._lanes = task.lanes
        self._trial = task.trial
        self._plans: dict[int, list[Plan]] = {}
        self._epoch, self._done = task.epoch, task.done
        self._feeds: dict[int, LaneFeed] = {}
        owned = lanes_of(task.group.rank, task.group.size, task.lanes)
        budget = lane_budget(prepared, task.lanes, len(owned))
        lane_rows = self._rows_of_lanes(task.epoch)
        rows_taken = take_rows_until(lane_rows, task.batch_size, task.done)
        self._stack = ExitStack()
        try:
            for lane in owned:
                self._feeds[lane] = LaneFeed(
                    prepared,
                    self.lane_plans,
                    lane,
                    budget,
                    epoch=task.epoch,
                    row=int(rows_taken[lane]),
                    last_epoch=prepared.last_epoch,
                )
                self._stack.callback(self._feeds[lane].close)
            self._collective = join(task)
            self._stack.callback(self._collective.close)
            self._inner = prepared.make_engine(task.batch_size, task.lrs, task.trial)
            self._engine = LaneEngine(
                self._inner,
                task.batch_size,
                self._feeds,
                self._collective,
                lane_rows - rows_taken,
            )
            self._learner = Learner(
                self._engine,
                trial=task.trial,
                first_row=prepared.config.eval.first_row,
                last_row=prepared.last_row,
                holdout=prepared.evaluation,
                loss_scale=prepared.loss_scale,
                target_sd=prepared.target_sd,
                # the driver decides, also by patience: processors of workers may round differently
                until_flat=prepared.until_flat,
                ends_when_flat=False,
                keeps_best=task.keeps_best,
            )
        except BaseException:
            self.close()
            raise

    def train(self, task: LaneTask) -> LaneResult:
        """Take `task.steps` more steps together with the other workers; fewer if the run ends.

        Raises PeerLostError.
        """
        assert (task.epoch, task.done) == (self._epoch, self._done)
        if task.state is not None:
            # All workers load the driver's state, since their processors may round differently.
            self._learner.load_state(*task.state)
        started = time.perf_counter()
        records, steps = self._take_steps(task.steps, task.batch_size)
        if self._learner.done or task.ends_run:
            for feed in self._feeds.values():
                feed.end_run()
        is_first = self.group.rank == 0
        delivered = DeliveredRows()
        for feed in self._feeds.values():
            delivered.add(feed.take_delivered())
        return LaneResult(
            records=records if is_first else [],
            state=self._learner.state() if is_first else None,
            epoch=self._epoch,
            done=self._done,
            steps=steps,
            seconds=time.perf_counter() - started,
            backend=self._collective.backend,
            delivered=delivered,
        )

    def close(self) -> None:
        """Leave the group, and stop all threads."""
        self._stack.close()

    def lane_plans(self, epoch: int) -> list[Plan]:
        """Return the plans of an epoch's lanes; the plans of the last few epochs are kept."""
        if epoch not in self._plans:
            prepared = self._prepared
            self._plans[epoch] = make_lanes(
                prepared.source.spans,
                prepared.source.holdout,
                seed=prepared.config.order.seed,
                trial=self._trial,
                epoch=epoch,
                window_rows=prepared.source.window_rows,
                lanes=self._lanes,
            )
            for old_epoch in [number for number in self._plans if number < epoch - 1]:
                del self._plans[old_epoch]
        return self._plans[epoch]

    def _take_steps(self, max_steps: int, batch_size: int) -> tuple[list[Record], int]:
        """Take up to `max_steps` steps; return the learner's records and the steps taken."""
        records: list[Record] = []
        steps = 0
        with running([self._inner], self._prepared.config.train.threads or 1):
            while steps < max_steps and not self._learner.done:
                epoch_rows = int(self._rows_of_lanes(self._epoch).sum())
                rows_left = epoch_rows - self._done * batch_size
                rows = min((max_steps - steps) * batch_size, rows_left)
                ends_epoch = rows == rows_left
                records += self._learner.consume(rows_without_columns(rows), ends_epoch=ends_epoch)
                new_steps = -(-rows // batch_size)
                steps += new_steps
                self._done += new_steps
                if ends_epoch and not self._learner.done:
                    self._epoch, self._done = self._epoch + 1, 0
                    self._engine.start_epoch(self._rows_of_lanes(self._epoch))
        return records, steps

    def _rows_of_lanes(self, epoch: int) -> np.ndarray:
        return np.array([plan.num_rows for plan in self.lane_plans(epoch)], dtype=np.int64)
