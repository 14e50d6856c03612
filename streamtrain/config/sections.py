"""The sections of a run's configuration as frozen pydantic models.

Unknown keys are refused; None means unset. Every key is defined here, once, with its meaning.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer, model_validator

from streamtrain.base.redact import redact_options, redact_url
from streamtrain.config.values import (
    Bytes,
    Count,
    Counts,
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
    Sizes,
)
from streamtrain.errors import ConfigError


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(_Part):
    """Which rows, which columns, which are held out."""

    path: str | None = Field(
        None, description="a file, a folder or a glob of Parquet or Zarr shards"
    )
    target: str | None = Field(None, description="the column to predict; left out: the last column")
    features: Names | None = Field(
        None, description="the columns to learn from; left out: all but the target"
    )
    holdout: Holdout = Field(
        None,
        description=(
            "rows held out, or a fraction below 1; left out: min(eval.eval_rows, 20 % of the rows)"
        ),
    )
    eval_data: str | None = Field(
        None, description="evaluate on this other data set instead of held-out rows"
    )
    on_null: Literal["error", "drop", "impute"] = Field(
        "error",
        description=(
            "null, NaN or infinite values: refuse them, drop their rows, or put the feature's mean"
            " in (never in the target)"
        ),
    )
    on_bad_shard: Literal["error", "quarantine"] = Field(
        "error",
        description=(
            "shards, row groups or chunks that cannot be read: end the run, or step over their rows"
            " and list them"
        ),
    )
    transform: str | None = Field(
        None,
        description="module:function that makes the features from the feature columns, row by row",
    )
    standardize: OnOff = Field(True, description="give each column mean 0 and standard deviation 1")
    storage_options: Options = Field(
        {},
        repr=False,
        description=(
            "key=value, repeatable: key, secret, token, endpoint_url, region, anon of an object"
            " store"
        ),
    )

    @field_serializer("storage_options", when_used="json")
    def _hide_options(self, options: dict[str, str]) -> dict[str, str]:
        return redact_options(options)

    @field_serializer("path", "eval_data", when_used="json")
    def _hide_links(self, url: str | None) -> str | None:
        return url and redact_url(url)


class OrderConfig(_Part):
    """The order of the rows: constants of a run."""

    seed: Annotated[Count, Field(ge=0)] = Field(
        0, description="sets weights and row order; 0 is a seed"
    )
    span_rows: PositiveCount = Field(
        262_144, description="a read takes whole row groups or chunks up to about this many rows"
    )
    window_rows: PositiveCount | None = Field(
        None, description="rows shuffled together; left out: 2 Mi x 5 / (features + 1)"
    )


class FetchConfig(_Part):
    """How blocks are prepared; never changes their order."""

    memory: Bytes | None = Field(
        None,
        description=(
            "bytes for everything in flight; left out: a quarter of the memory available at start"
        ),
    )
    readers: PositiveCount | None = Field(
        None, description="windows built at once; left out: the number of cores"
    )
    timeout_seconds: Seconds = Field(
        300.0, description="a read that takes longer ends the run with an error"
    )


class ModelConfig(_Part):
    """The network: features - hidden layers - 1."""

    hidden: Counts = Field(
        (32, 32), description="widths of the hidden layers; empty for a linear model"
    )
    activation: Literal["relu", "tanh", "silu", "gelu", "identity"] = Field(
        "relu", description="after every hidden layer"
    )
    factory: str | None = Field(
        None,
        description=(
            "module:function that makes another network from the number of features; torch engine"
        ),
    )


#: A share of Adam's second moment smaller than this is lost in float32's rounding: at 4e-7 the
#: moment is 3 % off when its gradients have vanished, at 1e-7 57 %, and at 5e-8 it never falls.
LEAST_FORGOTTEN = 2.0**-22


class TrainConfig(_Part):
    """How a learner takes steps, and for how long."""

    batch_size: PositiveCount = Field(1024, description="rows of a minibatch, for `train`")
    loss: Literal["mse", "huber"] = Field(
        "mse", description="what is minimised: ½r², or Huber's loss: linear beyond huber_delta"
    )
    huber_delta: Annotated[float, Field(gt=0)] = Field(
        1.0, description="residual beyond which Huber's loss is linear, in model units"
    )
    optimizer: Literal["adam", "adamw", "sgd"] = Field(
        "adam", description="adam, adamw (decay apart from the gradient), or sgd with momentum"
    )
    lr: Annotated[float, Field(gt=0)] | None = Field(
        None, description="learning rate; left out: 0.004 for adam and adamw, 0.01 for sgd"
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="of sgd")
    nesterov: OnOff = Field(False, description="look ahead along sgd's momentum")
    beta1: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="of adam and adamw")
    beta2: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.999, description="of adam and adamw, for 1024 rows (beta2_per)"
    )
    beta2_per: Literal["1024 rows", "step"] = Field(
        "1024 rows",
        description=(
            "what beta2 is the decay of: 1024 rows, so that its half-life is the same at every"
            " size, or one step"
        ),
    )
    weight_decay: Annotated[float, Field(ge=0)] | None = Field(
        None, description="left out: 0.01 for adamw, none for the others"
    )
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        None, description="longest minibatch gradient; longer ones are scaled down to it"
    )
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="of the learning rate over the run's rows; cosine ends at 0"
    )
    warmup_rows: Annotated[Count, Field(ge=0)] = Field(
        0, description="rows over which the learning rate rises from 0 in a straight line"
    )
    precision: Literal["float32", "tf32", "bf16"] = Field(
        "float32", description="of products on a GPU; parameters stay float32"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="torch engine: compile the whole step; auto: where it pays"
    )
    threads: PositiveCount | None = Field(
        None, description="threads that learners compute on; left out: the number of cores"
    )
    engine: Literal["auto", "fused", "torch"] = Field(
        "auto", description="fused (Numba, CPU), torch (any device), or auto: fused on the CPU"
    )
    device: str = Field(
        "auto",
        description="cpu, cuda, cuda:N, or auto: for the torch engine the GPU, where there is one",
    )
    epochs: Annotated[float, Field(gt=0)] | None = Field(
        None, description="passes over the data; left out: 1"
    )
    max_rows: PositiveCount | None = Field(
        None, description="rows each learner trains on, over as many epochs as needed"
    )
    max_time: Seconds | None = Field(
        None, description="wall-clock seconds of all training passes together"
    )
    early_stop: PositiveCount | None = Field(
        None, description="`train` stops after so many evaluations without a smaller held-out loss"
    )

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if self.epochs is not None and self.max_rows is not None:
            raise ValueError("epochs and max_rows say the same thing twice; give one")
        return self

    @property
    def rate(self) -> float:
        """The learning rate: as given, or the optimizer's default."""
        return self.lr or (0.01 if self.optimizer == "sgd" else 0.004)

    def at(self, batch_size: int) -> "TrainConfig":
        """The same for one minibatch size: Adam's second moment forgets by rows, not by steps
        (Marek et al. 2025, arXiv 2507.07101).

        Raises ConfigError where a step forgets too little for float32: the moment would stand where
        its first rows put it.
        """
        beta2 = self.beta2 if self.beta2_per == "step" else self.beta2 ** (batch_size / 1024)
        if self.optimizer != "sgd" and 1 - beta2 < LEAST_FORGOTTEN:
            rows, cure = (
                f"{batch_size:,} row{'s' if batch_size > 1 else ''}",
                "Give a smaller train.beta2",
            )
            raise ConfigError(
                f"train.beta2 {self.beta2:.10g} per {self.beta2_per} lets a step of {rows} forget"
                f" {1 - beta2:.1g} of the second moment, and float32 loses what is less than"
                f" {LEAST_FORGOTTEN:.1g} of it."
                f" {cure}{'' if self.beta2_per == 'step' else ', or --set train.beta2_per=step'}."
            )
        return self if self.beta2_per == "step" else self.model_copy(update={"beta2": beta2})

    @property
    def decay(self) -> float:
        """The weight decay: as given, or the optimizer's default."""
        return (
            self.weight_decay
            if self.weight_decay is not None
            else 0.01
            if self.optimizer == "adamw"
            else 0.0
        )


class EvalConfig(_Part):
    """When and on how many rows the held-out loss is measured."""

    eval_rows: PositiveCount = Field(131_072, description="held-out rows, at most 20 % of the data")
    first_row: PositiveCount = Field(
        1024, description="evaluations at row 0, at first_row x 2^(k/2), and at the end"
    )


class CheckpointConfig(_Part):
    """When a run is saved, so that it can go on after an interruption."""

    every_seconds: Seconds = Field(
        30.0,
        description="at most so long apart, and after every 2 % of a pass where that comes first",
    )
    keep: PositiveCount = Field(3, description="checkpoints kept: the last ones")


class SweepConfig(_Part):
    """What is compared."""

    batch_sizes: Sizes = Field(
        (64, 256, 1024, 4096, 16384, 65536, 262144, 1048576),
        description="minibatch sizes: 64..1Mi*4,1M",
    )
    lr_grid: Rates = Field(5, description="how many learning rates at each size, or a list of them")
    trials: PositiveCount = Field(5, description="seeds; each sets weights and row order")
    halving: OnOff = Field(
        True,
        description=(
            "after each trial of the tuning, drop the worse half of a size's learning rates"
        ),
    )
    extend_grid: OnOff = Field(
        True,
        description=(
            "try rates beyond the grid at sizes whose best rate lies at its edge, up to three times"
        ),
    )
    lr_rule: Rules = Field(
        ("tuned",),
        description=(
            "tuned, fixed, linear, sqrt: rates by size, lr at 1024 rows; the first is judged"
        ),
    )
    rerun: OnOff = Field(
        True,
        description=(
            "run each size's best rate again on as many fresh seeds, and judge by those alone"
        ),
    )
    confirm: OnOff = Field(
        True,
        description=(
            "train the recommended size and its neighbours from end to end, against the clock"
        ),
    )
    measure: Measures = Field(
        ("noise", "shuffle"), description="noise, curvature, sharpness, shuffle; or all, or none"
    )
    target_loss: Losses = Field(
        (),
        description=(
            "held-out losses to reach; left out: chosen so that at least three sizes reach it"
        ),
    )


class ClusterConfig(_Part):
    """Which Dask cluster does the work; left out, this machine does, and no port is opened."""

    scheduler: str | None = Field(
        None,
        min_length=1,
        description=(
            "address of a Dask scheduler: tcp://host:8786 or tls://…; also DASK_SCHEDULER_ADDRESS"
        ),
    )
    scheduler_file: str | None = Field(
        None, min_length=1, description="file that a Dask scheduler wrote its address into"
    )
    workers: PositiveCount | None = Field(
        None, description="start so many Dask workers on this machine, on loopback"
    )
    factory: str | None = Field(
        None,
        min_length=1,
        description=(
            "module:factory that returns a Dask cluster: dask-jobqueue, dask-kubernetes,"
            " dask-cuda, …"
        ),
    )
    tls_ca_file: str | None = Field(
        None, description="certificate authority, for tls:// schedulers"
    )
    tls_cert: str | None = Field(
        None, description="certificate of this client, for tls:// schedulers"
    )
    tls_key: str | None = Field(None, description="key of that certificate")
    min_workers: PositiveCount = Field(
        1,
        description="workers that must be there: waited for at the start, and two minutes later on",
    )
    max_failures: Annotated[Count, Field(ge=0)] | None = Field(
        None, description="tasks that may fail before the run ends; left out: any number"
    )
    timeout_seconds: Seconds = Field(
        300.0, description="a task that is out for longer goes to another worker"
    )
    slice_seconds: Seconds = Field(
        20.0,
        description="a worker sends a learner back after so long: most that its death can cost",
    )
    sync: Literal["auto", "rounds", "allreduce"] = Field(
        "auto",
        description=(
            "`train` on workers: average now and then (rounds), gradients of every step"
            " (allreduce), or what pays here"
        ),
    )
    shares: PositiveCount | None = Field(
        None,
        description=(
            "parts that rounds cut a minibatch into; left out: a divisor of it, one a worker at"
            " most"
        ),
    )
    round_rows: PositiveCount | None = Field(
        None,
        description="rows of a share in a round, to whole windows; left out: two seconds' worth",
    )
    lanes: PositiveCount = Field(
        8,
        description=(
            "parts that allreduce cuts a minibatch into; must divide it, and is the most workers"
            " used"
        ),
    )

    @model_validator(mode="after")
    def _one_cluster(self) -> "ClusterConfig":
        given = [
            name
            for name in ("scheduler", "scheduler_file", "workers", "factory")
            if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each name a cluster; give one")
        return self


class Config(_Part):
    """The whole of a run."""

    data: DataConfig = DataConfig()
    order: OrderConfig = OrderConfig()
    fetch: FetchConfig = FetchConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    sweep: SweepConfig = SweepConfig()
    cluster: ClusterConfig = ClusterConfig()
