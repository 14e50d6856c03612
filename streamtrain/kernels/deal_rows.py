"""Dealing rows to buckets, and permuting them, for the shuffle of a whole data set.

The kernels move rows of any type and width as words of 32 bits, so each is compiled once. They
differ from those of shuffle.py, which standardise values and know the width at compile time: that
is faster, but takes seconds per width and type, and here reading and writing files take most of the
time.
"""

import numpy as np
from numba import njit, uint64

from streamtrain.kernels.permute import draw_below
from streamtrain.kernels.shuffle import GOLDEN, mix
from streamtrain.kernels.sources import SOURCES


@njit(inline="always")
def _bucket(key, position, num_buckets):
    return (mix(key + position * GOLDEN) >> uint64(32)) * num_buckets >> uint64(32)


def _kernels(sources):
    """Return both kernels, with the hash `sources` in their closures (sources.py)."""

    @njit(nogil=True, cache=True, boundscheck=False)
    def deal_rows(rows, key, first_position, num_buckets, out):
        """Copy rows to their buckets in `out`, in order; return where buckets start.

        A row's bucket is drawn by its position alone, so rows may be dealt in any number of calls.

        Args:
            rows: uint32 (rows, words), C-contiguous.
            key: Key of the buckets, uint64.
            first_position: Position of the first row among all that are dealt with this key.
            num_buckets: A power of two, so that every bucket has the same probability.
            out: uint32, of the shape of `rows`; bucket b becomes `out[starts[b] : starts[b + 1]]`.

        Returns:
            int64 (num_buckets + 1,).
        """
        sources  # noqa: B018
        num_rows, words = rows.shape
        first, buckets = uint64(first_position), uint64(num_buckets)
        starts = np.zeros(num_buckets + 1, dtype=np.int64)
        for row in range(num_rows):
            starts[np.int64(_bucket(key, first + uint64(row), buckets)) + 1] += 1
        starts = np.cumsum(starts)
        cursors = starts.copy()
        source, target = rows.reshape(-1), out.reshape(-1)
        for row in range(num_rows):
            bucket = np.int64(_bucket(key, first + uint64(row), buckets))
            source_at, target_at = row * words, cursors[bucket] * words
            cursors[bucket] += 1
            for word in range(words):
                target[target_at + word] = source[source_at + word]
        return starts

    @njit(nogil=True, cache=True, boundscheck=False)
    def permute_rows(rows, starts, keys):
        """Shuffle each bucket in place by Fisher-Yates.

        Args:
            rows: uint32 (rows, words), C-contiguous.
            starts: First row of each bucket, and the end of the last, int64 (buckets + 1,).
            keys: Key of each bucket, uint64 (buckets,).
        """
        sources  # noqa: B018
        words = rows.shape[1]
        flat = rows.reshape(-1)
        for bucket in range(keys.shape[0]):
            first, state = starts[bucket], keys[bucket]
            for i in range(starts[bucket + 1] - first - 1, 0, -1):
                drawn, state = draw_below(uint64(i + 1), state)
                left, right = (first + i) * words, (first + drawn) * words
                for word in range(words):
                    flat[left + word], flat[right + word] = flat[right + word], flat[left + word]

    return deal_rows, permute_rows


deal_rows, permute_rows = _kernels(SOURCES)
