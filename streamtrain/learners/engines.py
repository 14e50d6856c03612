"""Which engine a run uses, and what its failures mean."""

import torch

from streamtrain.config import TrainConfig
from streamtrain.errors import ConfigError
from streamtrain.learners.fused_engine import FusedEngine
from streamtrain.learners.torch_engine import TorchEngine
from streamtrain.stream.tensors import open_device

ENGINES = {"fused": FusedEngine, "torch": TorchEngine}


def choose_engine(train: TrainConfig) -> str:
    """The engine of a run: `auto` is fused on the CPU, torch on any other device. Raises ConfigError."""
    on_cpu = train.device in ("auto", "cpu")
    if train.engine == "fused" and not on_cpu:
        raise ConfigError(f"train.engine fused runs on the CPU only; train.device is {train.device!r}. Use --engine torch or --device cpu.")
    if not on_cpu:
        open_device(train.device)
    return ("fused" if on_cpu else "torch") if train.engine == "auto" else train.engine


def is_out_of_memory(error: BaseException) -> bool:
    """True for Python's, CUDA's and torch's own way of saying so."""
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "allocate memory" in str(error)
