"""Train regressors on rows that do not fit in memory, and judge every minibatch size on the same
rows.

`open_stream` gives minibatches from shards, `sweep` compares minibatch sizes, `train` and
`load_model` give a torch module, `Regressor` is the same for scikit-learn. Names are imported when
they are first used, so `import streamtrain` costs nothing.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "open_stream": "streamtrain.stream.tensors",
    "Stream": "streamtrain.stream.tensors",
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


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds the submodules `sweep` and `train` here; as attributes these names
        # are the functions.
        if not (name in _EXPORTS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
