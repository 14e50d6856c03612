"""Trained models as ONNX: one file that gives predictions from raw features anywhere, without this
program or torch.
"""

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from streamtrain.errors import ConfigError, first_line
from streamtrain.learners.model import Network

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
