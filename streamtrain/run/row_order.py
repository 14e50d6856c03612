"""Read a few spans to find rows that are in an order that windows do not mix."""

from dataclasses import replace

from streamtrain.config import make_config
from streamtrain.errors import DataError
from streamtrain.plan.holdout import Holdout, evenly_spread
from streamtrain.records import SpanVariation
from streamtrain.science.span_variation import span_variation
from streamtrain.storage.remote.urls import is_remote
from streamtrain.stream.open_source import open_source
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
