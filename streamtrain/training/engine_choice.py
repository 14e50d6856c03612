"""Which engine a run uses and why, which model it trains, and what failures mean."""

import torch

from streamtrain.config import ModelConfig, TrainConfig
from streamtrain.errors import ConfigError
from streamtrain.training.factory import Factory, load_factory
from streamtrain.training.fused_engine import FusedEngine
from streamtrain.training.model import Model, Shape
from streamtrain.training.torch.device_feed import train_device
from streamtrain.training.torch.torch_engine import TorchEngine

ENGINES = {"fused": FusedEngine, "torch": TorchEngine}


def make_model(config: ModelConfig, num_features: int) -> Model:
    """The model of a run: the perceptron of --hidden, or what --model makes. Raises ConfigError."""
    if config.factory is not None:
        return load_factory(config.factory, num_features)
    return Shape(widths=(num_features, *config.hidden, 1), activation=config.activation)


def choose_engine(train: TrainConfig, model: Model) -> tuple[str, str]:
    """(engine, why).

    `auto` is fused where that can do it, and torch elsewhere. Raises ConfigError, naming what is
    supported.
    """
    device = train_device(train.device)
    if train.precision == "tf32" and device.type != "cuda":
        raise ConfigError(
            "train.precision tf32 is a GPU's; this run is on the CPU. Use float32, or --device"
            " cuda."
        )
    beyond = []  # what the fused engine cannot do
    if device.type != "cpu" and train.device != "auto":
        beyond.append(f"--device {train.device}")
    if isinstance(model, Factory):
        beyond.append(f"--model {model.name}")
    if train.precision != "float32":
        beyond.append(f"train.precision {train.precision}")
    if train.compile == "on":
        beyond.append("train.compile on")
    if train.engine == "fused" and beyond:
        raise ConfigError(
            "--engine fused trains perceptrons (--hidden, --activation) in float32 on the CPU, and"
            f" needs no compiling; {' and '.join(beyond)} is for --engine torch. Use --engine torch"
            " or auto."
        )
    where = f", on {device}" if train.device == "auto" and device.type != "cpu" else ""
    if train.engine != "auto":
        return train.engine, f"asked for{where if train.engine == 'torch' else ''}"
    if beyond:
        return "torch", f"{' and '.join(beyond)} is for the torch engine{where}"
    return (
        "fused",
        (
            "the faster one for perceptrons on the"
            f" CPU{' (--device cuda trains on the GPU)' if where else ''}"
        ),
    )


def is_out_of_memory(error: BaseException) -> bool:
    """True for Python's, CUDA's and torch's own way of saying so."""
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "allocate memory" in str(
        error
    )
