"""The records of one run, sorted by what they are about."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamtrain.errors import DataError
from streamtrain.types import Record


@dataclass(slots=True, kw_only=True)
class Curve:
    """What one learner did: its evaluations in order of rows (NaN where not finite), and how it
    ended.
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

    @property
    def finished(self) -> bool:
        """True also for a learner whose run was interrupted: its figures count as far as they
        go.
        """
        return self.outcome in ("finished", "")

    def final(self, values: Sequence[float]) -> float:
        """The last of `values`, or infinity where the learner did not finish or it is not
        finite.
        """
        return values[-1] if self.finished and values and math.isfinite(values[-1]) else math.inf


@dataclass(slots=True, kw_only=True)
class Run:
    """A run as its records tell it; `curves` holds every learner that left a record.

    By batch size and timing repeat: `step_seconds`, `delivery_seconds` (rows, seconds) and
    `core_seconds`, processor time of all threads, where None stands for delivery; `cores` is how
    many there are. `sync` and `rounds` are of training over workers.
    """

    header: Record
    curves: dict[tuple[int, float], dict[int, Curve]] = field(default_factory=dict)
    baseline: Record = field(default_factory=dict)
    passes: list[Record] = field(default_factory=list)
    step_seconds: dict[int, dict[int, tuple[int, float]]] = field(default_factory=dict)
    delivery_seconds: dict[int, tuple[int, float]] = field(default_factory=dict)
    core_seconds: dict[int | None, dict[int, float]] = field(default_factory=dict)
    cores: int = 1
    winners: list[Record] = field(default_factory=list)
    confirmations: list[Record] = field(default_factory=list)
    measures: Record = field(default_factory=dict)
    sync: Record = field(default_factory=dict)
    rounds: list[Record] = field(default_factory=list)
    end: Record = field(default_factory=dict)

    @property
    def batch_sizes(self) -> list[int]:
        return list(self.header["batch_sizes"])

    @property
    def has_holdout(self) -> bool:
        return self.header.get("data", {}).get("holdout_source", "rows") != "none"

    @property
    def train_rows(self) -> int:
        """Rows each learner was to train on; under a time budget, which sets none, the most that
        one reached.
        """
        reached = (
            curve.rows[-1]
            for trials in self.curves.values()
            for curve in trials.values()
            if curve.rows
        )
        return self.header.get("train_rows") or max(reached, default=0)

    @property
    def trials(self) -> int:
        """Trials of a learning rate; tuned winners run on as many fresh ones, numbered from
        here.
        """
        return int(self.header.get("trials", 1))

    @property
    def rules(self) -> list[str]:
        """How learning rates follow from batch sizes; sizes are judged by the first."""
        return list(self.header.get("lr_rules", ["tuned"]))

    def rates(self, batch_size: int) -> list[float]:
        """The learning rates of the grid at a size, with what extended it; those that left no
        record included.
        """
        extended = (
            rate
            for one in self.passes
            if one.get("kind") == "extension"
            for rate in one["lrs"].get(str(batch_size), ())
        )
        return sorted({*self.header["lrs"][self.batch_sizes.index(batch_size)], *extended})

    def add(self, record: Record) -> None:
        """Sort one more record in; unknown events are skipped, so that older reports read newer
        files.
        """
        _add(self, record)


def collect(records: Iterable[Record]) -> Run:
    """Sort records into a Run.

    Raises DataError when there is no `run` record.
    """
    run: Run | None = None
    for record in records:
        if record["event"] == "run":
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
    match record["event"]:
        case "evaluation":
            curve = _curve(run, record)
            for name in ("rows", "steps"):
                getattr(curve, name).append(record[name])
            for name in ("holdout_loss", "holdout_rmse", "train_loss"):
                value = record.get(name)
                getattr(curve, name).append(
                    math.nan if value is None or not math.isfinite(value) else value
                )
        case "outcome":
            curve = _curve(run, record)
            curve.outcome, curve.reason = record["outcome"], record.get("reason") or ""
        case "baseline":
            run.baseline = record
        case "pass":
            run.passes.append(record)
        case "timing":
            run.step_seconds.setdefault(record["batch_size"], {})[record["repeat"]] = (
                record["rows"],
                record["seconds"],
            )
            run.core_seconds.setdefault(record["batch_size"], {})[record["repeat"]] = record.get(
                "core_seconds", 0.0
            )
        case "delivery":
            run.delivery_seconds[record["repeat"]] = (record["rows"], record["seconds"])
            run.core_seconds.setdefault(None, {})[record["repeat"]] = record.get(
                "core_seconds", 0.0
            )
            run.cores = record.get("cores", 1)
        case "winners":
            run.winners = record["targets"]
        case "confirmation":
            run.confirmations.append(record)
        case "measures":
            run.measures = record["measures"]
        case "sync":
            run.sync = record
        case "round":
            run.rounds.append(record)
        case "end":
            run.end = record


def _curve(run: Run, record: Record) -> Curve:
    size, lr, trial = record["batch_size"], record["lr"], record["trial"]
    trials = run.curves.setdefault((size, lr), {})
    return trials.setdefault(trial, Curve(batch_size=size, lr=lr, trial=trial))


def _sort(curve: Curve) -> None:
    """Order by rows; a file that was resumed may tell an evaluation twice: the later one stands."""
    names = ("rows", "steps", "holdout_loss", "holdout_rmse", "train_loss")
    by_rows: dict[int, tuple[Any, ...]] = {}
    for values in zip(*(getattr(curve, name) for name in names), strict=True):
        by_rows[values[0]] = values
    ordered = [by_rows[rows] for rows in sorted(by_rows)]
    for at, name in enumerate(names):
        setattr(curve, name, [values[at] for values in ordered])
