"""The analysis of a run: what its records say, computed once.

Every text, table and chart of the report and `summary.json` itself are views of an `Analysis`.

```
records ──collect──▶ Run ──judge──▶ Judgement ──analyze──▶ Analysis ──▶ texts · tables · charts
                                                               └─ .summary ──to_json──▶ summary.json
```

`Summary` is the part that `summary.json` keeps, as nested dataclasses (see also `summary_parts`).
Their docstrings give the meaning and the unit of every field; `summary_schema` makes `schema.json`
of them. `measures` is a JSON document, read with `section` and `estimate_of`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from streamtrain.errors import DataError
from streamtrain.records import DataInfo, WrittenAs, json_values, newer_version_text, parse
from streamtrain.report.summary_parts import (
    CellFigures,
    Confirmation,
    FlatEnd,
    Frontier,
    Growing,
    ModelLoss,
    MoreRows,
    OtherTarget,
    Recommended,
    ReportWarning,
    TrialReceipt,
    Workers,
)
from streamtrain.science.cells import Cell
from streamtrain.science.intervals import Estimate
from streamtrain.science.judge import Judgement
from streamtrain.science.landmarks import Landmarks
from streamtrain.science.landmarks_json import LandmarksJson
from streamtrain.science.run_log import Run
from streamtrain.types import Goal, Json, LrRule, TargetOrigin

SCHEMA_VERSION = 2


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
class Summary:
    """Everything a run found: the content of `summary.json`, in its order.

    Attributes:
        schema_version: Version of the form of this document.
        verb: sweep or train.
        command: The command that reproduces the run.
        trials: Seeds; each sets weights and row order.
        epoch_rows: Rows of an epoch.
        version: Version of streamtrain.
        train_rows: Rows each learner trains on; where their number was not given, those that it
            trained on.
        until_flat: Why a training until flat ended; None for any other run.
        target_loss: The held-out loss to reach, in standardised target units; None when there is
            none.
        target_loss_chosen: How target_loss was chosen.
        lr_rules: How learning rates follow from batch sizes; `cells` and the recommendation use the
            first rule.
        fresh_seeds: True: the figures of cells are from seeds that did not choose their learning
            rates.
        holdout_loss_at_rows: Rows at which cells[].holdout_loss is compared: the largest
            evaluation row that every finished cell reached.
        holdout_loss_at_steps: Steps at which cells[].holdout_loss_at_steps is compared: the most
            that every finished cell took.
        holdout_loss_at_seconds: Seconds of training at which cells[].holdout_loss_at_seconds is
            compared: the longest that every finished cell trained.
        sizes_used: The minibatch sizes that `train` came to, in their order; its one cell has the
            first. Empty for a sweep.
        cells: One per batch size, in the order of the run.
        recommendation: The recommended minibatch size, by the rule of the report.
        frontier: The fastest size to each of a ladder of losses, from the highest to the target.
        goal: By what the sizes are compared. Where it is a loss, every `slower_by` is of the loss.
        growing: A minibatch size that grows, on fresh seeds; None where there was no case for it.
        more_rows: How the fastest size changes with the rows; None where the run cannot tell.
        sentence: The answer in one sentence.
        best_constant_loss: The loss of the best constant.
        best_linear_loss: The loss of the best linear model.
        best_possible_loss: The smallest loss that any model can have; for generated data only.
        landmarks: Notable sizes besides the recommended one.
        confirmation: Sizes trained to the target from start to end, with the predicted seconds.
        measures: What --measure asked for: noise_scale, sqrt_m_slope, curvature, sharpness,
            shuffle.
        arms: The other rules, each with cells like those above, at the same target; they are
            reported but not judged.
        workers: How the workers of a Dask cluster shared the run; None on one machine.
        other_targets: Further targets given; they never enter the recommendation.
        rows_read: Rows read from storage by the training passes.
        passes: Passes over the data.
        rows_saved: Rows not read because learners shared a pass.
        seconds: Seconds of the whole run.
        projected_bytes: Bytes projected before the run.
        budget_bytes: Bytes allowed.
        peak_rss_bytes: Peak resident bytes beyond the imports.
        receipts: Proof of exactly-once delivery, one per trial.
        stream_seconds: Seconds of work by part of the stream, all passes together; read is of
            object stores, and within decode.
        read_bytes: Bytes read from object stores, all passes together; 0 for local files.
        integrity: Whether checksums of every page protect the data.
        quarantined: Rows that could not be read and were left out, under --on-bad-shard
            quarantine: rows, spans, the first of them, files left out.
        data: The data set: url, fingerprint, rows, columns, hold-out, integrity, truth.
        standard: Mean and 1/sd of each column, target last.
        target_sd: Standard deviation of the target, in its own units.
        env: Machine and versions.
        config: The resolved configuration.
        why: Why one size beats another, in words: steps, the root law, noise, sharpness.
        warnings: What to know before relying on a figure.
    """

    schema_version: Annotated[int, Field(json_schema_extra={"const": SCHEMA_VERSION})] = (
        SCHEMA_VERSION
    )
    verb: Literal["sweep", "train"] = "sweep"
    command: str | None = None
    trials: int = 1
    epoch_rows: int | None = None
    version: str | None = None
    train_rows: int = 0
    until_flat: FlatEnd | None = None
    target_loss: float | None = None
    target_loss_chosen: TargetOrigin = "none"
    lr_rules: tuple[LrRule, ...] = ("tuned",)
    fresh_seeds: bool = False
    holdout_loss_at_rows: int | None = None
    holdout_loss_at_steps: int | None = None
    holdout_loss_at_seconds: float | None = None
    sizes_used: tuple[int, ...] = ()
    cells: tuple[CellFigures, ...] = ()
    recommendation: Recommended = field(default_factory=Recommended)
    frontier: tuple[Frontier, ...] = ()
    goal: Goal = "time-to-loss"
    growing: Growing | None = None
    more_rows: MoreRows | None = None
    sentence: str = ""
    best_constant_loss: ModelLoss | None = None
    best_linear_loss: ModelLoss | None = None
    best_possible_loss: ModelLoss | None = None
    landmarks: Annotated[Json, WrittenAs(LandmarksJson)] = field(default_factory=dict)
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
    receipts: tuple[TrialReceipt, ...] = ()
    stream_seconds: dict[str, float] = field(default_factory=dict)
    read_bytes: Annotated[int, Field(ge=0)] = 0
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
    def recommended_cell(self) -> CellFigures | None:
        """The cell of the recommended batch size."""
        size = self.recommendation.batch_size
        return next((cell for cell in self.cells if cell.batch_size == size), None)

    def confirmed(self, cell: CellFigures) -> Confirmation | None:
        """Return what was measured when a size was trained to the target; None where it was not."""
        return next((one for one in self.confirmation if one.batch_size == cell.batch_size), None)

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
        if present.get("schema_version") == 1:
            present = _from_version_1(present)
        version = present.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise DataError(f"{newer_version_text(version, SCHEMA_VERSION)}.")
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


def _from_version_1(document: Json) -> Json:
    """Return a summary of version 1 as one of version 2, which has another recommendation."""
    recommendation = dict(document.get("recommendation") or {})
    recommendation["settled"] = recommendation.pop("conclusive", False)
    recommendation.pop("undecided", None)
    recommendation["target_loss"] = document.get("target_loss")
    return {**document, "schema_version": SCHEMA_VERSION, "recommendation": recommendation}


def strict(value: Any) -> Any:
    """Return JSON values: None for NaN and infinity, lists for tuples, numbers for NumPy's."""
    if is_dataclass(value) and not isinstance(value, type):
        return {key: strict(item) for key, item in json_values(value).items()}
    if isinstance(value, dict):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    return finite(value.item() if isinstance(value, np.generic) else value)


def finite(value: Any) -> Any:
    """Return None for NaN and infinity, else the value."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
