"""Chains: row groups larger than a window, read slice by slice in order, a few of them open at a
time.

A slice is asked for by whichever thread builds its window; it waits until the slice before it was
read. Windows are submitted in plan order and started in that order, so the one waited for is always
running or done.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from threading import Condition

import numpy as np

from streamtrain.errors import DataError, StreamTrainError
from streamtrain.plan.order import OPEN_CHAINS
from streamtrain.plan.plan import Window
from streamtrain.plan.spans import Spans
from streamtrain.storage.parquet.parquet_reader import BATCH_ROWS as PARQUET_BATCH_ROWS
from streamtrain.storage.parquet.parquet_reader import BUFFER_BYTES as PARQUET_BUFFER_BYTES
from streamtrain.storage.readers import Forward
from streamtrain.stream.read_timeout import ReadTimeout, read_within
from streamtrain.stream.source import Source
from streamtrain.types import Shard, Span


class Chains:
    """The open chains of one fetch. Thread-safe; `close` ends every wait."""

    def __init__(self, source: Source):
        self._spans, self._readers, self._quarantine = (
            source.spans,
            source.readers,
            source.quarantine,
        )
        self._source = source
        self._changed = Condition()
        self._turns: dict[tuple[int, int], deque[int]] = {}
        self._open: dict[tuple[int, int], Forward] = {}
        self._broken: set[tuple[int, int]] = set()
        self._closed = False

    def expect(self, window: Window) -> None:
        """Say that a window will be built; call it in plan order, before it is."""
        with self._changed:
            for number in window.spans[self._spans.is_slice(window.spans)]:
                self._turns.setdefault(
                    (window.epoch, self._spans.unit_of(int(number))), deque()
                ).append(int(number))

    def read(self, epoch: int, number: int) -> tuple[np.ndarray, ...] | None:
        """The decoded columns of slice `number`, in its turn; None when it is quarantined, with all
        slices after it.

        Raises what the reader raises; the slices that follow it in its chain raise
        StreamTrainError. Other chains go on, so the windows before are built, and the consumer
        meets the error where its block would have come.
        """
        span, unit = self._spans[number], self._spans.unit_of(number)
        chain = (epoch, unit)
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or chain in self._broken or self._turns[chain][0] == number
            )
            if self._closed or chain in self._broken:
                raise StreamTrainError("reading was stopped")
        try:
            columns = self._read(chain, number, span)
        except BaseException:
            with self._changed:
                self._broken.add(chain)
                self._changed.notify_all()
            raise
        with self._changed:
            self._turns[chain].popleft()
            if columns is None or number + 1 == self._spans.unit_range(unit)[1]:
                reader = self._open.pop(chain, None)
                if reader is not None:
                    reader.close()
            if number + 1 == self._spans.unit_range(unit)[1]:
                del self._turns[chain]
            self._changed.notify_all()
        return columns

    def _read(
        self, chain: tuple[int, int], number: int, span: Span
    ) -> tuple[np.ndarray, ...] | None:
        if self._quarantine is not None and number in self._quarantine:
            return None
        if chain not in self._open:
            self._open[chain] = self._readers.forward(span.shard)
        try:
            with self._source.watch.reading(self._source.dataset.shards[span.shard], span):
                return self._open[chain].read(span.start, span.stop)
        except DataError as error:
            if self._quarantine is None:
                raise
            self._quarantine.add(number, error)
            return None

    def stop(self) -> None:
        """End every wait with an error, now and from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def close(self) -> None:
        """Close the files; no thread may be reading any more."""
        for reader in self._open.values():
            reader.close()
        self._open.clear()


def read_ascending(
    source: Source, numbers: Iterable[int]
) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    """(number, decoded columns) of spans with ascending numbers: slices of one chain are read in
    one go through it.

    Spans that are in quarantine, or have to go there, do not come. Raises ReadTimeout when a read
    takes longer than it may.
    """
    spans, quarantine = source.spans, source.quarantine
    unit, reader = -1, None
    try:
        for number in map(int, numbers):
            span = spans[number]
            if quarantine is not None and number in quarantine:
                continue
            read = partial(source.readers.read, span.shard, span.start, span.stop)
            if spans.is_slice(np.array([number]))[0]:
                if spans.unit_of(number) != unit:
                    if reader is not None:
                        reader.close()
                    unit, reader = spans.unit_of(number), source.readers.forward(span.shard)
                read = partial(reader.read, span.start, span.stop)
            try:
                columns = read_within(source.watch, source.dataset.shards[span.shard], span, read)
            except ReadTimeout:
                reader = None  # still at work on another thread
                raise
            except DataError as error:
                if quarantine is None:
                    raise
                quarantine.add(number, error)
                continue
            yield number, columns
    finally:
        if reader is not None:
            reader.close()


def chain_bytes(spans: Spans, shards: Sequence[Shard], num_columns: int, itemsize: int) -> int:
    """Bytes that open chains hold: for Parquet a decoded batch and the file's buffers, for Zarr the
    decoded chunk.
    """
    sliced = spans.is_slice(np.arange(len(spans)))
    if not sliced.any():
        return 0
    held = [shards[number] for number in np.unique(spans.shard[sliced])]
    rows = max(max(int(np.diff(shard.boundaries).max()), shard.read_rows) for shard in held)
    in_zarr = any(shard.format == "zarr" for shard in held)
    batch_rows = rows if in_zarr else min(rows, PARQUET_BATCH_ROWS)
    each = num_columns * (2 * batch_rows * itemsize + min(rows * itemsize, PARQUET_BUFFER_BYTES))
    num_chains = int((np.diff(spans.unit_starts) > 1).sum())
    # twice: an epoch's last windows meet the next one's first
    return min(2 * OPEN_CHAINS, 2 * num_chains) * each
