"""Whether a run uses a GPU; torch, which takes a second to import, is asked only where it must."""

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

#: The library of NVIDIA's driver, and the device of AMD's: what torch opens to find a GPU.
_CUDA_DRIVER, _ROCM_DEVICE = "libcuda.so.1", Path("/dev/kfd")


def is_cpu(device: str) -> bool:
    """Return whether `train.device` is the CPU; for other names than `cpu` and `auto`, False.

    `auto` is the CPU where there is no driver of a GPU, or else where torch finds no GPU. Torch is
    asked only where it is imported already, or where there is a driver.
    """
    if device != "auto":
        return device == "cpu"
    if "torch" not in sys.modules and not _has_driver():
        return True
    import torch

    return not torch.cuda.is_available()


def _has_driver() -> bool:
    if _ROCM_DEVICE.exists():
        return True
    with suppress(OSError):
        ctypes.CDLL(_CUDA_DRIVER)
        return True
    return False
