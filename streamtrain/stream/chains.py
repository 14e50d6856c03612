"""Chains: row groups larger than a window, read slice by slice in order, a few at a time.

The thread that builds a window requests its slices, and waits for each until the slice before it
has been read. Windows are submitted and started in plan order, so the window that it waits for is
always running or done, and a deadlock is impossible.
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
from streamtrain.stream.read_timeout import ReadTimeout, read_with_timeout
from streamtrain.stream.source import Source
from streamtrain.stream.transform import TransformedForward
from streamtrain.types import Shard, Span


class Chains:
    """The open chains of one fetch. Thread-safe.

    A chain is identified by its epoch and its unit. Call `stop` to end every wait, and `close`
    when no thread is reading any more.
    """

    def __init__(self, source: Source):
        self._source = source
        self._spans = source.spans
        self._quarantine = source.quarantine
        self._changed = Condition()
        self._turns: dict[tuple[int, int], deque[int]] = {}
        self._open: dict[tuple[int, int], Forward | TransformedForward] = {}
        self._broken: set[tuple[int, int]] = set()
        self._closed = False

    def expect(self, window: Window) -> None:
        """Announce a window that will be built; call it in plan order, before the window is."""
        with self._changed:
            for number in map(int, window.spans[self._spans.is_slice(window.spans)]):
                chain = (window.epoch, self._spans.unit_of(number))
                self._turns.setdefault(chain, deque()).append(number)

    def read(self, epoch: int, number: int) -> tuple[np.ndarray, ...] | None:
        """Return the decoded columns of slice `number`, after waiting for its turn.

        Returns None for a slice in quarantine; all later slices of its chain are quarantined too.

        Raises what the reader raises. The later slices of the chain then raise StreamTrainError.
        Other chains continue, so earlier windows are still built, and the consumer gets the error
        in place of the failed block.
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
        ends_chain = number + 1 == self._spans.unit_range(unit)[1]
        with self._changed:
            self._turns[chain].popleft()
            if columns is None or ends_chain:
                reader = self._open.pop(chain, None)
                if reader is not None:
                    reader.close()
            if ends_chain:
                del self._turns[chain]
            self._changed.notify_all()
        return columns

    def _read(
        self, chain: tuple[int, int], number: int, span: Span
    ) -> tuple[np.ndarray, ...] | None:
        if self._quarantine is not None and number in self._quarantine:
            return None
        if chain not in self._open:
            self._open[chain] = self._source.readers.forward(span.shard)
        source = self._source
        try:
            with source.watch.reading(source.dataset.shards[span.shard], span):
                columns = self._open[chain].read(span.start, span.stop)
            source.rounding.look(source.dataset, source.standard, span.shard, columns)
            return columns
        except DataError as error:
            if self._quarantine is None:
                raise
            self._quarantine.add(number, error)
            return None

    def stop(self) -> None:
        """End all present and future waits with an error."""
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
    """Yield (number, decoded columns) of spans, given in ascending order.

    The slices of a chain are read in a single pass, so each row is decoded once. Spans that are
    quarantined, or become so when they are read, are skipped.

    Raises ReadTimeout when a read exceeds its timeout.
    """
    spans, quarantine = source.spans, source.quarantine
    open_unit, reader = -1, None
    try:
        for number in map(int, numbers):
            span = spans[number]
            if quarantine is not None and number in quarantine:
                continue
            if spans.is_slice(np.array([number]))[0]:
                unit = spans.unit_of(number)
                if reader is None or unit != open_unit:
                    if reader is not None:
                        reader.close()
                    open_unit, reader = unit, source.readers.forward(span.shard)
                read = partial(reader.read, span.start, span.stop)
            else:
                read = partial(source.readers.read, span.shard, span.start, span.stop)
            shard = source.dataset.shards[span.shard]
            try:
                columns = read_with_timeout(source.watch, shard, span, read)
            except ReadTimeout:
                reader = None  # another thread is still reading from it
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
    """Return the bytes that open chains hold, for the memory projection.

    For Parquet these are a decoded batch and the file's buffers, for Zarr the decoded chunk.
    """
    sliced = spans.is_slice(np.arange(len(spans)))
    if not sliced.any():
        return 0
    sliced_shards = [shards[number] for number in np.unique(spans.shard[sliced])]
    group_rows = max(
        max(int(np.diff(shard.boundaries).max()), shard.read_rows) for shard in sliced_shards
    )
    if any(shard.format == "zarr" for shard in sliced_shards):
        batch_rows = group_rows
    else:
        batch_rows = min(group_rows, PARQUET_BATCH_ROWS)
    file_bytes = min(group_rows * itemsize, PARQUET_BUFFER_BYTES)
    bytes_per_chain = num_columns * (2 * batch_rows * itemsize + file_bytes)
    num_chains = int((np.diff(spans.unit_starts) > 1).sum())
    # twice, because the last windows of an epoch and the first of the next are in flight together
    return min(2 * OPEN_CHAINS, 2 * num_chains) * bytes_per_chain
