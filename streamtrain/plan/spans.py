"""Spans: the addresses of reads. Cut by data layout and `span_rows` only, never by memory."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamtrain.errors import DataError
from streamtrain.types import Shard, Span

#: A plan holds about 100 bytes a span: at the default of 262,144 rows, 4 Mi spans are 10^12 rows.
MAX_SPANS = 2**22


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spans:
    """The spans of a data set, as columns: int64 arrays of one length, in the order of the rows'
    ids.

    `unit_starts` (units + 1,) groups them: a unit is a span, or the slices of one row group that is
    too large for a window (a chain), which are read in order.
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
        return self.stop - self.start

    @property
    def num_units(self) -> int:
        return len(self.unit_starts) - 1

    @property
    def fingerprint(self) -> str:
        """The same for the same cuts: a position in a stream means something only among them."""
        digest = hashlib.sha256()
        for column in (self.shard, self.start, self.stop, self.unit_starts):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()[:16]

    def unit_of(self, span: int) -> int:
        """The unit that a span belongs to."""
        return int(np.searchsorted(self.unit_starts, span, side="right")) - 1

    def is_slice(self, spans: np.ndarray) -> np.ndarray:
        """Which of these span numbers are slices of a chain: bool, the shape of `spans`."""
        if self.num_units == len(self):
            return np.zeros(len(spans), dtype=bool)
        units = np.searchsorted(self.unit_starts, spans, side="right") - 1
        return self.unit_starts[units + 1] - self.unit_starts[units] > 1

    def unit_range(self, unit: int) -> tuple[int, int]:
        """The spans `[first, last)` of a unit."""
        return int(self.unit_starts[unit]), int(self.unit_starts[unit + 1])


def cut_spans(shards: Sequence[Shard], *, span_rows: int, window_rows: int) -> Spans:
    """Cut shards along their natural boundaries.

    ```
    row groups   |100|100|100|        700        |100|       span_rows = 250, window_rows = 400
    spans        |  200  |100|50|50|50|...|50|50 |100|       slices of window_rows / 8
    ```
    Small neighbours join up to `span_rows`; a row group of at most `window_rows` is one span; a
    larger one becomes a chain of slices of `window_rows / 8` rows, so that eight open chains fill a
    window. Raises DataError, before any memory is taken, when there would be more than MAX_SPANS.
    """
    pieces = sum(shard.num_rows // max(1, min(span_rows, window_rows // 8)) for shard in shards)
    fewest = sum(-(-shard.num_rows // max(span_rows, window_rows)) for shard in shards)
    if fewest > MAX_SPANS or (
        pieces > MAX_SPANS and _count_spans(shards, span_rows, window_rows) > MAX_SPANS
    ):
        raise DataError(
            f"{shards[0].url}: {sum(shard.num_rows for shard in shards):,} rows in {len(shards):,}"
            f" shards make more than {MAX_SPANS:,} spans. Raise --span-rows and --window-rows; if"
            " there are not that many rows, the shards are damaged."
        )
    shard_of, starts, stops, unit_sizes = [], [], [], []
    for number, shard in enumerate(shards):
        edges = _join(np.asarray(shard.boundaries, dtype=np.int64), span_rows)
        if not (np.diff(edges) > window_rows).any():
            shard_of.append(np.full(len(edges) - 1, number))
            starts.append(edges[:-1])
            stops.append(edges[1:])
            unit_sizes.append(np.ones(len(edges) - 1, dtype=np.int64))
            continue
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            step = max(1, window_rows // 8) if high - low > window_rows else high - low
            begins = np.arange(low, high, step)
            shard_of.append(np.full(len(begins), number))
            starts.append(begins)
            stops.append(np.minimum(begins + step, high))
            unit_sizes.append(np.array([len(begins)]))
    columns = [np.concatenate(part).astype(np.int64) for part in (shard_of, starts, stops)]
    ids = np.concatenate([[0], np.cumsum(columns[2] - columns[1])[:-1]])
    units = np.concatenate([[0], np.cumsum(np.concatenate(unit_sizes))])
    return Spans(
        shard=columns[0], start=columns[1], stop=columns[2], first_id=ids, unit_starts=units
    )


def _count_spans(shards: Sequence[Shard], span_rows: int, window_rows: int) -> int:
    step = max(1, window_rows // 8)
    lengths = (
        np.diff(_join(np.asarray(shard.boundaries, dtype=np.int64), span_rows)) for shard in shards
    )
    return sum(int(np.where(each > window_rows, -(-each // step), 1).sum()) for each in lengths)


def _join(edges: np.ndarray, span_rows: int) -> np.ndarray:
    """Leave out edges so that neighbours join while they fit into `span_rows`."""
    if not (np.diff(edges) > 0).all():
        edges = np.unique(edges)
    if len(edges) < 3 or (
        (np.diff(edges)[:-1] * 2 > span_rows).all()
        and np.diff(edges)[-1] + np.diff(edges)[-2] > span_rows
    ):
        return edges
    kept = [0]
    while kept[-1] < len(edges) - 1:
        reach = int(np.searchsorted(edges, edges[kept[-1]] + span_rows, side="right")) - 1
        kept.append(max(reach, kept[-1] + 1))
    return edges[kept]
