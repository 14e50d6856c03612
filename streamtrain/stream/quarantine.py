"""Quarantine: spans that cannot be read are skipped for the rest of the run, and listed.

The plan is arithmetic and does not depend on it: a quarantined span keeps its place in the order,
and its rows are left out. So visited + held out + dropped + quarantined = total, the order of all
other rows is unchanged, and a position keeps its meaning. A quarantined span is not read again, and
a resumed run skips the same rows.
"""

from collections.abc import Iterable, Mapping
from threading import Lock
from typing import Any

import numpy as np

from streamtrain.errors import ConfigError, DataError, StoreError
from streamtrain.plan.spans import Spans
from streamtrain.records import QuarantineChanged
from streamtrain.types import Dataset, Json

#: Records name at most this many spans; `quarantine.json` and a Stream's state name all of them.
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
        """The rows of all quarantined spans, including held-out rows."""
        with self._lock:
            numbers = np.fromiter(self._causes, dtype=np.int64)
        return int(self._spans.num_rows[numbers].sum())

    def add(self, span: int, cause: DataError) -> None:
        """Quarantine a span; in a chain also the slices after it, which cannot be reached.

        Raises `cause` itself when the store does not answer, and DataError when rows of the span's
        window were delivered before this run was resumed, or when no span is left.
        """
        if isinstance(cause, StoreError):
            raise cause
        numbers = range(span, span + 1)
        if self._spans.is_slice(np.array([span]))[0]:
            numbers = range(span, self._spans.unit_range(self._spans.unit_of(span))[1])
        if not self._sealed.isdisjoint(numbers):
            raise DataError(
                f"{cause} Rows of its window were delivered before the run was resumed, so it"
                " cannot be quarantined now."
            ) from cause
        with self._lock:
            for number in numbers:
                self._causes.setdefault(number, str(cause))
            if len(self._causes) == len(self._spans):
                raise DataError(
                    f"{self._dataset.url}: every span is quarantined, nothing is left to read. The"
                    f" last one: {cause}"
                ) from cause

    def lose_holdout(self, span: int) -> None:
        """Note that the held-out rows of a quarantined span could not be read either.

        They then count as quarantined, not as held out.
        """
        with self._lock:
            self._lost_holdout.add(span)

    def lost_rows(self, span: int, held_out: int) -> int:
        """Return the rows that a pass misses at a span that has `held_out` held-out rows."""
        return int(self._spans.num_rows[span]) - (0 if span in self._lost_holdout else held_out)

    def seal(self, spans: Iterable[int]) -> None:
        """Refuse to quarantine these spans from now on: rows of them were delivered already.

        Spans that are in quarantine already stay there.
        """
        self._sealed = frozenset(int(span) for span in spans) - frozenset(self._causes)

    def record(self) -> Json:
        """Return the field of a pass's record: counts, and the first spans with their causes."""
        state = self.to_json()
        return {
            "rows": state["rows"],
            "spans": len(state["spans"]),
            "first": state["spans"][:_NAMED_SPANS],
            "left_out": state["left_out"],
        }

    def to_record(self) -> QuarantineChanged:
        """Return the whole quarantine as a record."""
        return QuarantineChanged(**self.to_json())

    def to_json(self) -> Json:
        """Return the whole quarantine as plain JSON values.

        `left_out` lists the shards that could not be opened, so that their rows are not known.
        """
        with self._lock:
            causes, lost = sorted(self._causes.items()), sorted(self._lost_holdout)
        spans: list[Json] = []
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

    def restore(self, state: Mapping[str, Any]) -> None:
        """Quarantine the spans that `to_json` listed.

        Raises ConfigError, and changes nothing, when the list belongs to other spans.
        """
        causes: dict[int, str] = {}
        lost_holdout: set[int] = set()
        try:
            for entry in state["spans"]:
                number = entry["span"]
                span = self._spans[number]
                if (span.start, span.stop) != (entry["start"], entry["stop"]):
                    raise ConfigError(
                        f"the quarantined span {number} is rows {span.start:,} to {span.stop:,}"
                        " now. Open the data set as it was."
                    )
                causes[number] = str(entry["cause"])
                if entry["holdout_lost"]:
                    lost_holdout.add(number)
        except (KeyError, TypeError, IndexError) as error:
            raise ConfigError(
                "this is not a list of quarantined spans. Pass what to_json() returned."
            ) from error
        with self._lock:
            self._causes |= causes
            self._lost_holdout |= lost_holdout
