"""Spans, the units of reading: cut by the data layout and by config, never by available memory."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamtrain.errors import DataError
from streamtrain.types import Shard, Span

_Int64 = NDArray[np.int64]

#: Limit on the spans of a data set. A plan takes about 100 bytes per span. At the default of
#: 262,144 rows per span, 4 Mi spans are 10^12 rows.
MAX_SPANS = 2**22


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spans:
    """The spans of a data set as columns: int64 (spans,), in the order of the row ids.

    Attributes:
        shard: Number of the shard.
        start: First row of the span within the shard.
        stop: End of the span within the shard, exclusive.
        first_id: Id of the first row.
        unit_starts: First span of each unit, int64 (units + 1,). A unit is a span or a chain: the
            slices of a row group that is too large for a window, which are read in order.
    """

    shard: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    first_id: np.ndarray
    unit_starts: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)

    def __getitem__(self, i: int) -> Span:
        return Span(
            shard=int(self.shard[i]),
            start=int(self.start[i]),
            stop=int(self.stop[i]),
            first_id=int(self.first_id[i]),
        )

    @property
    def num_rows(self) -> np.ndarray:
        """Rows of each span, int64 (spans,)."""
        return self.stop - self.start

    @property
    def num_units(self) -> int:
        """Number of units: spans that are not slices, and chains."""
        return len(self.unit_starts) - 1

    @property
    def fingerprint(self) -> str:
        """Hash of the cuts; a position in a stream is valid only for spans with the same hash."""
        digest = hashlib.sha256()
        for column in (self.shard, self.start, self.stop, self.unit_starts):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()[:16]

    def unit_of(self, span: int) -> int:
        """Return the unit that a span belongs to."""
        return int(np.searchsorted(self.unit_starts, span, side="right")) - 1

    def is_slice(self, spans: np.ndarray) -> np.ndarray:
        """Return which span numbers are slices of a chain: bool, with the shape of `spans`."""
        if self.num_units == len(self):
            return np.zeros(len(spans), dtype=bool)
        units = np.searchsorted(self.unit_starts, spans, side="right") - 1
        return self.unit_starts[units + 1] - self.unit_starts[units] > 1

    def unit_range(self, unit: int) -> tuple[int, int]:
        """Return the spans `[first, end)` of a unit."""
        return int(self.unit_starts[unit]), int(self.unit_starts[unit + 1])


def cut_spans(shards: Sequence[Shard], *, span_rows: int, window_rows: int) -> Spans:
    """Cut shards along their natural boundaries.

    ```
    row groups   |100|100|100|        700        |100|       span_rows = 250, window_rows = 400
    spans        |  200  |100|50|50|50|...|50|50 |100|       slices of window_rows / 8
    ```
    Small neighbours are joined up to `span_rows`; a row group of at most `window_rows` is one span;
    a larger one becomes a chain of slices of `window_rows / 8` rows, so that eight open chains fill
    a window.

    Raises:
        DataError: There would be more than MAX_SPANS; checked before memory is allocated.
    """
    _refuse_too_many(shards, span_rows, window_rows)
    shard_numbers: list[_Int64] = []
    starts: list[_Int64] = []
    stops: list[_Int64] = []
    unit_sizes: list[_Int64] = []
    for number, shard in enumerate(shards):
        edges = _join(np.asarray(shard.boundaries, dtype=np.int64), span_rows)
        if not (np.diff(edges) > window_rows).any():
            shard_numbers.append(np.full(len(edges) - 1, number))
            starts.append(edges[:-1])
            stops.append(edges[1:])
            unit_sizes.append(np.ones(len(edges) - 1, dtype=np.int64))
            continue
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            step = max(1, window_rows // 8) if high - low > window_rows else high - low
            slice_starts: _Int64 = np.arange(low, high, step, dtype=np.int64)
            shard_numbers.append(np.full(len(slice_starts), number))
            starts.append(slice_starts)
            stops.append(np.minimum(slice_starts + step, high))
            unit_sizes.append(np.array([len(slice_starts)]))
    start, stop = _concatenate(starts), _concatenate(stops)
    return Spans(
        shard=_concatenate(shard_numbers),
        start=start,
        stop=stop,
        first_id=np.concatenate([[0], np.cumsum(stop - start)[:-1]]),
        unit_starts=np.concatenate([[0], np.cumsum(np.concatenate(unit_sizes))]),
    )


def _concatenate(columns: list[_Int64]) -> _Int64:
    return np.concatenate(columns).astype(np.int64)


def _refuse_too_many(shards: Sequence[Shard], span_rows: int, window_rows: int) -> None:
    """Raise DataError if there would be more than MAX_SPANS.

    A lower bound and an estimate from the row counts settle most cases, so that boundaries are
    rarely looked at.
    """
    estimate = sum(shard.num_rows // max(1, min(span_rows, window_rows // 8)) for shard in shards)
    fewest = sum(-(-shard.num_rows // max(span_rows, window_rows)) for shard in shards)
    if fewest > MAX_SPANS or (
        estimate > MAX_SPANS and _count_spans(shards, span_rows, window_rows) > MAX_SPANS
    ):
        raise DataError(
            f"{shards[0].url}: {sum(shard.num_rows for shard in shards):,} rows in {len(shards):,}"
            f" shards make more than {MAX_SPANS:,} spans. Raise --span-rows and --window-rows; if"
            " there are not that many rows, the shards are damaged."
        )


def _count_spans(shards: Sequence[Shard], span_rows: int, window_rows: int) -> int:
    """Return the number of spans that `cut_spans` would make."""
    step = max(1, window_rows // 8)
    count = 0
    for shard in shards:
        lengths = np.diff(_join(np.asarray(shard.boundaries, dtype=np.int64), span_rows))
        count += int(np.where(lengths > window_rows, -(-lengths // step), 1).sum())
    return count


def _join(edges: _Int64, span_rows: int) -> _Int64:
    """Leave out edges so that neighbours join while they fit into `span_rows`.

    Equal edges are merged. Usually nothing can be joined; the loop is then skipped.
    """
    if not (np.diff(edges) > 0).all():
        edges = np.unique(edges)
    lengths = np.diff(edges)
    if len(edges) < 3 or (
        (lengths[:-1] * 2 > span_rows).all() and lengths[-1] + lengths[-2] > span_rows
    ):
        return edges
    kept = [0]
    while kept[-1] < len(edges) - 1:
        end = int(edges[kept[-1]]) + span_rows
        reach = int(np.searchsorted(edges, end, side="right")) - 1
        kept.append(max(reach, kept[-1] + 1))
    return edges[kept]
