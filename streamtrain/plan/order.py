"""Keys, keyed permutations and windows: the order as a pure function of seed, trial and epoch.

No random generator keeps state between calls, and no array here is as long as the data. `mix64` is
the finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014); kernels/shuffle.py uses the same
constants.
"""

from collections import deque

import numpy as np

from streamtrain.plan.spans import Spans

GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB

#: Purposes of a key. They are hashed with the seed, so that no two uses share random bits.
SPANS, WINDOW, HOLDOUT, WEIGHTS, RECEIPT, INGEST = range(1, 7)

#: Row groups larger than a window are read as chains of slices; this many chains are open and
#: interleaved at a time.
OPEN_CHAINS = 8

_MASK = 2**64 - 1


def mix64(value: int) -> int:
    """Apply a bijection of 64-bit integers in which every input bit affects every output bit."""
    value = ((value ^ (value >> 30)) * MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * MIX_2) & _MASK
    return value ^ (value >> 31)


def make_key(*words: int) -> int:
    """Hash integers, in order, to a 64-bit key: `make_key(seed, trial, epoch, SPANS)`.

    Use it instead of sums such as `seed + epoch`, which give equal keys to different runs.

    >>> make_key(0, 1) != make_key(1, 0) != make_key(1)
    True
    """
    key = GOLDEN
    for word in words:
        key = mix64(((key ^ mix64((word + GOLDEN) & _MASK)) * MIX_1 + GOLDEN) & _MASK)
    return key


def hash_array(values: np.ndarray, key: int) -> np.ndarray:
    """Return the keyed hash of every element: uint64, with the shape of `values`."""
    with np.errstate(over="ignore"):
        z = values.astype(np.uint64) * np.uint64(GOLDEN) + np.uint64(key)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX_1)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX_2)
    return z ^ (z >> np.uint64(31))


def permutation(n: int, key: int) -> np.ndarray:
    """Return a keyed permutation of `range(n)`: int64 (n,).

    The hash is a bijection, so no two hashes are equal and every sort algorithm gives the same
    order.
    """
    return np.argsort(hash_array(np.arange(n, dtype=np.uint64), key))


def sample(n: int, k: int, key: int) -> np.ndarray:
    """Return `k` distinct members of `range(n)`, ascending, in O(k) memory: int64 (k,).

    They are the first k images of a keyed Feistel permutation; cycle walking keeps the images below
    n (Black and Rogaway, CT-RSA 2002, §3). Raises ValueError if k > n.

    >>> sample(5, 5, key=7).tolist()
    [0, 1, 2, 3, 4]
    """
    if k > n:
        raise ValueError(f"cannot draw {k:,} of {n:,}")
    half = np.uint64(max(1, (max(n - 1, 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    images = np.arange(k, dtype=np.uint64)
    outside = np.ones(k, dtype=bool)
    while outside.any():
        walking = images[outside]
        for level in range(4):
            left, right = walking >> half, walking & low
            walking = (right << half) | (left ^ (hash_array(right, make_key(key, level)) & low))
        images[outside] = walking
        outside[outside] = walking >= n
    return np.sort(images.astype(np.int64))


def read_sequence(spans: Spans, key: int) -> np.ndarray:
    """Return the order in which to read spans, a keyed permutation of the units: int64 (spans,).

    The slices of a chain stay in order; up to OPEN_CHAINS chains are open at once and take turns.
    """
    return _in_turns(spans, permutation(spans.num_units, key))


def deal_lanes(spans: Spans, key: int, lanes: int) -> list[np.ndarray]:
    """Deal the permutation of `read_sequence` to lanes, unit by unit; return each lane's sequence.

    Together the lanes have every span once; a single lane has the sequence of `read_sequence`. If
    there are fewer units than lanes, the remaining lanes are empty.
    """
    units = permutation(spans.num_units, key)
    return [_in_turns(spans, units[lane::lanes]) for lane in range(lanes)]


def _in_turns(spans: Spans, units: np.ndarray) -> np.ndarray:
    """Return the spans of `units`, with up to OPEN_CHAINS chains open and taking turns."""
    if spans.num_units == len(spans):
        return units
    sequence: list[int] = []
    waiting = deque(units.tolist())
    turns: deque[list[int]] = deque()
    while waiting or turns:
        while waiting and len(turns) < OPEN_CHAINS:
            turns.append(list(range(*spans.unit_range(waiting.popleft())))[::-1])
        slices = turns.popleft()
        sequence.append(slices.pop())
        if slices:
            turns.append(slices)
    return np.array(sequence, dtype=np.int64)


def cut_windows(num_rows: np.ndarray, window_rows: int) -> np.ndarray:
    """Cut a sequence of spans of these sizes into windows: int64 offsets from 0 to len(num_rows).

    ```
    spans    | 3 | 3 | 2 | 5 | 1 | 4 |      window_rows = 8
    windows  |     8     |   6   | 4 |
    ```
    A window takes the next spans as long as they fit, and always at least one.
    """
    ends = np.cumsum(num_rows)
    # window_end[i]: where a window ends that starts at span i
    window_end = np.searchsorted(ends, ends - num_rows + window_rows, side="right")
    np.maximum(window_end, np.arange(1, len(window_end) + 1), out=window_end)
    next_offset = window_end.data  # reading an integer from a memoryview is five times as fast
    offset = 0
    offsets = [0]
    while offset < len(next_offset):
        offset = next_offset[offset]
        offsets.append(offset)
    return np.array(offsets, dtype=np.int64)
