"""The records of a run: one typed value per line of `events.jsonl`.

`parse_record` is the only reader of their JSON form and `Record.to_json` the only writer. Keys name
their units. Logs of older versions parse too: every field that a version added has a default.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from streamtrain.errors import DataError
from streamtrain.types import Json, Receipt

SCHEMA_VERSION = 1

Outcome = Literal["finished", "diverged", "out_of_memory", "failed"]
PassKind = Literal["tuning", "extension", "fresh"]


def _parse_receipt(value: Any) -> Any:
    return Receipt.from_json(value) if isinstance(value, Mapping) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record. `EVENT` is its `event` key; fields named in `OMITTED` are left out when None."""

    EVENT: ClassVar[str] = ""
    OMITTED: ClassVar[frozenset[str]] = frozenset()

    def to_json(self) -> Json:
        """Return the record as JSON values, `event` first, then the fields in order."""
        values = {"event": self.EVENT}
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None or item.name not in self.OMITTED:
                values[item.name] = to_json(value)
        return values

    # Temporary, until every reader uses attributes.
    def __getitem__(self, name: str) -> Any:
        return self.to_json()[name]

    def __contains__(self, name: str) -> bool:
        return name in self.to_json()

    def get(self, name: str, default: Any = None) -> Any:
        """Return a JSON value, or the default."""
        return self.to_json().get(name, default)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceLoss:
    """The held-out (or training) loss of a reference model; `rmse` is in the target's units."""

    value: float
    rmse: float | None = None
    scored_on: str = "holdout"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataInfo:
    """The data set as the run read it. `truth` is known for generated data only."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryInfo:
    """The memory budget and what the run was projected to take, in bytes."""

    budget_bytes: int | None = None
    projected_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Record):
    """The first record: everything needed to read the others.

    `lrs`: the grid of learning rates per batch size. `train_rows`: rows each learner trains on,
    None when only a clock ends the run. The fields from `lr` on are those of a sweep.
    """

    EVENT: ClassVar[str] = "run"
    OMITTED: ClassVar[frozenset[str]] = frozenset(
        {"lr", "lr_rules", "halving", "extend", "rerun", "version"}
    )

    schema_version: int = SCHEMA_VERSION
    verb: Literal["sweep", "train"] = "sweep"
    batch_sizes: tuple[int, ...] = ()
    lrs: tuple[tuple[float, ...], ...] = ()
    trials: int = 1
    train_rows: int | None = None
    epoch_rows: int | None = None
    integrity: str | None = None
    target_loss: tuple[float, ...] = ()
    config: Json = field(default_factory=dict)
    data: DataInfo = field(default_factory=DataInfo)
    standard: Json | None = None
    target_sd: float | None = None
    engine: str = ""
    engine_reason: str = ""
    compile_seconds: float = 0.0
    memory: MemoryInfo = field(default_factory=MemoryInfo)
    command: str = ""
    env: Json = field(default_factory=dict)
    lr: float | None = None
    lr_rules: tuple[str, ...] | None = None
    halving: bool | None = None
    extend: bool | None = None
    rerun: bool | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline(Record):
    """Reference models, and the eigenvalues of the features' covariance in model units."""

    EVENT: ClassVar[str] = "baseline"

    best_constant_loss: ReferenceLoss | None = None
    best_linear_loss: ReferenceLoss | None = None
    feature_eigenvalues: tuple[float, ...] | None = None

    @property
    def constant_loss(self) -> float | None:
        """The loss of the best constant."""
        return None if self.best_constant_loss is None else self.best_constant_loss.value


@dataclass(frozen=True, slots=True, kw_only=True)
class PassPlanned(Record):
    """A pass of a sweep is about to start."""

    EVENT: ClassVar[str] = "next_pass"

    kind: str
    trial: int
    batch_sizes: int
    replicas: int
    passes_left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Record):
    """Losses of one replica after `rows` rows; None where a loss is not finite or not known.

    `holdout_loss` is the mean of r² in units of the target's variance, `holdout_rmse` in the
    target's own units, `train_loss` the mean of ½r² since the last evaluation.
    """

    EVENT: ClassVar[str] = "evaluation"
    OMITTED: ClassVar[frozenset[str]] = frozenset({"wait_seconds"})

    trial: int
    batch_size: int
    lr: float
    rows: int
    steps: int = 0
    holdout_loss: float | None = None
    holdout_rmse: float | None = None
    train_loss: float | None = None
    seconds: float = 0.0
    wait_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaEnded(Record):
    """How the training of one replica ended, and why where that was early."""

    EVENT: ClassVar[str] = "outcome"

    trial: int
    batch_size: int
    lr: float
    rows: int = 0
    steps: int = 0
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NullSummary:
    """Bad values by column, and by shard for the 16 shards with the most."""

    total: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    shards: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassEnded(Record):
    """One reading of the data that fed every learner of a trial.

    `lrs`: learning rates by batch size. `fill_seconds` came before the first block,
    `training_seconds` after it. `stats`: amounts of `FetchStats`. Exactly one of `imputed` and
    `dropped` is set, by the null policy. The fields from `workers` on are those
    of a pass on workers.
    """

    EVENT: ClassVar[str] = "pass"
    OMITTED: ClassVar[frozenset[str]] = frozenset(
        {
            "imputed",
            "dropped",
            "workers",
            "lost_workers",
            "failed_tasks",
            "sync",
            "reason",
            "workers_at_start",
            "sum_seconds",
            "part_seconds",
            "task_seconds",
            "lanes",
            "shares",
            "rounds",
            "windows_a_share",
            "outer_optimizer",
            "commits",
            "generations",
            "collective",
        }
    )

    kind: str = "tuning"
    trial: int = 0
    rows_read: int = 0
    learners: int = 0
    lrs: dict[int, tuple[float, ...]] = field(default_factory=dict)
    replicas: int = 0
    seconds: float = 0.0
    fill_seconds: float = 0.0
    training_seconds: float = 0.0
    receipt: Annotated[Receipt | None, BeforeValidator(_parse_receipt)] = None
    stats: dict[str, int | float] = field(default_factory=dict)
    imputed: NullSummary | None = None
    dropped: NullSummary | None = None
    quarantined: Json | None = None
    workers: int | None = None
    sync: str | None = None
    reason: str | None = None
    workers_at_start: int | None = None
    sum_seconds: float | None = None
    part_seconds: float | None = None
    task_seconds: float | None = None
    lanes: int | None = None
    shares: int | None = None
    commits: int | None = None
    generations: int | None = None
    collective: str | None = None
    rounds: int | None = None
    windows_a_share: int | None = None
    outer_optimizer: str | None = None
    lost_workers: int | None = None
    failed_tasks: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineChanged(Record):
    """Every span that could not be read and was skipped so far.

    `left_out`: shards that could not be opened, so that their rows are not known.
    """

    EVENT: ClassVar[str] = "quarantine"

    total_rows: int = 0
    rows: int = 0
    spans: tuple[Json, ...] = ()
    left_out: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WinningRates(Record):
    """The tuned learning rate of each batch size, for each target loss."""

    EVENT: ClassVar[str] = "winners"

    targets: tuple["TargetWinners", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetWinners:
    """The winners for one target: a rate per batch size, and whether it is at the grid's edge."""

    target_loss: float | None
    lrs: tuple[float, ...]
    at_edge: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryTimed(Record):
    """The stream alone, at rest: `seconds` of wall time and `core_seconds` of all threads."""

    EVENT: ClassVar[str] = "delivery"

    repeat: int
    rows: int
    seconds: float
    core_seconds: float = 0.0
    cores: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsTimed(Record):
    """Steps alone at one batch size, on rows in memory."""

    EVENT: ClassVar[str] = "timing"

    batch_size: int
    repeat: int
    rows: int
    seconds: float
    core_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuringStarted(Record):
    """The expected cost of each measurement, or why none is taken."""

    EVENT: ClassVar[str] = "measuring"
    OMITTED: ClassVar[frozenset[str]] = frozenset({"skipped"})

    costs: tuple[Json, ...] = ()
    skipped: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Record):
    """Measurements of the trained models, by name; see docs/science.md."""

    EVENT: ClassVar[str] = "measures"

    measures: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed(Record):
    """One size trained to the target alone, against the clock."""

    EVENT: ClassVar[str] = "confirmation"

    batch_size: int
    lr: float
    trial: int
    rows: int = 0
    seconds: float
    fill_seconds: float = 0.0
    holdout_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncChosen(Record):
    """How workers train one model together, and the timings that decided it.

    `lanes` are those of all-reduce, `shares` those of local SGD.
    """

    EVENT: ClassVar[str] = "sync"
    OMITTED: ClassVar[frozenset[str]] = frozenset(
        {"sum_seconds", "part_seconds", "task_seconds", "lanes", "shares"}
    )

    sync: Literal["allreduce", "rounds"]
    reason: str
    workers_at_start: int
    sum_seconds: float | None = None
    part_seconds: float | None = None
    task_seconds: float | None = None
    lanes: int | None = None
    shares: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundEnded(Record):
    """One commit of a run on workers. `rows`: rows trained on since the start of the run.

    `windows` are those of local SGD; `generation`, `steps` and `collective` those of all-reduce.
    """

    EVENT: ClassVar[str] = "round"
    OMITTED: ClassVar[frozenset[str]] = frozenset({"windows", "generation", "steps", "collective"})

    round: int
    rows: int
    seconds: float
    workers: int
    failed_tasks: int = 0
    windows: int | None = None
    generation: int | None = None
    steps: int | None = None
    collective: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(Record):
    """The last record of a complete run. `rows_saved`: rows not read because passes were shared."""

    EVENT: ClassVar[str] = "end"

    seconds: float | None = None
    rows_read: int | None = None
    passes: int | None = None
    rows_saved: int | None = None
    projected_bytes: int | None = None
    peak_rss_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherRecord(Record):
    """A record of a newer version, kept as it is."""

    name: str
    values: Json = field(default_factory=dict)

    def to_json(self) -> Json:
        """Return the record as it was read."""
        return {"event": self.name, **self.values}


_EVENTS: dict[str, type[Record]] = {
    kind.EVENT: kind
    for kind in (
        RunStarted,
        Baseline,
        PassPlanned,
        Evaluation,
        ReplicaEnded,
        PassEnded,
        QuarantineChanged,
        WinningRates,
        DeliveryTimed,
        StepsTimed,
        MeasuringStarted,
        Measured,
        Confirmed,
        SyncChosen,
        RoundEnded,
        RunEnded,
    )
}

#: What takes a record: a run's log, a progress display, a test's list.
Emit = Callable[[Record], None]


def parse_record(values: Json) -> Record:
    """Return the typed record of one JSON line; unknown events become `OtherRecord`.

    Raises DataError naming the event and the first field that is wrong.
    """
    name = values.get("event")
    if not isinstance(name, str):
        raise DataError("a record without an `event`")
    kind = _EVENTS.get(name)
    if kind is None:
        return OtherRecord(name=name, values={k: v for k, v in values.items() if k != "event"})
    return parse(kind, {key: value for key, value in values.items() if key != "event"}, name)


def parse_pass(values: Json | None) -> PassEnded | None:
    """Return the `pass` record that a checkpoint kept; None where the pass had not ended.

    Raises DataError when it is another record.
    """
    if values is None:
        return None
    record = parse_record(values)
    if not isinstance(record, PassEnded):
        raise DataError(f"a checkpoint's `pass` record is `{values['event']}`")
    return record


def started_record(record: Record) -> RunStarted:
    """Return the first record of a log as what it must be; raises DataError when it is not."""
    if not isinstance(record, RunStarted):
        raise DataError("events.jsonl does not start with a `run` record")
    return record


Parsed = TypeVar("Parsed")


def parse(kind: type[Parsed], values: Json, name: str) -> Parsed:
    """Return `values` as the dataclass `kind`; `name` says in errors what they are.

    Raises DataError naming the first field that is wrong.
    """
    try:
        return _adapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"`{name}`: {where}: {first['msg']}") from None


def to_json(value: Any) -> Any:
    """Return dataclasses, tuples and mappings as JSON values; other values unchanged."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
