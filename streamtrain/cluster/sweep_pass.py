"""A sweep's pass on workers: the same learners, records and result as `run_pass`.

Each learner is a work item that moves from slice to slice and from worker to worker. The driver
keeps its state, emits the records in the order of one machine, and saves the state of every
learner.
"""

import json
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from streamtrain.cluster.cluster_pass import ClusterPass
from streamtrain.cluster.connect import Connection
from streamtrain.cluster.dask_backend import DaskBackend
from streamtrain.cluster.record_merge import END, START, BlockPosition, RecordMerge
from streamtrain.cluster.run_spec import RunSpec
from streamtrain.cluster.scheduling import Lease, Leases, dispatch
from streamtrain.cluster.sweep_slices import (
    SliceResult,
    SweepItem,
    expected_cost,
    sweep_items,
    train_slice,
)
from streamtrain.cluster.worker_pool import CHECK_SECONDS, WorkerPool
from streamtrain.config import ClusterConfig
from streamtrain.errors import DataError
from streamtrain.records import Emit, PassEnded, Record, parse_pass, parse_record
from streamtrain.run.prepare import Prepared
from streamtrain.training.checkpoint import nest, unnest
from streamtrain.training.checkpointing import Checkpointing, PassState, refusing_damage
from streamtrain.training.learner import Learner
from streamtrain.types import Json, Receipt

#: A learner whose tasks failed this many times, on any workers, is a failed cell; the sweep
#: continues with the others.
ITEM_ATTEMPTS = 3

Payload = tuple[SweepItem, str, PassState | None, float]


def perform_slice(prepared: Prepared, payload: Payload) -> SliceResult:
    """Train a learner for a slice; the Dask task of a sweep."""
    item, kind, resume_state, seconds = payload
    return train_slice(prepared, item, kind, resume_state, seconds)


class SweepRunner:
    """Runs the passes of one sweep on workers: a `PassRunner`, to be called inside `with`.

    `notify` receives messages for the user.
    """

    def __init__(
        self, connection: Connection, config: ClusterConfig, notify: Callable[[str], None]
    ):
        self._connection = connection
        self._config = config
        self._notify = notify
        self._leases = Leases(
            timeout_seconds=config.slice_seconds + config.timeout_seconds,
            max_failures=config.max_failures,
            max_attempts=ITEM_ATTEMPTS,
        )
        self._stack = ExitStack()
        self._pool: WorkerPool | None = None

    def __enter__(self) -> "SweepRunner":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __call__(
        self,
        prepared: Prepared,
        learners: list[Learner],
        trial: int,
        emit: Emit,
        *,
        kind: str = "tuning",
        max_seconds: float | None = None,
        saving: Checkpointing | None = None,
    ) -> PassEnded:
        """See `run_pass`.

        Raises ResourceError when the cluster is lost; what was done until then is saved.
        """
        sweep_pass = SweepPass(
            prepared,
            learners,
            trial,
            emit,
            kind=kind,
            saving=saving,
            slice_seconds=self._config.slice_seconds,
        )
        if sweep_pass.record is not None:
            return sweep_pass.record
        if self._pool is None:
            self._pool = self._open_pool(RunSpec.of(prepared))
        return sweep_pass.run(self._pool, self._leases)

    def _open_pool(self, run_spec: RunSpec) -> WorkerPool:
        backend = DaskBackend(
            self._connection.client,
            uuid.uuid4().hex[:12],
            run_spec,
            perform_slice,
            restarts=self._connection.is_ours,
            notify=self._notify,
        )
        return WorkerPool(
            self._stack.enter_context(backend),
            min_workers=self._config.min_workers,
            notify=self._notify,
            check_seconds=CHECK_SECONDS,
        )


class SweepPass(ClusterPass):
    """One pass of a sweep, on any backend whose workers do `perform_slice`."""

    def __init__(
        self,
        prepared: Prepared,
        learners: list[Learner],
        trial: int,
        emit: Emit,
        *,
        kind: str,
        saving: Checkpointing | None,
        slice_seconds: float,
    ):
        super().__init__(prepared, emit, kind=kind, saving=saving)
        self._learners = learners
        self._trial = trial
        self._slice_seconds = slice_seconds
        self._lrs = {
            learner.engine.batch_size: tuple(learner.engine.learning_rates) for learner in learners
        }
        self._items = sweep_items(self._lrs, trial)
        self._states: list[PassState | None] = [None] * len(self._items)
        self._done = [False] * len(self._items)
        self._merge = RecordMerge(len(self._items))
        self._workers: set[str] = set()
        self._first_result: float | None = None
        self._name = json.dumps(["cluster", kind, trial, self._lrs])
        resume_state = saving.take(self._name) if saving is not None else None
        if resume_state is not None:
            self.load_state(resume_state)

    def state(self) -> PassState:
        """Return the state of every learner, and the records that are not emitted yet."""
        documents, arrays = [], {}
        for number, waiting in enumerate(self._merge.waiting()):
            state = self._states[number]
            document = {
                "state": None if state is None else state[0],
                "done": self._done[number],
                "waiting": [[position, record.to_json()] for position, record in waiting],
            }
            documents.append(document)
            if state is not None:
                arrays |= nest(str(number), state[1])
        document = {
            "name": self._name,
            "record": None if self.record is None else self.record.to_json(),
            "units": documents,
            "seconds": time.perf_counter() - self._started,
        }
        return document, arrays

    @refusing_damage()
    def load_state(self, resume_state: PassState) -> None:
        """Continue from a `state`; the learners of a pass that had ended are restored."""
        document, arrays = resume_state
        for number, saved in enumerate(document["units"]):
            if saved["state"] is not None:
                self._states[number] = saved["state"], unnest(str(number), arrays)
            self._done[number] = saved["done"]
            waiting = [(_position(pair), parse_record(values)) for pair, values in saved["waiting"]]
            reached = END if saved["done"] else _reached(self._states[number])
            self._merge.add(number, waiting, reached)
        self._started = time.perf_counter() - document["seconds"]
        self.record = parse_pass(document["record"])
        if self.record is not None:
            self._load_learners()

    def _train(self, pool: WorkerPool, leases: Leases) -> None:
        for item in self._items:
            if not self._done[item.number]:
                leases.add(item.number, self._cost_left(item))
        dispatch(pool, leases, self._payload, partial(self._take, leases), self._give_up)
        self._load_learners()

    def _payload(self, lease: Lease) -> Payload:
        return self._items[lease.item], self.kind, self._states[lease.item], self._slice_seconds

    def _take(self, leases: Leases, lease: Lease, result: SliceResult) -> None:
        """Keep the state of a learner, emit the records that are complete, and lease it again."""
        number = lease.item
        self._workers.add(lease.worker)
        self._first_result = self._first_result or time.perf_counter()
        self._states[number], self._done[number] = result.state, result.done
        # The learner's own pass record is left out: ours is for all learners.
        records = [entry for entry in result.records if not isinstance(entry[1], PassEnded)]
        self._add_records(number, records, END if result.done else result.reached)
        if not result.done:
            leases.add(number, self._cost_left(self._items[number]))

    def _give_up(self, lease: Lease, reason: str) -> None:
        """End a learner that no worker can train: its replicas failed, the others continue."""
        learner, state = self._learners[lease.item], self._states[lease.item]
        if state is not None:
            _load_learner(learner, state)
        position = _reached(state)
        outcome = f"{ITEM_ATTEMPTS} workers failed to train it, the last one with: {reason}"
        records = [(position, record) for record in learner.report_failure("failed", outcome)]
        self._done[lease.item] = True
        self._add_records(lease.item, records, END)

    def _add_records(
        self, number: int, records: Sequence[tuple[BlockPosition, Record]], reached: BlockPosition
    ) -> None:
        self._merge.add(number, records, reached)
        for record in self._merge.ready():
            self.emit(record)

    def _rows(self, item: SweepItem) -> int:
        """Return the rows that a learner has been trained on."""
        if self._done[item.number]:
            return self._learners[item.number].last_row
        state = self._states[item.number]
        learner = None if state is None else state[0]["learners"].get("0")
        return 0 if learner is None else learner["rows"]

    def _fraction_done(self) -> float:
        fractions = [
            self._rows(item) / learner.last_row
            for item, learner in zip(self._items, self._learners, strict=True)
        ]
        return float(np.mean(fractions))

    def _cost_left(self, item: SweepItem) -> float:
        rows = self._learners[item.number].last_row - self._rows(item)
        return expected_cost(item, rows=rows, num_parameters=self.prepared.model.num_parameters)

    def _load_learners(self) -> None:
        for learner, state in zip(self._learners, self._states, strict=True):
            if state is not None:
                _load_learner(learner, state)

    def _pass_record(self) -> PassEnded:
        """Return the record of the pass; rows read are summed, since each learner reads alone.

        Raises DataError when two learners were given different rows.
        """
        records = [record for state in self._states if (record := _own_record(state)) is not None]
        furthest = max(
            records,
            key=lambda record: _receipt(record).count,
            default=PassEnded(receipt=Receipt()),
        )
        expected = _receipt(furthest)
        for receipt in map(_receipt, records):
            if receipt.count == expected.count and receipt.digest != expected.digest:
                raise DataError(
                    "two learners of a pass were given different rows: the data changed while they"
                    " were read. Start the run again."
                )
        now = time.perf_counter()
        fill_seconds = (self._first_result or now) - self._started
        return replace(
            furthest,
            kind=self.kind,
            trial=self._trial,
            rows_read=sum(record.rows_read for record in records),
            learners=len(self._learners),
            lrs=self._lrs,
            replicas=sum(map(len, self._lrs.values())),
            seconds=now - self._started,
            fill_seconds=fill_seconds,
            training_seconds=now - self._started - fill_seconds,
            stats={name: sum(record.stats[name] for record in records) for name in furthest.stats},
            workers=len(self._workers),
        )


def _own_record(state: PassState | None) -> PassEnded | None:
    """Return the pass record of a learner that has ended on a worker."""
    return None if state is None else parse_pass(state[0]["record"])


def _receipt(record: PassEnded) -> Receipt:
    assert record.receipt is not None
    return record.receipt


def _reached(state: PassState | None) -> BlockPosition:
    """Return the block that comes next for a learner."""
    return START if state is None else (state[0]["epoch"], state[0]["window"])


def _position(pair: Any) -> BlockPosition:
    epoch, window = pair
    return epoch, window


def _load_learner(learner: Learner, state: PassState) -> None:
    """Load what workers made of a learner; one that failed has left no state."""
    document, arrays = state
    saved: Json | None = document["learners"].get("0")
    if saved is not None:
        learner.load_state(saved, unnest("0", arrays))
