"""A minibatch from a block in a GPU's memory: gather its rows, standardise them in float64, cast
them, part target from features.

Arrays are anything with `__cuda_array_interface__`, so torch's tensors go in as they are, without a
copy. Without a GPU the kernel runs in Numba's simulator (`NUMBA_ENABLE_CUDASIM=1`), which shows its
arithmetic and nothing of streams.
"""

from typing import Any

from numba import cuda, float64

#: Threads of a CUDA block, and CUDA blocks at most: beyond that each thread takes several values.
THREADS, MOST_BLOCKS = 256, 1_024


@cuda.jit
def _assemble(block, order, position, mean, scale, x, y):
    """One thread a value, so that neighbours read and write side by side; further values a whole
    grid away.
    """
    width = block.shape[1]
    for k in range(cuda.grid(1), x.shape[0] * width, cuda.gridsize(1)):
        place, column = k // width, k % width
        row = position[0] + place
        if order.shape[0] > 0:
            row = order[row]
        value = block[row, column]
        if mean.shape[0] > 0:
            value = (float64(value) - mean[column]) * scale[column]
        if column < width - 1:
            x[place, column] = value
        else:
            y[place, 0] = value


def assemble_minibatch(
    block: Any, order: Any, position: Any, mean: Any, scale: Any, x: Any, y: Any, *, stream: int = 0
) -> None:
    """Fill `x` (B, D) and `y` (B, 1) with B rows of `block` (rows, D + 1), target last, from place
    `position[0]` on.

    `order`, int64: the block's rows in the order wanted; of length 0: as they lie. `mean`, `scale`,
    float64 (D + 1,): the value is (v - mean) * scale; of length 0: as it is. Types of block, x and
    y are free: float64, float32, float16. `position`, int64 (1,), is read on the device, so a
    captured launch goes on where the device says. `stream` is a CUDA stream's handle (torch:
    `stream.cuda_stream`); the launch is asynchronous on it, and the caller keeps every array alive
    until it is done.

    The launch goes to the current device, which must be that of the arrays. Safe from several
    threads.
    """
    blocks = max(1, min(MOST_BLOCKS, -(-x.shape[0] * block.shape[1] // THREADS)))
    _assemble[blocks, THREADS, cuda.external_stream(stream) if stream else 0](
        block, order, position, mean, scale, x, y
    )


def can_launch() -> bool:
    """True when Numba can launch kernels here: a GPU, its driver, and the extra [cuda]."""
    return bool(cuda.is_available())
