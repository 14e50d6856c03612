"""A sweep's unit on a worker: some seconds of its pass at a time.

It is sent back with all that is needed to go on anywhere else.

A slice ends where a block ends (or within a block where a step ended), and the learner's state goes
on bit for bit. So neither the length of slices nor who does them changes a number, and the death of
a worker costs the slice it was at.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from streamtrain.cluster.placement import Unit
from streamtrain.learners.position import Position
from streamtrain.learners.saving import PassState
from streamtrain.passes import run_pass
from streamtrain.prepared import Prepared
from streamtrain.types import Record

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
    """In place of `Saving`: a pass begins with a given state, and is left at the first edge after
    so many seconds.
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
