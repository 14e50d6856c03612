"""Trained models on disk: as files of this program, and as ONNX.

`model.safetensors` has the tensors, `model.json` the shape or the factory, and the names of the
columns; nothing is pickled. An ONNX file gives predictions from raw features without this program
or torch.
"""

import importlib.util
import json
import logging
import os
import shlex
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from streamtrain.base.caller import warn_caller
from streamtrain.errors import ConfigError, DataError, StreamTrainError, first_line
from streamtrain.training.factory import load_factory
from streamtrain.training.model import Model, Shape
from streamtrain.training.model_file import (
    SavedModel,
    check_named,
    check_tensors,
    read_model_file,
    read_tensor_header,
)
from streamtrain.training.network import Network
from streamtrain.training.usual_torch import usual_torch
from streamtrain.types import Standardization


@usual_torch()
def load_model(folder: str | os.PathLike[str], *, model: str | None = None) -> Network:
    """Load the model that `train` wrote to a run's folder.

    It is a torch module from raw features (rows, features) to predictions (rows, 1). If the run had
    a transform, the features are the transform's output; the model's `transform` names the
    function, which is not imported here.

    `model`: the `module:factory` that constructed the model. It is needed for such a model, since
    code that a file names is not imported unless the caller names it too. There is a warning when
    its file has changed since the training.

    Raises DataError when files are missing, damaged, or do not match each other; ConfigError when
    the factory is not named or cannot be used; ResourceError when the model is larger than memory.
    """
    folder = Path(folder)
    path = folder / "model.safetensors"
    try:
        saved = read_model_file(folder / "model.json")
        check_named(folder, "--model", saved.factory and saved.factory.function, model)
        shape, tensors = _shape(folder, saved), read_tensor_header(path)
        # a perceptron is compared before its weights are allocated
        with torch.device("meta") if isinstance(shape, Shape) else nullcontext():
            check_tensors(path, tensors, _network(saved, shape, tensors).state_dict())
        network = _network(saved, shape, tensors)
        network.load_state_dict(load_file(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = Path(error.filename or path).name
        raise DataError(
            f"{folder}: no trained model here ({missing} is missing). {_advice(folder)}"
        ) from None
    # safetensors and torch have errors of their own; all of them mean that the files cannot be used
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        if isinstance(error, StreamTrainError):
            raise
        raise DataError(
            f"{path}: the trained model cannot be read ({type(error).__name__}:"
            f" {first_line(error)}). Restore its files."
        ) from error
    return network.eval()


def _advice(folder: Path) -> str:
    """Return how to get a model, where this folder has none."""
    if not (folder / "summary.json").exists():
        return "Name the --out of a `train` run."
    return (
        "A sweep keeps none: train one with"
        f" `streamtrain train --from {shlex.quote(str(folder))} --out MODEL`."
    )


def _shape(folder: Path, saved: SavedModel) -> Model:
    factory = saved.factory
    if factory is None:
        assert saved.widths is not None
        assert saved.activation is not None
        return Shape(widths=saved.widths, activation=saved.activation)
    try:
        loaded = load_factory(factory.function, factory.num_features)
    except ConfigError as error:
        raise ConfigError(f"{folder}: the trained model cannot be constructed: {error}") from error
    if loaded.sha256 != factory.sha256:
        warn_caller(
            f"the file of {loaded.name} was changed since the model was trained; it may construct"
            " another model."
        )
    return replace(loaded, seed=factory.seed, trial=factory.trial)


def _network(saved: SavedModel, shape: Model, tensors: Collection[str]) -> Network:
    return Network(
        shape,
        Standardization.identity(shape.num_features + 1),
        saved.features,
        saved.target,
        fill=np.zeros(shape.num_features) if "fill" in tensors else None,
        transform=None if saved.transform is None else asdict(saved.transform),
        datetime=saved.datetime,
    )


def predict_rows(network: Network, features: np.ndarray) -> np.ndarray:
    """Predict from raw features (rows, features): float64 (rows,)."""
    with usual_torch(), torch.inference_mode():
        return network.predict(torch.from_numpy(np.ascontiguousarray(features)))[:, 0].numpy()


#: Rows of the example that the exporter traces; the exported model takes any number of rows.
_EXAMPLE_ROWS = 3


@usual_torch()
def onnx_bytes(network: Network) -> bytes:
    """Return an ONNX file as bytes.

    The input `features` is float32 (rows, features), raw. The output `prediction` is float32
    (rows, 1), in the target's units. Standardization is included, and so is imputation if the model
    was trained with it. The metadata has the names of the columns and the transform: `features`,
    `target`, `transform` and `datetime` (JSON).

    Raises ConfigError when the extra [onnx] is not installed, or the module cannot be traced.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"export needs {' and '.join(missing)}, from the extra [onnx]: pip install"
            " 'streamtrain[onnx]'."
        )
    network = network.eval()
    example = torch.zeros(_EXAMPLE_ROWS, len(network.features), dtype=torch.float32)
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
                "datetime": json.dumps(network.datetime),
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
