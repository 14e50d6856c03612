"""The choice of the model and the engine of a run."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from streamtrain.config import ModelConfig, TrainConfig
from streamtrain.errors import ConfigError
from streamtrain.training.compute_pool import ComputePool
from streamtrain.training.engine import AccumulatingEngine, Engine
from streamtrain.training.fused_engine import FusedEngine, one_blas_thread
from streamtrain.training.gpu_presence import is_cpu
from streamtrain.training.model import Model, Shape

if TYPE_CHECKING:
    import torch

    from streamtrain.training.cuda_engine import CudaEngine
    from streamtrain.training.cuda_fit import GpuRoom
    from streamtrain.training.torch.shared_rows import SharedBlock
    from streamtrain.training.torch.torch_engine import TorchEngine


def _cuda_engine(*arguments: Any) -> AccumulatingEngine:
    from streamtrain.training.cuda_engine import CudaEngine

    return CudaEngine(*arguments)


def _torch_engine(*arguments: Any) -> AccumulatingEngine:
    from streamtrain.training.torch.torch_engine import TorchEngine

    return TorchEngine(*arguments)


#: The name of an engine → what constructs it. Torch is imported by those that need it.
ENGINES: dict[str, Callable[..., AccumulatingEngine]] = {
    "fused": FusedEngine,
    "fused-cuda": _cuda_engine,
    "torch": _torch_engine,
}


def make_model(config: ModelConfig, num_features: int) -> Model:
    """Return the model of a run: the perceptron of --hidden, or what --model makes.

    Raises ConfigError.
    """
    if config.factory is not None:
        from streamtrain.training.factory import load_factory

        return load_factory(config.factory, num_features)
    return Shape(widths=(num_features, *config.hidden, 1), activation=config.activation)


def choose_engine(train: TrainConfig, model: Model) -> tuple[str, str]:
    """Return the name of the engine, and the reason for it.

    `auto` is the fused engine where it supports the options, and the torch engine otherwise and on
    a GPU that is asked for. "fused-cuda" is the fused engine on a GPU. With device `auto` a run may
    measure whether a GPU is faster (device_choice.py). Raises ConfigError, naming what is
    supported.
    """
    device = find_gpu(train.device)
    if train.precision == "tf32" and (device is None or device.type != "cuda"):
        raise ConfigError(
            "train.precision tf32 needs a GPU; this run uses the CPU. Use float32, or --device"
            " cuda."
        )
    asks_for_gpu = device is not None and train.device != "auto"
    beyond: list[str] = []  # options that the fused engine does not support
    if not isinstance(model, Shape):
        beyond.append(f"--model {model.name}")
    if train.precision != "float32":
        beyond.append(f"train.precision {train.precision}")
    if train.compile == "on":
        beyond.append("train.compile on")
    if train.engine == "fused" and beyond:
        raise ConfigError(
            "--engine fused trains perceptrons (--hidden, --activation) in float32 without"
            f" compiling; {' and '.join(beyond)} is for --engine torch. Use --engine torch or auto."
        )
    if train.engine == "fused" and device is not None and asks_for_gpu:
        from streamtrain.training.cuda_fit import fits

        if why := fits(model, device):
            raise ConfigError(f"--engine fused on {device}: {why}. Use --engine torch.")
        return "fused-cuda", f"asked for, on {device}"
    on_gpu = train.device == "auto" and device is not None
    where = f", on {device}" if on_gpu else ""
    if train.engine == "fused":
        return "fused", "asked for"
    if train.engine == "torch":
        return "torch", f"asked for{where}"
    if beyond:
        return "torch", f"{' and '.join(beyond)} is for the torch engine{where}"
    if asks_for_gpu:
        return "torch", f"the default on {device} (--engine fused trains perceptrons there, too)"
    hint = " (--device cuda trains on the GPU)" if on_gpu else ""
    return "fused", f"the faster one for perceptrons on the CPU{hint}"


def find_gpu(name: str) -> "torch.device | None":
    """Return the device of `train.device`, or None where that is the CPU. Raises ConfigError."""
    if is_cpu(name):
        return None
    from streamtrain.training.torch.device_feed import train_device

    device = train_device(name)
    return None if device.type == "cpu" else device


@contextmanager
def running(engines: Iterable[Engine], threads: int) -> Iterator[None]:
    """Let the engines compute on `threads` threads that they share, while inside.

    Results do not depend on it. It concerns the fused engine on the CPU: torch has its own threads,
    and a GPU needs none.
    """
    fused = [engine for engine in engines if isinstance(engine, FusedEngine)]
    if not fused:
        yield
        return
    with one_blas_thread(), ComputePool(threads) as cores:
        for engine in fused:
            engine.cores = cores
        yield


def room_of(engine: str, train: TrainConfig) -> "GpuRoom | None":
    """Return what the GPU has for the passes of a sweep; None where they do not share it.

    Only learners of the fused engine train side by side there.
    """
    device = find_gpu(train.device) if engine == "fused-cuda" else None
    if device is None:
        return None
    from streamtrain.training.cuda_fit import gpu_room

    return gpu_room(device)


def is_on_gpu(engine: Engine) -> bool:
    """Return whether an engine takes its steps on a GPU."""
    return bool(_on_gpu([engine]))


def _on_gpu(engines: Iterable[Engine]) -> "list[CudaEngine | TorchEngine]":
    """Return the engines that take their steps on a GPU."""
    others = [engine for engine in engines if not isinstance(engine, FusedEngine)]
    if not others:
        return []
    from streamtrain.training.cuda_engine import CudaEngine
    from streamtrain.training.torch.torch_engine import TorchEngine

    return [
        engine
        for engine in others
        if isinstance(engine, CudaEngine | TorchEngine) and engine.device.type == "cuda"
    ]


def check_engine(engine: Engine) -> None:
    """Let the fused engine on a GPU compare its kernels with the CPU's; see `CudaEngine.check`."""
    if isinstance(engine, FusedEngine):
        return
    from streamtrain.training.cuda_engine import CudaEngine

    if isinstance(engine, CudaEngine):
        engine.check()


def share_block(engines: Sequence[Engine]) -> "SharedBlock | None":
    """Let the engines on a GPU share one copy of each block.

    Returns the object that the caller puts the blocks into; None if fewer than two engines are on a
    GPU.
    """
    on_gpu = _on_gpu(engines)
    if len(on_gpu) < 2:
        return None
    from streamtrain.training.torch.shared_rows import SharedBlock

    shared = SharedBlock(on_gpu[0].device)
    for engine in on_gpu:
        engine.shared_block = shared
    return shared
