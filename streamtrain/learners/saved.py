"""Trained models on disk.

`model.safetensors` (tensors) and `model.json` (shape or factory, and names). No pickle.
"""

import json
import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save

from streamtrain.errors import ConfigError, DataError
from streamtrain.files import write_atomically
from streamtrain.learners.factory import load_factory
from streamtrain.learners.model import Model, Network, Shape
from streamtrain.types import Record, Standard


def save_model(network: Network, folder: Path) -> None:
    """Write both files, each by temporary and rename; the JSON comes last.

    A factory is kept by name: its code is the user's.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in network.state_dict().items()
    }
    about = {
        "schema_version": 1,
        **(
            {"factory": network.shape.to_json()}
            if not isinstance(network.shape, Shape)
            else network.shape.to_json()
        ),
        "features": list(network.features),
        "target": network.target,
        "transform": network.transform,
    }
    write_atomically(folder / "model.safetensors", save(tensors))
    write_atomically(folder / "model.json", json.dumps(about, indent=2).encode() + b"\n")


def load_model(folder: str | os.PathLike) -> Network:
    """The model that `train` left in a run's folder: a torch module from raw features (rows,
    features) to (rows, 1).

    With a transform, the features are those that it makes: `transform` names it, and it is not
    imported here. A model of `--model module:factory` is made by that function, which is imported,
    with a warning when its file was changed.

    Raises DataError when the files are missing or do not belong together, ConfigError when the
    factory cannot be used.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / "model.json").read_text())
        tensors = load_file(folder / "model.safetensors")
        model = _model(about)
        network = Network(
            model,
            Standard.identity(model.num_features + 1),
            tuple(about["features"]),
            about["target"],
            fill=np.zeros(model.num_features) if "fill" in tensors else None,
            transform=about.get("transform"),
        )
        network.load_state_dict(tensors)
    except ConfigError as error:
        raise ConfigError(f"{folder}: the trained model cannot be made again: {error}") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"{folder}: no trained model here ({Path(error.filename).name} is missing). Name the"
            " --out of a `train` run."
        ) from None
    # every decoder has its own errors; all mean that these files cannot be used
    except Exception as error:
        raise DataError(
            f"{folder}: the trained model cannot be read ({type(error).__name__}: {error})."
        ) from error
    return network.eval()


def _model(about: Record) -> Model:
    if "factory" not in about:
        return Shape(widths=tuple(about["widths"]), activation=about["activation"])
    made = about["factory"]
    factory = load_factory(made["function"], made["num_features"])
    if factory.sha256 != made["sha256"]:
        warnings.warn(
            f"{factory.name} stands in a file that was changed since the model was trained; it may"
            " be another model.",
            stacklevel=4,
        )
    return replace(factory, seed=made["seed"], trial=made["trial"])


def predict_rows(network: Network, features: np.ndarray) -> np.ndarray:
    """Predictions for raw features (rows, features): float64 (rows,)."""
    with torch.inference_mode():
        return network.predict(torch.from_numpy(np.ascontiguousarray(features)))[:, 0].numpy()
