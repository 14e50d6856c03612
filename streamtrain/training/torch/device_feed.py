"""Rows on their way to a GPU: through a ring of pinned slots, on a stream of their own, while the
GPU trains on the slot before.

Where torch trains: the GPU where there is one, the CPU otherwise.
"""

from collections.abc import Iterator

import numpy as np
import torch

from streamtrain.stream.torch_stream import open_device

#: Slots of the ring: one is copied, one is trained on, one waits.
SLOTS = 3

#: Rows of a slot, as near as whole minibatches come to it.
SLOT_ROWS = 131_072


class DeviceFeed:
    """Copies rows of a block to the device, slot by slot; owned by one engine, used from one
    thread.

    `ring` is one device tensor, (SLOTS * slot_rows, width), and lives as long as the feed: no
    allocator can give its memory away while a copy or a captured graph still means it. A slot is
    overwritten only after the events that end its last copy and its last use.
    """

    def __init__(self, device: torch.device, width: int, batch_size: int):
        self.batch_size = batch_size
        self.slot_rows = (
            max(SLOT_ROWS // batch_size, 1) * batch_size if batch_size <= SLOT_ROWS else SLOT_ROWS
        )
        self.ring = torch.empty((SLOTS * self.slot_rows, width), dtype=torch.float32, device=device)
        self._pinned = torch.empty(
            (SLOTS, self.slot_rows, width), dtype=torch.float32, pin_memory=True
        )
        self._host = self._pinned.numpy()
        self._device, self._stream = device, torch.cuda.Stream(device)
        self.ring.record_stream(self._stream)
        self._copied = [torch.cuda.Event() for _ in range(SLOTS)]
        self._used = [torch.cuda.Event() for _ in range(SLOTS)]
        self._stream.wait_stream(torch.cuda.current_stream(device))
        self._next = 0

    def __call__(
        self, block: np.ndarray, start: int, stop: int, carried: int
    ) -> Iterator[torch.Tensor]:
        """Rows `[start, stop)` as views of the ring, in order; each is valid until the next one is
        asked for.

        The current stream waits for the copy; what is launched on it before the next view is what
        the slot is kept for. Views end with whole minibatches, of which the first `carried` rows
        came before, wherever a slot holds one.
        """
        cuts = list(self.cuts(start, stop, carried))
        ahead = self._put(block, *cuts[0]) if cuts else None
        for place in range(len(cuts)):
            assert ahead is not None
            slot, rows = ahead
            compute = torch.cuda.current_stream(self._device)
            compute.wait_event(self._copied[slot])
            if place + 1 < len(cuts):  # the next slot travels while this one is trained on
                ahead = self._put(block, *cuts[place + 1])
            try:
                yield rows
            finally:
                self._used[slot].record(torch.cuda.current_stream(self._device))

    def cuts(self, start: int, stop: int, carried: int) -> Iterator[tuple[int, int]]:
        """The pieces of `[start, stop)`, one a slot: arithmetic."""
        return cuts(start, stop, carried, self.batch_size, self.slot_rows)

    def _put(self, block: np.ndarray, start: int, stop: int) -> tuple[int, torch.Tensor]:
        slot, count = self._next, stop - start
        self._next = (slot + 1) % SLOTS
        # the host may write over pinned memory only when its last copy is over
        self._copied[slot].synchronize()
        self._host[slot, :count] = block[start:stop]
        rows = self.ring[slot * self.slot_rows : slot * self.slot_rows + count]
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._used[slot])
            rows.copy_(self._pinned[slot, :count], non_blocking=True)
            self._copied[slot].record(self._stream)
        return slot, rows


def cuts(
    start: int, stop: int, carried: int, batch_size: int, slot_rows: int
) -> Iterator[tuple[int, int]]:
    """Pieces of at most `slot_rows` rows that end with whole minibatches, where one fits; `carried`
    rows came before `start`.

    >>> list(cuts(0, 25, 3, 4, 8))
    [(0, 5), (5, 13), (13, 21), (21, 25)]
    """
    while start < stop:
        lead = (batch_size - carried) % batch_size
        whole = lead + max(0, slot_rows - lead) // batch_size * batch_size
        end = min(stop, start + (whole if 0 < whole <= slot_rows else slot_rows))
        yield start, end
        carried = (carried + end - start) % batch_size
        start = end


def train_device(name: str) -> torch.device:
    """The device of `train.device`; `auto` is the GPU that torch finds, else the CPU.

    Raises ConfigError when it cannot be used here.

    The fused engine has no say in this: it is on the CPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return open_device(name)
