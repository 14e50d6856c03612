"""Rows that are copied to a GPU once: a block for all engines of a pass, and evaluation rows."""

import weakref

import numpy as np
import torch

from streamtrain.stream.pinned_copy import to_device
from streamtrain.training.memory_errors import is_out_of_memory


class SharedBlock:
    """The block that the engines of a pass train on, copied to the device once for all of them.

    Between `put` and `drop` the block must not change. `put` and `drop` are called while no engine
    advances; other threads may call `rows` then.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._block: np.ndarray | None = None
        self._rows: torch.Tensor | None = None

    def put(self, block: np.ndarray) -> None:
        """Copy a block to the device, and wait for the copy.

        Where the device's memory does not hold a whole block, `rows` returns None, and each engine
        copies the block in parts.
        """
        self.drop()
        try:
            rows = to_device(block, self._device)
            if self._device.type == "cuda":
                torch.cuda.current_stream(self._device).synchronize()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return
        self._block, self._rows = block, rows

    def drop(self) -> None:
        """Forget the block."""
        self._block = self._rows = None

    def rows(self, block: np.ndarray) -> torch.Tensor | None:
        """Return the block's rows on the device, or None if it is not the block that was put."""
        return self._rows if block is self._block else None


class EvaluationRows:
    """Copies rows to the device, unless they are the rows of the last call.

    The caller must not change an array that it passes again. Used by one engine.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._last: weakref.ref[np.ndarray] | None = None
        self._tensor: torch.Tensor | None = None

    def __call__(self, rows: np.ndarray) -> torch.Tensor:
        """Return the rows as a tensor on the device."""
        if self._tensor is None or self._last is None or self._last() is not rows:
            self._tensor = torch.from_numpy(rows).to(self._device)
            self._last = weakref.ref(rows)
        return self._tensor
