"""Which errors mean that memory is short."""

import pytest
import torch

from streamtrain.training.memory_errors import is_out_of_memory

NUMBA = "CudaAPIError: [2] Call to cuLaunchKernel results in CUDA_ERROR_OUT_OF_MEMORY"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(MemoryError(), True, id="Python"),
        pytest.param(torch.cuda.OutOfMemoryError("Tried to allocate 2 GiB"), True, id="torch"),
        pytest.param(RuntimeError("CUDA error: out of memory"), True, id="pinned memory"),
        pytest.param(RuntimeError(NUMBA), True, id="a launch"),
        pytest.param(
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True, id="CPU"
        ),
        pytest.param(RuntimeError("CUDA error: an illegal memory access"), False, id="access"),
        pytest.param(ValueError("shape"), False, id="other"),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) == expected
