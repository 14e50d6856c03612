"""A trained model as arrays, and how it is written; torch is imported for its module only."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from safetensors.numpy import save

from streamtrain.base.atomic_files import write_atomically
from streamtrain.training.model import Model, Shape
from streamtrain.training.usual_torch import usual_torch
from streamtrain.types import Datetime, Json, Standardization

if TYPE_CHECKING:
    from streamtrain.training.network import Network


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedModel:
    """What a `Network` is made of: see there. `parameters_P`: of one replica, float32 (P,)."""

    shape: Model
    parameters_P: np.ndarray
    standard: Standardization
    features: tuple[str, ...]
    target: str
    fill: np.ndarray | None = None
    transform: Json | None = None
    datetime: Datetime | None = None

    def network(self) -> "Network":
        """Return the model as a new torch module, in evaluation mode."""
        from streamtrain.training.network import Network

        with usual_torch():
            network = Network(
                self.shape,
                self.standard,
                self.features,
                self.target,
                fill=self.fill,
                transform=self.transform,
                datetime=self.datetime,
            )
            network.load_flat(self.parameters_P)
            return network.eval()

    def tensor_bytes(self) -> bytes:
        """Return what `Network.tensor_bytes` returns for the module."""
        if not isinstance(self.shape, Shape):
            return self.network().tensor_bytes()
        tensors = {"mean": self.standard.mean, "scale": self.standard.scale}
        if self.fill is not None:
            tensors["fill"] = self.fill
        tensors = {name: np.asarray(values, np.float64) for name, values in tensors.items()}
        start = 0
        # every second module is an activation
        for number, (inputs, outputs) in enumerate(self.shape.layers):
            weight, bias = np.split(
                self.parameters_P[start : start + (inputs + 1) * outputs], [inputs * outputs]
            )
            tensors[f"layers.{2 * number}.weight"] = weight.reshape(inputs, outputs).T
            tensors[f"layers.{2 * number}.bias"] = bias
            start += (inputs + 1) * outputs
        # safetensors stores the memory of an array, whatever its strides
        return save({name: np.ascontiguousarray(values) for name, values in tensors.items()})


class _Saved(Protocol):
    """A `FittedModel` or a `Network`."""

    @property
    def shape(self) -> Model: ...
    @property
    def features(self) -> tuple[str, ...]: ...
    @property
    def target(self) -> str: ...
    @property
    def transform(self) -> Json | None: ...
    @property
    def datetime(self) -> Datetime | None: ...
    def tensor_bytes(self) -> bytes: ...


def save_model(model: _Saved, folder: Path, *, within: Path | None = None) -> None:
    """Write `model.safetensors` and `model.json` to a folder, each atomically, the JSON last.

    Of a factory only the name is stored: its code belongs to the user. `within`: see `open_folder`.
    """
    shape = model.shape.to_json()
    about = {
        "schema_version": 1,
        **(shape if isinstance(model.shape, Shape) else {"factory": shape}),
        "features": list(model.features),
        "target": model.target,
        "transform": model.transform,
        "datetime": model.datetime,
    }
    write_atomically(folder / "model.safetensors", model.tensor_bytes(), within=within)
    content = json.dumps(about, indent=2).encode() + b"\n"
    write_atomically(folder / "model.json", content, within=within)
