"""The events of every run: its start and end, evaluations, passes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BeforeValidator, Field

from streamtrain.records.record import OPTIONAL, Record
from streamtrain.types import MAX_ROWS, Goal, Json, LrRule, Receipt, ScoredOn

SCHEMA_VERSION = 1

#: Numbers as a log may hold them; NaN and infinity are not JSON.
Count = Annotated[int, Field(ge=0, le=MAX_ROWS)]
Positive = Annotated[int, Field(ge=1, le=MAX_ROWS)]
BatchSize = Positive
Rate = Annotated[float, Field(gt=0)]

Outcome = Literal["finished", "diverged", "out_of_memory", "failed"]


def _parse_receipt(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    return Receipt.from_json(cast("Mapping[str, Any]", value))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceLoss:
    """The loss of a reference model on held-out rows, or on those named by `scored_on`.

    `rmse` is in the target's units.
    """

    value: float
    rmse: float | None = None
    scored_on: ScoredOn = "holdout"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataInfo:
    """The data set as the run read it.

    Attributes:
        url: Path or URL that was opened.
        fingerprint: Hash of the shards' names, sizes and sources.
        num_rows: Rows of all shards, including held-out rows.
        num_shards: Parquet files or Zarr arrays.
        num_spans: Units of reading.
        features: Names of the features in order.
        target: Name of the target.
        holdout_rows: Rows reserved for evaluation.
        holdout_source: Where they are from: rows of this data set, eval_data or none.
        integrity: Whether checksums of every page protect the data.
        truth: What is known exactly about the data; for generated data only.
        on_null: What is done with rows that have nulls: error, drop or impute.
        transform: The function that changes each block; None when there is none.
        imputed: The values that stand for nulls, by column; None when none do.
        notices: What was noticed when a text table was read, such as a row of totals.
    """

    url: str = ""
    fingerprint: str | None = None
    num_rows: int | None = None
    num_shards: int | None = None
    num_spans: int | None = None
    features: tuple[str, ...] = ()
    target: str = ""
    holdout_rows: int | None = None
    holdout_source: str = "rows"
    integrity: str | None = None
    truth: Json | None = None
    on_null: str = "error"
    transform: Json | None = None
    imputed: dict[str, float] | None = None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryInfo:
    """The memory budget, and the memory that the run was projected to need, in bytes."""

    budget_bytes: int | None = None
    projected_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderInfo:
    """The limits of a sweep that chooses its own rows and trials; see science/ladder.py.

    `budget_seconds` or `budget_rows` limits all passes together, `most_rows` those of a learner.
    `largest_size`: sizes are added up to this one where the best is at an edge; None where the
    sizes were given. Of the budget, `before_seconds` were over when the sweep began, and
    `reserved_seconds` are for opening the data, for measuring, and for the report.
    """

    budget_seconds: float | None = None
    budget_rows: int | None = None
    most_rows: int | None = None
    largest_size: int | None = None
    reserved_seconds: float = 0.0
    before_seconds: float = 0.0

    @property
    def announced_seconds(self) -> float | None:
        """How long the sweep takes at most: its budget, unless that is too small to try anything.

        The passes that are always run take about as long as what is reserved.
        """
        if self.budget_seconds is None:
            return None
        return max(self.budget_seconds, self.before_seconds + 2 * self.reserved_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class UntilFlat:
    """The limits of training that ends when its loss is flat; see training/until_flat.py.

    `first_row`: no evaluation is before it, but for that at row 0. `least_rows`: an epoch or more,
    before whose end nothing is decided. `most_rows`: where training ends at the latest. `fall`: the
    loss is flat when twice the rows improve it by less, relatively.
    """

    first_row: int
    least_rows: int
    most_rows: int
    fall: float

    @property
    def text(self) -> str:
        """How long training takes, in words."""
        if self.least_rows == self.most_rows:
            return f"one epoch, {self.least_rows:,} rows"
        return (
            f"until twice the rows improve the held-out loss by less than {100 * self.fall:g} %:"
            f" {self.least_rows:,} to {self.most_rows:,} rows"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStage:
    """Minibatches of one size, from a row on, until the next stage begins."""

    first_row: Count
    batch_size: BatchSize


def stages_text(stages: Iterable[BatchStage]) -> str:
    """Return stages as `--batch-schedule` takes them.

    >>> stages_text([BatchStage(first_row=0, batch_size=8), BatchStage(first_row=9, batch_size=32)])
    '8@0,32@9'
    """
    return ",".join(f"{stage.batch_size}@{stage.first_row}" for stage in stages)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Record):
    """The first record, with everything needed to interpret the others.

    `lrs`: the grid of learning rates of each batch size. `train_rows`: the rows each learner trains
    on; None when a time limit or a flat loss ends the run. `until_flat`: the limits where a flat
    loss does. `folder`: the folder of the run, as it was given. `engine_rates`:
    row-updates per second of the engines that `--device auto` chose from. `stages`: the sizes
    that `--batch-size auto` chose. The fields from `lr` to `ladder` belong to a sweep.
    """

    EVENT: ClassVar[str] = "run"

    schema_version: Count = SCHEMA_VERSION
    verb: Literal["sweep", "train"] = "sweep"
    batch_sizes: tuple[BatchSize, ...] = ()
    lrs: tuple[tuple[Rate, ...], ...] = ()
    trials: Annotated[int, Field(ge=1, le=10**6)] = 1
    train_rows: Count | None = None
    epoch_rows: Count | None = None
    integrity: str | None = None
    target_loss: tuple[float, ...] = ()
    config: dict[str, Json] = field(default_factory=dict)
    data: DataInfo = field(default_factory=DataInfo)
    standard: Json | None = None
    target_sd: float | None = None
    engine: str = ""
    engine_reason: str = ""
    compile_seconds: float = 0.0
    memory: MemoryInfo = field(default_factory=MemoryInfo)
    command: str = ""
    folder: str = ""
    env: Json = field(default_factory=dict)
    lr: Rate | None = field(default=None, metadata=OPTIONAL)
    lr_rules: tuple[LrRule, ...] | None = field(default=None, metadata=OPTIONAL)
    halving: bool | None = field(default=None, metadata=OPTIONAL)
    extend: bool | None = field(default=None, metadata=OPTIONAL)
    rerun: bool | None = field(default=None, metadata=OPTIONAL)
    within: float | None = field(default=None, metadata=OPTIONAL)
    goal: Goal | None = field(default=None, metadata=OPTIONAL)
    ladder: LadderInfo | None = field(default=None, metadata=OPTIONAL)
    until_flat: UntilFlat | None = field(default=None, metadata=OPTIONAL)
    version: str | None = field(default=None, metadata=OPTIONAL)
    engine_rates: dict[str, float] | None = field(default=None, metadata=OPTIONAL)
    stages: tuple[BatchStage, ...] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlier:
    """A held-out row that makes a large part of the best linear model's squared error.

    Attributes:
        share: That part, 0 to 1.
        column: The column in which the row is farthest from the others.
        value: Its value there, in the column's units.
        deviations: The distance to the mean of the other held-out rows, in their standard
            deviations; None where those do not vary.
        file: The file of the row, and `row` its number there, from 0; None where the row is of
            another data set (`--eval-data`).
    """

    share: float
    column: str
    value: float
    deviations: float | None
    file: str | None = None
    row: Count | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanVariation:
    """How unlike the spans of the data are, in the column in which they differ most clearly.

    Attributes:
        column: That column.
        share: The part of its variance that lies between spans (intraclass correlation), 0 to 1.
        p_value: The probability of such a difference if rows were in random order, for all columns
            together.
        spans: The spans of the data set.
        window_spans: The spans whose rows are shuffled together.
    """

    column: str
    share: float
    p_value: float
    spans: int
    window_spans: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline(Record):
    """The losses of reference models, and what the survey found.

    `feature_eigenvalues`: the eigenvalues of the features' covariance in model units. `outlier`:
    None where no row has a large part in the linear model's loss. `holdout_hash`: a hash of the
    held-out rows' targets as they are stored, by which runs know that they were judged on the same
    rows; None where nothing is held out. `span_variation`: None where fewer than three spans could
    be compared. `exact_features`: where the linear model has no error, the features that it uses.
    `near_features`: those of which one alone explains nearly all of the target's variance.
    """

    EVENT: ClassVar[str] = "baseline"

    best_constant_loss: ReferenceLoss | None = None
    best_linear_loss: ReferenceLoss | None = None
    feature_eigenvalues: tuple[float, ...] | None = None
    outlier: Outlier | None = None
    holdout_hash: str | None = None
    span_variation: SpanVariation | None = None
    exact_features: tuple[str, ...] = ()
    near_features: tuple[str, ...] = ()

    @property
    def constant_loss(self) -> float | None:
        """The loss of the best constant."""
        return None if self.best_constant_loss is None else self.best_constant_loss.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Record):
    """The losses of one replica after `rows` rows; None where one is not finite or not known.

    `holdout_loss` is the mean of r² in units of the target's variance, `holdout_rmse` in the
    target's own units, `train_loss` the mean of ½r² since the last evaluation.
    """

    EVENT: ClassVar[str] = "evaluation"

    trial: Count
    batch_size: BatchSize
    lr: Rate
    rows: Count
    steps: Count = 0
    holdout_loss: float | None = None
    holdout_rmse: float | None = None
    train_loss: float | None = None
    seconds: float = 0.0
    wait_seconds: float | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaEnded(Record):
    """How the training of one replica ended, and why if it ended early or when it was flat.

    `fall_per_doubling`: the relative gain of the last doubling of the rows, where that ended it.
    """

    EVENT: ClassVar[str] = "outcome"

    trial: Count
    batch_size: BatchSize
    lr: Rate
    rows: Count = 0
    steps: Count = 0
    outcome: Outcome
    reason: str = ""
    fall_per_doubling: float | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class NullSummary:
    """Bad values by column, and by shard for the 16 shards with the most."""

    total: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    shards: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassEnded(Record):
    """One reading of the data that fed every learner of a trial.

    `lrs`: learning rates by batch size. `fill_seconds`: time before the first block;
    `training_seconds`: time after it; of passes that ran at once, each has its share of the times.
    `stats`: the amounts of `FetchStats`. The null policy decides which one of `imputed` and
    `dropped` is set. The fields from `workers` on belong to a pass on workers.
    """

    EVENT: ClassVar[str] = "pass"

    kind: str = "tuning"
    trial: Count = 0
    rows_read: Count = 0
    learners: Count = 0
    lrs: dict[BatchSize, tuple[Rate, ...]] = field(default_factory=dict)
    replicas: Count = 0
    seconds: float = 0.0
    fill_seconds: float = 0.0
    training_seconds: float = 0.0
    receipt: Annotated[Receipt | None, BeforeValidator(_parse_receipt)] = None
    stats: dict[str, int | float] = field(default_factory=dict)
    imputed: NullSummary | None = field(default=None, metadata=OPTIONAL)
    dropped: NullSummary | None = field(default=None, metadata=OPTIONAL)
    quarantined: Json | None = None
    workers: Count | None = field(default=None, metadata=OPTIONAL)
    sync: str | None = field(default=None, metadata=OPTIONAL)
    reason: str | None = field(default=None, metadata=OPTIONAL)
    workers_at_start: Count | None = field(default=None, metadata=OPTIONAL)
    sum_seconds: float | None = field(default=None, metadata=OPTIONAL)
    part_seconds: float | None = field(default=None, metadata=OPTIONAL)
    task_seconds: float | None = field(default=None, metadata=OPTIONAL)
    lanes: Count | None = field(default=None, metadata=OPTIONAL)
    shares: Count | None = field(default=None, metadata=OPTIONAL)
    commits: Count | None = field(default=None, metadata=OPTIONAL)
    generations: Count | None = field(default=None, metadata=OPTIONAL)
    collective: str | None = field(default=None, metadata=OPTIONAL)
    rounds: Count | None = field(default=None, metadata=OPTIONAL)
    windows_a_share: Count | None = field(default=None, metadata=OPTIONAL)
    outer_optimizer: str | None = field(default=None, metadata=OPTIONAL)
    lost_workers: Count | None = field(default=None, metadata=OPTIONAL)
    failed_tasks: Count | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineChanged(Record):
    """All spans skipped so far because they could not be read.

    `left_out`: shards that could not be opened, so that their number of rows is not known.
    """

    EVENT: ClassVar[str] = "quarantine"

    total_rows: Count = 0
    rows: Count = 0
    spans: tuple[Json, ...] = ()
    left_out: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(Record):
    """The last record of a complete run.

    `rows_saved`: rows that did not have to be read because learners shared passes.
    """

    EVENT: ClassVar[str] = "end"

    seconds: float | None = None
    rows_read: Count | None = None
    passes: Count | None = None
    rows_saved: Count | None = None
    projected_bytes: Count | None = None
    peak_rss_bytes: Count | None = None
