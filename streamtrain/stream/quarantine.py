"""Quarantine: spans that cannot be read are stepped over for the rest of the run, and written down.

The plan is arithmetic and knows nothing of it: a quarantined span keeps its place in the order, and
its rows never come. So visited + held out + dropped + quarantined = total, other rows come as they
would have, and a position means what it meant. A span that was quarantined once is not tried again:
a run that is resumed steps over the same rows.
"""

from collections.abc import Iterable, Mapping
from threading import Lock

import numpy as np

from streamtrain.errors import ConfigError, DataError, StoreError
from streamtrain.plan.spans import Spans
from streamtrain.records import QuarantineChanged
from streamtrain.types import Dataset, Json

#: Records name this many spans; `quarantine.json` and a Stream's state name all.
_NAMED_SPANS = 16


class Quarantine:
    """The spans of one source that could not be read, with causes. Thread-safe; it only grows."""

    def __init__(self, dataset: Dataset, spans: Spans):
        self._dataset, self._spans = dataset, spans
        self._causes: dict[int, str] = {}
        self._lost_holdout: set[int] = set()
        self._sealed: frozenset[int] = frozenset()
        self._lock = Lock()

    def __contains__(self, span: int) -> bool:
        return span in self._causes

    def __len__(self) -> int:
        return len(self._causes)

    @property
    def num_rows(self) -> int:
        """Rows of all quarantined spans, held-out ones included."""
        with self._lock:
            numbers = np.fromiter(self._causes, dtype=np.int64)
        return int(self._spans.num_rows[numbers].sum())

    def add(self, span: int, cause: DataError) -> None:
        """Quarantine a span; of a chain, also the slices after it, which are read by way of it.

        Raises `cause` where that cannot be: its store does not answer, rows of its window were
        delivered before this run was resumed, or no span is left.
        """
        if isinstance(cause, StoreError):
            raise cause
        numbers = range(span, span + 1)
        if self._spans.is_slice(np.array([span]))[0]:
            numbers = range(span, self._spans.unit_range(self._spans.unit_of(span))[1])
        if not self._sealed.isdisjoint(numbers):
            late = (
                "Rows of its window were delivered before the run was resumed, so it cannot be"
                " quarantined now."
            )
            raise DataError(f"{cause} {late}") from cause
        with self._lock:
            for number in numbers:
                self._causes.setdefault(number, str(cause))
            if len(self._causes) == len(self._spans):
                raise DataError(
                    f"{self._dataset.url}: every span is quarantined, nothing is left to read. The"
                    f" last one: {cause}"
                ) from cause

    def lose_holdout(self, span: int) -> None:
        """Say that a quarantined span's held-out rows could not be read either: they count as
        quarantined, not as held out.
        """
        with self._lock:
            self._lost_holdout.add(span)

    def lost_rows(self, span: int, held_out: int) -> int:
        """How many rows a pass misses at a quarantined span that has `held_out` held-out rows."""
        return int(self._spans.num_rows[span]) - (0 if span in self._lost_holdout else held_out)

    def seal(self, spans: Iterable[int]) -> None:
        """Rows of these spans were delivered already: those that are not quarantined now cannot be
        later.
        """
        self._sealed = frozenset(int(span) for span in spans) - frozenset(self._causes)

    def record(self) -> Json:
        """For a pass's record: counts, and the first spans with file, rows and cause."""
        state = self.to_json()
        return {
            "rows": state["rows"],
            "spans": len(state["spans"]),
            "first": state["spans"][:_NAMED_SPANS],
            "left_out": state["left_out"],
        }

    def to_record(self) -> QuarantineChanged:
        """Return all of it as a record."""
        return QuarantineChanged(**self.to_json())

    def to_json(self) -> Json:
        """All of it, as plain JSON values.

        `left_out`: shards that could not be opened, so that nobody knows their rows.
        """
        with self._lock:
            causes, lost = sorted(self._causes.items()), sorted(self._lost_holdout)
        spans = []
        for number, cause in causes:
            span = self._spans[number]
            spans.append(
                {
                    "span": number,
                    "url": self._dataset.shards[span.shard].url,
                    "start": span.start,
                    "stop": span.stop,
                    "cause": cause,
                    "holdout_lost": number in lost,
                }
            )
        return {
            "total_rows": self._dataset.num_rows,
            "rows": sum(span["stop"] - span["start"] for span in spans),
            "spans": spans,
            "left_out": [{"url": url, "cause": cause} for url, cause in self._dataset.left_out],
        }

    def restore(self, state: Mapping) -> None:
        """Quarantine what `to_json` listed. Raises ConfigError when it is of other spans."""
        try:
            for entry in state["spans"]:
                span = self._spans[entry["span"]]
                if (span.start, span.stop) != (entry["start"], entry["stop"]):
                    now = f"rows {span.start:,} to {span.stop:,} now"
                    raise ConfigError(
                        f"the quarantined span {entry['span']} is {now}. Open the data as it was."
                    )
                self._causes[entry["span"]] = str(entry["cause"])
                if entry["holdout_lost"]:
                    self._lost_holdout.add(entry["span"])
        except (KeyError, TypeError, IndexError) as error:
            raise ConfigError(
                "this is not a list of quarantined spans. Use what to_json() gave."
            ) from error
