"""Building one window: count, decode, deal, permute.

`WindowBuild` holds the state of one window; the Dask tasks of fetch.py call its methods.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from streamtrain.errors import DataError
from streamtrain.kernels import shuffle as kernels
from streamtrain.kernels.permute import permute
from streamtrain.plan.holdout import Holdout
from streamtrain.plan.order import RECEIPT, make_key
from streamtrain.plan.plan import Window
from streamtrain.plan.spans import Spans
from streamtrain.stream.block import Block, BufferPool
from streamtrain.stream.chains import Chains
from streamtrain.stream.nulls import (
    NO_POSITIONS,
    NullCounts,
    apply_null_policy,
    as_uniform_views,
    first_bad_column,
)
from streamtrain.stream.read_timeout import read_with_timeout
from streamtrain.stream.source import Source
from streamtrain.types import Receipt, Span, Standardization

#: The receipts of all runs use one key, so that they can be compared.
RECEIPT_KEY = np.uint64(make_key(RECEIPT))

#: A bucket of about this size is permuted inside the L2 cache.
BUCKET_BYTES = 192 * 1024


class WindowBuild:
    """The state of one window while it is built; used by one thread at a time.

    The constructor counts the rows of each bucket. Then call, for each span i in order, `decode(i)`
    and `deal(i, columns)`, and at the end `permute()`. `chains` is needed for windows with slices.

    `positions[i]` is where span i starts among the row positions of the window; each start is a
    multiple of 8 (kernels/shuffle.py).
    """

    def __init__(
        self, window: Window, source: Source, pool: BufferPool, chains: Chains | None = None
    ):
        self.window, self.source, self.chains = window, source, chains
        self.sliced = source.spans.is_slice(window.spans)
        self.spans = [source.spans[int(number)] for number in window.spans]
        self.skips = [source.holdout.of(int(number)) for number in window.spans]
        padded_rows = [(span.num_rows + 7) // 8 * 8 for span in self.spans]
        self.positions = np.concatenate([[0], np.cumsum(padded_rows)]).tolist()
        # from the width of the data, not of the pool, so that `window_ids` uses the same buckets
        num_buckets = bucket_count(window.num_rows, source.num_columns)
        self.mask = np.uint64(num_buckets - 1)
        self.key = np.uint64(window.key)
        counts = np.zeros(num_buckets, dtype=np.int64)
        for span, skip, position in zip(self.spans, self.skips, self.positions, strict=False):
            kernels.count_buckets(self.key, position, span.num_rows, skip, self.mask, counts)
        self.starts = np.cumsum(counts) - counts
        self.cursors = self.starts.copy()
        self.buffer = pool.lend(window.num_rows)
        self.receipt = Receipt()
        self.dropped = [NO_POSITIONS] * len(self.spans)
        self.nulls: NullCounts = Counter()

    def decode(self, i: int) -> tuple[np.ndarray, ...] | None:
        """Return the columns of the window's i-th span; None if it is in quarantine.

        A slice of a chain waits for its turn.
        """
        number, quarantine = int(self.window.spans[i]), self.source.quarantine
        if self.sliced[i]:
            assert self.chains is not None, "a window with slices needs the chains of its fetch"
            return self.chains.read(self.window.epoch, number)
        if quarantine is not None and number in quarantine:
            return None
        try:
            return self.source.read(self.spans[i])
        except DataError as error:
            if quarantine is None:
                raise
            quarantine.add(number, error)
            return None

    def deal(self, i: int, columns: tuple[np.ndarray, ...] | None) -> None:
        """Deal the rows of the i-th span into buckets, under the null policy.

        All rows of a span in quarantine (None) are left out.

        The kernel reports whether every value it dealt was finite, so a good span is not searched.
        A bad one is dealt again over the same places: the dropped rows join the rows to skip, and
        `permute` closes the gaps that are left.

        Raises DataError for a value that the policy refuses.
        """
        if columns is None:
            quarantine = self.source.quarantine
            assert quarantine is not None, "only a quarantined span has no columns"
            lost = quarantine.lost_rows(int(self.window.spans[i]), len(self.skips[i]))
            self.dropped[i] = self.skips[i] = np.arange(self.spans[i].num_rows)
            self.receipt += Receipt(quarantined=lost)
            return
        columns, cursors = as_uniform_views(columns), self.cursors.copy()
        receipt, finite = self._deal(i, columns)
        if not finite or self._drops_held_out(i, columns):
            result = apply_null_policy(self.source, self.spans[i], columns, self.skips[i])
            self.dropped[i] = result.dropped
            self.skips[i] = np.union1d(self.skips[i], result.dropped)
            self.nulls.update(result.counts)
            self.cursors[:] = cursors
            receipt, finite = self._deal(i, as_uniform_views(result.columns))
            assert finite
        self.receipt += replace(receipt, dropped=len(self.dropped[i]))

    def _deal(self, i: int, columns: tuple[np.ndarray, ...]) -> tuple[Receipt, bool]:
        span, standard = self.spans[i], self.source.standard
        count, digest, finite = kernels.deal(
            columns,
            self.skips[i],
            self.positions[i],
            span.first_id,
            self.key,
            self.mask,
            self.cursors,
            self.buffer,
            standard.mean,
            standard.scale,
            RECEIPT_KEY,
        )
        return Receipt(count=int(count), digest=int(digest)), bool(finite)

    def _drops_held_out(self, i: int, columns: tuple[np.ndarray, ...]) -> bool:
        """Return whether a held-out row is bad and the policy drops it.

        The kernel does not deal held-out rows, so it does not check them; a bad one counts as
        dropped.
        """
        held_out = self.skips[i]
        if self.source.on_null != "drop" or not len(held_out):
            return False
        rows = tuple(column[held_out] for column in columns)
        return bool((first_bad_column(rows, self.source.standard) >= 0).any())

    def permute(self) -> Block:
        """Shuffle inside the buckets and return the finished block."""
        rows = permute(self.buffer, self.starts, self.cursors, self.key)
        return Block(
            epoch=self.window.epoch,
            index=self.window.index,
            rows=self.buffer[:rows],
            receipt=self.receipt,
            ends_epoch=self.window.ends_epoch,
            dropped=tuple(self.dropped),
            nulls=self.nulls,
        )


def bucket_count(num_rows: int, num_columns: int) -> int:
    """Return the number of buckets: a power of two, at most 256, for about BUCKET_BYTES each.

    >>> bucket_count(2**21, 5), bucket_count(1000, 5)
    (256, 1)
    """
    wanted = num_rows * num_columns * 4 // BUCKET_BYTES
    return 1 << min(8, int(wanted).bit_length())


def window_ids(window: Window, source: Source, dropped: Sequence[np.ndarray]) -> np.ndarray:
    """Return the ids of a window's rows in the order of its block: int64 (rows,). Reads no data.

    `dropped` is what the block says was dropped. The positions of the rows are dealt in place of
    values, as two float32 columns of 16 bits each, which float32 holds exactly.
    """
    spans = [source.spans[int(number)] for number in window.spans]
    ids = np.concatenate(
        [np.arange(span.first_id, span.first_id + span.num_rows) for span in spans]
    )
    identity = Standardization.identity(2)
    plain = replace(source, standard=identity, on_null="error", fill=None, quarantine=None)
    build = WindowBuild(window, plain, BufferPool(window.num_rows, 2, keep=0))
    first = 0
    for i, span in enumerate(spans):
        positions = np.arange(first, first + span.num_rows)
        high, low = (positions >> 16).astype(np.float32), (positions & 0xFFFF).astype(np.float32)
        build.skips[i] = np.union1d(build.skips[i], dropped[i])
        build.deal(i, (high, low))
        first += span.num_rows
    dealt = build.permute().rows.astype(np.int64)
    return ids[(dealt[:, 0] << 16) | dealt[:, 1]]


def shuffle_few_rows(source: Source) -> int:
    """Read and shuffle the first 16 rows at most, to load the kernels; return their number.

    Raises ReadTimeout when the read exceeds its timeout.
    """
    span = source.spans[0]
    num_rows = min(span.num_rows, 16)
    shuffle_once(source, replace(span, stop=span.start + num_rows))
    return num_rows


def shuffle_once(source: Source, span: Span) -> np.ndarray:
    """Read, deal and permute one span as a separate window, for warming up; return its rows.

    Nothing is held out.

    Raises ReadTimeout when the read exceeds its timeout.
    """
    spans = Spans(
        shard=np.array([span.shard]),
        start=np.array([span.start]),
        stop=np.array([span.stop]),
        first_id=np.array([span.first_id]),
        unit_starts=np.array([0, 1]),
    )
    window = Window(
        epoch=0, index=0, key=0, spans=np.array([0]), num_rows=span.num_rows, ends_epoch=False
    )
    source = replace(source, spans=spans, holdout=Holdout(spread=np.array([0])))
    build = WindowBuild(window, source, BufferPool(span.num_rows, source.num_columns, keep=0))
    shard = source.dataset.shards[span.shard]
    build.deal(0, read_with_timeout(source.watch, shard, span, partial(build.decode, 0)))
    return build.permute().rows
