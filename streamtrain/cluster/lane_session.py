"""A synchronous run on one worker: its lanes, its place in the group, and the learner that every worker holds alike."""

import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from streamtrain.cluster.collective import Collective, PeerLost, Store
from streamtrain.cluster.lane_engine import LaneEngine, VirtualRows
from streamtrain.cluster.lane_feed import LaneFeed, lane_budget
from streamtrain.cluster.lanes import lanes_of, take_rows_until
from streamtrain.cluster.worker import current_site, own_host
from streamtrain.learners.cores import Cores
from streamtrain.learners.engine import Engine
from streamtrain.learners.engines import ENGINES
from streamtrain.learners.fused_engine import one_blas_thread
from streamtrain.learners.gradient_sum import GradientSum
from streamtrain.learners.learner import Learner
from streamtrain.learners.model import initial_parameters
from streamtrain.learners.saving import PassState
from streamtrain.passes import NO_LAST_ROW, Prepared
from streamtrain.stream.nulls import NullCounts
from streamtrain.stream.plan import Plan, make_lanes
from streamtrain.types import Receipt, Record

#: Where a worker keeps these between tasks.
_SESSION, _STORE = "lane session", "store"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Who takes part: `rank` of `size` workers, who meet at `address`. `generation` is another one for every group of a run."""

    rank: int
    size: int
    generation: int
    address: tuple[str, int]
    timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LaneWork:
    """So many `steps` from a committed place: `done` minibatches of `epoch`, and the learner's state there (None: the beginning)."""

    batch_size: int
    lrs: tuple[float, ...]
    trial: int
    lanes: int
    keeps_best: bool
    group: Group
    epoch: int
    done: int
    state: PassState | None
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LanesDone:
    """Where the group is now. `told` and `state` are the first worker's alone: all have the same; receipts are each one's own."""

    told: list[Record]
    state: PassState | None
    epoch: int
    done: int
    steps: int
    seconds: float
    ended: bool
    receipt: Receipt = field(default_factory=Receipt)
    nulls: NullCounts = field(default_factory=Counter)
    stats: Record = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lost:
    """A task that came to nothing because of others: what was seen of it."""

    why: str


class LaneSession:
    """The group of one generation, seen from one worker. `own_host`: its address. Raises PeerLost when the group does not come together."""

    def __init__(self, prepared: Prepared, work: LaneWork, *, own_host: str, store: Store | None):
        self.group, self._prepared, self._lanes = work.group, prepared, work.lanes
        self._plans: dict[int, list[Plan]] = {}
        self._epoch, self._done = work.epoch, work.done
        self._trial = work.trial
        owned = lanes_of(work.group.rank, work.group.size, work.lanes)
        budget = lane_budget(prepared, work.lanes, len(owned))
        given = take_rows_until(self._rows_of_lanes(work.epoch), work.batch_size, work.done)
        self._cores = Cores(prepared.config.train.threads or 1).__enter__()
        self._feeds: dict[int, LaneFeed] = {}
        try:
            for lane in owned:
                self._feeds[lane] = LaneFeed(
                    prepared, self.lanes, lane, budget, epoch=work.epoch, row=int(given[lane]), last_epoch=prepared.last_epoch
                )
            group = work.group
            self._collective = Collective(
                group.address, rank=group.rank, size=group.size, generation=group.generation, own_host=own_host,
                timeout_seconds=group.timeout_seconds, store=store,
            )  # fmt: skip
            self._engine = LaneEngine(
                GradientSum(self._inner_engine(work)), work.batch_size, self._feeds, self._collective, self._rows_of_lanes(work.epoch) - given
            )
            self._learner = Learner(
                self._engine, trial=work.trial, first_row=prepared.config.eval.first_row, last_row=prepared.last_row, holdout=prepared.evaluation,
                loss_scale=prepared.loss_scale, target_sd=prepared.target_sd, keeps_best=work.keeps_best,
            )  # fmt: skip
        except BaseException:
            self.close()
            raise

    def train(self, work: LaneWork) -> LanesDone:
        """So many steps more, all workers together; fewer where the run ends. Raises PeerLost."""
        assert (work.epoch, work.done) == (self._epoch, self._done)
        if work.state is not None:
            self._learner.load_state(*work.state)  # the same on all, whatever their processors round
        started, told, steps = time.perf_counter(), [], 0
        with one_blas_thread(self._prepared.engine == "fused"):
            while steps < work.steps and not self._learner.done:
                left = int(self._rows_of_lanes(self._epoch).sum()) - self._done * work.batch_size
                rows = min((work.steps - steps) * work.batch_size, left)
                told += [one for one in self._learner.consume(VirtualRows(rows), ends_epoch=rows == left) if not isinstance(one, int)]
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
            stats.update(feed.stats.to_json())
        return LanesDone(
            told=told if first else [], state=self._learner.state() if first else None, epoch=self._epoch, done=self._done, steps=steps,
            seconds=time.perf_counter() - started, ended=self._learner.done, receipt=receipt, nulls=nulls, stats=dict(stats),
        )  # fmt: skip

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
                prepared.source.spans, prepared.source.holdout, seed=prepared.config.order.seed, trial=self._trial, epoch=epoch,
                window_rows=prepared.window_rows, lanes=self._lanes,
            )  # fmt: skip
            for old in [number for number in self._plans if number < epoch - 1]:
                del self._plans[old]
        return self._plans[epoch]

    def _rows_of_lanes(self, epoch: int) -> np.ndarray:
        return np.array([plan.num_rows for plan in self.lanes(epoch)], dtype=np.int64)

    def _inner_engine(self, work: LaneWork) -> Engine:
        """One whose minibatch is never full, with the options of the true size."""
        prepared, seed = self._prepared, self._prepared.config.order.seed
        train = prepared.config.train.at(work.batch_size)
        last_row = prepared.last_row if prepared.last_row < NO_LAST_ROW else None
        engine = ENGINES[prepared.engine](
            prepared.shape.of_trial(seed, work.trial), initial_parameters(prepared.shape, seed, work.trial), work.batch_size + 1, work.lrs, train, last_row
        )
        if prepared.engine == "fused":
            engine.cores = self._cores
        return engine


def open_store(prepared: Prepared, timeout_seconds: float) -> tuple[str, int]:
    """A task for the first worker of a group: open the place where all meet, and say where it is."""
    kept, host = current_site().kept, own_host()
    kept.pop(_STORE, None)
    kept[_STORE] = Store(host, timeout_seconds)
    return host, kept[_STORE].port


def train_lanes(prepared: Prepared, work: LaneWork) -> LanesDone | Lost:
    """The task of every worker of a group. A group that is already together goes on as it is."""
    kept = current_site().kept
    session = kept.get(_SESSION)
    try:
        if session is None or session.group != work.group:
            leave(prepared, None)
            store = kept.get(_STORE) if work.group.rank == 0 and work.group.size > 1 else None
            session = kept[_SESSION] = LaneSession(prepared, work, own_host=own_host(), store=store)
        return session.train(work)
    except PeerLost as error:
        leave(prepared, None)
        return Lost(str(error))
    except BaseException:
        leave(prepared, None)
        raise


def leave(prepared: Prepared, payload: None) -> None:
    """Leave the group, if this worker is in one."""
    session = current_site().kept.pop(_SESSION, None)
    if session is not None:
        session.close()

