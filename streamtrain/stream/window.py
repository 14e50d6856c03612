"""Building one window: count, decode, deal, permute.

Each step is a plain function that a Dask task runs.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from streamtrain.errors import DataError
from streamtrain.kernels import shuffle as kernels
from streamtrain.plan.holdout import Holdout
from streamtrain.plan.order import RECEIPT, make_key
from streamtrain.plan.plan import Window
from streamtrain.plan.spans import Spans
from streamtrain.stream.block import Block, BufferPool
from streamtrain.stream.chains import Chains
from streamtrain.stream.nulls import NOTHING, NullCounts, alike, first_bad, mend
from streamtrain.stream.read_timeout import read_within
from streamtrain.stream.source import Source
from streamtrain.types import Receipt, Span, Standardization

#: Receipts of all runs use one key, so that they can be compared.
RECEIPT_KEY = np.uint64(make_key(RECEIPT))

#: A bucket of about this size is permuted inside a second-level cache.
BUCKET_BYTES = 192 * 1024


class WindowBuild:
    """The state of one window while it is built; used by one thread at a time.

    `positions[i]` is where span i begins among the window's row positions; each begins at a
    multiple of 8 (kernels/shuffle.py).
    """

    def __init__(
        self, window: Window, source: Source, pool: BufferPool, chains: Chains | None = None
    ):
        self.window, self.source, self.chains = window, source, chains
        self.sliced = source.spans.is_slice(window.spans)
        self.width = (0,) * pool.width
        self.spans = [source.spans[int(number)] for number in window.spans]
        self.skips = [source.holdout.of(int(number)) for number in window.spans]
        padded = [(span.num_rows + 7) // 8 * 8 for span in self.spans]
        self.positions = np.concatenate([[0], np.cumsum(padded)]).tolist()
        # of the data's width: ids alone must fall alike
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
        self.dropped = [NOTHING] * len(self.spans)
        self.nulls: NullCounts = Counter()

    def decode(self, i: int) -> tuple[np.ndarray, ...] | None:
        """The columns of the window's i-th span; a slice of a chain comes in its turn.

        None when it is quarantined.
        """
        number, quarantine = int(self.window.spans[i]), self.source.quarantine
        if self.sliced[i]:
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
        """Deal the i-th span's rows into buckets, under the null policy; raises DataError for a
        value that it refuses.

        Of a quarantined span (None) all rows are stepped over.

        The kernel says whether all it dealt was finite, so a good span is not searched. A bad one
        is dealt once more, over the places it took: what is dropped joins the rows to skip, and
        `permute` closes the gaps that are left.
        """
        if columns is None:
            lost = self.source.quarantine.lost_rows(int(self.window.spans[i]), len(self.skips[i]))
            self.dropped[i] = self.skips[i] = np.arange(self.spans[i].num_rows)
            self.receipt += Receipt(quarantined=lost)
            return
        columns, cursors = alike(columns), self.cursors.copy()
        receipt, finite = self._deal(i, columns)
        if not finite or self._drops_held_out(i, columns):
            mended = mend(self.source, self.spans[i], columns, self.skips[i])
            self.dropped[i] = mended.dropped
            self.skips[i] = np.union1d(self.skips[i], mended.dropped)
            self.nulls.update(mended.counts)
            self.cursors[:] = cursors
            receipt, finite = self._deal(i, alike(mended.columns))
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
        """Held-out rows are not dealt, so the kernel does not judge them; a bad one counts as
        dropped.
        """
        held = self.skips[i]
        if self.source.on_null != "drop" or not len(held):
            return False
        return bool(
            (first_bad(tuple(column[held] for column in columns), self.source.standard) >= 0).any()
        )

    def permute(self) -> Block:
        """Shuffle inside the buckets; the block is ready."""
        rows = kernels.permute(self.buffer, self.starts, self.cursors, self.key, self.width)
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
    """A power of two, at most 256: buckets of about BUCKET_BYTES.

    >>> bucket_count(2**21, 5), bucket_count(1000, 5)
    (256, 1)
    """
    wanted = num_rows * num_columns * 4 // BUCKET_BYTES
    return 1 << min(8, int(wanted).bit_length())


def window_ids(window: Window, source: Source, dropped: Sequence[np.ndarray]) -> np.ndarray:
    """The ids of a window's rows in the order of its block, given what its block says was dropped:
    int64 (rows,). Reads no data.

    Row positions are dealt in place of values, as two float32 columns of 16 bits each, which
    float32 holds exactly.
    """
    parts = []
    for number in window.spans:
        span = source.spans[int(number)]
        parts.append(np.arange(span.first_id, span.first_id + span.num_rows))
    ids = np.concatenate(parts)
    plain = replace(
        source, standard=Standardization.identity(2), on_null="error", fill=None, quarantine=None
    )
    build = WindowBuild(window, plain, BufferPool(window.num_rows, 2, keep=0))
    first = 0
    for i, part in enumerate(parts):
        places = np.arange(first, first + len(part))
        build.skips[i] = np.union1d(build.skips[i], dropped[i])
        build.deal(i, ((places >> 16).astype(np.float32), (places & 0xFFFF).astype(np.float32)))
        first += len(part)
    dealt = build.permute().rows.astype(np.int64)
    return ids[(dealt[:, 0] << 16) | dealt[:, 1]]


def shuffle_once(source: Source, span: Span) -> np.ndarray:
    """One span read, dealt and permuted as a window of its own, with nothing held out: for warming
    up. Raises ReadTimeout.
    """
    alone = Spans(
        shard=np.array([span.shard]),
        start=np.array([span.start]),
        stop=np.array([span.stop]),
        first_id=np.array([span.first_id]),
        unit_starts=np.array([0, 1]),
    )
    window = Window(
        epoch=0, index=0, key=0, spans=np.array([0]), num_rows=span.num_rows, ends_epoch=False
    )
    source = replace(source, spans=alone, holdout=Holdout(spread=np.array([0])))
    build = WindowBuild(window, source, BufferPool(span.num_rows, source.num_columns, keep=0))
    build.deal(
        0,
        read_within(
            source.watch, source.dataset.shards[span.shard], span, partial(build.decode, 0)
        ),
    )
    return build.permute().rows
