"""One pass over the data, which feeds every learner of a trial.

`sweep`, `train`, the confirmation and the measurements all run their passes through `run_pass`.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import takewhile
from threading import Event
from typing import Protocol

from streamtrain.base.budget import default_readers
from streamtrain.errors import first_line
from streamtrain.records import Emit, Evaluation, PassEnded, Record, ReplicaEnded
from streamtrain.run.prepare import Prepared
from streamtrain.stream.block import Block
from streamtrain.stream.delivered_rows import DeliveredRows
from streamtrain.stream.nulls import null_fields
from streamtrain.stream.source import Source
from streamtrain.training.checkpointing import Checkpointing
from streamtrain.training.engine_choice import running, share_block
from streamtrain.training.learner import Learner
from streamtrain.training.memory_errors import is_out_of_memory
from streamtrain.training.position import Position


class PassRunner(Protocol):
    """Runs a pass: `run_pass` in this process, or a function that runs it on a cluster's workers.

    See `run_pass`. A runner on workers raises ResourceError when the cluster is lost.
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
    stopping: Event | None = None,
) -> PassEnded:
    """Read the rows once, feed every block to every learner, and emit their records.

    Emits the record of the pass last, and returns it. A learner that fails or runs out of memory
    ends without affecting the others, and its outcome records why.

    With `saving`, the state of all learners is saved between blocks. A single learner can also be
    saved within a block, where its `rows_to_save` ends. Signals such as Ctrl-C take effect at these
    points. An interrupted pass continues from its checkpoint. A pass that has already ended is not
    run again: the final state of its learners is loaded, and its record is returned.

    `position`: the object that tracks progress, for a caller that reads it as records are emitted.
    `stopping`: set it from another thread, and learners end their block early; `saving` must then
    end the pass.
    """
    learning_rates = {
        learner.engine.batch_size: tuple(learner.engine.learning_rates) for learner in learners
    }
    quarantine = prepared.source.quarantine
    position = position or Position(json.dumps([kind, trial, learning_rates]), learners, quarantine)
    resume_state = saving.take(position.name) if saving is not None else None
    if resume_state is not None:
        position.load_state(resume_state)
        if position.row and quarantine is not None:
            window = prepared.plan(trial, position.epoch).window(position.window)
            quarantine.seal(window.spans)
        if position.record is not None:
            return position.record
    listening = nullcontext() if saving is None else saving.listening()
    with listening:
        _train(prepared, position, trial, emit, max_seconds, saving, stopping or Event())
        for learner in position.active:
            for record in learner.finish():
                emit(record)
        record = pass_record(
            position.delivered,
            prepared.source,
            kind=kind,
            trial=trial,
            lrs=learning_rates,
            seconds=position.seconds,
            fill_seconds=position.first_block - position.started,
            training_seconds=position.trained - position.first_block,
        )
        if quarantine is not None:
            record = replace(record, quarantined=quarantine.record())
        position.record = record
        emit(position.record)
        if quarantine is not None:
            emit(quarantine.to_record())
        if saving is not None:
            saving.save(position.state())
    return position.record


def pass_record(
    delivered: DeliveredRows,
    source: Source,
    *,
    kind: str,
    trial: int,
    lrs: Mapping[int, tuple[float, ...]],
    seconds: float,
    fill_seconds: float,
    training_seconds: float,
) -> PassEnded:
    """Return the record of a pass; `lrs`: learning rates by batch size. See `PassEnded`."""
    nulls = null_fields(delivered.nulls, source)
    return PassEnded(
        kind=kind,
        trial=trial,
        rows_read=delivered.receipt.count,
        learners=len(lrs),
        lrs=dict(lrs),
        replicas=sum(map(len, lrs.values())),
        seconds=seconds,
        fill_seconds=fill_seconds,
        training_seconds=training_seconds,
        receipt=delivered.receipt,
        stats=delivered.stats.to_json(),
        imputed=nulls.get("imputed"),
        dropped=nulls.get("dropped"),
    )


def _train(
    prepared: Prepared,
    position: Position,
    trial: int,
    emit: Emit,
    max_seconds: float | None,
    saving: Checkpointing | None,
    stopping: Event,
) -> None:
    """Feed blocks to the learners, from the current position until the pass ends."""

    def save_if_due() -> None:
        if saving is not None:
            saving.edge(_fraction_done(position, max_seconds), position.state)

    # The learners of the fused engines train side by side: on the CPU their replicas share one pool
    # of threads, on a GPU each has a stream. Torch has threads of its own, so its learners take
    # turns.
    engines = [learner.engine for learner in position.learners]
    learner_threads = 1 if prepared.engine == "torch" else len(position.learners)
    with (
        ThreadPoolExecutor(learner_threads, thread_name_prefix="streamtrain-learner") as pool,
        running(engines, prepared.config.train.threads or default_readers()),
    ):
        shared = share_block(engines)
        blocks = prepared.blocks(
            trial, position.delivered.stats, epoch=position.epoch, window=position.window
        )
        try:
            while not _has_ended(prepared, position, max_seconds):
                save_if_due()
                block = next(blocks)
                if position.first_block == position.started:
                    position.first_block = time.perf_counter()
                if len(position.active) == 1:
                    _feed_one(position, block, emit, save_if_due)
                else:
                    if shared is not None:
                        shared.put(block.rows)
                    _feed_side_by_side(position, block, emit, pool, stopping)
                    if shared is not None:
                        shared.drop()
                position.move_past(block)
        finally:
            stopping.set()
            blocks.close()


def _fraction_done(position: Position, max_seconds: float | None) -> float:
    """The fraction of the pass that is done, by rows or by time, whichever is larger."""
    last_row = max(learner.last_row for learner in position.learners)
    fraction_of_time = position.seconds / max_seconds if max_seconds else 0.0
    return max(position.rows / last_row, fraction_of_time)


def _has_ended(prepared: Prepared, position: Position, max_seconds: float | None) -> bool:
    out_of_time = (
        max_seconds is not None
        and position.trained > position.first_block
        and position.seconds >= max_seconds
    )
    return (
        out_of_time
        or position.epoch == prepared.last_epoch
        or all(learner.done for learner in position.active)
    )


def _feed_one(
    position: Position, block: Block, emit: Emit, save_if_due: Callable[[], None]
) -> None:
    """Feed a block to the only active learner, and emit each record as it is produced.

    A large block may hold many small minibatches, so the run can also be saved within the block:
    `position.row` is then the row of the block to continue from.
    """
    (learner,) = position.active
    while True:
        stop = min(position.row + learner.rows_to_save, len(block.rows))
        for record in _consume(learner, block, position.row, stop):
            _report(record, learner, position, emit)
        if stop == len(block.rows) or learner.done or not position.active:
            return
        position.row = stop
        save_if_due()


def _feed_side_by_side(
    position: Position, block: Block, emit: Emit, pool: ThreadPoolExecutor, stopping: Event
) -> None:
    """Feed a block to all active learners on the pool's threads, and emit learner by learner.

    The order of the records does not depend on which learner is done first. The learners are at
    different rows until all have finished the block, so nothing is saved before that.
    """
    learners = list(position.active)
    consumed = [_consume(learner, block, position.row, len(block.rows)) for learner in learners]
    per_learner = pool.map(partial(_collect_records, stopping), consumed)
    for learner, records in zip(learners, per_learner, strict=True):
        for record in records:
            _report(record, learner, position, emit)


def _consume(learner: Learner, block: Block, first: int, last: int) -> Iterator[Record]:
    """Yield what `Learner.consume` yields; an error becomes the learner's outcome.

    This keeps a failing learner from ending the sweep.
    """
    try:
        yield from learner.consume(block.rows, ends_epoch=block.ends_epoch, first=first, last=last)
    except (MemoryError, RuntimeError) as error:
        outcome = "out_of_memory" if is_out_of_memory(error) else "failed"
        yield from learner.report_failure(outcome, first_line(error))


def _collect_records(stopping: Event, records: Iterator[Record]) -> list[Record]:
    """Return the records that a learner yields for a block, or until the pass is stopped."""
    return list(takewhile(lambda _: not stopping.is_set(), records))


def _report(record: Record, learner: Learner, position: Position, emit: Emit) -> None:
    """Emit a record of a learner, and feed no more blocks to a learner that has failed."""
    if isinstance(record, Evaluation):
        record = replace(record, wait_seconds=position.delivered.stats.wait_seconds)
    emit(record)
    if isinstance(record, ReplicaEnded) and learner in position.active:
        position.active.remove(learner)
