"""Find rows that are in an order that windows do not mix, and say what mixes them."""

import math
import shlex
from dataclasses import replace

from streamtrain.base.budget import Budget
from streamtrain.base.redact import redact_url
from streamtrain.base.units import format_bytes
from streamtrain.config import Config, make_config
from streamtrain.errors import DataError, ResourceError
from streamtrain.plan.holdout import Holdout, evenly_spread
from streamtrain.records import SpanVariation
from streamtrain.science.span_variation import mixing_spans, span_variation
from streamtrain.storage.remote.urls import is_remote
from streamtrain.stream.open_source import open_source, stream_budget
from streamtrain.stream.source import Source
from streamtrain.stream.survey import Survey, take_survey
from streamtrain.types import Dataset

#: The most spans and values that are read: two seconds on one core.
_SPANS, _MOST_VALUES = 8, 1 << 26
_SPAN_ROWS = 262_144


def row_order(dataset: Dataset, *, window_rows: int | None = None) -> SpanVariation | None:
    """Return how unlike eight spread spans are, rows with nulls left out.

    None where the answer would not matter or would cost much, and nothing is read: one window holds
    all rows, row groups are larger than windows, rows are wide, or an object store has them. None
    also where a span cannot be read: a run reports why. `window_rows`: as `order.window_rows`.
    """
    order = {"window_rows": window_rows, "span_rows": _SPAN_ROWS}
    config = make_config({"data": {"on_null": "drop"}, "order": order})
    source = open_source(dataset, config, holdout=0)
    spans = source.spans
    chosen = evenly_spread(len(spans), _SPANS)
    values = int(spans.num_rows[chosen].sum()) * len(dataset.columns)
    if (
        source.window_rows >= dataset.num_rows
        or spans.is_slice(chosen).any()
        or values > _MOST_VALUES
        or is_remote(dataset.shards[0].url)
    ):
        return None
    try:
        return survey_variation(
            source, take_survey(replace(source, holdout=Holdout(spread=chosen)))
        )
    except DataError:
        return None


def survey_variation(source: Source, survey: Survey) -> SpanVariation | None:
    """Return how unlike the spans of a survey are; None with too few of them."""
    moments, spans = survey.spans, len(source.spans)
    if moments is None:
        return None
    return span_variation(
        moments.count,
        moments.mean,
        moments.squares,
        source.dataset.columns,
        spans=spans,
        window_spans=spans * min(1.0, source.window_rows / source.dataset.num_rows),
    )


#: Windows are proposed in multiples of this many rows.
_STEP_ROWS = 1024


def mixing_advice(
    variation: SpanVariation, source: Source, config: Config, budget: Budget, *, fixed_bytes: int
) -> str:
    """Return the command that shuffles rows in order, and the window that mixes them.

    The window is left out where it would leave memory for fewer readers than `budget` has.
    `fixed_bytes`: as for `stream_budget`.
    """
    dataset, data = source.dataset, config.data
    words = ["streamtrain", "ingest", "--shuffle", redact_url(dataset.url), "OUT"]
    for flag in ("target", "features", "datetime", "delimiter", "decimal", "na_values", "encoding"):
        value = getattr(data, flag)
        if value is not None:
            text = value if isinstance(value, str) else ",".join(value)
            words += [f"--{flag.replace('_', '-')}", text]
    if data.header is not None:
        words += ["--header", "on" if data.header else "off"]
    text = f"Shuffle them once: {shlex.join(words)}, and use OUT."
    # equal windows, since a last one of a few spans would not be mixed
    windows = max(1, int(variation.spans // mixing_spans(variation)))
    rows = math.ceil(variation.spans / windows) * int(source.spans.num_rows.max())
    rows = min(-(-rows // _STEP_ROWS) * _STEP_ROWS, dataset.num_rows)
    try:
        larger = stream_budget(
            replace(source, window_rows=rows), config.fetch, fixed_bytes=fixed_bytes
        )
    except ResourceError:
        return text
    if larger.readers < budget.readers or rows <= source.window_rows:
        return text
    spelled = str(rows) if rows % 1024 else f"{rows // 1024}Ki"
    return (
        f"{text} Or mix more of them at a time: --window-rows {spelled}, which takes"
        f" {format_bytes(larger.projected_bytes)} of memory instead of"
        f" {format_bytes(budget.projected_bytes)}."
    )
