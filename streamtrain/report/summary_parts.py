"""The parts of `analysis.Summary`: the objects within `summary.json`.

`summary_schema` describes each key with the text of the field under `Attributes`.
"""

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from streamtrain.science.intervals import Estimate
from streamtrain.types import ScoredOn, Status

NOT_MEASURED = Estimate(value=None)

#: A measured figure: the median of n values and its 95 % interval. The interval is of the ordinary
#: kind for a sample, so `kind` is left out.
Figure = Annotated[Estimate, Field(json_schema_extra={"not": {"required": ["kind"]}})]

BatchSize = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFigures:
    """One minibatch size at its best learning rate, with its figures over the judged trials.

    Attributes:
        batch_size: Rows of a minibatch.
        lr: The learning rate judged best at this size.
        status: Whether every trial reached the target, or what prevented it.
        rows_per_second: Rows per second of training alone; n counts timing repeats.
        wait_fraction: Fraction of that time spent waiting for rows, 0 to 1; n counts timing
            repeats.
        holdout_loss: Mean squared error on held-out rows at holdout_loss_at_rows, in standardised
            target units.
        holdout_rmse: Its square root in the target's own units.
        holdout_loss_at_steps: The same loss at the document's holdout_loss_at_steps: equal steps.
        holdout_loss_at_seconds: The same loss at the document's holdout_loss_at_seconds: equal
            time.
        steps_to_target: Optimizer steps to the target loss, interpolated; n counts the trials that
            reached it. Where some did not: the Kaplan-Meier median, None where fewer than half
            did, without interval.
        rows_to_target: Rows to the target loss: steps x batch_size.
        seconds_to_target: Seconds to the target loss: the geometric mean over trials, as in the
            last entry of `frontier`. The interval holds the noise of rows and of timings. Where a
            trial missed the target, or no size is recommended: the median.
        slower_by: How much slower this size is than the recommended one, relatively (0.12 is
            12 %), by the mean log seconds to the target; all bounds of a run hold together with
            95 % confidence. `hi` is None where a trial missed the target.
    """

    batch_size: BatchSize
    lr: float = 0.0
    status: Status = "not_reached"
    rows_per_second: Figure = NOT_MEASURED
    wait_fraction: Figure = NOT_MEASURED
    holdout_loss: Figure = NOT_MEASURED
    holdout_rmse: Figure = NOT_MEASURED
    holdout_loss_at_steps: Figure = NOT_MEASURED
    holdout_loss_at_seconds: Figure = NOT_MEASURED
    steps_to_target: Figure = NOT_MEASURED
    rows_to_target: Figure = NOT_MEASURED
    seconds_to_target: Figure = NOT_MEASURED
    slower_by: Figure = NOT_MEASURED


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCell:
    """One minibatch size at its best learning rate for a further target.

    Attributes:
        batch_size: Rows of a minibatch.
        lr: The learning rate judged best at this size.
        status: Whether every trial reached the target, or what prevented it.
        steps_to_target: As in `CellFigures`, for this target.
        rows_to_target: Rows to the target loss: steps x batch_size.
        seconds_to_target: As in `CellFigures`, for this target.
    """

    batch_size: BatchSize
    lr: float = 0.0
    status: Status = "not_reached"
    steps_to_target: Figure = NOT_MEASURED
    rows_to_target: Figure = NOT_MEASURED
    seconds_to_target: Figure = NOT_MEASURED


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherTarget:
    """A further target loss. It is reported, but never affects the recommendation.

    Attributes:
        target_loss: The held-out loss to reach, in standardised target units.
        cells: One per batch size, in the order of the run.
    """

    target_loss: float
    cells: tuple[TargetCell, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLoss:
    """The loss of a reference model.

    Attributes:
        value: Mean squared error, in standardised target units.
        rmse: Root mean squared error, in the target's own units.
        scored_on: The rows on which it was scored; population: known exactly.
    """

    value: float | None = None
    rmse: float | None = None
    scored_on: ScoredOn = "holdout"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatEnd:
    """The end of a training that continues until the loss is flat.

    Attributes:
        least_rows: Rows after which training ends at the earliest: an epoch or more.
        most_rows: Rows after which training ends at the latest.
        fall_per_doubling: What the last doubling of the rows improved the held-out loss by,
            relatively (0.006 is 0.6 %); None where it is not known.
        is_flat: Whether that is less than 1 %.
    """

    least_rows: int
    most_rows: int
    fall_per_doubling: float | None = None
    is_flat: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommended:
    """The recommended minibatch size, how sure it is, and what to type next.

    Attributes:
        batch_size: The fastest size to the target; None when no size can be recommended.
        learning_rate: The learning rate that was best at this size.
        settled: Whether the upper end of `slower_by` is at most `sweep.within`.
        slower_by: How much slower this size could be than the best one tried, relatively (0.12 is
            12 %); `hi` is the bound, at 95 % confidence over all sizes together.
        equivalent: Sizes that are certainly at most `sweep.within` slower than the best, and the
            recommended one.
        target_loss: The loss by which the sizes are compared.
        target_rmse: The same target as RMSE, in the target's own units.
        command: The command that trains at this size and rate; None for a run that is not a sweep.
        rows: Rows that this command trains on: where the held-out loss of this size was smallest.
        expected_loss: Its held-out loss there, with an interval for one further seed; n counts the
            seeds of the sweep that have these rows.
        expected_rmse: The same as RMSE, in the target's own units.
        fall_per_doubling: What the last doubling of the rows of this size improved the held-out
            loss by in the sweep, relatively; None where it is not known.
        is_flat: Whether that is little, also as a part of what the model explains, or the loss was
            smallest before the last row.
        more_trials: An estimate of the further trials that would settle it; 0 when it is settled,
            None when unknown.
        reason: Why, in words.
        not_chosen: Batch size -> why it was not chosen.
    """

    batch_size: int | None = None
    learning_rate: float | None = None
    settled: bool = False
    slower_by: Figure = NOT_MEASURED
    equivalent: tuple[int, ...] = ()
    target_loss: float | None = None
    target_rmse: float | None = None
    command: str | None = None
    rows: int | None = None
    expected_loss: Figure = NOT_MEASURED
    expected_rmse: Figure = NOT_MEASURED
    fall_per_doubling: float | None = None
    is_flat: bool = False
    more_trials: int | None = None
    reason: str = ""
    not_chosen: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """The fastest minibatch size to one loss of the ladder down to the target.

    Attributes:
        loss: Held-out loss, in standardised target units.
        rmse: The same loss as RMSE, in the target's own units.
        batch_size: The size that takes the fewest seconds to it, by the mean of log seconds.
        seconds: Seconds of training that it takes.
        by_batch_size: Seconds of each size that reached it in every trial, by size.
    """

    loss: float
    rmse: float | None = None
    batch_size: BatchSize
    seconds: float
    by_batch_size: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Growing:
    """A minibatch size that grows during training, beside the recommended one.

    Attributes:
        batch_schedule: The sizes and the rows from which they hold, as --batch-schedule takes them.
        learning_rate: Its learning rate.
        slower_by: How much slower it is than the recommended size to the same target, relatively;
            negative: faster. Each end is false with 5 %.
        wins: Whether it is certainly faster: `slower_by.hi` is below 0.
    """

    batch_schedule: str
    learning_rate: float
    slower_by: Figure = NOT_MEASURED
    wins: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MoreRows:
    """How the fastest size changes with the rows to train on.

    Attributes:
        fastest: The fastest size of each rung, by its rows; between the sizes tried.
        per_doubling: The factor by which it grows when the rows double.
        expected: The fastest size of the last rung, as the rungs before it predict it.
        is_confirmed: Whether the last rung's is within that interval.
        epoch_rows: Rows of an epoch.
        predicted: The fastest size for an epoch of rows; None where is_confirmed is false, or the
            last rung has as many.
    """

    fastest: dict[str, float]
    per_doubling: Figure
    expected: Figure
    is_confirmed: bool
    epoch_rows: int
    predicted: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """A size trained to the target from start to end: seconds predicted and measured.

    Attributes:
        batch_size: Rows of a minibatch.
        predicted_seconds: The seconds_to_target of the size.
        measured_seconds: The same rows at the seconds per row that were measured.
        ratio: Measured seconds per row over those of the timing repeats; n counts trainings.
        fill_seconds: Seconds until the first block, in neither.
    """

    batch_size: int
    predicted_seconds: Figure
    measured_seconds: Figure
    ratio: Figure
    fill_seconds: Figure

    @property
    def is_off(self) -> bool:
        """Whether the interval of the ratio excludes 1: measured and predicted seconds differ."""
        lo, hi = self.ratio.lo, self.ratio.hi
        return lo is not None and hi is not None and not lo <= 1 <= hi

    @property
    def seconds_off(self) -> float:
        """The distance between the measured and the predicted seconds."""
        return abs((self.measured_seconds.value or 0.0) - (self.predicted_seconds.value or 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCount:
    """The rounds of a run that had one number of workers.

    Attributes:
        workers: The number of workers.
        rounds: Rounds with that number.
        rows: Rows trained on in these rounds.
        seconds: Seconds of these rounds.
        rows_per_second: Rows per second; n counts rounds.
        end_rows: Rows of the run at the end of the last of these rounds.
        holdout_loss: Held-out loss at end_rows, or at the last evaluation before.
    """

    workers: int
    rounds: int
    rows: int
    seconds: float
    rows_per_second: Figure
    end_rows: int
    holdout_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How the workers of a Dask cluster shared a run.

    Attributes:
        sync: How training was synchronised: rounds or allreduce.
        reason: Why so.
        shares: Parts of a round, in local SGD.
        lanes: Parts of a minibatch, in all-reduce.
        sum_seconds: Seconds of a sum of gradients.
        part_seconds: Seconds of a worker's part of a step.
        task_seconds: Seconds of an empty task.
        most_workers: How many workers there were at most.
        lost_workers: Workers that were lost.
        failed_tasks: Tasks that failed.
        rounds: Rounds of local SGD.
        rows_a_round: Median rows of a round.
        outer_optimizer: What joins the weights at the end of a round.
        generations: Worker groups formed, in all-reduce.
        collective: What sums gradients: gloo, nccl or None.
        by_workers: An entry per number of workers.
    """

    sync: str | None = None
    reason: str | None = None
    shares: int | None = None
    lanes: int | None = None
    sum_seconds: float | None = None
    part_seconds: float | None = None
    task_seconds: float | None = None
    most_workers: int | None = None
    lost_workers: int = 0
    failed_tasks: int = 0
    rounds: int = 0
    rows_a_round: float | None = None
    outer_optimizer: str | None = None
    generations: int | None = None
    collective: str | None = None
    by_workers: tuple[WorkerCount, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialReceipt:
    """Proof of exactly-once delivery in one pass of a trial.

    Attributes:
        trial: Number of the trial.
        count: Rows delivered.
        digest: Order-free hash of their ids, hexadecimal.
        dropped: Rows that the null policy dropped.
        quarantined: Rows that could not be read.
    """

    trial: int
    count: int
    digest: str
    dropped: int = 0
    quarantined: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportWarning:
    """A caveat about a figure.

    Attributes:
        text: The caveat.
        flag: The flag that helps, if any.
    """

    text: str
    flag: str | None = None
