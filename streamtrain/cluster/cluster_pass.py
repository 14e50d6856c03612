"""What all passes on workers share: the run to the end, checkpoints, and the pass's record.

`ClusterPass` is any pass. `SharedLearnerPass` is one whose workers train one learner together: it
is counted, recorded and saved commit by commit.
"""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from streamtrain.cluster.scheduling import Leases
from streamtrain.cluster.worker_pool import WorkerPool
from streamtrain.errors import ResourceError
from streamtrain.records import (
    Emit,
    PassEnded,
    Record,
    RoundEnded,
    SyncChosen,
    parse,
    parse_pass,
)
from streamtrain.run.passes import pass_record
from streamtrain.run.prepare import Prepared
from streamtrain.stream.delivered_rows import DeliveredRows
from streamtrain.training.checkpoint import nest, unnest
from streamtrain.training.checkpointing import Checkpointing, PassState, refusing_damage
from streamtrain.training.learner import Learner
from streamtrain.types import Json

Arrays = dict[str, np.ndarray]


class ClusterPass(ABC):
    """A pass whose learners are trained on workers. Owned by one thread.

    `record`: the pass's own, once it has ended.
    """

    def __init__(
        self, prepared: Prepared, emit: Emit, *, kind: str, saving: Checkpointing | None = None
    ):
        self.prepared = prepared
        self.emit = emit
        self.kind = kind
        self.saving = saving
        self.record: PassEnded | None = None
        self._started = time.perf_counter()

    def run(self, pool: WorkerPool, leases: Leases) -> PassEnded:
        """Train to the end of the pass; return and emit its record.

        Between two passes `leases` has no items. Raises ResourceError when the cluster is lost;
        what came back from it is saved first.
        """
        with _saved_if_lost(self.saving, self.state):
            lost_workers, failures = pool.lost_workers, leases.failures
            pool.check_interrupt = self._reach_edge
            pool.wait_for(pool.min_workers)
            self._train(pool, leases)
            self.record = replace(
                self._pass_record(),
                lost_workers=pool.lost_workers - lost_workers,
                failed_tasks=leases.failures - failures,
            )
            self.emit(self.record)
            if self.saving is not None:
                self.saving.save(self.state())
        return self.record

    @abstractmethod
    def state(self) -> PassState:
        """Return all that is needed to continue from here."""

    @abstractmethod
    def load_state(self, resume_state: PassState) -> None:
        """Continue from a `state`."""

    @abstractmethod
    def _train(self, pool: WorkerPool, leases: Leases) -> None:
        """Train every learner to its end and emit its records."""

    @abstractmethod
    def _fraction_done(self) -> float:
        """Return how much of the pass is done, from 0 to 1."""

    @abstractmethod
    def _pass_record(self) -> PassEnded:
        """Return the record of the pass, as `run_pass` would, without lost workers and failures."""

    def _reach_edge(self) -> None:
        """Save if it is time to, and stop here if the user asked for it."""
        if self.saving is not None:
            self.saving.edge(self._fraction_done(), self.state)


class SharedLearnerPass(ClusterPass):
    """A pass of one learner that workers train together.

    Rows count with the commit that they belong to; `commits` have been made. `chosen` goes into the
    pass's record and checkpoints.
    """

    def __init__(
        self,
        prepared: Prepared,
        learner: Learner,
        emit: Emit,
        *,
        kind: str = "tuning",
        saving: Checkpointing | None = None,
        chosen: SyncChosen | None = None,
    ):
        super().__init__(prepared, emit, kind=kind, saving=saving)
        self.learner = learner
        self.chosen = chosen
        self.delivered = DeliveredRows()
        self.commits = 0
        self._first_commit = self._started

    @abstractmethod
    def _train_commits(self, pool: WorkerPool, leases: Leases) -> None:
        """Make commits until the learner is done."""

    @abstractmethod
    def _with_own_fields(self, record: PassEnded) -> PassEnded:
        """Return the pass's record with the fields of this way of training."""

    @abstractmethod
    def _own_state(self) -> PassState:
        """Return what `_load_own_state` needs; no array's name starts with `learner/`."""

    @abstractmethod
    def _load_own_state(self, document: Json, arrays: Arrays) -> None: ...

    def emit_all(self, records: Iterable[Record]) -> None:
        """Emit records in order."""
        for record in records:
            self.emit(record)

    def finish_commit(
        self, *, started: float, workers: int, failed_tasks: int, **own_fields: Any
    ) -> None:
        """Emit the record of a commit, then allow a checkpoint or an interrupt.

        The learner and the counts must have all of the commit already. `started`: when it began, on
        the clock of `time.perf_counter`. `own_fields`: the fields of `RoundEnded` that only this
        way of training has.
        """
        now = time.perf_counter()
        if not self.commits:
            self._first_commit = now
        self.commits += 1
        self.emit(
            RoundEnded(
                round=self.commits,
                rows=self.learner.rows,
                seconds=now - started,
                workers=workers,
                failed_tasks=failed_tasks,
                **own_fields,
            )
        )
        self._reach_edge()

    def state(self) -> PassState:
        """Return the state after the last commit."""
        own, own_arrays = self._own_state()
        learner, arrays = self.learner.state()
        document = {
            "name": pass_name(self.learner, self.kind),
            "record": None if self.record is None else self.record.to_json(),
            "chosen": self._chosen_fields(),
            "commits": self.commits,
            "learner": learner,
            **self.delivered.to_json(),
            "seconds": time.perf_counter() - self._started,
            "fill_seconds": self._first_commit - self._started,
            "own": own,
        }
        return document, nest("learner", arrays) | own_arrays

    @refusing_damage()
    def load_state(self, resume_state: PassState) -> None:
        """Continue from a `state`."""
        document, arrays = resume_state
        self.learner.load_state(document["learner"], unnest("learner", arrays))
        self.chosen = saved_choice(resume_state)
        self.commits = document["commits"]
        self.record = parse_pass(document["record"])
        self.delivered = DeliveredRows.from_json(document)
        self._started = time.perf_counter() - document["seconds"]
        self._first_commit = self._started + document["fill_seconds"]
        self._load_own_state(document["own"], arrays)

    def _train(self, pool: WorkerPool, leases: Leases) -> None:
        self._train_commits(pool, leases)
        self.emit_all(self.learner.finish())

    def _fraction_done(self) -> float:
        return min(1.0, self.learner.rows / self.learner.last_row)

    def _pass_record(self) -> PassEnded:
        now = time.perf_counter()
        engine = self.learner.engine
        record = pass_record(
            self.delivered,
            self.prepared.source,
            kind=self.kind,
            trial=self.learner.trial,
            lrs={engine.batch_size: tuple(engine.learning_rates)},
            seconds=now - self._started,
            fill_seconds=self._first_commit - self._started,
            training_seconds=now - self._first_commit,
        )
        return self._with_own_fields(replace(record, **self._chosen_fields()))

    def _chosen_fields(self) -> Json:
        if self.chosen is None:
            return {}
        return {name: value for name, value in self.chosen.to_json().items() if name != "event"}


def pass_name(learner: Learner, kind: str) -> str:
    """Return the name of a `SharedLearnerPass` in its checkpoints."""
    engine = learner.engine
    return json.dumps(
        ["workers", kind, learner.trial, engine.batch_size, list(engine.learning_rates)]
    )


@refusing_damage()
def saved_choice(resume_state: PassState) -> SyncChosen | None:
    """Return the `chosen` of a saved `SharedLearnerPass`.

    Raises DataError when it is damaged.
    """
    values = resume_state[0]["chosen"]
    return parse(SyncChosen, values, SyncChosen.EVENT) if values else None


@contextmanager
def _saved_if_lost(saving: Checkpointing | None, state: Callable[[], PassState]) -> Iterator[None]:
    """Make Ctrl-C wait for the next edge, and save the state when the cluster is lost."""
    if saving is None:
        yield
        return
    with saving.listening():
        try:
            yield
        except ResourceError:
            saving.save(state())
            raise
