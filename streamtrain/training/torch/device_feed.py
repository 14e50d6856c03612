"""The copy of rows to a GPU, and the choice of the device.

Rows go through a ring of pinned slots, on a CUDA stream of their own, while the GPU trains on the
slot before.
"""

from collections.abc import Iterator

import numpy as np
import torch

from streamtrain.stream.torch_stream import open_device

#: Slots of the ring: one is being copied, one is being trained on, one is waiting.
SLOTS = 3

#: The most rows per slot, rounded down to whole minibatches.
SLOT_ROWS = 131_072

#: The most bytes per slot, of pinned memory on the host and of the device's. It limits the rows of
#: more than 128 columns.
SLOT_BYTES = 64 * 2**20


class DeviceFeed:
    """Copies the rows of a block to the device, slot by slot; used by one engine, on one thread.

    `ring` is one device tensor, (SLOTS * slot_rows, width). It lives as long as the feed, so that
    the allocator cannot reuse its memory while a copy or a captured graph still refers to it. A
    slot is overwritten only after the events that end its last copy and its last use.
    """

    def __init__(self, device: torch.device, width: int, batch_size: int):
        self.batch_size = batch_size
        self.slot_rows = rows_per_slot(width, batch_size)
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
        self,
        block: np.ndarray,
        start: int,
        stop: int,
        carried: int,
        on_device: torch.Tensor | None = None,
    ) -> Iterator[torch.Tensor]:
        """Yield rows `[start, stop)` as views of the ring, in order.

        `on_device`: the rows of the block where the device has them already.

        A view is valid until the next one is requested: its slot is kept for what is launched on
        the current stream until then. The current stream waits for the copy. Views end with whole
        minibatches, the first of which already has `carried` rows, wherever a minibatch fits into a
        slot.
        """
        pieces = list(self.cuts(start, stop, carried))
        ahead = self._put(block, *pieces[0], on_device) if pieces else None
        for index in range(len(pieces)):
            assert ahead is not None
            slot, rows = ahead
            compute = torch.cuda.current_stream(self._device)
            compute.wait_event(self._copied[slot])
            # The next slot is copied while this one is trained on.
            if index + 1 < len(pieces):
                ahead = self._put(block, *pieces[index + 1], on_device)
            try:
                yield rows
            finally:
                self._used[slot].record(torch.cuda.current_stream(self._device))

    def cuts(self, start: int, stop: int, carried: int) -> Iterator[tuple[int, int]]:
        """Yield the pieces of `[start, stop)`, one per slot, without copying anything."""
        return cuts(start, stop, carried, self.batch_size, self.slot_rows)

    def _put(
        self, block: np.ndarray, start: int, stop: int, on_device: torch.Tensor | None
    ) -> tuple[int, torch.Tensor]:
        slot, count = self._next, stop - start
        self._next = (slot + 1) % SLOTS
        if on_device is None:
            # The host may overwrite pinned memory only when the last copy from it has ended.
            self._copied[slot].synchronize()
            self._host[slot, :count] = block[start:stop]
            source = self._pinned[slot, :count]
        else:
            source = on_device[start:stop]
        rows = self.ring[slot * self.slot_rows : slot * self.slot_rows + count]
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._used[slot])
            rows.copy_(source, non_blocking=True)
            self._copied[slot].record(self._stream)
        return slot, rows


def rows_per_slot(width: int, batch_size: int) -> int:
    """Return the rows of a slot: whole minibatches where one fits.

    >>> [rows_per_slot(5, 1000), rows_per_slot(5, 200_000), rows_per_slot(1001, 1000)]
    [131000, 131072, 16000]
    """
    rows = min(SLOT_ROWS, SLOT_BYTES // (4 * width))
    return rows // batch_size * batch_size if batch_size <= rows else rows


def cuts(
    start: int, stop: int, carried: int, batch_size: int, slot_rows: int
) -> Iterator[tuple[int, int]]:
    """Yield pieces of at most `slot_rows` rows that end with whole minibatches, where one fits.

    The first minibatch already has `carried` rows from before `start`.

    >>> list(cuts(0, 25, 3, 4, 8))
    [(0, 5), (5, 13), (13, 21), (21, 25)]
    """
    while start < stop:
        lead = (batch_size - carried) % batch_size
        whole = lead + max(0, slot_rows - lead) // batch_size * batch_size
        length = whole if 0 < whole <= slot_rows else slot_rows
        end = min(stop, start + length)
        yield start, end
        carried = (carried + end - start) % batch_size
        start = end


def train_device(name: str) -> torch.device:
    """Return the device of `train.device`; `auto` is a GPU if torch finds one, else the CPU.

    `cuda` is torch's current device, by its number if that is not the first: learners run on
    threads, each of which has a current device of its own and begins with the first.

    Raises ConfigError when the device cannot be used here. The fused engine ignores it: that engine
    always uses the CPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = open_device(name)
    if device.type == "cuda" and device.index is None and torch.cuda.is_initialized():
        current = torch.cuda.current_device()
        return torch.device("cuda", current) if current else device
    return device
