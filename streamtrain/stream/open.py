"""Opening a data set for streaming: spans, hold-out, source. Refuses what cannot be streamed, before the first row."""

from dataclasses import replace

import numpy as np

from streamtrain.errors import ConfigError
from streamtrain.holdout import draw_holdout, holdout_rows, spread_spans
from streamtrain.order import OPEN_CHAINS
from streamtrain.spans import cut_spans
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.readers import Readers
from streamtrain.stream.plan import default_window_rows
from streamtrain.stream.source import Source
from streamtrain.stream.survey import take_survey
from streamtrain.types import Dataset, Standard


def open_source(
    dataset: Dataset, *, seed: int, span_rows: int, window_rows: int | None, holdout: int | float | None, eval_rows: int
) -> tuple[Source, int]:
    """A source of raw values, and the window's size in rows. Reads no data.

    Raises ConfigError when the hold-out asks for more rows than there are.
    """
    window_rows = window_rows or default_window_rows(len(dataset.columns))
    if window_rows < OPEN_CHAINS:
        raise ConfigError(f"order.window_rows is {window_rows}; a window takes at least {OPEN_CHAINS} rows.")
    spans = cut_spans(dataset.shards, span_rows=span_rows, window_rows=window_rows)
    rows = holdout_rows(dataset.num_rows, asked=holdout, eval_rows=eval_rows)
    if rows >= dataset.num_rows and rows:
        raise ConfigError(f"data.holdout asks for {rows:,} of {dataset.num_rows:,} rows; none would be left to train on. Ask for fewer.")
    try:
        drawn = draw_holdout(spans, rows, seed)
    except ValueError as error:
        raise ConfigError(f"data.holdout: {error}. Ask for fewer, or use --eval-data.") from None
    standard = Standard.identity(len(dataset.columns))
    return Source(dataset=dataset, readers=Readers(dataset), spans=spans, holdout=drawn, standard=standard), window_rows


def with_standard(source: Source, standard: Standard) -> Source:
    """The same source, delivering model units."""
    return replace(source, standard=standard)


def read_evaluation_rows(path: str, dataset: Dataset, *, rows: int, span_rows: int) -> np.ndarray:
    """Rows of another data set with the same columns, drawn like a hold-out: float64 (at most `rows`, columns), raw units."""
    other = open_shards(path, features=dataset.features, target=dataset.target)
    source, _ = open_source(other, seed=0, span_rows=span_rows, window_rows=None, holdout=0, eval_rows=rows)
    spread = spread_spans(len(source.spans), min(rows / other.num_rows, 1.0))
    drawn = draw_holdout(source.spans, min(rows, int(source.spans.num_rows[spread].sum())), seed=0)
    return take_survey(replace(source, holdout=drawn)).holdout
