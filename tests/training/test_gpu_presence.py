"""Whether a run uses a GPU, found out with and without torch."""

import sys

import pytest
import torch

from streamtrain.training import gpu_presence
from streamtrain.training.gpu_presence import is_cpu


@pytest.mark.parametrize(
    ("device", "expected"), [("cpu", True), ("cuda", False), ("cuda:1", False), ("nonsense", False)]
)
def test_a_device_that_is_named_is_that_device(device, expected):
    assert is_cpu(device) == expected


@pytest.mark.parametrize("finds_gpu", [True, False])
def test_where_torch_is_imported_auto_is_what_torch_finds(monkeypatch, finds_gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: finds_gpu)
    monkeypatch.setattr(gpu_presence, "_has_driver", lambda: not finds_gpu)
    assert is_cpu("auto") == (not finds_gpu)


@pytest.mark.parametrize("has_driver", [True, False])
def test_torch_is_imported_where_there_is_a_driver(monkeypatch, has_driver):
    """A stand-in in place of torch that finds a GPU is asked only then."""

    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                raise ImportError("torch is imported")

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    monkeypatch.setattr(gpu_presence, "_has_driver", lambda: has_driver)
    if has_driver:
        with pytest.raises(ImportError, match="torch is imported"):
            is_cpu("auto")
    else:
        assert is_cpu("auto")


def test_a_driver_is_found_by_its_library_or_device(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_presence, "_ROCM_DEVICE", tmp_path / "kfd")
    monkeypatch.setattr(gpu_presence, "_CUDA_DRIVER", "libno-such-driver.so.1")
    assert not gpu_presence._has_driver()
    monkeypatch.setattr(gpu_presence, "_CUDA_DRIVER", "libc.so.6")
    assert gpu_presence._has_driver()
    monkeypatch.setattr(gpu_presence, "_CUDA_DRIVER", "libno-such-driver.so.1")
    (tmp_path / "kfd").touch()
    assert gpu_presence._has_driver()
