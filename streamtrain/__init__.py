"""Train regressors on data that does not fit in memory, and compare minibatch sizes.

`open_stream` yields minibatches from shards, `sweep` compares minibatch sizes, `train` and
`load_model` return a torch module, and `Regressor` offers training to scikit-learn. Names are
imported on first use, so that `import streamtrain` is cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamtrain.api import SweepResult, TrainResult, sweep, train
    from streamtrain.errors import (
        CheckFailed,
        ConfigError,
        DataError,
        ResourceError,
        StoreError,
        StreamTrainError,
    )
    from streamtrain.regressor import Regressor
    from streamtrain.stream.torch_stream import Stream, open_stream
    from streamtrain.training.model_io import load_model

__version__ = "0.1.0"

#: Public name → the module that defines it.
_EXPORTS = {
    "open_stream": "streamtrain.stream.torch_stream",
    "Stream": "streamtrain.stream.torch_stream",
    "sweep": "streamtrain.api",
    "SweepResult": "streamtrain.api",
    "train": "streamtrain.api",
    "TrainResult": "streamtrain.api",
    "load_model": "streamtrain.training.model_io",
    "Regressor": "streamtrain.regressor",
    "StreamTrainError": "streamtrain.errors",
    "ConfigError": "streamtrain.errors",
    "DataError": "streamtrain.errors",
    "StoreError": "streamtrain.errors",
    "ResourceError": "streamtrain.errors",
    "CheckFailed": "streamtrain.errors",
}
# Written out, since type checkers do not evaluate `_EXPORTS`.
__all__ = [
    "CheckFailed",
    "ConfigError",
    "DataError",
    "Regressor",
    "ResourceError",
    "StoreError",
    "Stream",
    "StreamTrainError",
    "SweepResult",
    "TrainResult",
    "__version__",
    "load_model",
    "open_stream",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'streamtrain' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
