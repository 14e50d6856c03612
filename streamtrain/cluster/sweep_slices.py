"""The work items of a sweep's pass, their costs, and the training of one for a slice of time.

A work item is one learner: a (batch size, trial) with all its learning rates. A worker trains it
for some seconds and sends back everything needed to continue on any other worker.

A slice ends where a block ends (or within a block where a step ended), and the learner's state
continues bit-identically. So the results depend neither on the length of slices nor on the workers,
and the death of a worker costs only the slice that it was training.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from streamtrain.cluster.record_merge import BlockPosition
from streamtrain.records import Record
from streamtrain.run.passes import run_pass
from streamtrain.run.prepare import Prepared
from streamtrain.training.checkpointing import PassState
from streamtrain.training.position import Position

#: Operations that one replica costs on one core: per row and parameter, per step and parameter, and
#: per step (kernels/: forward and backward passes in layers.py, the update in updates.py, the call
#: in mlp.py).
ROW_OPERATIONS, STEP_OPERATIONS, CALL_OPERATIONS = 6.0, 30.0, 2e3

#: The cost of reading and shuffling a row, in the same operations; a learner pays it once for all
#: its learning rates.
READ_OPERATIONS = 400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepItem:
    """One learner of a pass; `number` is its index there, by which its records are ordered."""

    number: int
    batch_size: int
    lrs: tuple[float, ...]
    trial: int


def sweep_items(lrs: Mapping[int, tuple[float, ...]], trial: int) -> list[SweepItem]:
    """Return the work items of a pass, in the order of its learners.

    >>> [item.batch_size for item in sweep_items({64: (0.1,), 256: (0.1, 0.2)}, trial=0)]
    [64, 256]
    """
    return [
        SweepItem(number=number, batch_size=batch_size, lrs=learning_rates, trial=trial)
        for number, (batch_size, learning_rates) in enumerate(lrs.items())
    ]


def expected_cost(item: SweepItem, *, rows: int, num_parameters: int) -> float:
    """Return the cost of training on `rows` more rows, in operations.

    The replicas share the reading, and small minibatches take more steps.
    """
    steps = rows / item.batch_size
    replica = (
        num_parameters * (ROW_OPERATIONS * rows + STEP_OPERATIONS * steps) + CALL_OPERATIONS * steps
    )
    return 1.0 + READ_OPERATIONS * rows + len(item.lrs) * replica


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SliceResult:
    """The result of a slice.

    `records` come with the block at which each was emitted; `reached` is the block that comes next;
    `done`: the learner's pass has ended.
    """

    records: list[tuple[BlockPosition, Record]]
    reached: BlockPosition
    state: PassState
    done: bool


class _SliceOver(Exception):
    """The time of a slice is over, and the state to continue from has been kept."""


class _SliceCheckpoint:
    """The `Checkpointing` of a slice: resume from a given state, stop at the first edge in time.

    That is the first edge after `seconds`, but not the one at which the slice starts, so that every
    slice makes progress.
    """

    def __init__(self, resume_state: PassState | None, seconds: float):
        self.state = resume_state
        self._deadline = time.perf_counter() + seconds
        self._edges = 0

    def take(self, name: str) -> PassState | None:
        return self.state

    @contextmanager
    def listening(self) -> Iterator[None]:
        yield

    def edge(self, fraction: float, state: Callable[[], PassState]) -> None:
        self._edges += 1
        if self._edges > 1 and time.perf_counter() >= self._deadline:
            self.state = state()
            raise _SliceOver

    def save(self, state: PassState) -> None:
        self.state = state


def train_slice(
    prepared: Prepared, item: SweepItem, kind: str, resume_state: PassState | None, seconds: float
) -> SliceResult:
    """Train a learner from its saved state for about `seconds`, and for a block at least."""
    learner = prepared.learner(item.batch_size, item.lrs, item.trial)
    position = Position(f"{kind} {item.trial} {item.batch_size}", [learner])
    checkpoint = _SliceCheckpoint(resume_state, seconds)
    records: list[tuple[BlockPosition, Record]] = []

    def emit(record: Record) -> None:
        records.append(((position.epoch, position.window), record))

    try:
        run_pass(
            prepared, [learner], item.trial, emit, kind=kind, saving=checkpoint, position=position
        )
        done = True
    except _SliceOver:
        done = False
    assert checkpoint.state is not None
    return SliceResult(
        records=records,
        reached=(position.epoch, position.window),
        state=checkpoint.state,
        done=done,
    )
