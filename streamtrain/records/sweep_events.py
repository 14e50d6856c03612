"""The events of sweeps and of runs on workers: plans, timings, measurements, rounds."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from streamtrain.records.events import BatchSize, BatchStage, Count, Positive, Rate
from streamtrain.records.record import OPTIONAL, Record
from streamtrain.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class PassPlanned(Record):
    """A pass of a sweep that is about to start.

    `batch_sizes` and `replicas`: how many it trains. In a sweep that chooses its own rows: `rows`,
    those that each learner trains on, and `seconds_left`, the rest of its budget.
    """

    EVENT: ClassVar[str] = "next_pass"

    kind: str
    trial: Count
    batch_sizes: Count
    replicas: Count
    passes_left: Count
    rows: Count | None = field(default=None, metadata=OPTIONAL)
    seconds_left: float | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetWinners:
    """The winning learning rate of each batch size, and whether it is at the edge of its grid.

    `target_loss`: None without a hold-out, and where no loss serves as a target.
    """

    target_loss: float | None
    lrs: tuple[Rate, ...]
    at_edge: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WinningRates(Record):
    """The tuned learning rate of each batch size, for each target loss."""

    EVENT: ClassVar[str] = "winners"

    targets: tuple[TargetWinners, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryTimed(Record):
    """The steady stream without training.

    `seconds` of wall time and `core_seconds` of processor time, over all threads. `cores`: those
    that the stream may read on.
    """

    EVENT: ClassVar[str] = "delivery"

    repeat: Count
    rows: Count
    seconds: float
    core_seconds: float = 0.0
    cores: Positive = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsTimed(Record):
    """Steps without the stream, at one batch size, on rows in memory."""

    EVENT: ClassVar[str] = "timing"

    batch_size: BatchSize
    repeat: Count
    rows: Count
    seconds: float
    core_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuringStarted(Record):
    """The expected cost of each measurement, or why there are none."""

    EVENT: ClassVar[str] = "measuring"

    costs: tuple[Json, ...] = ()
    skipped: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Record):
    """Measurements of the trained models, by name; see docs/science.md."""

    EVENT: ClassVar[str] = "measures"

    measures: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed(Record):
    """One batch size trained to the target by itself, to measure the time it takes.

    `seconds`: from the first block on; `fill_seconds`: until then.
    """

    EVENT: ClassVar[str] = "confirmation"

    batch_size: BatchSize
    lr: Rate
    trial: Count
    rows: Count = 0
    seconds: float
    fill_seconds: float = 0.0
    holdout_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthTried(Record):
    """A growing minibatch size and the recommended one, trained on the same rows of a trial.

    Attributes:
        trial: The trial; its seed chose neither of the two.
        stages: The sizes of the growing one.
        lr: Its learning rate.
        batch_size: The recommended size.
        rows: Rows at each evaluation, the same for both.
        growing_loss: Held-out loss of the growing size; None where it is not finite.
        constant_loss: Held-out loss of the recommended size.
    """

    EVENT: ClassVar[str] = "growth"

    trial: Count
    stages: tuple[BatchStage, ...]
    lr: Rate
    batch_size: BatchSize
    rows: tuple[Count, ...] = ()
    growing_loss: tuple[float | None, ...] = ()
    constant_loss: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncChosen(Record):
    """How workers train one model together, and the timings that decided it.

    `sum_seconds` of a sum of gradients, `part_seconds` of a worker's part of a step, and
    `task_seconds` of an empty task. `lanes` belongs to all-reduce, `shares` to local SGD.
    """

    EVENT: ClassVar[str] = "sync"

    sync: Literal["allreduce", "rounds"]
    reason: str
    workers_at_start: Count
    sum_seconds: float | None = field(default=None, metadata=OPTIONAL)
    part_seconds: float | None = field(default=None, metadata=OPTIONAL)
    task_seconds: float | None = field(default=None, metadata=OPTIONAL)
    lanes: Count | None = field(default=None, metadata=OPTIONAL)
    shares: Count | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundEnded(Record):
    """One commit of a run on workers. `rows`: the rows trained on since the start of the run.

    `windows` belongs to local SGD; `generation`, `steps` and `collective` belong to all-reduce.
    """

    EVENT: ClassVar[str] = "round"

    round: Count
    rows: Count
    seconds: float
    workers: Count
    failed_tasks: Count = 0
    windows: Count | None = field(default=None, metadata=OPTIONAL)
    generation: Count | None = field(default=None, metadata=OPTIONAL)
    steps: Count | None = field(default=None, metadata=OPTIONAL)
    collective: str | None = field(default=None, metadata=OPTIONAL)
