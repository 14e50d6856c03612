"""The analysis of a run: what its records say, computed once.

Every text, table and chart of the report and `summary.json` itself are views of an `Analysis`.

```
records ──collect──▶ Run ──judge──▶ Judgement ──analyze──▶ Analysis ──▶ texts · tables · charts
                                                               └─ .summary ──to_json──▶ summary.json
```

`Summary` is the part that `summary.json` keeps, as nested dataclasses; `schema.json` gives the
meaning and the unit of every field. `measures` is a JSON document, read with `section` and
`estimate_of`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np

from streamtrain.records import DataInfo, parse
from streamtrain.science.cells import Cell
from streamtrain.science.intervals import Estimate
from streamtrain.science.judge import Judgement
from streamtrain.science.landmarks import Landmarks
from streamtrain.science.run_log import Run
from streamtrain.types import Json, Status

SCHEMA_VERSION = 1


NOT_MEASURED = Estimate(value=None)


def estimate_of(values: Mapping[str, Any] | None) -> Estimate | None:
    """Return an interval of a JSON document as an Estimate; None where the document has none."""
    if not values:
        return None
    return Estimate(
        value=finite(values.get("value")),
        lo=finite(values.get("lo")),
        hi=finite(values.get("hi")),
        n=values.get("n") or 0,
        kind=values.get("kind") or "",
    )


def is_trained(status: str) -> bool:
    """True for the status of a cell whose training ended as planned, at the target or not."""
    return status in ("reached", "not_reached")


def section(document: Mapping[str, Any] | None, *names: str) -> Json:
    """Return the object at a path of a JSON document; empty where any part of it is missing.

    >>> section({"laws": {"alpha": {"value": 1.0}}}, "laws", "alpha"), section({}, "laws", "alpha")
    ({'value': 1.0}, {})
    """
    value: Any = document
    for name in names:
        value = (value or {}).get(name)
    return value or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFigures:
    """One batch size at its learning rate, with its figures over the trials that are judged."""

    batch_size: int
    lr: float = 0.0
    status: Status = "not_reached"
    rows_per_second: Estimate = NOT_MEASURED
    wait_fraction: Estimate = NOT_MEASURED
    holdout_loss: Estimate = NOT_MEASURED
    holdout_rmse: Estimate = NOT_MEASURED
    holdout_loss_at_steps: Estimate = NOT_MEASURED
    holdout_loss_at_seconds: Estimate = NOT_MEASURED
    steps_to_target: Estimate = NOT_MEASURED
    rows_to_target: Estimate = NOT_MEASURED
    seconds_to_target: Estimate = NOT_MEASURED


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCell:
    """One batch size at its best learning rate for a further target."""

    batch_size: int
    lr: float = 0.0
    status: Status = "not_reached"
    steps_to_target: Estimate = NOT_MEASURED
    rows_to_target: Estimate = NOT_MEASURED
    seconds_to_target: Estimate = NOT_MEASURED


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherTarget:
    """A further target loss. It is reported, but never affects the recommendation."""

    target_loss: float
    cells: tuple[TargetCell, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLoss:
    """The loss of a reference model; `rmse` is in the target's units."""

    value: float | None = None
    rmse: float | None = None
    scored_on: str = "holdout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommended:
    """The recommended batch size and the reasons.

    Attributes:
        batch_size: The recommended size; None when there is none.
        reason: Why it is recommended, or why no size is.
        conclusive: Whether every eligible size that is not equivalent is proven slower.
        equivalent: Eligible sizes as good as the one with the smallest median time.
        undecided: Eligible sizes that are neither equivalent nor proven slower.
        more_trials: An estimate of the trials that would settle it; None if unknown.
        not_chosen: Why another size was not chosen, by batch size.
    """

    batch_size: int | None = None
    reason: str = ""
    conclusive: bool = False
    equivalent: tuple[int, ...] = ()
    undecided: tuple[int, ...] = ()
    more_trials: int | None = None
    not_chosen: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """A size trained to the target from start to end: seconds predicted and measured.

    Both are over the same trials, and neither includes `fill_seconds`, the time before the first
    block. `ratio` is measured over predicted.
    """

    batch_size: int
    predicted_seconds: Estimate
    measured_seconds: Estimate
    ratio: Estimate
    fill_seconds: Estimate

    @property
    def seconds_off(self) -> float:
        """The distance between the measured and the predicted seconds."""
        return abs((self.measured_seconds.value or 0.0) - (self.predicted_seconds.value or 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCount:
    """The rounds of a run that had one number of workers."""

    workers: int
    rounds: int
    rows: int
    seconds: float
    rows_per_second: Estimate
    end_rows: int
    holdout_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How the workers of a cluster shared a run; `by_workers`: an entry per number of workers."""

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
class ReportWarning:
    """A caveat about a figure, and the flag that would resolve it, if any."""

    text: str
    flag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Everything a run found: the content of `summary.json`, in its order.

    `cells` belong to the first rule of `lr_rules`, in the order of the run; `arms` has the cells of
    the other rules, which are reported but not judged.
    """

    schema_version: int = SCHEMA_VERSION
    verb: str = "sweep"
    command: str | None = None
    trials: int = 1
    epoch_rows: int | None = None
    version: str | None = None
    train_rows: int = 0
    target_loss: float | None = None
    target_loss_chosen: str = "none"
    lr_rules: tuple[str, ...] = ("tuned",)
    fresh_seeds: bool = False
    holdout_loss_at_rows: int | None = None
    holdout_loss_at_steps: int | None = None
    holdout_loss_at_seconds: float | None = None
    cells: tuple[CellFigures, ...] = ()
    recommendation: Recommended = Recommended()
    sentence: str = ""
    best_constant_loss: ModelLoss | None = None
    best_linear_loss: ModelLoss | None = None
    best_possible_loss: ModelLoss | None = None
    landmarks: Json = field(default_factory=dict)
    confirmation: tuple[Confirmation, ...] = ()
    measures: Json = field(default_factory=dict)
    arms: dict[str, tuple[CellFigures, ...]] = field(default_factory=dict)
    workers: Workers | None = None
    other_targets: tuple[OtherTarget, ...] = ()
    rows_read: int | None = None
    passes: int | None = None
    rows_saved: int | None = None
    seconds: float | None = None
    projected_bytes: int | None = None
    budget_bytes: int | None = None
    peak_rss_bytes: int | None = None
    receipts: tuple[Json, ...] = ()
    stream_seconds: dict[str, float] = field(default_factory=dict)
    read_bytes: int = 0
    integrity: str | None = None
    quarantined: Json | None = None
    data: DataInfo = field(default_factory=DataInfo)
    standard: Json | None = None
    target_sd: float | None = None
    env: Json = field(default_factory=dict)
    config: Json = field(default_factory=dict)
    why: tuple[str, ...] = ()
    warnings: tuple[ReportWarning, ...] = ()

    @property
    def constant_loss(self) -> float | None:
        """The loss of the best constant."""
        return None if self.best_constant_loss is None else self.best_constant_loss.value

    @property
    def recommended_cell(self) -> CellFigures | None:
        """The cell of the recommended batch size."""
        size = self.recommendation.batch_size
        return next((cell for cell in self.cells if cell.batch_size == size), None)

    def cells_of(self, rule: str) -> Sequence[CellFigures]:
        """Return the cells of a learning-rate rule; none where the run did not use it."""
        return self.cells if self.lr_rules[0] == rule else self.arms.get(rule, ())

    def to_json(self) -> Json:
        """Return `summary.json`: strict JSON values, no NaN and no infinity."""
        return strict(self)

    @staticmethod
    def from_json(document: Json) -> "Summary":
        """Parse what `to_json` of this or an older version returned; raises DataError."""
        present = {name: value for name, value in document.items() if value is not None}
        return parse(Summary, present, "summary.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """A run, its judgement and everything computed from them; `summary` is the part that is saved.

    `landmarks` has its own type here, and is JSON in the summary.
    """

    run: Run
    judgement: Judgement
    landmarks: Landmarks
    summary: Summary

    @property
    def cells(self) -> Sequence[Cell]:
        """The judged cells with their curves, in the order of the run and of `summary.cells`."""
        return self.judgement.cells

    def revise(self, **changes: Any) -> "Analysis":
        """Return the analysis with other fields of its summary."""
        return replace(self, summary=replace(self.summary, **changes))

    def warn(self, text: str, flag: str | None = None) -> "Analysis":
        """Return the analysis with one more warning."""
        warning = ReportWarning(text=text, flag=flag)
        return self.revise(warnings=(*self.summary.warnings, warning))

    def to_json(self) -> Json:
        """Return `summary.json`."""
        return self.summary.to_json()


def strict(value: Any) -> Any:
    """Return JSON values: None for NaN and infinity, lists for tuples, numbers for NumPy's."""
    if isinstance(value, Estimate):
        return strict(_estimate_json(value))
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: strict(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, dict):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    return finite(value.item() if isinstance(value, np.generic) else value)


def _estimate_json(estimate: Estimate) -> Json:
    """Return an estimate as JSON, with the keys in the order that `summary.json` always used."""
    if estimate.kind:
        return estimate.to_json()
    return {"value": estimate.value, "n": estimate.n, "lo": estimate.lo, "hi": estimate.hi}


def finite(value: Any) -> Any:
    """Return None for NaN and infinity, else the value."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
