"""Assemble a minibatch from a block in GPU memory.

Rows are gathered, standardised in float64, cast, and split into features and target. Arrays are
anything that Numba takes without a copy, such as torch tensors (by DLPack). Without a GPU the
kernel runs in Numba's simulator (`NUMBA_ENABLE_CUDASIM=1`), which covers its arithmetic but not
streams.
"""

from typing import Any

from numba import cuda, float64

from streamtrain.kernels.cuda_launch import configure

#: Threads per CUDA block.
THREADS = 256

#: The most CUDA blocks; for larger minibatches each thread takes several values.
MAX_BLOCKS = 1_024


@cuda.jit
def _assemble(block, order, position, mean, scale, x, y):
    """Take one value per thread, so that neighbouring threads access neighbouring addresses.

    A thread's further values are a whole grid apart.
    """
    width = block.shape[1]
    first = cuda.grid(1)  # pyright: ignore[reportCallIssue] - the stub counts Numba's own argument
    for k in range(first, x.shape[0] * width, cuda.gridsize(1)):
        out_row, column = k // width, k % width
        row = position[0] + out_row
        if order.shape[0] > 0:
            row = order[row]
        value = block[row, column]
        if mean.shape[0] > 0:
            value = (float64(value) - mean[column]) * scale[column]
        if column < width - 1:
            x[out_row, column] = value
        else:
            y[out_row, 0] = value


def assemble_minibatch(
    block: Any, order: Any, position: Any, mean: Any, scale: Any, x: Any, y: Any, *, stream: int = 0
) -> None:
    """Fill `x` and `y` with rows of a block, asynchronously on a stream of the current device.

    All arrays must be on that device, and the caller must keep them alive until the launch is
    complete. Not thread-safe; see `configure`.

    Args:
        block: (rows, D + 1), target last; float64, float32 or float16, as are `x` and `y`.
        order: Rows of the block in the order wanted, int64 (rows,); (0,): in their own order.
        position: Where to start in that order, int64 (1,). It is read on the device, so that a
            captured launch continues at the position that the device has reached.
        mean: float64 (D + 1,), or (0,) for raw values; the result is (value - mean) * scale.
        scale: As `mean`.
        x: The features, (B, D).
        y: The target, (B, 1).
        stream: Handle of a CUDA stream (torch: `stream.cuda_stream`); 0: the default stream.
    """
    blocks = max(1, min(MAX_BLOCKS, -(-x.shape[0] * block.shape[1] // THREADS)))
    launch = configure(_assemble, blocks, THREADS, stream)
    launch(block, order, position, mean, scale, x, y)
