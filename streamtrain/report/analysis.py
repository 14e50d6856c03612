"""The analysis of a run: what its records say, computed once.

Every text, table and chart of the report and `summary.json` itself are views of an `Analysis`.

```
records ──collect──▶ Run ──judge──▶ Judgement ──analyze──▶ Analysis ──▶ texts · tables · charts
                                                               └─ .summary ──to_json──▶ summary.json
```

`Summary` is the part that `summary.json` keeps, as nested dataclasses; `schema.json` gives the
meaning and the unit of every field. `landmarks` and `measures` are JSON documents, read with
`section` and `figure_of`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from streamtrain.records import DataInfo, parse
from streamtrain.science.cells import Cell
from streamtrain.science.intervals import measure
from streamtrain.science.judge import Judgement
from streamtrain.science.run_log import Run
from streamtrain.types import Json, Status

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured value of `n` repeats with its 95 % interval.

    `value` is None where nothing was measured; `lo` and `hi` are None without repeats. `kind` names
    the method of the interval where it is worth saying.
    """

    value: float | None = None
    n: int = 0
    lo: float | None = None
    hi: float | None = None
    kind: str = ""

    def to_json(self) -> Json:
        """Return the figure as JSON values; `kind` is left out when empty."""
        values: Json = {"value": self.value, "n": self.n, "lo": self.lo, "hi": self.hi}
        return values | {"kind": self.kind} if self.kind else values


def figure(values: Iterable[float | None], *, log: bool = False) -> Figure:
    """Return the median of repeats with its interval; `log` is for positive quantities."""
    return figure_of(measure(values, log=log)) or Figure()


def figure_of(values: Mapping[str, Any] | None) -> Figure | None:
    """Return an interval of a JSON document as a Figure; None where the document has none."""
    if not values:
        return None
    return Figure(
        value=finite(values.get("value")),
        n=values.get("n") or 0,
        lo=finite(values.get("lo")),
        hi=finite(values.get("hi")),
        kind=values.get("kind") or "",
    )


def section(document: Mapping[str, Any] | None, *names: str) -> Json:
    """Return the object at a path of a JSON document; empty where any part of it is missing.

    >>> section({"laws": {"alpha": {"value": 1.0}}}, "laws", "alpha"), section({}, "laws", "alpha")
    ({'value': 1.0}, {})
    """
    found: Any = document
    for name in names:
        found = (found or {}).get(name)
    return found or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFigures:
    """One batch size at its learning rate, with its figures over the trials that judge it."""

    batch_size: int
    lr: float = 0.0
    status: Status = "not_reached"
    rows_per_second: Figure = Figure()
    wait_fraction: Figure = Figure()
    holdout_loss: Figure = Figure()
    holdout_rmse: Figure = Figure()
    holdout_loss_at_steps: Figure = Figure()
    holdout_loss_at_seconds: Figure = Figure()
    steps_to_target: Figure = Figure()
    rows_to_target: Figure = Figure()
    seconds_to_target: Figure = Figure()

    @property
    def status_text(self) -> str:
        """The status in words."""
        return self.status.replace("_", " ")

    @property
    def is_trained(self) -> bool:
        """True when its training ended as planned, at the target or not."""
        return self.status in ("reached", "not_reached")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCell:
    """One batch size at its best learning rate for a further target."""

    batch_size: int
    lr: float = 0.0
    status: Status = "not_reached"
    steps_to_target: Figure = Figure()
    rows_to_target: Figure = Figure()
    seconds_to_target: Figure = Figure()

    @property
    def status_text(self) -> str:
        """The status in words."""
        return self.status.replace("_", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherTarget:
    """A further target loss. It is reported, and never enters the recommendation."""

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
    """The recommended batch size with its reasons in words; `batch_size` None: there is none.

    `undecided`: eligible sizes that are neither equivalent nor proven slower. `more_trials`: an
    estimate of the trials that would settle it, None where it cannot be estimated. `not_chosen`:
    why not, by batch size.
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
    predicted_seconds: Figure
    measured_seconds: Figure
    ratio: Figure
    fill_seconds: Figure

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
    rows_per_second: Figure
    end_rows: int
    holdout_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """What the workers of a cluster did; `by_workers` has one entry per number of workers."""

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
    """What to know before relying on a figure, and the flag that helps (None where none does)."""

    text: str
    flag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Everything a run found: the content of `summary.json`, in its order.

    `cells` are of the first rule of `lr_rules`, in the order of the run; `arms` has the cells of
    the other rules, which are reported and not judged.
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
    def laws(self) -> "Laws":
        """The fitted laws of steps and of time."""
        return Laws.from_json(section(self.landmarks, "laws"))

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
        """Return what `to_json` gave, also of an older version; raises DataError."""
        known = {name: value for name, value in document.items() if value is not None}
        return parse(Summary, known, "summary.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Laws:
    """The fitted laws; a field is None where the run cannot tell.

    The steps to the target follow S_min·(1 + B_crit/B): `steps_min`, `critical_batch_size`. The
    seconds of a step follow α + βB: `alpha_seconds`, `beta_seconds`. `delivery_rate`: rows per
    second of the stream alone; `crossover`: the batch size from which delivery is slower than the
    step. `free_batch_size`, `best_batch_size` and `best_seconds` are the optimum without and with
    delivery, and the seconds to the target there. `overlap`: γ of reading and computing.
    """

    alpha_seconds: Figure | None = None
    beta_seconds: Figure | None = None
    delivery_rate: Figure | None = None
    crossover: Figure | None = None
    overlap: Figure | None = None
    free_batch_size: Figure | None = None
    best_batch_size: Figure | None = None
    best_seconds: Figure | None = None
    steps_min: Figure | None = None
    critical_batch_size: Figure | None = None

    @staticmethod
    def from_json(laws: Json) -> "Laws":
        """Return `landmarks.laws` of `summary.json`."""
        keys = {
            "beta_seconds": "beta_seconds_a_row",
            "delivery_rate": "rows_per_second",
            "crossover": "kink",
        }
        names = [item.name for item in fields(Laws)]
        return Laws(**{name: figure_of(laws.get(keys.get(name, name))) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """A run, its judgement and everything computed from them; `summary` is what is kept of it."""

    run: Run
    judgement: Judgement
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
    if isinstance(value, Figure):
        return strict(value.to_json())
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: strict(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, dict):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    return finite(value.item() if hasattr(value, "item") else value)


def finite(value: Any) -> Any:
    """Return None for NaN and infinity, else the value."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
