"""The sections of a run's configuration as frozen pydantic models.

Unknown keys are refused, and None means unset. Every key is defined here once, with the description
that `--help`, docs/flags.md and the JSON schema show.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_serializer, model_validator

from streamtrain.base.redact import Secrets, redact_options, redact_url
from streamtrain.config.train_section import Section, TrainConfig
from streamtrain.config.values import (
    Budget,
    Bytes,
    Count,
    Counts,
    Decimal,
    Delimiter,
    Holdout,
    Losses,
    Measures,
    Names,
    OnOff,
    Options,
    PositiveCount,
    Rates,
    Rules,
    Seconds,
    SizesOrAuto,
    parse_fraction,
)
from streamtrain.types import Datetime, Goal, Reading


class DataConfig(Section):
    """Which rows and columns to use, and which rows to hold out."""

    path: str | None = Field(
        default=None,
        description="a file, a folder or a glob: Parquet or Zarr shards, CSV, JSON lines, Arrow",
    )
    target: str | None = Field(
        default=None, description="the column to predict; default: the last column"
    )
    features: Names | None = Field(
        default=None, description="the feature columns; default: all columns but the target"
    )
    holdout: Holdout = Field(
        default=None,
        description="rows to hold out, or a fraction below 1; default: min(eval.eval_rows, 20 %)",
    )
    eval_data: str | None = Field(
        default=None, description="evaluate on this data set instead of held-out rows"
    )
    on_null: Literal["error", "drop", "impute"] = Field(
        default="error",
        description="null or non-finite values: refuse, drop rows, or impute means (features only)",
    )
    on_bad_shard: Literal["error", "quarantine"] = Field(
        default="error",
        description="unreadable shards, row groups or chunks: end the run, or skip and list them",
    )
    transform: str | None = Field(
        default=None,
        description="module:function that computes features from the feature columns, per row",
    )
    standardize: OnOff = Field(
        default=True, description="scale each column to mean 0 and standard deviation 1"
    )
    delimiter: Delimiter | None = Field(
        default=None,
        description="text files: field separator, such as ; or tab; default: detected",
    )
    decimal: Decimal | None = Field(
        default=None,
        description="text files: decimal mark, a point or a comma; default: detected",
    )
    na_values: Names | None = Field(
        default=None,
        description="more numbers, and words of text files, to read as null, such as none,99.9",
    )
    header: OnOff | None = Field(
        default=None,
        description=(
            "text files: the first line has names; off: name columns c0, c1, …; default: detected"
        ),
    )
    encoding: str | None = Field(
        default=None,
        description="text files: encoding, such as utf-8 or latin-1; default: detected",
    )
    datetime: Datetime | None = Field(
        default=None,
        description=(
            "dates and times as features: seconds since 1970 (epoch), or hour, weekday and day of"
            " the year (parts); default: left out"
        ),
    )
    storage_options: Options = Field(
        default={},
        repr=False,
        description=(
            "key=value, repeatable: key, secret, token, endpoint_url, region, anon of an object"
            " store"
        ),
    )

    @property
    def reading(self) -> Reading:
        """How tables are read."""
        return Reading(
            delimiter=self.delimiter,
            decimal=self.decimal,
            na_values=self.na_values,
            header=self.header,
            encoding=self.encoding,
            datetime=self.datetime,
        )

    @property
    def secrets(self) -> Secrets:
        """What must never be written or shown."""
        return Secrets.of(self.storage_options, (self.path, self.eval_data))

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        # Dask writes the arguments of a task to its log when the task fails
        for name, value in super().__repr_args__():
            yield name, self.secrets.hide(value) if isinstance(value, str) else value

    @field_serializer("storage_options", when_used="json")
    def _hide_options(self, options: dict[str, str]) -> dict[str, str]:
        return redact_options(options)

    @field_serializer("path", "eval_data", when_used="json")
    def _hide_links(self, url: str | None) -> str | None:
        return url and redact_url(url)


class OrderConfig(Section):
    """The row order; constant throughout a run."""

    seed: Annotated[Count, Field(ge=0)] = Field(
        default=0, description="seed of the initial weights and the row order; 0 is a seed too"
    )
    span_rows: PositiveCount = Field(
        default=262_144,
        description="whole row groups or chunks are read together up to about this many rows",
    )
    window_rows: PositiveCount | None = Field(
        default=None,
        description="rows shuffled together; default: all of a table of up to 256 MiB where memory"
        " allows it, else 2 Mi x 5 / (features + 1)",
    )


class FetchConfig(Section):
    """How blocks are prepared; no key changes the row order."""

    memory: Bytes | None = Field(
        default=None,
        description="bytes in flight; default: a quarter of the memory available at start",
    )
    readers: PositiveCount | None = Field(
        default=None, description="windows built in parallel; default: the number of cores"
    )
    timeout_seconds: Seconds = Field(
        default=300.0, description="a read that takes longer ends the run with an error"
    )


class ModelConfig(Section):
    """The network: features, hidden layers, one output."""

    hidden: Counts = Field(
        default=(32, 32), description="widths of the hidden layers; empty for a linear model"
    )
    activation: Literal["relu", "tanh", "silu", "gelu", "identity"] = Field(
        default="relu", description="activation function after every hidden layer"
    )
    factory: str | None = Field(
        default=None,
        description="module:function(num_features) that builds another network; torch engine",
    )


class EvalConfig(Section):
    """When to measure the held-out loss, and on which rows."""

    eval_rows: PositiveCount = Field(
        default=131_072, description="held-out rows, at most 20 % of the data"
    )
    holdout_seed: Annotated[Count, Field(ge=0)] = Field(
        default=0, description="seed of the choice of held-out rows, which --seed does not change"
    )
    first_row: PositiveCount = Field(
        default=1024,
        description="evaluate at row 0, at first_row x 2^(k/2), and at the end; fewer until flat",
    )


class CheckpointConfig(Section):
    """When to save a run, so that it can resume after an interruption."""

    every_seconds: Seconds = Field(
        default=30.0,
        description="save after this many seconds or 2 % of a pass, whichever comes first",
    )
    keep: PositiveCount = Field(default=3, description="number of latest checkpoints to keep")
    same_data: OnOff = Field(
        default=False,
        description="resume although files have another date: they were only copied or touched",
    )


#: The budget of a sweep in seconds, where none is given.
DEFAULT_BUDGET = 60.0


class SweepConfig(Section):
    """What a sweep compares."""

    batch_sizes: SizesOrAuto = Field(
        default=None,
        description=(
            "minibatch sizes to compare, like 64..1Mi*4,1M; default, or auto: five powers of four"
            " up to an eighth of the rows, and more where the best one is at an edge"
        ),
    )
    budget: Budget | None = Field(
        default=None,
        description=(
            "seconds from the command to its report (60s, 5m), without compiling kernels, or rows"
            " of all passes (100M), within which the sweep chooses rows, trials and rates; default:"
            " 60s, unless --trials or another flag asks for a fixed plan"
        ),
    )
    goal: Goal = Field(
        default="time-to-loss",
        description="compare sizes by seconds to a loss, or by loss at equal rows or in equal time",
    )
    within: Annotated[float, BeforeValidator(parse_fraction), Field(gt=0, le=10)] | None = Field(
        default=None,
        description=(
            "a choice is settled when it is at most this much slower than the best tried, or its"
            " loss this much larger; default: 20 % of the seconds, 1 % of a loss"
        ),
    )
    lr_grid: Rates = Field(
        default=5, description="number of learning rates per minibatch size, or a list of them"
    )
    trials: PositiveCount | None = Field(
        default=None,
        description=(
            "a fixed plan of this many trials, each with its own initial weights and row order,"
            " instead of a budget"
        ),
    )
    halving: OnOff = Field(
        default=True,
        description="after each tuning trial, drop the worse half of a size's learning rates",
    )
    extend_grid: OnOff = Field(
        default=True,
        description="extend the grid where a size's best rate is at its edge, up to three times",
    )
    lr_rule: Rules = Field(
        default=("tuned",),
        description="tuned, or scaled from lr at 1024 rows: fixed, linear, sqrt; the first decides",
    )
    rerun: OnOff = Field(
        default=True,
        description="rerun each size's best rate on as many fresh seeds, and judge by these alone",
    )
    confirm: OnOff = Field(
        default=True,
        description="time the recommended size and its neighbours in full training runs",
    )
    grow: OnOff = Field(
        default=True,
        description="within a budget, also try a minibatch size that grows during training",
    )
    measure: Measures = Field(
        default=("noise", "shuffle"),
        description="noise, curvature, sharpness, shuffle; or all, or none",
    )
    target_loss: Losses = Field(
        default=(),
        description="held-out losses to reach; default: chosen from what the sizes reach",
    )
    target_rmse: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="held-out error to reach, in units of the target, in place of target_loss",
    )

    @model_validator(mode="after")
    def _refuse_two_targets(self) -> "SweepConfig":
        if self.target_rmse is not None and self.target_loss:
            raise ValueError("target_loss and target_rmse both set the target; give one")
        return self


class ClusterConfig(Section):
    """Which Dask cluster trains; if unset, this machine does, and no port is opened."""

    scheduler: str | None = Field(
        default=None,
        min_length=1,
        description="Dask scheduler, tcp://host:8786 or tls://…; also DASK_SCHEDULER_ADDRESS",
    )
    scheduler_file: str | None = Field(
        default=None, min_length=1, description="file that contains a Dask scheduler's address"
    )
    workers: PositiveCount | None = Field(
        default=None, description="start this many Dask workers on this machine, on loopback"
    )
    dashboard: bool = Field(
        default=False,
        description="with workers: Dask's dashboard, which every user of this machine can open",
    )
    factory: str | None = Field(
        default=None,
        min_length=1,
        description=(
            "module:factory that returns a Dask cluster: dask-jobqueue, dask-kubernetes,"
            " dask-cuda, …"
        ),
    )
    tls_ca_file: str | None = Field(
        default=None, description="certificate authority, for tls:// schedulers"
    )
    tls_cert: str | None = Field(
        default=None, description="client certificate, for tls:// schedulers"
    )
    tls_key: str | None = Field(default=None, description="private key of the client certificate")
    min_workers: PositiveCount = Field(
        default=1,
        description="workers needed; a run waits for them, later for at most two minutes",
    )
    max_failures: Annotated[Count, Field(ge=0)] | None = Field(
        default=None, description="failed tasks tolerated before the run ends; default: any number"
    )
    timeout_seconds: Seconds = Field(
        default=300.0, description="a task that takes longer is given to another worker"
    )
    slice_seconds: Seconds = Field(
        default=20.0,
        description="seconds until a worker returns a learner: the most that its death can lose",
    )
    sync: Literal["auto", "rounds", "allreduce"] = Field(
        default="auto",
        description="for `train`: rounds (average weights), allreduce (sum gradients), or auto",
    )
    shares: PositiveCount | None = Field(
        default=None,
        description="parts of a minibatch in rounds; default: a divisor, at most one per worker",
    )
    round_rows: PositiveCount | None = Field(
        default=None,
        description="rows per share and round, in whole windows; default: two seconds' worth",
    )
    lanes: PositiveCount = Field(
        default=8,
        description="parts of a minibatch in allreduce: a divisor of it, and the most workers used",
    )

    @model_validator(mode="after")
    def _refuse_two_clusters(self) -> "ClusterConfig":
        names = ("scheduler", "scheduler_file", "workers", "factory")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each name a cluster; give one")
        return self


class Config(Section):
    """The configuration of a run."""

    data: DataConfig = DataConfig()
    order: OrderConfig = OrderConfig()
    fetch: FetchConfig = FetchConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    sweep: SweepConfig = SweepConfig()
    cluster: ClusterConfig = ClusterConfig()
