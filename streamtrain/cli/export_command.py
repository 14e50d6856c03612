"""`streamtrain export`."""

import warnings
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from streamtrain.base.units import format_bytes
from streamtrain.cli.flag_groups import GLOBAL, Output
from streamtrain.cli.predict_command import ModelCode
from streamtrain.cli.terminal import plain_warnings, show, writing
from streamtrain.errors import ConfigError, shown

_OUT = "the ONNX file; default: model.onnx next to the model"


def export(
    model: Annotated[str, Parameter(help="the directory of a `train` run")],
    /,
    *,
    code: ModelCode = None,
    out: Annotated[
        str | None,
        Parameter(
            name=("--out", "-o"), group=GLOBAL, metavar="FILE", show_default=False, help=_OUT
        ),
    ] = None,
    output: Output = Output(),
) -> None:
    """Write a trained model as ONNX, from raw features to predictions.

    Normalisation and imputation are folded in.
    """
    from streamtrain.base.atomic_files import write_atomically
    from streamtrain.run.predict import finite_model
    from streamtrain.training.model_io import onnx_bytes

    file = Path(out) if out else Path(model) / "model.onnx"
    if file.exists():
        raise ConfigError(f"{file} exists, and nothing is overwritten. Choose another --out.")
    with plain_warnings(quiet=output.quiet):
        network = finite_model(Path(model), model=code)
        content = onnx_bytes(network)
        if network.is_coarse:
            text = (
                f"{shown(network.target)} is so far from 0 that float32 rounds predictions"
                " noticeably, and the file gives float32. Subtract a constant from it."
            )
            warnings.warn(text, stacklevel=1)
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
    inputs = ", ".join(map(shown, network.features))
    origin = "" if network.transform is None else f", made by {network.transform['function']}"
    show(
        f"{inputs} → {shown(network.target)}{origin}: {file}, {format_bytes(len(content))}",
        {
            "out": str(file),
            "bytes": len(content),
            "features": list(network.features),
            "target": network.target,
            "transform": network.transform,
        },
        as_json=output.json,
    )
