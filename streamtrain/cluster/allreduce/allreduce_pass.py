"""Training one learner by synchronous all-reduce: the driver's half.

A group of workers takes some seconds' worth of steps, which are then committed.

```
generation 0   w0 w1 w2 w3   commit  commit  w2 dies: the steps since the last commit are lost
generation 1   w0 w1 w3      from the last commit …  commit   w4 is ready
generation 2   w0 w1 w3 w4   commit  …
```
Lanes belong to the run, and workers own lanes for a generation. So results do not depend on which
workers take part or die, and each row counts once per epoch: in the commit that ended its block.
"""

import time
from dataclasses import dataclass, replace

from streamtrain.cluster.allreduce.lane_tasks import (
    AllReduceTiming,
    measure_allreduce,
    open_store,
    train_lanes,
)
from streamtrain.cluster.allreduce.lane_work import LaneResult, LaneTask, RankInfo
from streamtrain.cluster.cluster_pass import Arrays, SharedLearnerPass
from streamtrain.cluster.scheduling import Leases
from streamtrain.cluster.worker import Work, only_open
from streamtrain.cluster.worker_group import GroupFailedError, WorkerGroup
from streamtrain.cluster.worker_pool import WorkerPool
from streamtrain.records import Emit, PassEnded, SyncChosen
from streamtrain.run.prepare import Prepared
from streamtrain.training.checkpoint import nest, unnest
from streamtrain.training.checkpointing import Checkpointing, PassState
from streamtrain.training.learner import Learner
from streamtrain.types import Json

#: The aim for the time between two commits, which is the most that a worker's death costs.
COMMIT_SECONDS = 2.0

#: Steps of the first commit; its speed sets the steps of the others.
FIRST_STEPS = 16

#: A commit has at most this many times the steps of the one before.
MAX_GROWTH = 8

#: A worker that is silent for this long within a collective counts as gone.
COLLECTIVE_SECONDS = 60.0


class Rendezvous:
    """Forms groups of a run's ready workers, one generation after another."""

    def __init__(self, group: WorkerGroup, run: str, *, timeout_seconds: float):
        self.group = group
        self._run = run
        self._timeout_seconds = timeout_seconds
        self.generation = 0

    def form(self, max_workers: int) -> dict[str, RankInfo]:
        """Form a new group of at most `max_workers`: each worker's rank, in the order of ranks.

        Raises GroupFailedError, ResourceError.
        """
        members = self.group.gather(max_workers)
        self.generation += 1
        address = ("", 0)
        if len(members) > 1:
            first = members[0]
            address = self.group.run({first: (open_store, self._timeout_seconds)})[first]
        return {
            worker: RankInfo(
                run=self._run,
                generation=self.generation,
                rank=rank,
                size=len(members),
                address=address,
                timeout_seconds=self._timeout_seconds,
            )
            for rank, worker in enumerate(members)
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTiming:
    """Seconds of a sum over `workers`, of a worker's part of a step, and of a task without work.

    The first two belong to the slowest worker.
    """

    workers: int
    sum_seconds: float
    local_step_seconds: float
    task_seconds: float


def measure_group(rendezvous: Rendezvous, learner: Learner, lanes: int) -> GroupTiming:
    """Form a group of the workers that are present, and time what decides for or against it.

    Raises GroupFailedError, ResourceError.
    """
    group = rendezvous.form(lanes)
    started = time.perf_counter()
    rendezvous.group.run(dict.fromkeys(group, (only_open, None)))
    task_seconds = time.perf_counter() - started
    tasks = {
        worker: (
            measure_allreduce,
            LaneTask(
                batch_size=learner.engine.batch_size,
                lrs=tuple(learner.engine.learning_rates),
                trial=learner.trial,
                lanes=lanes,
                keeps_best=False,
                group=rank,
            ),
        )
        for worker, rank in group.items()
    }
    timings: list[AllReduceTiming] = list(rendezvous.group.run(tasks).values())
    rendezvous.group.reset_failures()
    return GroupTiming(
        workers=len(group),
        sum_seconds=max(timing.sum_seconds for timing in timings),
        local_step_seconds=max(timing.local_step_seconds for timing in timings),
        task_seconds=task_seconds,
    )


class AllReducePass(SharedLearnerPass):
    """A pass by all-reduce, on a backend whose workers do `worker.call_work`.

    `lanes` divides the batch size.
    """

    def __init__(
        self,
        prepared: Prepared,
        learner: Learner,
        emit: Emit,
        rendezvous: Rendezvous,
        *,
        lanes: int,
        kind: str = "tuning",
        saving: Checkpointing | None = None,
        chosen: SyncChosen | None = None,
        resume_state: PassState | None = None,
    ):
        super().__init__(prepared, learner, emit, kind=kind, saving=saving, chosen=chosen)
        self._rendezvous = rendezvous
        self._lanes = lanes
        self._steps = FIRST_STEPS
        self._epoch = self._done = 0  # minibatches of the epoch that are committed
        self._generations = 0
        self._ended = False
        self._backend = "none"
        self._group_state: PassState | None = None
        if resume_state is not None:
            self.load_state(resume_state)

    def _train_commits(self, pool: WorkerPool, leases: Leases) -> None:
        while not self._ended:
            try:
                group = self._rendezvous.form(self._lanes)
                self._generations += 1
                while not self._ended and not self._could_grow(group):
                    self._take_commit(group, leases)
            except GroupFailedError:  # its commits stay; the next group continues from the last one
                continue
        self._rendezvous.group.disband()

    def _take_commit(self, group: dict[str, RankInfo], leases: Leases) -> None:
        started, failures = time.perf_counter(), leases.failures
        workers = self._rendezvous.group
        # At the last row the workers know that they are done; what ends it before has to be told.
        is_told = self.learner.done
        self._commit(list(workers.run(self._tasks(group, ends_run=is_told)).values()))
        workers.reset_failures()
        self._ended = is_told or self.learner.rows >= self.learner.last_row
        if is_told:
            return
        self.finish_commit(
            started=started,
            workers=len(group),
            failed_tasks=leases.failures - failures,
            generation=self._generations,
            steps=self.learner.engine.steps,
            collective=self._backend,
        )

    def _could_grow(self, group: dict[str, RankInfo]) -> bool:
        if len(group) >= self._lanes:
            return False
        return any(worker not in group for worker in self._rendezvous.group.ready)

    def _tasks(
        self, group: dict[str, RankInfo], *, ends_run: bool
    ) -> dict[str, tuple[Work, LaneTask]]:
        engine, steps = self.learner.engine, 0 if ends_run else self._steps
        if steps and (rows := self.learner.rows_to_decision) is not None:
            # A commit ends with the step that reaches the next evaluation, so that the driver can
            # end the training at a row that does not depend on the speed of workers.
            steps = min(steps, max(1, -(-rows // engine.batch_size)))
        return {
            worker: (
                train_lanes,
                LaneTask(
                    batch_size=engine.batch_size,
                    lrs=tuple(engine.learning_rates),
                    trial=self.learner.trial,
                    lanes=self._lanes,
                    keeps_best=self.learner.best_parameters is not None,
                    group=rank,
                    epoch=self._epoch,
                    done=self._done,
                    state=self._group_state,
                    steps=steps,
                    ends_run=ends_run,
                ),
            )
            for worker, rank in group.items()
        }

    def _commit(self, results: list[LaneResult]) -> None:
        """Take over the group's learner, count its rows, and emit its records."""
        first = results[0]
        assert first.state is not None
        assert len({(result.epoch, result.done, result.steps) for result in results}) == 1
        self._group_state = first.state
        self._epoch, self._done = first.epoch, first.done
        self._backend = first.backend
        self._load_learner(first.state)
        for result in results:
            self.delivered.add(result.delivered)
        seconds = max(result.seconds for result in results)
        wanted_steps = round(COMMIT_SECONDS * first.steps / max(seconds, 1e-6))
        self._steps = max(1, min(wanted_steps, MAX_GROWTH * self._steps))
        self.emit_all(first.records)

    def _load_learner(self, state: PassState) -> None:
        """Load the state of a worker's learner.

        Gradient sums have the shape that the engine of this machine gives them, and are zero: no
        rows are carried between minibatches.
        """
        document, arrays = state
        gradient = self.learner.engine.state()["gradient"]
        gradient[:] = 0
        self.learner.load_state(document, {**arrays, "engine/gradient": gradient})

    def _with_own_fields(self, record: PassEnded) -> PassEnded:
        return replace(
            record,
            commits=self.commits,
            lanes=self._lanes,
            generations=self._generations,
            collective=self._backend,
        )

    def _own_state(self) -> PassState:
        document, arrays = self._group_state or (None, {})
        own_document = {
            "epoch": self._epoch,
            "done": self._done,
            "generations": self._generations,
            "ended": self._ended,
            "group": document,
        }
        return own_document, nest("group", arrays)

    def _load_own_state(self, document: Json, arrays: Arrays) -> None:
        self._epoch, self._done = document["epoch"], document["done"]
        self._generations, self._ended = document["generations"], document["ended"]
        if document["group"] is not None:
            self._group_state = document["group"], unnest("group", arrays)
