"""Where torch trains: the GPU where there is one, the CPU otherwise."""

import torch

from streamtrain.stream.tensors import open_device


def train_device(name: str) -> torch.device:
    """The device of `train.device`; `auto` is the GPU that torch finds, else the CPU.

    Raises ConfigError when it cannot be used here.

    The fused engine has no say in this: it is on the CPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return open_device(name)
