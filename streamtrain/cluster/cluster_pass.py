"""What the passes of a driver have in common: one learner that workers train, counted, recorded and
saved commit by commit.
"""

import json
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from streamtrain.cluster.scheduling import Leases
from streamtrain.cluster.worker_pool import WorkerPool
from streamtrain.errors import ResourceError
from streamtrain.records import Emit, PassEnded, Record, RoundEnded, parse_pass
from streamtrain.run.prepare import Prepared
from streamtrain.stream.fetch import FetchStats
from streamtrain.stream.nulls import NullCounts, null_fields
from streamtrain.training.checkpointing import Checkpointer, PassState
from streamtrain.training.learner import Learner
from streamtrain.types import Json, Receipt


@contextmanager
def saved_if_lost(saving: Checkpointer | None, state: Callable[[], PassState]) -> Iterator[None]:
    """Ctrl-C waits for the next edge; and when the cluster is lost, what came back from it is
    not.
    """
    if saving is None:
        yield
        return
    with saving.listening():
        try:
            yield
        except ResourceError:
            saving.save(state())
            raise


def pass_name(learner: Learner, kind: str) -> str:
    """Of a pass over workers, in its checkpoints."""
    return json.dumps(
        [
            "workers",
            kind,
            learner.trial,
            learner.engine.batch_size,
            list(learner.engine.learning_rates),
        ]
    )


class ClusterPass(ABC):
    """A pass of one learner over workers.

    `chosen` goes into its record and its checkpoints; `begun`: a `state` to go on from.

    `record`: the pass's own, once it has ended. A commit is what counts: `commits` of them were
    made.
    """

    def __init__(
        self,
        prepared: Prepared,
        learner: Learner,
        emit: Emit,
        *,
        kind: str = "tuning",
        saving: Checkpointer | None = None,
        chosen: Json | None = None,
    ):
        self.prepared, self.learner, self.emit, self.saving, self.kind, self.chosen = (
            prepared,
            learner,
            emit,
            saving,
            kind,
            chosen or {},
        )
        self.receipt, self.stats = Receipt(), FetchStats()
        self.nulls: NullCounts = Counter()
        self.rows_read = self.commits = 0
        self._started = self._first_commit = time.perf_counter()
        self.record: PassEnded | None = None

    def run(self, crew: WorkerPool, leases: Leases) -> PassEnded:
        """Train to the pass's end; returns and emits its record.

        Raises ResourceError when the cluster is lost: the last commit is saved.
        """
        with saved_if_lost(self.saving, self.state):
            lost_workers, failures = crew.lost_workers, leases.failures
            crew.interrupted = self._edge
            crew.wait_for(crew.min_workers)
            self._train(crew, leases)
            self.tell(self.learner.finish())
            self.record = replace(
                self._pass_record(),
                **{
                    **self.chosen,
                    **self._own_record(),
                    "lost_workers": crew.lost_workers - lost_workers,
                    "failed_tasks": leases.failures - failures,
                },
            )
            self.emit(self.record)
            if self.saving is not None:
                self.saving.save(self.state())
        return self.record

    @abstractmethod
    def _train(self, crew: WorkerPool, leases: Leases) -> None:
        """Until the learner is done: commit after commit."""

    @abstractmethod
    def _own_record(self) -> Json:
        """What the pass's record says of this way of training."""

    @abstractmethod
    def _own_state(self) -> PassState:
        """What `_load_own_state` goes on from; names of arrays do not begin with `learner/`."""

    @abstractmethod
    def _load_own_state(self, document: Json, arrays: dict) -> None: ...

    def tell(self, records: Iterable[Record]) -> None:
        for record in records:
            self.emit(record)

    def count(self, receipt: Receipt, nulls: NullCounts, stats: Json) -> None:
        """What one worker delivered to a commit."""
        self.receipt, self.nulls = self.receipt + receipt, self.nulls + nulls
        self.rows_read += receipt.count
        self.stats.add(**stats)

    def committed(self, *, started: float, workers: int, failed_tasks: int, **own: object) -> None:
        """All of a commit is in the learner and counted: its record, and a place to stop and to
        save.
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
                **own,
            )
        )
        self._edge()

    def _edge(self) -> None:
        if self.saving is not None:
            self.saving.edge(min(1.0, self.learner.rows / self.learner.last_row), self.state)

    def _pass_record(self) -> PassEnded:
        """As `run_pass` has it."""
        prepared, now, rates = (
            self.prepared,
            time.perf_counter(),
            tuple(self.learner.engine.learning_rates),
        )
        return PassEnded(
            kind=self.kind,
            trial=self.learner.trial,
            rows_read=self.rows_read,
            learners=1,
            lrs={self.learner.engine.batch_size: rates},
            replicas=len(rates),
            seconds=now - self._started,
            fill_seconds=self._first_commit - self._started,
            training_seconds=now - self._first_commit,
            receipt=self.receipt,
            stats=self.stats.to_json(),
            **null_fields(self.nulls, prepared.source),
        )

    def state(self) -> PassState:
        """Where the last commit left it."""
        own, own_arrays = self._own_state()
        about, arrays = self.learner.state()
        document = {
            "name": pass_name(self.learner, self.kind),
            "record": None if self.record is None else self.record.to_json(),
            "chosen": self.chosen,
            "commits": self.commits,
            "learner": about,
            "receipt": self.receipt.to_json(),
            "rows_read": self.rows_read,
            "stats": self.stats.to_json(),
            "nulls": [[*key, count] for key, count in sorted(self.nulls.items())],
            "seconds": time.perf_counter() - self._started,
            "fill_seconds": self._first_commit - self._started,
            "own": own,
        }
        return document, {
            **{f"learner/{name}": array for name, array in arrays.items()},
            **own_arrays,
        }

    def load_state(self, begun: PassState) -> None:
        """Go on from a `state`."""
        document, arrays = begun
        self.learner.load_state(document["learner"], below(arrays, "learner/"))
        self.chosen, self.commits, self.record = (
            document["chosen"],
            document["commits"],
            parse_pass(document["record"]),
        )
        self.receipt, self.rows_read = Receipt.from_json(document["receipt"]), document["rows_read"]
        self.stats = FetchStats(**document["stats"])
        self.nulls = Counter({(shard, column): count for shard, column, count in document["nulls"]})
        self._started = time.perf_counter() - document["seconds"]
        self._first_commit = self._started + document["fill_seconds"]
        self._load_own_state(document["own"], arrays)


def below(arrays: dict, prefix: str) -> dict:
    """Those whose names begin so, without it."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
