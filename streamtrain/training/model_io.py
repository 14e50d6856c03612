"""Trained models on disk.

`model.safetensors` (tensors) and `model.json` (shape or factory, and names). No pickle.

Trained models as ONNX: one file that gives predictions from raw features anywhere, without this
program or torch.
"""

import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save

from streamtrain.base.atomic_files import write_atomically
from streamtrain.errors import ConfigError, DataError, first_line
from streamtrain.training.factory import load_factory
from streamtrain.training.model import Model, Network, Shape
from streamtrain.types import Json, Standardization


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
            Standardization.identity(model.num_features + 1),
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


def _model(about: Json) -> Model:
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


#: Rows of the example that the exporter traces with; the number of rows stays free.
_EXAMPLE_ROWS = 3


def onnx_bytes(network: Network) -> bytes:
    """The file's bytes: input `features`, float32 (rows, features), raw; output `prediction`,
    float32 (rows, 1), in the target's units.

    Normalisation is in it, and imputation where the model was trained with it. The names of
    columns, and what a transform is, are its metadata: `features`, `target`, `transform` (JSON).
    Raises ConfigError without the extra [onnx], and for a module that cannot be traced.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"export needs {' and '.join(missing)}, which the extra [onnx] brings: pip install"
            " 'streamtrain[onnx]'."
        )
    network = network.eval()
    example = torch.zeros(_EXAMPLE_ROWS, len(network.features))
    with _quiet():
        try:
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=["features"],
                output_names=["prediction"],
                dynamic_shapes=({0: torch.export.Dim("rows")},),
            )
        except torch.onnx.OnnxExporterError as error:
            cause = error.__cause__ or error
            raise ConfigError(
                f"the model cannot be written as ONNX ({type(cause).__name__}:"
                f" {first_line(cause)}). Use a module without control flow that looks at values, or"
                " predict with `streamtrain predict`."
            ) from error
        program.model.metadata_props.update(
            {
                "features": json.dumps(network.features),
                "target": network.target,
                "transform": json.dumps(network.transform),
            }
        )
        return program.model_proto.SerializeToString()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter has to say of its own libraries: deprecations inside torch, and
    that torchvision is not there.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
