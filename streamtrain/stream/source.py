"""A source: the rows of one data set, as every window of every trial reads them."""

from dataclasses import dataclass

import numpy as np

from streamtrain.errors import DataError
from streamtrain.holdout import Holdout
from streamtrain.spans import Spans
from streamtrain.storage.readers import Readers
from streamtrain.types import Dataset, Span, Standard


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """Data set, readers, spans, hold-out, and how values become model units. Thread-safe: readers hold no open file."""

    dataset: Dataset
    readers: Readers
    spans: Spans
    holdout: Holdout
    standard: Standard

    @property
    def num_columns(self) -> int:
        return len(self.dataset.columns)

    def read(self, span: Span) -> tuple[np.ndarray, ...]:
        """The decoded columns of a span: 1-D arrays of the data set's decoded type, target last."""
        return self.readers.read(span.shard, span.start, span.stop)

    def refuse_nonfinite(self, span: Span, columns: tuple[np.ndarray, ...]) -> None:
        """Raise DataError naming the first value that is NaN, infinite or null, or too large for float32 once standardised."""
        for name, values, mean, scale in zip(self.dataset.columns, columns, self.standard.mean, self.standard.scale, strict=True):
            with np.errstate(over="ignore", invalid="ignore"):
                bad = np.flatnonzero(~np.isfinite(((values.astype(np.float64) - mean) * scale).astype(np.float32)))
            if len(bad):
                url = self.dataset.shards[span.shard].url
                value = values[bad[0]]
                what = "null or NaN" if np.isnan(value) else "infinite" if np.isinf(value) else f"{value!r}, too large for float32"
                raise DataError(
                    f"{url}: column {name!r}, row {span.start + int(bad[0]):,}: the value is {what} ({len(bad):,} such in rows"
                    f" {span.start:,} to {span.stop:,}). Clean the column, or leave it out with --features."
                )
