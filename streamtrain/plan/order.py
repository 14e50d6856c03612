"""Keys, keyed permutations, and windows: order is a pure function of (seed, trial, epoch,
position).

No random generator lives across steps and nothing here is as long as the data. `mix64` is the
finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014); `kernels/shuffle.py` uses the same
constants.
"""

from collections import deque

import numpy as np

from streamtrain.plan.spans import Spans

GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB

#: What a key is for; hashed with the seed, so that no two uses ever share a stream of random bits.
SPANS, WINDOW, HOLDOUT, WEIGHTS, RECEIPT = range(1, 6)

#: Row groups larger than a window are read as slices; this many of them are open and interleaved at
#: a time.
OPEN_CHAINS = 8

_MASK = 2**64 - 1


def mix64(value: int) -> int:
    """A bijection of 64-bit integers in which every input bit moves every output bit."""
    value = ((value ^ (value >> 30)) * MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * MIX_2) & _MASK
    return value ^ (value >> 31)


def make_key(*words: int) -> int:
    """A 64-bit key from integers, order-sensitive: `make_key(seed, trial, epoch, SPANS)`.

    Never `seed + epoch`.

    >>> make_key(0, 1) != make_key(1, 0) != make_key(1)
    True
    """
    key = GOLDEN
    for word in words:
        key = mix64(((key ^ mix64((word + GOLDEN) & _MASK)) * MIX_1 + GOLDEN) & _MASK)
    return key


def hash_array(values: np.ndarray, key: int) -> np.ndarray:
    """The keyed hash of every element: uint64, the shape of `values`."""
    with np.errstate(over="ignore"):
        z = values.astype(np.uint64) * np.uint64(GOLDEN) + np.uint64(key)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX_1)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX_2)
    return z ^ (z >> np.uint64(31))


def permutation(n: int, key: int) -> np.ndarray:
    """A keyed permutation of `range(n)`: int64 (n,).

    Hashes are a bijection, so none are equal, and any sort gives the same order.
    """
    return np.argsort(hash_array(np.arange(n, dtype=np.uint64), key))


def sample(n: int, k: int, key: int) -> np.ndarray:
    """`k` distinct members of `range(n)`, ascending, in O(k) memory: the first k images of a keyed
    Feistel permutation.

    Cycle walking keeps the images below n (Black and Rogaway, CT-RSA 2002, §3).

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
    """The order in which spans are read: a keyed permutation of spans and chains, int64
    (len(spans),).

    The slices of a chain stay in order; up to OPEN_CHAINS chains are open at once and take turns.
    """
    return _in_turns(spans, permutation(spans.num_units, key))


def deal_lanes(spans: Spans, key: int, lanes: int) -> list[np.ndarray]:
    """The same permutation dealt to lanes, a unit at a time: for each lane the order in which its
    spans are read.

    Together they hold every span once; with one lane it is `read_sequence`. A lane is empty when
    there are fewer units than lanes.
    """
    units = permutation(spans.num_units, key)
    return [_in_turns(spans, units[lane::lanes]) for lane in range(lanes)]


def _in_turns(spans: Spans, units: np.ndarray) -> np.ndarray:
    """The spans of these units; slices of a chain in order, up to OPEN_CHAINS chains open and
    taking turns.
    """
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
    """Where windows begin in a sequence of spans of these sizes: int64 offsets from 0 to
    len(num_rows).

    ```
    spans    | 3 | 3 | 2 | 5 | 1 | 4 |      window_rows = 8
    windows  |     8     |   6   | 4 |
    ```
    A window takes the next spans as long as they fit; never fewer than one.
    """
    ends = np.cumsum(num_rows)
    # of a window that began at each span
    beyond = np.searchsorted(ends, ends - num_rows + window_rows, side="right")
    np.maximum(beyond, np.arange(1, len(beyond) + 1), out=beyond)
    following = memoryview(beyond)  # whose items are integers, at a fifth of what an array's cost
    offset, offsets = 0, [0]
    while offset < len(following):
        offset = following[offset]
        offsets.append(offset)
    return np.array(offsets, dtype=np.int64)
