"""Memory that is used again: fresh pages cost more than what is done with them."""

import math
import weakref
from collections import deque

import numpy as np
from numpy.typing import DTypeLike

_LINE_BYTES = 64


class Buffers:
    """Lends arrays of up to `capacity_bytes` and takes each back when nothing refers to it.

    Thread-safe.

    At most `keep` wait unused. A larger array than `capacity_bytes` is made for the occasion.
    """

    def __init__(self, capacity_bytes: int, keep: int):
        self._capacity_bytes = capacity_bytes
        self._free: deque[np.ndarray] = deque(maxlen=keep)

    def lend(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> np.ndarray:
        """A C-contiguous array with any contents, which begins at a whole cache line; it is the
        caller's until no view of it is left.
        """
        count = math.prod(shape)
        if count * np.dtype(dtype).itemsize > self._capacity_bytes:
            return np.empty(shape, dtype=dtype)  # wherever it begins
        try:
            owner = self._free.pop()
        except IndexError:
            owner = np.empty(self._capacity_bytes + _LINE_BYTES, dtype=np.uint8)
        # NumPy lets a view of a view point at the first array that is not a view. A memoryview in
        # between makes that array the one lent here, so its death means that no view and no tensor
        # is left.
        first = -owner.ctypes.data % _LINE_BYTES
        lent = np.frombuffer(memoryview(owner)[first:], dtype=dtype, count=count)
        weakref.finalize(lent, self._free.append, owner).atexit = False
        return lent.reshape(shape)
