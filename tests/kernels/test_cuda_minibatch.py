"""The kernel that assembles minibatches on a GPU.

In Numba's simulator it equals NumPy; the test of zero-copy and streams needs a GPU.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.kernels.minibatch_cases import cases, oracle

#: Runs in a separate process, because Numba chooses the simulator when it is imported.
SIMULATED = """
import numpy as np
from streamtrain.kernels import cuda_minibatch
from tests.kernels.minibatch_cases import cases, oracle

# Few threads, because the simulator's are Python threads, and so that each takes several values.
cuda_minibatch.THREADS, cuda_minibatch.MAX_BLOCKS = 4, 2
for case in cases():
    x, y = case.pop("x"), case.pop("y")
    cuda_minibatch.assemble_minibatch(**case, x=x, y=y)
    expected_x, expected_y = oracle(**case, count=len(x), dtype=x.dtype)
    assert x.tobytes() == expected_x.tobytes() and y.tobytes() == expected_y.tobytes(), case
print("equal")
"""


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
