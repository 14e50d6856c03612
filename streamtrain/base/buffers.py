"""Reusable memory: the page faults of fresh memory would cost more than the work done in it."""

import math
import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

_CACHE_LINE_BYTES = 64


class Buffers:
    """A pool that lends arrays and takes each back when nothing refers to it any more.

    At most `keep` unused buffers of `capacity_bytes` are kept. A request for more than
    `capacity_bytes` gets a separate array, which is not pooled. Thread-safe.
    """

    def __init__(self, capacity_bytes: int, keep: int):
        self._capacity_bytes = capacity_bytes
        self._free: deque[np.ndarray[Any, np.dtype[np.uint8]]] = deque(maxlen=keep)

    def lend(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> np.ndarray:
        """Return an uninitialised C-contiguous array that the caller owns until no view is left.

        An array from the pool starts at a cache-line boundary.
        """
        count = math.prod(shape)
        if count * np.dtype(dtype).itemsize > self._capacity_bytes:
            return np.empty(shape, dtype=dtype)
        try:
            owner = self._free.pop()
        except IndexError:
            owner = np.empty(self._capacity_bytes + _CACHE_LINE_BYTES, dtype=np.uint8)
        # The base of a NumPy view is the first array in the chain that is not itself a view. A
        # memoryview in between makes `lent` that base for all views taken from it, so when `lent`
        # is garbage-collected, no view and no tensor of it is left.
        offset = -owner.ctypes.data % _CACHE_LINE_BYTES
        lent = np.frombuffer(owner.data[offset:], dtype=dtype, count=count)
        weakref.finalize(lent, self._free.append, owner).atexit = False
        return lent.reshape(shape)
