"""A source: the rows of one data set, as every window of every trial reads them."""

from dataclasses import dataclass, field

import numpy as np

from streamtrain.plan.holdout import Holdout
from streamtrain.plan.spans import Spans
from streamtrain.storage.readers import Readers
from streamtrain.stream.quarantine import Quarantine
from streamtrain.stream.read_timeout import Watch
from streamtrain.stream.transform import Transform, TransformedReaders
from streamtrain.types import Dataset, OnNull, Span, Standardization

TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """Data set, readers, spans, hold-out, how values become model units, and what is done with
    those that cannot (nulls.py).

    With a transform, `dataset` has the columns that it makes. `fill`: float64 (features,), raw
    units, what `impute` puts in. `quarantine`: where spans go that cannot be read; None: they end
    the run. `watch` finds reads that hang. Thread-safe: readers hold no open file.
    """

    dataset: Dataset
    readers: Readers | TransformedReaders
    spans: Spans
    holdout: Holdout
    standard: Standardization
    on_null: OnNull = "error"
    fill: np.ndarray | None = None
    transform: Transform | None = None
    quarantine: Quarantine | None = None
    watch: Watch = field(default_factory=lambda: Watch(TIMEOUT_SECONDS))

    @property
    def num_columns(self) -> int:
        return len(self.dataset.columns)

    @property
    def decoded_columns(self) -> int:
        """Columns in memory while a span is decoded: with a transform, those it is given and those
        it makes.
        """
        return self.num_columns + (len(self.transform.inputs) if self.transform else 0)

    def read(self, span: Span) -> tuple[np.ndarray, ...]:
        """The decoded columns of a span: 1-D arrays of the data set's decoded type, target last."""
        with self.watch.reading(self.dataset.shards[span.shard], span):
            return self.readers.read(span.shard, span.start, span.stop)
