"""Training one learner by synchronous all-reduce: a group of workers takes some seconds' worth of
steps, which then are committed.

```
generation 0   w0 w1 w2 w3   commit  commit  w2 dies: these steps count for nothing
generation 1   w0 w1 w3      from the last commit …  commit   w4 is ready
generation 2   w0 w1 w3 w4   commit  …
```
Lanes belong to the run, and workers own lanes for a generation. So whoever takes part, and whoever
dies, changes no number, and each row counts once an epoch: in the commit that its block ended in.
"""

import time

from streamtrain.cluster.allreduce.lane_tasks import open_store, train_lanes
from streamtrain.cluster.allreduce.lane_work import Group, LanesDone, LaneWork
from streamtrain.cluster.cluster_pass import ClusterPass, below
from streamtrain.cluster.scheduling import Leases
from streamtrain.cluster.worker import Work
from streamtrain.cluster.worker_group import Broken, WorkerGroup
from streamtrain.cluster.worker_pool import WorkerPool
from streamtrain.records import Emit
from streamtrain.run.prepare import Prepared
from streamtrain.training.checkpointing import Checkpointer, PassState
from streamtrain.training.learner import Learner
from streamtrain.types import Json

#: A commit comes about so often: most that a death costs; and the steps before the first, from
#: whose speed the rest follow.
COMMIT_SECONDS, FIRST_STEPS = 2.0, 16

#: A commit has at most so many times the steps of the one before.
FASTER = 8

#: A worker that is not heard of for so long within a collective is taken for gone.
COLLECTIVE_SECONDS = 60.0


class Rendezvous:
    """Makes groups of a run's ready workers, one generation after another."""

    def __init__(self, gang: WorkerGroup, run: str, *, timeout_seconds: float):
        self.gang, self._run, self._timeout_seconds = gang, run, timeout_seconds
        self.generation = 0

    def meet(self, most: int) -> dict[str, Group]:
        """A new group of at most so many workers, by worker and in the order of ranks.

        Raises Broken, ResourceError.
        """
        members = self.gang.gather(most)
        self.generation += 1
        address = ("", 0)
        if len(members) > 1:
            address = self.gang.do({members[0]: (open_store, self._timeout_seconds)})[members[0]]
        return {
            worker: Group(
                run=self._run,
                generation=self.generation,
                rank=rank,
                size=len(members),
                address=address,
                timeout_seconds=self._timeout_seconds,
            )
            for rank, worker in enumerate(members)
        }


class LanesPass(ClusterPass):
    """By all-reduce, on a fabric whose workers do what `worker.call` does.

    `lanes` divides the batch size.
    """

    def __init__(
        self,
        prepared: Prepared,
        learner: Learner,
        emit: Emit,
        meeting: Rendezvous,
        *,
        lanes: int,
        kind: str = "tuning",
        saving: Checkpointer | None = None,
        chosen: Json | None = None,
        begun: PassState | None = None,
    ):
        super().__init__(prepared, learner, emit, kind=kind, saving=saving, chosen=chosen)
        self._meeting, self._lanes, self._steps = meeting, lanes, FIRST_STEPS
        self._epoch = self._done = self._generations = 0
        self._backend = "none"
        self._state: PassState | None = None
        if begun is not None:
            self.load_state(begun)

    def _train(self, crew: WorkerPool, leases: Leases) -> None:
        gang = self._meeting.gang
        while not self.learner.done:
            try:
                group = self._meeting.meet(self._lanes)
                self._generations += 1
                while not self.learner.done and not self._could_grow(group):
                    started, before = time.perf_counter(), leases.failures
                    self._take(list(gang.do(self._tasks(group)).values()))
                    gang.succeeded()
                    self.committed(
                        started=started,
                        workers=len(group),
                        failed_tasks=leases.failures - before,
                        generation=self._generations,
                        steps=self.learner.engine.steps,
                        collective=self._backend,
                    )
            except Broken:  # its commits stay; the next group goes on from the last one
                continue
        gang.disband()

    def _could_grow(self, group: dict[str, Group]) -> bool:
        return len(group) < self._lanes and any(
            worker not in group for worker in self._meeting.gang.ready
        )

    def _tasks(self, group: dict[str, Group]) -> dict[str, tuple[Work, LaneWork]]:
        engine = self.learner.engine
        return {
            worker: (
                train_lanes,
                LaneWork(
                    batch_size=engine.batch_size,
                    lrs=tuple(engine.learning_rates),
                    trial=self.learner.trial,
                    lanes=self._lanes,
                    keeps_best=self.learner.best_parameters is not None,
                    group=own,
                    epoch=self._epoch,
                    done=self._done,
                    state=self._state,
                    steps=self._steps,
                ),
            )
            for worker, own in group.items()
        }

    def _take(self, done: list[LanesDone]) -> None:
        """All of the group are there: their learner is ours, their rows are counted."""
        first = done[0]
        assert first.state is not None
        assert len({(one.epoch, one.done, one.steps) for one in done}) == 1
        self._state, self._epoch, self._done, self._backend = (
            first.state,
            first.epoch,
            first.done,
            first.backend,
        )
        self._load_learner()
        for one in done:
            self.count(one.receipt, one.nulls, one.stats)
        seconds = max(one.seconds for one in done)
        self._steps = max(
            1, min(round(COMMIT_SECONDS * first.steps / max(seconds, 1e-6)), FASTER * self._steps)
        )
        self.tell(first.told)

    def _load_learner(self) -> None:
        """Between minibatches no rows are carried, so gradient sums, whose shape is the engine's
        own business, are zero.
        """
        assert self._state is not None
        document, arrays = self._state
        gradient = self.learner.engine.state()["gradient"]
        gradient[:] = 0
        self.learner.load_state(document, {**arrays, "engine/gradient": gradient})

    def _own_record(self) -> Json:
        return {
            "commits": self.commits,
            "lanes": self._lanes,
            "generations": self._generations,
            "collective": self._backend,
        }

    def _own_state(self) -> PassState:
        document, arrays = self._state or (None, {})
        own = {
            "epoch": self._epoch,
            "done": self._done,
            "generations": self._generations,
            "group": document,
        }
        return own, {f"group/{name}": array for name, array in arrays.items()}

    def _load_own_state(self, document: Json, arrays: dict) -> None:
        self._epoch, self._done, self._generations = (
            document["epoch"],
            document["done"],
            document["generations"],
        )
        if document["group"] is not None:
            self._state = document["group"], below(arrays, "group/")
