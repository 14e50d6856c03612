"""Blocks, and the pool that their memory comes from."""

import weakref
from collections import deque
from dataclasses import dataclass

import numpy as np

from streamtrain.types import Receipt


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """The shuffled rows of one window: `rows` is C-contiguous float32 (rows, features + 1), target last.

    The memory belongs to a pool: it is used again once no array or tensor made from `rows` is alive.
    """

    epoch: int
    index: int
    rows: np.ndarray
    receipt: Receipt


class BufferPool:
    """Lends float32 arrays of one capacity and takes each back when nothing refers to it. Thread-safe.

    Fresh pages cost more than the second pass of the shuffle, so buffers are used again; at most `keep` wait unused.
    """

    def __init__(self, capacity_rows: int, width: int, keep: int):
        self.capacity_rows, self.width = capacity_rows, width
        self._free: deque[np.ndarray] = deque(maxlen=keep)

    def lend(self, num_rows: int) -> np.ndarray:
        """An array (num_rows, width) with any contents."""
        try:
            owner = self._free.pop()
        except IndexError:
            owner = np.empty(self.capacity_rows * self.width, dtype=np.float32)
        # NumPy lets a view of a view point at the first array that is not a view. A memoryview in between makes that array
        # the one lent here, so its death means that no view and no tensor is left.
        lent = np.frombuffer(memoryview(owner), dtype=np.float32, count=num_rows * self.width).reshape(num_rows, self.width)
        base = lent.base
        finalizer = weakref.finalize(base, self._free.append, owner)
        finalizer.atexit = False
        return lent
