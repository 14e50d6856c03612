"""The kernels of the fused engine on a GPU, compiled without one.

Their numbers are tested in training/test_cuda_engine.py.
"""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

needs_numba_cuda = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None,
    reason="needs numba-cuda, nvidia-cuda-nvcc, nvidia-cuda-nvrtc and nvidia-nvvm",
)

#: Registers of a thread. One block of 256 threads has a multiprocessor to itself, with up to 255;
#: the compilers of CUDA 13.5 take 188 for the largest kernel, earlier ones took 168.
MOST_REGISTERS = 192


@needs_numba_cuda
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_compiled_kernels_spill_nothing(architecture):
    command = [sys.executable, "-m", "tests.kernels.compile_population", architecture]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    missing = re.search("libnvvm|nvrtc|ptxas", done.stderr, re.IGNORECASE)
    if done.returncode and missing:
        pytest.skip(f"NVIDIA's compilers are missing: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    kernels = json.loads(done.stdout)
    assert len(kernels) == 8
    for kernel in kernels:
        assert kernel["spilled"] == 0, kernel
        assert kernel["registers"] <= MOST_REGISTERS, kernel
