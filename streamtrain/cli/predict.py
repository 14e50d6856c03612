"""`streamtrain predict`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from streamtrain.cli.flags import GLOBAL, Output
from streamtrain.cli.terminal import plain_warnings, plural, show

_OUT = "the Parquet file; left out: predictions.parquet in runs/predict-<date>-<n>"


def predict(
    model: Annotated[str, Parameter(help="the directory that `train` wrote")],
    data: Annotated[str, Parameter(help="a file, a folder or a glob of shards with the model's feature columns")], /, *,
    out: Annotated[str | None, Parameter(name=("--out", "-o"), group=GLOBAL, metavar="FILE", show_default=False, help=_OUT)] = None,
    output: Output = Output(),
) -> None:  # fmt: skip
    """Write a trained model's predictions as Parquet, each with its row id."""
    from streamtrain import api

    file = Path(out) if out else api.default_out("predict") / "predictions.parquet"
    with plain_warnings(quiet=output.quiet):
        rows = api.predict(Path(model), data, file)
    show(f"{plural(rows, 'prediction')}: {file}", {"rows": rows, "out": str(file)}, as_json=output.json)
