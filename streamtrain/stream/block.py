"""Blocks, and the pool that their memory comes from."""

from dataclasses import dataclass

import numpy as np

from streamtrain.base.buffers import Buffers
from streamtrain.stream.nulls import NullCounts
from streamtrain.types import Receipt


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """The shuffled rows of one window.

    Attributes:
        epoch: The epoch that the window belongs to.
        index: The number of the window in its epoch.
        rows: C-contiguous float32 (rows, features + 1), target last. The memory belongs to a pool
            and is reused once no array or tensor made from `rows` is alive.
        receipt: The count and digest of the row ids delivered, and the rows left out.
        ends_epoch: Whether the window is the last of its epoch.
        dropped: For each span of the window, in the order in which the spans were dealt, the
            positions of the rows that were dropped, by the null policy or with their span.
        nulls: The dropped rows or imputed values, by shard and column.
    """

    epoch: int
    index: int
    rows: np.ndarray
    receipt: Receipt
    ends_epoch: bool
    dropped: tuple[np.ndarray, ...]
    nulls: NullCounts


class BufferPool:
    """Lends float32 arrays (rows, width) for blocks; see `Buffers`. Thread-safe."""

    def __init__(self, capacity_rows: int, width: int, keep: int):
        self.width = width
        self._buffers = Buffers(capacity_rows * width * 4, keep)

    def lend(self, num_rows: int) -> np.ndarray:
        """Return an uninitialised array (num_rows, width)."""
        return self._buffers.lend((num_rows, self.width))
