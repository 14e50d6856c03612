"""The records of one run, sorted by subject: learners, passes, timings and so on."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamtrain.errors import DataError, shown
from streamtrain.records import (
    Baseline,
    Confirmed,
    DeliveryTimed,
    Evaluation,
    GrowthTried,
    Measured,
    PassEnded,
    Record,
    ReplicaEnded,
    RoundEnded,
    RunEnded,
    RunStarted,
    StepsTimed,
    SyncChosen,
    TargetWinners,
    WinningRates,
    parse_record,
)
from streamtrain.records.texts import map_texts
from streamtrain.types import Goal, Json, LrRule


@dataclass(slots=True, kw_only=True)
class Curve:
    """The evaluations of one learner in order of rows, and how it ended.

    Losses that are not finite are NaN. `fall_per_doubling`: as in `ReplicaEnded`.
    """

    batch_size: int
    lr: float
    trial: int
    rows: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    holdout_loss: list[float] = field(default_factory=list)
    holdout_rmse: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    outcome: str = ""
    reason: str = ""
    fall_per_doubling: float | None = None

    @property
    def finished(self) -> bool:
        """True when it did not fail or diverge.

        That holds for a learner whose run was interrupted too: its figures count as far as they go.
        """
        return self.outcome in ("finished", "")

    def final(self, values: Sequence[float]) -> float:
        """Return the last of `values`; infinity if it is not finite or training did not finish."""
        return values[-1] if self.finished and values and math.isfinite(values[-1]) else math.inf


@dataclass(slots=True, kw_only=True)
class Run:
    """A run as its records describe it.

    `curves`: every learner that left a record, by (batch size, learning rate) and trial.
    `step_seconds`: (rows, seconds) of steps alone, by batch size and timing repeat.
    `delivery_seconds`: (rows, seconds) of the stream alone, by timing repeat. `core_seconds`:
    processor time of all threads, by batch size (None for delivery) and timing repeat. `cores`:
    the number of processor cores. `sync` and `rounds` are set for training over workers.
    """

    header: RunStarted
    curves: dict[tuple[int, float], dict[int, Curve]] = field(default_factory=dict)
    baseline: Baseline = field(default_factory=Baseline)
    passes: list[PassEnded] = field(default_factory=list)
    step_seconds: dict[int, dict[int, tuple[int, float]]] = field(default_factory=dict)
    delivery_seconds: dict[int, tuple[int, float]] = field(default_factory=dict)
    core_seconds: dict[int | None, dict[int, float]] = field(default_factory=dict)
    cores: int = 1
    winners: list[TargetWinners] = field(default_factory=list)
    confirmations: list[Confirmed] = field(default_factory=list)
    growth: list[GrowthTried] = field(default_factory=list)
    measures: Json = field(default_factory=dict)
    sync: SyncChosen | None = None
    rounds: list[RoundEnded] = field(default_factory=list)
    end: RunEnded | None = None

    @property
    def batch_sizes(self) -> list[int]:
        """The batch sizes in the order of the run; ascending where its passes added some."""
        sizes = list(self.header.batch_sizes)
        added = {size for record in self.passes for size in record.lrs}.difference(sizes)
        return sorted(added.union(sizes)) if added else sizes

    @property
    def schedule(self) -> tuple[tuple[int, int], ...]:
        """The minibatch sizes of a training, each with its first row; none for a sweep."""
        if self.header.verb != "train":
            return ()
        if self.header.stages is not None:
            return tuple((stage.batch_size, stage.first_row) for stage in self.header.stages)
        given = self.header.config.get("train", {}).get("batch_schedule")
        return tuple((size, row) for size, row in given or ((self.header.batch_sizes[0], 0),))

    @property
    def has_holdout(self) -> bool:
        """True when rows were held out for evaluation."""
        return self.header.data.holdout_source != "none"

    @property
    def train_rows(self) -> int:
        """The rows each learner was to train on.

        A time budget sets no number of rows: then the most that a learner reached.
        """
        reached = (
            curve.rows[-1]
            for trials in self.curves.values()
            for curve in trials.values()
            if curve.rows
        )
        return self.header.train_rows or max(reached, default=0)

    @property
    def trials(self) -> int:
        """Trials per learning rate. Tuned winners run on as many fresh ones, numbered from here."""
        return self.header.trials

    @property
    def goal(self) -> Goal:
        """By what the sizes are compared."""
        return self.header.goal or "time-to-loss"

    @property
    def rules(self) -> list[LrRule]:
        """How learning rates follow from batch sizes; sizes are judged by the first."""
        return list(self.header.lr_rules or ("tuned",))

    @property
    def reference_lr(self) -> float:
        """`train.lr`, from which rules that do not tune derive learning rates.

        Raises DataError where the run has none.
        """
        if self.header.lr is None:
            raise DataError("the `run` record of events.jsonl has no `lr`")
        return self.header.lr

    def learning_rates(self, batch_size: int) -> list[float]:
        """Return the grid of a size with its extensions, ascending.

        Learning rates that left no record are included.
        """
        started = dict(zip(self.header.batch_sizes, self.header.lrs, strict=True))
        lrs = set(started.get(batch_size, ()))
        kinds = ("extension",) if self.header.ladder is None else ("extension", "tuning")
        for record in self.passes:
            if record.kind in kinds:
                lrs.update(record.lrs.get(batch_size, ()))
        return sorted(lrs)

    def add(self, record: Record | Json) -> None:
        """Add one more record.

        Unknown events are skipped, so that older versions can report on newer files.
        """
        _add(self, record if isinstance(record, Record) else parse_record(record))


def collect(records: Iterable[Record | Json]) -> Run:
    """Return the Run that records describe.

    Raises DataError when there is no `run` record.
    """
    run: Run | None = None
    for item in records:
        # names in files must neither break lines nor control a terminal
        record = map_texts(
            item if isinstance(item, Record) else parse_record(item), shown, keys=True
        )
        if isinstance(record, RunStarted):
            run = Run(header=record)
        elif run is not None:
            _add(run, record)
    if run is None:
        raise DataError(
            "events.jsonl has no `run` record: the run ended before its first row. Start it again."
        )
    for trials in run.curves.values():
        for curve in trials.values():
            _sort(curve)
    return run


def _add(run: Run, record: Record) -> None:
    match record:
        case Evaluation():
            curve = _curve(run, record)
            curve.rows.append(record.rows)
            curve.steps.append(record.steps)
            curve.holdout_loss.append(_finite_or_nan(record.holdout_loss))
            curve.holdout_rmse.append(_finite_or_nan(record.holdout_rmse))
            curve.train_loss.append(_finite_or_nan(record.train_loss))
        case ReplicaEnded():
            curve = _curve(run, record)
            curve.outcome, curve.reason = record.outcome, record.reason
            curve.fall_per_doubling = record.fall_per_doubling
        case Baseline():
            run.baseline = record
        case PassEnded():
            run.passes.append(record)
        case StepsTimed():
            size, repeat = record.batch_size, record.repeat
            run.step_seconds.setdefault(size, {})[repeat] = (record.rows, record.seconds)
            run.core_seconds.setdefault(size, {})[repeat] = record.core_seconds
        case DeliveryTimed():
            run.delivery_seconds[record.repeat] = (record.rows, record.seconds)
            run.core_seconds.setdefault(None, {})[record.repeat] = record.core_seconds
            run.cores = record.cores
        case WinningRates():
            run.winners = list(record.targets)
        case Confirmed():
            run.confirmations.append(record)
        case GrowthTried():
            run.growth.append(record)
        case Measured():
            run.measures = record.measures
        case SyncChosen():
            run.sync = record
        case RoundEnded():
            run.rounds.append(record)
        case RunEnded():
            run.end = record
        case _:
            pass


def _finite_or_nan(value: float | None) -> float:
    return math.nan if value is None or not math.isfinite(value) else value


def _curve(run: Run, record: Evaluation | ReplicaEnded) -> Curve:
    size, lr, trial = record.batch_size, record.lr, record.trial
    trials = run.curves.setdefault((size, lr), {})
    return trials.setdefault(trial, Curve(batch_size=size, lr=lr, trial=trial))


def _sort(curve: Curve) -> None:
    """Sort evaluations by rows.

    The file of a resumed run may hold an evaluation twice: the later one counts.
    """
    names = ("rows", "steps", "holdout_loss", "holdout_rmse", "train_loss")
    by_rows: dict[int, tuple[Any, ...]] = {}
    for values in zip(*(getattr(curve, name) for name in names), strict=True):
        by_rows[values[0]] = values
    ordered = [by_rows[rows] for rows in sorted(by_rows)]
    for index, name in enumerate(names):
        setattr(curve, name, [values[index] for values in ordered])
