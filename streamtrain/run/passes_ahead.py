"""Passes of a sweep that train beside the one whose turn it is.

They are the passes that the records will ask for next, as far as that is known. Each runs on a
thread, with its own readers and learners. Its records wait in memory until its turn; only then do
they become part of the run, and its last state is saved. So the log is that of passes in turn, and
a pass that the records do not ask for, after all, leaves no trace. One that failed, or in which a
learner did, runs again in its turn, alone: the others may have taken its memory.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from threading import Event
from typing import Self

from streamtrain.records import PassEnded, Record, ReplicaEnded
from streamtrain.run.passes import run_pass
from streamtrain.run.prepare import Prepared
from streamtrain.science.tuning import PassPlan
from streamtrain.training.checkpointing import PassState
from streamtrain.training.fused_engine import one_blas_thread
from streamtrain.training.learner import Learner
from streamtrain.training.memory_errors import is_out_of_memory


class PassStopped(Exception):
    """Ends a pass whose result is not wanted any more."""


class PassAhead:
    """A pass before its turn, with what it leaves: `learners`, `records` and the last `state`.

    It is the `Checkpointing` of its own pass: it keeps the state at the end, and nothing before.
    Make it on the thread that makes all learners, since engines compile their kernels then.
    """

    def __init__(self, prepared: Prepared, plan: PassPlan):
        self.plan = plan
        self.learners = make_learners(prepared, plan)
        self.records: list[Record] = []
        self.state: PassState | None = None
        self._prepared = prepared
        self._stopping = Event()

    def run(self) -> None:
        """Run the pass. Raises what `run_pass` does, and PassStopped."""
        plan = self.plan
        run_pass(
            self._prepared,
            self.learners,
            plan.trial,
            self._keep,
            kind=plan.kind,
            saving=self,
            stopping=self._stopping,
        )

    def stop(self) -> None:
        """Let the pass end soon, from any thread."""
        self._stopping.set()

    def _keep(self, record: Record) -> None:
        self.records.append(record)
        if isinstance(record, ReplicaEnded) and record.outcome in ("out_of_memory", "failed"):
            raise PassStopped

    def take(self, name: str) -> None:
        """See `Checkpointing.take`: a pass before its turn was never saved."""

    def listening(self) -> AbstractContextManager[None]:
        """See `Checkpointing.listening`: signals are for the main thread."""
        return nullcontext()

    def edge(self, fraction: float, state: Callable[[], PassState]) -> None:
        """See `Checkpointing.edge`."""
        if self._stopping.is_set():
            raise PassStopped

    def save(self, state: PassState) -> None:
        """See `Checkpointing.save`."""
        self.state = state


class PassesAhead:
    """The passes of one sweep that run before their turn. Used from one thread, in a `with`."""

    def __init__(self) -> None:
        self._passes: deque[tuple[PassAhead, Future[None]]] = deque()
        self._running = ExitStack()
        #: Whether a pass failed that ran ahead, so that no other one is started.
        self.failed = False

    def start(self, prepared: Prepared, plans: Sequence[PassPlan]) -> int:
        """Start the passes of `plans`, and return how many there is memory for."""
        passes: list[PassAhead] = []
        for plan in plans:
            try:
                passes.append(PassAhead(prepared, plan))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self.failed = True
                break
        if passes:
            # The limit is the process's. Passes that set it and restore it at any times would leave
            # another one behind.
            self._running.enter_context(one_blas_thread())
            pool = ThreadPoolExecutor(len(passes), thread_name_prefix="streamtrain-pass")
            self._running.enter_context(pool)
            self._passes.extend((ahead, pool.submit(ahead.run)) for ahead in passes)
        return len(passes)

    def take(self, plan: PassPlan) -> PassAhead | None:
        """Return the pass of this plan, whose turn it is, once it has ended.

        None where it did not run ahead, or failed. All others are stopped then.
        """
        if not self._passes:
            return None
        ahead, ended = self._passes[0]
        if ahead.plan == plan:
            # not result(): what went wrong is found again, and raised, when the pass runs in turn
            if ended.exception() is None:
                self._passes.popleft()
                if not self._passes:
                    self._running.close()
                return ahead
            self.failed = True
        self.stop()
        return None

    def stop(self) -> None:
        """Stop all passes, and wait for their threads."""
        for ahead, _ in self._passes:
            ahead.stop()
        self._passes.clear()
        self._running.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def make_learners(prepared: Prepared, plan: PassPlan) -> list[Learner]:
    """Return the learners of a pass, one per batch size."""
    return [prepared.learner(size, lrs, plan.trial) for size, lrs in plan.lrs.items()]


def with_shared_seconds(record: Record, passes: int) -> Record:
    """Return the record of one of several passes at once with its share of their time.

    The sum over passes is then about the time that they took together.
    """
    if not isinstance(record, PassEnded):
        return record
    return replace(
        record,
        seconds=record.seconds / passes,
        fill_seconds=record.fill_seconds / passes,
        training_seconds=record.training_seconds / passes,
    )
