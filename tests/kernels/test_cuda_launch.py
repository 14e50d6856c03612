"""How CUDA kernels are launched; the launches themselves are tested with each kernel."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest

from streamtrain.kernels import cuda_launch
from streamtrain.kernels.cuda_launch import configure, ready, run
from streamtrain.kernels.cuda_layout import make_layout


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


@pytest.mark.parametrize(
    ("floats", "asked"), [(11_776, []), (11_780, [47_120]), (50_000, [200_000])]
)
def test_more_than_48_kib_is_asked_for_with_what_is_static_counted(monkeypatch, floats, asked):
    """A block has 48 KiB without asking; 2 KiB of them are the sums of 256 threads."""
    allowed = []
    layout = replace(make_layout((4, 8, 1), False, 64, 2, 256, 1), floats=floats)
    kernel = SimpleNamespace(compile=lambda signature: None)
    monkeypatch.setattr(cuda_launch, "SIMULATED", False)
    monkeypatch.setattr(cuda_launch.cuda, "jit", lambda _function: kernel)
    monkeypatch.setattr(
        cuda_launch, "_allow_shared", lambda _kernel, num_bytes: allowed.append(num_bytes)
    )
    assert ready(lambda: None, (), layout) is kernel
    assert allowed == asked


def test_errors_of_a_launch_are_runtime_errors_and_lack_of_memory_stays():
    def fail(error):
        raise error

    with pytest.raises(RuntimeError, match="KeyError: 'a driver'"):
        run(fail, KeyError("a driver"))
    with pytest.raises(MemoryError):
        run(fail, MemoryError())
