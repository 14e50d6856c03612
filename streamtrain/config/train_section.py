"""How a learner takes steps: the section `train` of a run's configuration."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from streamtrain.config.values import (
    AUTO,
    BatchSchedule,
    Count,
    Device,
    OnOff,
    PositiveCount,
    Seconds,
    SizeOrAuto,
    is_mapping,
    parse_batch_schedule,
)
from streamtrain.errors import ConfigError


class Section(BaseModel):
    """A part of the configuration: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


#: The smallest 1 - beta2 for Adam: float32 rounding loses smaller updates of the second moment.
#: When its gradients have vanished, the moment is 3 % too large at 4e-7, 57 % at 1e-7, and at 5e-8
#: it never decreases.
LEAST_FORGOTTEN = 2.0**-22


class TrainConfig(Section):
    """How a learner takes steps, and for how long."""

    batch_size: SizeOrAuto = Field(
        default=256,
        description=(
            "rows per minibatch, for `train`; auto: what the sweep of --from recommends, else sizes"
            " that grow from 32 to 1,024 with the rows trained on"
        ),
    )
    batch_schedule: BatchSchedule | None = Field(
        default=None,
        description="in place of batch_size: sizes from these rows on, like 32@0,128@65k,1Ki@1M",
    )
    loss: Literal["mse", "huber"] = Field(
        default="mse",
        description="training loss: ½r², or Huber's, which is linear beyond huber_delta",
    )
    huber_delta: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="residual beyond which Huber's loss is linear, in model units"
    )
    optimizer: Literal["adam", "adamw", "sgd"] = Field(
        default="adam", description="adam, adamw (decoupled weight decay), or sgd with momentum"
    )
    lr: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="learning rate; default: 0.004 for adam and adamw, 0.01 for sgd"
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.9, description="momentum of sgd"
    )
    nesterov: OnOff = Field(default=False, description="use Nesterov momentum in sgd")
    beta1: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.9, description="decay of the first moment in adam and adamw"
    )
    beta2: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.999, description="decay of the second moment in adam and adamw, per beta2_per"
    )
    beta2_per: Literal["1024 rows", "step"] = Field(
        default="1024 rows",
        description="unit of beta2: 1024 rows (the same half-life in rows at any size), or a step",
    )
    weight_decay: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="weight decay; default: 0.01 for adamw, 0 for the others"
    )
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="largest norm of a minibatch gradient; larger ones are scaled down to it",
    )
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="learning rate over the run's rows; cosine ends at 0"
    )
    warmup_rows: Annotated[Count, Field(ge=0)] = Field(
        default=0, description="rows over which the learning rate rises linearly from 0"
    )
    average: OnOff = Field(
        default=True,
        description="judge and deliver an average of the weights over the last rows, not the last",
    )
    average_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.1, description="span of that average, as a fraction of the rows so far"
    )
    precision: Literal["float32", "tf32", "bf16"] = Field(
        default="float32",
        description="precision of matrix products on a GPU; parameters stay float32",
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto", description="torch engine: compile the whole step; auto: where it pays off"
    )
    threads: PositiveCount | None = Field(
        default=None, description="threads that learners compute on; default: the number of cores"
    )
    engine: Literal["auto", "fused", "torch"] = Field(
        default="auto",
        description="fused (Numba, for perceptrons), torch, or auto: fused where it can train",
    )
    device: Device = Field(
        default="auto",
        description="cpu, cuda, cuda:N, or auto: a GPU where a long run is faster there, measured",
    )
    epochs: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="passes over the data; default: until flat for `train`, else 1"
    )
    max_rows: PositiveCount | None = Field(
        default=None, description="rows each learner trains on, over as many epochs as needed"
    )
    max_time: Seconds | None = Field(
        default=None, description="wall-clock seconds of all training passes together"
    )
    early_stop: PositiveCount | None = Field(
        default=None,
        description=(
            "stop `train` after this many evaluations, and this many times eval.first_row rows,"
            " without a lower held-out loss"
        ),
    )

    @model_validator(mode="after")
    def _refuse_two_lengths(self) -> "TrainConfig":
        if self.epochs is not None and self.max_rows is not None:
            raise ValueError("epochs and max_rows both set the length of a run; give one")
        return self

    @model_validator(mode="before")
    @classmethod
    def _begin_with_the_schedule(cls, values: Any) -> Any:
        """Set the batch size to the schedule's first, so that it is the size of the run."""
        if not is_mapping(values) or values.get("batch_schedule") is None:
            return values
        if "batch_size" in values:
            return values
        try:
            return {**values, "batch_size": parse_batch_schedule(values["batch_schedule"])[0][0]}
        except ValueError:  # the field itself is refused
            return values

    @model_validator(mode="after")
    def _refuse_two_first_sizes(self) -> "TrainConfig":
        if self.batch_schedule is not None and self.batch_size == AUTO:
            raise ValueError("batch_schedule and batch_size auto both set the sizes; give one")
        if self.batch_schedule is not None and self.batch_schedule[0][0] != self.batch_size:
            raise ValueError(
                f"batch_schedule begins with {self.batch_schedule[0][0]:,} rows, and batch_size is"
                f" {self.batch_size:,}; give one of them"
            )
        return self

    @property
    def has_length(self) -> bool:
        """Whether a key says when training ends, or needs to know it, as a cosine schedule does."""
        given = (self.epochs, self.max_rows, self.max_time, self.early_stop)
        return self.schedule == "cosine" or any(value is not None for value in given)

    @property
    def constant_size(self) -> int:
        """The batch size, where it is a number.

        Raises ConfigError for `auto`, whose sizes follow from the rows of a training.
        """
        if self.batch_size == AUTO:
            raise ConfigError(
                "train.batch_size auto is for `train`, where sizes follow from the rows. Give the"
                " rows of a minibatch here."
            )
        return self.batch_size

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The batch sizes, each with its first row. Raises ConfigError as `constant_size` does."""
        return self.batch_schedule or ((self.constant_size, 0),)

    @property
    def rate(self) -> float:
        """The learning rate: `lr`, or the optimizer's default."""
        if self.lr:
            return self.lr
        return 0.01 if self.optimizer == "sgd" else 0.004

    @property
    def decay(self) -> float:
        """The weight decay: `weight_decay`, or the optimizer's default."""
        if self.weight_decay is not None:
            return self.weight_decay
        return 0.01 if self.optimizer == "adamw" else 0.0

    @property
    def averaged_fraction(self) -> float:
        """The fraction of the rows that the weights are averaged over; 0: no average."""
        return self.average_fraction if self.average else 0.0

    def at(self, batch_size: int) -> "TrainConfig":
        """Return this config with `beta2` per step of `batch_size` rows.

        With `beta2_per` = 1024 rows, Adam's second moment decays by rows instead of steps (Marek et
        al. 2025, arXiv 2507.07101).

        Raises:
            ConfigError: A step forgets less of the second moment than float32 can represent, so the
                moment would stay at the value that its first rows gave it.
        """
        per_step = self.beta2_per == "step"
        beta2 = self.beta2 if per_step else self.beta2 ** (batch_size / 1024)
        if self.optimizer != "sgd" and 1 - beta2 < LEAST_FORGOTTEN:
            rows = f"{batch_size:,} row{'s' if batch_size > 1 else ''}"
            alternative = "" if per_step else ", or --set train.beta2_per=step"
            raise ConfigError(
                f"train.beta2 {self.beta2:.10g} per {self.beta2_per} makes a step of {rows} forget"
                f" {1 - beta2:.1g} of the second moment, and float32 rounding loses less than"
                f" {LEAST_FORGOTTEN:.1g}. Give a smaller train.beta2{alternative}."
            )
        return self if per_step else self.model_copy(update={"beta2": beta2})
