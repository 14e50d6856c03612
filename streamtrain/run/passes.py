"""One pass over the data feeds every learner of a trial.

`sweep` and `train` are made of passes; nothing here exists twice.
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import takewhile
from threading import Event
from typing import Protocol

from streamtrain.base.budget import default_readers
from streamtrain.records import Emit, Evaluation, PassEnded, Record, ReplicaEnded
from streamtrain.run.prepare import Prepared
from streamtrain.stream.block import Block
from streamtrain.stream.nulls import null_fields
from streamtrain.training.checkpointing import PassState
from streamtrain.training.compute_pool import ComputePool
from streamtrain.training.engine_choice import is_out_of_memory
from streamtrain.training.fused_engine import one_blas_thread
from streamtrain.training.learner import Learner
from streamtrain.training.position import Position


class Checkpointing(Protocol):
    """Saves a pass and resumes it: a `Checkpointer`, or a slice of a pass on a worker."""

    def take(self, name: str, /) -> PassState | None:
        """Return the state to resume the pass of this name from; None for a pass that starts."""
        ...

    def listening(self) -> AbstractContextManager[None]:
        """Make Ctrl-C and SIGTERM wait for the next `edge`."""
        ...

    def edge(self, fraction: float, state: Callable[[], PassState], /) -> None:
        """Save if it is time to; raises to end the pass here."""
        ...

    def save(self, state: PassState, /) -> None:
        """Save the state of a pass that has ended, or can go no further."""
        ...


class PassRunner(Protocol):
    """What runs a pass: `run_pass` in this process, or a runner on a cluster's workers.

    See `run_pass`; a runner on workers raises ResourceError when the cluster is lost.
    """

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
        """Train the learners to the end of the pass; return and emit its record."""
        ...


def run_pass(
    prepared: Prepared,
    learners: list[Learner],
    trial: int,
    emit: Emit,
    *,
    kind: str = "tuning",
    max_seconds: float | None = None,
    saving: Checkpointing | None = None,
    position: Position | None = None,
) -> PassEnded:
    """Read the rows once, feed every block to every learner, emit their records; returns and emits
    the pass's own record.

    A learner that runs out of memory or fails ends alone: its outcome says so. With `saving`, all
    learners are saved at an edge of blocks (a lone one also where `consume` stops), Ctrl-C and
    SIGTERM wait for such an edge, and a pass in which the run was interrupted goes on from there;
    one that had ended gives the learners and the record it ended with. `position`: that of these
    learners, for a caller who looks at it when a record is emitted.
    """
    lrs = {learner.engine.batch_size: tuple(learner.engine.learning_rates) for learner in learners}
    position = position or Position(
        json.dumps([kind, trial, lrs]), learners, prepared.source.quarantine
    )
    begun = saving.take(position.name) if saving is not None else None
    if begun is not None:
        position.load_state(begun)
        if position.row and prepared.source.quarantine is not None:
            prepared.source.quarantine.seal(
                prepared.plan(trial, position.epoch).window(position.window).spans
            )
        if position.record is not None:
            return position.record
    with nullcontext() if saving is None else saving.listening():
        _train(prepared, position, trial, emit, max_seconds, saving)
        for learner in position.active:
            for record in learner.finish():
                emit(record)
        position.record = PassEnded(
            kind=kind,
            trial=trial,
            rows_read=position.rows_read,
            learners=len(learners),
            lrs=lrs,
            replicas=sum(map(len, lrs.values())),
            seconds=position.seconds,
            fill_seconds=position.first_block - position.started,
            training_seconds=position.trained - position.first_block,
            receipt=position.receipt,
            stats=position.stats.to_json(),
            quarantined=(
                None if prepared.source.quarantine is None else prepared.source.quarantine.record()
            ),
            **null_fields(position.nulls, prepared.source),
        )
        emit(position.record)
        if prepared.source.quarantine is not None:
            emit(prepared.source.quarantine.to_record())
        if saving is not None:
            saving.save(position.state())
    return position.record


def _train(
    prepared: Prepared,
    position: Position,
    trial: int,
    emit: Emit,
    max_seconds: float | None,
    saving: Checkpointing | None,
) -> None:
    """Feed blocks from the position on, until it is the pass's end."""

    def edge() -> None:
        if saving is not None:
            rows, last_row = position.rows, max(learner.last_row for learner in position.learners)
            saving.edge(
                max(rows / last_row, position.seconds / max_seconds if max_seconds else 0.0),
                position.state,
            )

    leaving = Event()
    # Fused learners go side by side, and their replicas share the cores. Torch brings its own
    # threads.
    fused = prepared.engine == "fused"
    with (
        ThreadPoolExecutor(
            len(position.learners) if fused else 1, thread_name_prefix="streamtrain-learner"
        ) as pool,
        one_blas_thread(fused),
        ComputePool(prepared.config.train.threads or default_readers()) as cores,
    ):
        for learner in position.learners if fused else ():
            learner.engine.cores = cores
        blocks = prepared.blocks(
            trial, position.stats, epoch=position.epoch, window=position.window
        )
        try:
            while not _has_ended(prepared, position, max_seconds):
                edge()
                block = next(blocks)
                if position.first_block == position.started:
                    position.first_block = time.perf_counter()
                fed = [_consume(learner, block, position.row) for learner in position.active]
                # Several take the block side by side, then tell. A lone one tells as it goes, so
                # that it can be saved within a block.
                told = fed if len(fed) == 1 else pool.map(partial(_take, leaving), fed)
                for learner, items in zip(list(position.active), told, strict=True):
                    for item in items:
                        if isinstance(item, int):
                            if len(fed) == 1:
                                position.row = item
                                edge()
                            continue
                        if isinstance(item, Evaluation):
                            item = replace(item, wait_seconds=position.stats.wait_seconds)
                        emit(item)
                        if isinstance(item, ReplicaEnded) and learner in position.active:
                            position.active.remove(learner)
                position.move_past(block)
        finally:
            leaving.set()
            blocks.close()


def _has_ended(prepared: Prepared, position: Position, max_seconds: float | None) -> bool:
    late = (
        max_seconds is not None
        and position.trained > position.first_block
        and position.seconds >= max_seconds
    )
    return (
        late
        or position.epoch == prepared.last_epoch
        or all(learner.done for learner in position.active)
    )


def _consume(learner: Learner, block: Block, first: int) -> Iterator[Record | int]:
    """What the learner tells of a block; a failure is an outcome, never an error of the sweep."""
    try:
        yield from learner.consume(block.rows, ends_epoch=block.ends_epoch, first=first)
    except (MemoryError, RuntimeError) as error:
        yield from learner.failed(
            "out_of_memory" if is_out_of_memory(error) else "failed", str(error).partition("\n")[0]
        )


def _take(leaving: Event, told: Iterator[Record | int]) -> list[Record | int]:
    """All that a learner tells, or what it told before the pass was ended in the middle of its
    block.
    """
    return list(takewhile(lambda _: not leaving.is_set(), told))
