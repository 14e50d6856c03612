"""What a sweep's pass is cut into, and what a part costs: one unit a (batch size, trial), with all
its learning rates.

A sweep's unit on a worker: some seconds of its pass at a time.

It is sent back with all that is needed to go on anywhere else.

A slice ends where a block ends (or within a block where a step ended), and the learner's state goes
on bit for bit. So neither the length of slices nor who does them changes a number, and the death of
a worker costs the slice it was at.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from streamtrain.records import Record
from streamtrain.run.passes import run_pass
from streamtrain.run.prepare import Prepared
from streamtrain.training.checkpointing import PassState
from streamtrain.training.position import Position

#: Operations a row and parameter, of a step a parameter, and of any step at all: what one replica
#: costs on one core (kernels/: forward and backward passes in layers.py, the update in updates.py,
#: the call in mlp.py).
ROW_OPERATIONS, STEP_OPERATIONS, CALL_OPERATIONS = 6.0, 30.0, 2e3

#: Reading and shuffling a row, in the same operations: what every unit does once, however many
#: rates it has.
READ_OPERATIONS = 400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One learner of a pass.

    `number` is its place among the pass's learners, which its records come out in.
    """

    number: int
    batch_size: int
    lrs: tuple[float, ...]
    trial: int


def cut_units(lrs: Mapping[int, tuple[float, ...]], trial: int) -> list[Unit]:
    """The units of a pass, in the order of its learners.

    >>> [unit.batch_size for unit in cut_units({64: (0.1,), 256: (0.1, 0.2)}, trial=0)]
    [64, 256]
    """
    return [
        Unit(number=i, batch_size=size, lrs=rates, trial=trial)
        for i, (size, rates) in enumerate(lrs.items())
    ]


def expected_cost(unit: Unit, *, rows: int, num_parameters: int) -> float:
    """Of `rows` more rows, in operations: replicas share the reading, and small minibatches step
    more often.
    """
    steps = rows / unit.batch_size
    replica = (
        num_parameters * (ROW_OPERATIONS * rows + STEP_OPERATIONS * steps) + CALL_OPERATIONS * steps
    )
    return 1.0 + READ_OPERATIONS * rows + len(unit.lrs) * replica


#: Where a record was told: (epoch, window).
Place = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slice:
    """What a worker sends back: what was told and where, how far it came, and its state, which goes
    on or has ended (`done`).
    """

    told: list[tuple[Place, Record]]
    reached: Place
    state: PassState
    done: bool


class _SliceOver(Exception):
    """The time of a slice is over; the state to go on with is kept."""


class _Pauses:
    """In place of `Checkpointer`: a pass begins with a given state, and is left at the first edge
    after so many seconds.
    """

    seconds = 0.0

    def __init__(self, begun: PassState | None, seconds: float):
        self.state = begun
        self._until = time.perf_counter() + seconds
        self._met_edges = 0

    def take(self, name: str) -> PassState | None:
        return self.state

    @contextmanager
    def listening(self) -> Iterator[None]:
        yield

    def edge(self, part: float, state: Callable[[], PassState]) -> None:
        self._met_edges += 1
        # the first edge is where it began: every slice gets somewhere
        if self._met_edges > 1 and time.perf_counter() >= self._until:
            self.state = state()
            raise _SliceOver

    def save(self, state: PassState) -> None:
        self.state = state


def train_slice(
    prepared: Prepared, unit: Unit, kind: str, begun: PassState | None, seconds: float
) -> Slice:
    """Train a unit from where it was for about so many seconds, a block at least."""
    learner = prepared.learner(unit.batch_size, unit.lrs, unit.trial)
    position = Position(f"{kind} {unit.trial} {unit.batch_size}", [learner])
    pauses, told = _Pauses(begun, seconds), []

    def tell(record: Record) -> None:
        told.append(((position.epoch, position.window), record))

    try:
        run_pass(prepared, [learner], unit.trial, tell, kind=kind, saving=pauses, position=position)
        done = True
    except _SliceOver:
        done = False
    assert pauses.state is not None
    return Slice(
        told=told, reached=(position.epoch, position.window), state=pauses.state, done=done
    )
