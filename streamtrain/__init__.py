"""Train regressors on rows that do not fit in memory, and judge every minibatch size on the same
rows.

`open_stream` gives minibatches from shards, `sweep` compares minibatch sizes, `train` and
`load_model` give a torch module, `Regressor` is the same for scikit-learn. Names are imported when
they are first used, so `import streamtrain` costs nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "open_stream": "streamtrain.stream.torch_stream",
    "Stream": "streamtrain.stream.torch_stream",
    "sweep": "streamtrain.api",
    "train": "streamtrain.api",
    "load_model": "streamtrain.api",
    "Regressor": "streamtrain.regressor",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'streamtrain' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
