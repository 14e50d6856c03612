"""A sweep's pass over workers: the same learners, records and result as `passes.run_pass`, with
every learner trained elsewhere.

Each unit (batch size, trial) goes from slice to slice and from worker to worker; the driver keeps
its state, tells the records in one machine's order, and saves where all units stand.
"""

import json
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from streamtrain.cluster.cluster_pass import saved_if_lost
from streamtrain.cluster.connect import Connection
from streamtrain.cluster.dask_backend import DaskBackend
from streamtrain.cluster.record_merge import END, Merge
from streamtrain.cluster.run_spec import draw
from streamtrain.cluster.scheduling import Lease, Leases, dispatch
from streamtrain.cluster.sweep_slices import Slice, Unit, cut_units, expected_cost, train_slice
from streamtrain.cluster.worker_pool import LOOK_SECONDS, WorkerPool
from streamtrain.config import ClusterConfig
from streamtrain.errors import DataError
from streamtrain.records import Emit, PassEnded, parse_pass, parse_record
from streamtrain.run.prepare import Prepared
from streamtrain.training.checkpointing import Checkpointer, PassState
from streamtrain.training.learner import Learner
from streamtrain.types import Receipt

#: A unit whose tasks failed so often, on whatever workers, is a failed cell; the sweep goes on.
UNIT_ATTEMPTS = 3

Payload = tuple[Unit, str, PassState | None, float]


def perform_slice(prepared: Prepared, payload: Payload) -> Slice:
    """The Dask task of a sweep."""
    unit, kind, begun, seconds = payload
    return train_slice(prepared, unit, kind, begun, seconds)


class SweepRunner:
    """Where the passes of one sweep run: call it like `passes.run_pass`, inside `with`.

    `tell` hears what happens, for people.
    """

    def __init__(self, connection: Connection, config: ClusterConfig, tell: Callable[[str], None]):
        self._connection, self._config, self._tell = connection, config, tell
        self._leases = Leases(
            timeout_seconds=config.slice_seconds + config.timeout_seconds,
            max_failures=config.max_failures,
            max_attempts=UNIT_ATTEMPTS,
        )
        self._stack = ExitStack()
        self._crew: WorkerPool | None = None

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
        saving: Checkpointer | None = None,
    ) -> PassEnded:
        """See `run_pass`.

        Raises ResourceError when the cluster is lost; what was done until then is saved.
        """
        work = SweepPass(
            prepared,
            learners,
            trial,
            emit,
            kind=kind,
            saving=saving,
            slice_seconds=self._config.slice_seconds,
        )
        if work.record is not None:
            return work.record
        if self._crew is None:
            run, own = uuid.uuid4().hex[:12], self._connection.own
            fabric = DaskBackend(
                self._connection.client,
                run,
                draw(prepared),
                perform_slice,
                restarts=own,
                tell=self._tell,
            )
            self._crew = WorkerPool(
                self._stack.enter_context(fabric),
                min_workers=self._config.min_workers,
                tell=self._tell,
                look_seconds=LOOK_SECONDS,
            )
        return work.run(self._crew, self._leases)


class SweepPass:
    """One pass, on any fabric whose workers do `perform_slice`."""

    def __init__(
        self,
        prepared: Prepared,
        learners: list[Learner],
        trial: int,
        emit: Emit,
        *,
        kind: str,
        saving: Checkpointer | None,
        slice_seconds: float,
    ):
        self._prepared, self._learners, self._emit, self._saving = prepared, learners, emit, saving
        self._kind, self._trial, self._slice_seconds = kind, trial, slice_seconds
        self._lrs = {
            learner.engine.batch_size: tuple(learner.engine.learning_rates) for learner in learners
        }
        self._units = cut_units(self._lrs, trial)
        self._states: list[PassState | None] = [None] * len(self._units)
        self._done = [False] * len(self._units)
        self._merge = Merge(len(self._units))
        self._workers: set[str] = set()
        self._started, self._first_result = time.perf_counter(), None
        self._name = json.dumps(["cluster", kind, trial, self._lrs])
        self.record: PassEnded | None = None
        begun = saving.take(self._name) if saving is not None else None
        if begun is not None:
            self._load_state(begun)

    def run(self, crew: WorkerPool, leases: Leases) -> PassEnded:
        """Train every unit to its end, tell its records, and return the pass's own.

        Between two passes `leases` has no items.
        """
        with saved_if_lost(self._saving, self._state):
            return self._run(crew, leases)

    def _run(self, crew: WorkerPool, leases: Leases) -> PassEnded:
        lost_workers, failures = crew.lost_workers, leases.failures
        crew.interrupted = self._edge
        crew.wait_for(crew.min_workers)
        for unit in self._units:
            if not self._done[unit.number]:
                leases.add(unit.number, self._cost_left(unit))

        def take(lease: Lease, result: Slice) -> None:
            self._workers.add(lease.worker)
            self._take(lease.item, result)
            if not result.done:
                leases.add(lease.item, self._cost_left(self._units[lease.item]))

        dispatch(crew, leases, self._payload, take, self._give_up)
        for learner, state in zip(self._learners, self._states, strict=True):
            if state is not None:
                _load_learner(learner, state)
        self.record = replace(
            self._pass_record(),
            workers=len(self._workers),
            lost_workers=crew.lost_workers - lost_workers,
            failed_tasks=leases.failures - failures,
        )
        self._emit(self.record)
        if self._saving is not None:
            self._saving.save(self._state())
        return self.record

    def _payload(self, lease: Lease) -> Payload:
        return self._units[lease.item], self._kind, self._states[lease.item], self._slice_seconds

    def _take(self, number: int, result: Slice) -> None:
        self._first_result = self._first_result or time.perf_counter()
        self._states[number], self._done[number] = result.state, result.done
        # the unit's own; ours says it for all of them
        told = [entry for entry in result.told if not isinstance(entry[1], PassEnded)]
        self._merge.add(number, told, END if result.done else result.reached)
        for record in self._merge.ready():
            self._emit(record)

    def _give_up(self, lease: Lease, why: str) -> None:
        """A unit that no worker gets through: its replicas failed, and the others go on."""
        learner, state = self._learners[lease.item], self._states[lease.item]
        if state is not None:
            _load_learner(learner, state)
        place = (0, 0) if state is None else (state[0]["epoch"], state[0]["window"])
        reason = f"{UNIT_ATTEMPTS} workers failed at it, the last one with: {why}"
        self._done[lease.item] = True
        self._merge.add(
            lease.item, [(place, record) for record in learner.failed("failed", reason)], END
        )
        for record in self._merge.ready():
            self._emit(record)

    def _edge(self) -> None:
        if self._saving is not None:
            self._saving.edge(self._part(), self._state)

    def _rows(self, unit: Unit) -> int:
        state = self._states[unit.number]
        about = state[0]["learners"].get("0") if state is not None else None
        return (
            self._learners[unit.number].last_row
            if self._done[unit.number]
            else about["rows"]
            if about is not None
            else 0
        )

    def _part(self) -> float:
        return float(
            np.mean(
                [
                    self._rows(unit) / learner.last_row
                    for unit, learner in zip(self._units, self._learners, strict=True)
                ]
            )
        )

    def _cost_left(self, unit: Unit) -> float:
        rows = self._learners[unit.number].last_row - self._rows(unit)
        return expected_cost(unit, rows=rows, num_parameters=self._prepared.model.num_parameters)

    def _pass_record(self) -> PassEnded:
        """As `run_pass` has it. Rows read are those of all units: each reads for itself."""
        own = [
            record
            for state in self._states
            if state is not None and (record := parse_pass(state[0]["record"])) is not None
        ]
        furthest = max(
            own,
            key=lambda record: record.receipt.count,
            default=PassEnded(receipt=Receipt()),
        )
        for record in own:
            same = (
                record.receipt.count != furthest.receipt.count
                or record.receipt.digest == furthest.receipt.digest
            )
            if not same:
                raise DataError(
                    "two learners of a pass were given different rows: the data changed while they"
                    " were read. Begin again."
                )
        ended = time.perf_counter()
        fill = (self._first_result or ended) - self._started
        return replace(
            furthest,
            kind=self._kind,
            trial=self._trial,
            rows_read=sum(record.rows_read for record in own),
            learners=len(self._learners),
            lrs=self._lrs,
            replicas=sum(map(len, self._lrs.values())),
            seconds=ended - self._started,
            fill_seconds=fill,
            training_seconds=ended - self._started - fill,
            stats={name: sum(record.stats[name] for record in own) for name in furthest.stats},
        )

    def _state(self) -> PassState:
        """Where every unit stands, and what it told that is not yet to be told."""
        units, arrays = [], {}
        for number, (state, waiting) in enumerate(
            zip(self._states, self._merge.waiting(), strict=True)
        ):
            units.append(
                {
                    "state": None if state is None else state[0],
                    "done": self._done[number],
                    "waiting": [[place, record.to_json()] for place, record in waiting],
                }
            )
            arrays |= {
                f"{number}/{name}": array
                for name, array in (state[1] if state is not None else {}).items()
            }
        document = {
            "name": self._name,
            "record": None if self.record is None else self.record.to_json(),
            "units": units,
            "seconds": time.perf_counter() - self._started,
        }
        return document, arrays

    def _load_state(self, begun: PassState) -> None:
        document, arrays = begun
        for number, unit in enumerate(document["units"]):
            prefix = f"{number}/"
            own = {
                name.removeprefix(prefix): array
                for name, array in arrays.items()
                if name.startswith(prefix)
            }
            self._states[number] = None if unit["state"] is None else (unit["state"], own)
            self._done[number] = unit["done"]
            reached: Any = (
                END
                if unit["done"]
                else (
                    (0, 0)
                    if unit["state"] is None
                    else (unit["state"]["epoch"], unit["state"]["window"])
                )
            )
            waiting = [(tuple(place), parse_record(record)) for place, record in unit["waiting"]]
            self._merge.add(number, waiting, reached)
        self._started = time.perf_counter() - document["seconds"]
        self.record = parse_pass(document["record"])
        if self.record is not None:
            for learner, state in zip(self._learners, self._states, strict=True):
                if state is not None:
                    _load_learner(learner, state)


def _load_learner(learner: Learner, state: PassState) -> None:
    """Give a learner made here what its unit became on workers; one that failed has nothing to
    give.
    """
    document, arrays = state
    if "0" in document["learners"]:
        learner.load_state(
            document["learners"]["0"],
            {
                name.removeprefix("0/"): array
                for name, array in arrays.items()
                if name.startswith("0/")
            },
        )
