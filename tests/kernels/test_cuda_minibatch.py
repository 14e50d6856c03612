"""The kernel that assembles minibatches on a GPU.

In Numba's simulator it equals NumPy; the test of zero-copy and streams needs a GPU.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

#: Runs in a separate process, because Numba chooses the simulator when it is imported.
SIMULATED = """
import numpy as np
from streamtrain.kernels import cuda_minibatch
from tests.kernels.test_cuda_minibatch import cases, oracle

# Few threads, because the simulator's are Python threads, and so that each takes several values.
cuda_minibatch.THREADS, cuda_minibatch.MAX_BLOCKS = 4, 2
for case in cases():
    x, y = case.pop("x"), case.pop("y")
    cuda_minibatch.assemble_minibatch(**case, x=x, y=y)
    expected_x, expected_y = oracle(**case, count=len(x), dtype=x.dtype)
    assert x.tobytes() == expected_x.tobytes() and y.tobytes() == expected_y.tobytes(), case
print("equal")
"""


def oracle(block, order, position, mean, scale, count, dtype):
    """Return (features, target) of the same minibatch, computed with NumPy."""
    numbers = np.arange(position[0], position[0] + count)
    if len(order):
        numbers = order[numbers]
    rows = block[numbers]
    if len(mean):
        rows = (rows.astype(np.float64) - mean) * scale
    rows = rows.astype(dtype)
    return rows[:, :-1], rows[:, -1:]


def cases():
    """Yield arguments for every type, ordered or permuted, standardised or raw, at block edges."""
    random = np.random.default_rng(0)
    for block_type, out_type in [("f4", "f4"), ("f8", "f4"), ("f4", "f2")]:
        for ordered in (True, False):
            for standardised in (True, False):
                for features, start, count in [(4, 0, 13), (1, 5, 1), (3, 7, 6)]:
                    block = (random.standard_normal((13, features + 1)) * 5 + 100).astype(
                        block_type
                    )
                    yield {
                        "block": block,
                        "order": np.empty(0, dtype=np.int64) if ordered else random.permutation(13),
                        "position": np.array([start]),
                        "mean": (
                            block.mean(axis=0, dtype=np.float64) if standardised else np.empty(0)
                        ),
                        "scale": (
                            1 / block.std(axis=0, dtype=np.float64) if standardised else np.empty(0)
                        ),
                        "x": np.empty((count, features), dtype=out_type),
                        "y": np.empty((count, 1), dtype=out_type),
                    }


def test_equals_numpy_in_the_simulator():
    done = subprocess.run(
        [sys.executable, "-c", SIMULATED],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_zero_copy_on_torch_streams():
    """On a side stream the kernel waits for earlier work and writes to torch's memory."""
    from streamtrain.kernels.cuda_minibatch import assemble_minibatch

    for case in cases():
        tensors = {name: torch.from_numpy(array).cuda() for name, array in case.items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            torch.cuda._sleep(10_000_000)
            tensors["block"].mul_(2)
            assemble_minibatch(**tensors, stream=side.cuda_stream)
            doubled = tensors["x"].clone()
        side.synchronize()
        case["block"] = case["block"] * 2
        x, y = case.pop("x"), case.pop("y")
        expected_x, expected_y = oracle(**case, count=len(x), dtype=x.dtype)
        np.testing.assert_allclose(doubled.cpu().numpy(), expected_x, rtol=1e-6)
        np.testing.assert_allclose(tensors["y"].cpu().numpy(), expected_y, rtol=1e-6)
        del y
