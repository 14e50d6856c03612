"""The copy of an array to a GPU through pinned memory.

Torch copies from pageable memory through a small buffer of its own, at a fraction of the speed of
the bus, and waits for all earlier work of the stream.
"""

import numpy as np
import torch

#: Bytes of one of the two pinned buffers: one is filled while the other is copied.
PIECE_BYTES = 8 * 2**20


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return the values of a C-contiguous array on a device; on the CPU they share its memory.

    On a GPU the copy is ordered with the work of the current stream and may still be under way,
    but the array may be changed at once.
    """
    source = torch.from_numpy(array)
    if not _is_gpu(device) or not len(array):
        return source.to(device)
    target = torch.empty(source.shape, dtype=source.dtype, device=device)
    rows = max(1, min(len(array), PIECE_BYTES * len(array) // max(1, array.nbytes)))
    pinned = torch.empty((2, rows, *source.shape[1:]), dtype=source.dtype, pin_memory=True)
    copied = [torch.cuda.Event() for _ in range(2)]
    for number, start in enumerate(range(0, len(array), rows)):
        stop, slot = min(len(array), start + rows), number % 2
        copied[slot].synchronize()
        pinned[slot, : stop - start].copy_(source[start:stop])
        target[start:stop].copy_(pinned[slot, : stop - start], non_blocking=True)
        copied[slot].record(torch.cuda.current_stream(device))
    # torch's allocator hands the pinned memory out again only when these copies have ended
    return target


def _is_gpu(device: torch.device) -> bool:
    return device.type == "cuda"
