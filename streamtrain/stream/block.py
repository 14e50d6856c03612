"""Blocks, and the pool that their memory comes from."""

from dataclasses import dataclass

import numpy as np

from streamtrain.base.buffers import Buffers
from streamtrain.stream.nulls import NullCounts
from streamtrain.types import Receipt


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """The shuffled rows of one window: `rows` is C-contiguous float32 (rows, features + 1), target
    last.

    `ends_epoch`: the window is the epoch's last. `dropped`: for each of its spans, in the order of
    their deal, the positions of the rows that were dropped, by the null policy or with their span;
    `nulls` counts them, or the imputed values, by shard and column. The memory belongs to a pool:
    it is used again once no array or tensor made from `rows` is alive.
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
        """An array (num_rows, width) with any contents."""
        return self._buffers.lend((num_rows, self.width))
