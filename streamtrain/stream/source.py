"""A source: the rows of one data set, as every window of every trial reads them."""

from dataclasses import dataclass, field

import numpy as np

from streamtrain.plan.holdout import Holdout
from streamtrain.plan.spans import Spans
from streamtrain.storage.readers import Readers
from streamtrain.stream.quarantine import Quarantine
from streamtrain.stream.read_timeout import Watch
from streamtrain.stream.rounding import Rounding
from streamtrain.stream.transform import Transform, TransformedReaders
from streamtrain.types import Dataset, OnNull, Span, Standardization

TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """An opened data set, and all that decides how its rows are delivered.

    Thread-safe: readers hold no open file.

    Attributes:
        dataset: The data set; with a transform, its columns are those that the transform makes.
        readers: Read row ranges of its shards.
        spans: Its row ranges, the units of reading.
        window_rows: The rows shuffled together, a constant of the run.
        holdout: The rows reserved for evaluation.
        standard: How raw values become model units.
        on_null: The policy for values that cannot be trained on (nulls.py).
        fill: What `impute` puts in their place: float64 (features,), raw units.
        transform: The user's function that makes the features, if there is one.
        quarantine: Collects spans that cannot be read; None: such a span ends the run.
        watch: Finds reads that hang.
        rounding: Finds integers that are rounded where raw values are delivered.
    """

    dataset: Dataset
    readers: Readers | TransformedReaders
    spans: Spans
    window_rows: int
    holdout: Holdout
    standard: Standardization
    on_null: OnNull = "error"
    fill: np.ndarray | None = None
    transform: Transform | None = None
    quarantine: Quarantine | None = None
    watch: Watch = field(default_factory=lambda: Watch(TIMEOUT_SECONDS))
    rounding: Rounding = field(default_factory=Rounding)

    @property
    def num_columns(self) -> int:
        """The number of columns delivered, target included."""
        return len(self.dataset.columns)

    @property
    def decoded_columns(self) -> int:
        """The columns in memory while a span is decoded: a transform's inputs and outputs."""
        num_inputs = len(self.transform.inputs) if self.transform else 0
        return self.num_columns + num_inputs

    def read(self, span: Span) -> tuple[np.ndarray, ...]:
        """Return the decoded columns of a span: 1-D arrays, target last.

        They have the decoded type of the data set.
        """
        with self.watch.reading(self.dataset.shards[span.shard], span):
            columns = self.readers.read(span.shard, span.start, span.stop)
        self.rounding.look(self.dataset, self.standard, span.shard, columns)
        return columns
