"""Trained models on disk: as files of this program, and as ONNX.

`model.safetensors` has the tensors, `model.json` the shape or the factory, and the names of the
columns; nothing is pickled. An ONNX file gives predictions from raw features without this program
or torch.
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


def save_model(network: Network, folder: Path, *, within: Path | None = None) -> None:
    """Write `model.safetensors` and `model.json` to a folder, each atomically, the JSON last.

    Of a factory only the name is stored: its code belongs to the user. `within`: see `open_folder`.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in network.state_dict().items()
    }
    model = network.shape.to_json()
    about = {
        "schema_version": 1,
        **(model if isinstance(network.shape, Shape) else {"factory": model}),
        "features": list(network.features),
        "target": network.target,
        "transform": network.transform,
    }
    write_atomically(folder / "model.safetensors", save(tensors), within=within)
    content = json.dumps(about, indent=2).encode() + b"\n"
    write_atomically(folder / "model.json", content, within=within)


def load_model(folder: str | os.PathLike[str]) -> Network:
    """Load the model that `train` wrote to a run's folder.

    It is a torch module from raw features (rows, features) to predictions (rows, 1). If the run had
    a transform, the features are the transform's output; the model's `transform` names the
    function, which is not imported here. A model of `--model module:factory` is constructed by that
    function, which is imported, with a warning when its file has changed since the training.

    Raises DataError when files are missing or do not match each other, ConfigError when the factory
    cannot be used.
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
        raise ConfigError(f"{folder}: the trained model cannot be constructed: {error}") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"{folder}: no trained model here ({Path(error.filename).name} is missing). Name the"
            " --out of a `train` run."
        ) from None
    # Each decoder has its own errors; all of them mean that the files cannot be used.
    except Exception as error:
        raise DataError(
            f"{folder}: the trained model cannot be read ({type(error).__name__}: {error})."
        ) from error
    return network.eval()


def _model(about: Json) -> Model:
    if "factory" not in about:
        return Shape(widths=tuple(about["widths"]), activation=about["activation"])
    saved = about["factory"]
    factory = load_factory(saved["function"], saved["num_features"])
    if factory.sha256 != saved["sha256"]:
        warnings.warn(
            f"the file of {factory.name} was changed since the model was trained; it may construct"
            " another model.",
            stacklevel=4,
        )
    return replace(factory, seed=saved["seed"], trial=saved["trial"])


def predict_rows(network: Network, features: np.ndarray) -> np.ndarray:
    """Predict from raw features (rows, features): float64 (rows,)."""
    with torch.inference_mode():
        return network.predict(torch.from_numpy(np.ascontiguousarray(features)))[:, 0].numpy()


#: Rows of the example that the exporter traces; the exported model takes any number of rows.
_EXAMPLE_ROWS = 3


def onnx_bytes(network: Network) -> bytes:
    """Return an ONNX file as bytes.

    The input `features` is float32 (rows, features), raw. The output `prediction` is float32
    (rows, 1), in the target's units. Standardization is included, and so is imputation if the model
    was trained with it. The metadata has the names of the columns and the transform: `features`,
    `target`, `transform` (JSON).

    Raises ConfigError when the extra [onnx] is not installed, or the module cannot be traced.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"export needs {' and '.join(missing)}, from the extra [onnx]: pip install"
            " 'streamtrain[onnx]'."
        )
    network = network.eval()
    example = torch.zeros(_EXAMPLE_ROWS, len(network.features))
    with _without_warnings():
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
                f" {first_line(cause)}). Use a module without control flow that depends on values,"
                " or predict with `streamtrain predict`."
            ) from error
        assert program is not None
        program.model.metadata_props.update(
            {
                "features": json.dumps(network.features),
                "target": network.target,
                "transform": json.dumps(network.transform),
            }
        )
        return program.model_proto.SerializeToString()


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence the exporter about its own libraries: deprecations in torch, missing torchvision."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
