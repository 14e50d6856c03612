"""How CUDA kernels are launched; the launches themselves are tested with each kernel."""

import warnings

import pytest

from streamtrain.kernels.cuda_launch import configure


class Kernel:
    """As Numba's on a GPU: it warns of fewer than 128 blocks when it is configured."""

    def __getitem__(self, launch):
        if launch[0] < 128:
            warnings.warn("Grid size 1 will likely result in GPU under-utilization", stacklevel=2)
        if launch[1] > 1024:
            warnings.warn("too many threads", stacklevel=2)
        return launch


def test_few_blocks_are_no_warning_and_others_are_kept():
    assert configure(Kernel(), 1, 256, shared_bytes=64) == (1, 256, 0, 64)
    with pytest.warns(UserWarning, match="too many threads"):
        configure(Kernel(), 1, 2048)
