"""Trained models on disk: `model.safetensors` (tensors) and `model.json` (shape and names). No pickle."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save

from streamtrain.errors import DataError
from streamtrain.files import write_atomically
from streamtrain.learners.model import Network, Shape
from streamtrain.types import Standard


def save_model(network: Network, folder: Path) -> None:
    """Write both files, each by temporary and rename; the JSON comes last."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    about = {
        "schema_version": 1, "widths": list(network.shape.widths), "activation": network.shape.activation,
        "features": list(network.features), "target": network.target, "transform": network.transform,
    }  # fmt: skip
    write_atomically(folder / "model.safetensors", save(tensors))
    write_atomically(folder / "model.json", json.dumps(about, indent=2).encode() + b"\n")


def load_model(folder: str | os.PathLike) -> Network:
    """The model that `train` left in a run's folder: a torch module from raw features (rows, features) to (rows, 1).

    With a transform, the features are those that it makes: `transform` names it, and nothing is imported here.

    Raises DataError when the files are missing or do not belong together.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / "model.json").read_text())
        tensors = load_file(folder / "model.safetensors")
        shape = Shape(widths=tuple(about["widths"]), activation=about["activation"])
        network = Network(
            shape, Standard.identity(shape.widths[0] + 1), tuple(about["features"]), about["target"],
            fill=np.zeros(shape.widths[0]) if "fill" in tensors else None, transform=about.get("transform"),
        )  # fmt: skip
        network.load_state_dict(tensors)
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no trained model here ({Path(error.filename).name} is missing). Name the --out of a `train` run.") from None
    except Exception as error:  # every decoder has its own errors; all mean that these files cannot be used
        raise DataError(f"{folder}: the trained model cannot be read ({type(error).__name__}: {error}).") from error
    return network.eval()


def predict_rows(network: Network, features: np.ndarray) -> np.ndarray:
    """Predictions for raw features (rows, features): float32 (rows,)."""
    with torch.inference_mode():
        return network(torch.from_numpy(np.ascontiguousarray(features)))[:, 0].numpy()
