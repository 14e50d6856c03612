"""`streamtrain predict` and `evaluate`: a trained model on a data set."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from cyclopts import Parameter

from streamtrain.cli.config_layers import storage_options
from streamtrain.cli.flag_groups import DATA, GLOBAL, Output, StorageOption
from streamtrain.cli.terminal import note, plain_warnings, plural, show, table, writing

_OUT = "the Parquet file; left out: predictions.parquet in runs/predict-<date>-<n>"
_ON_NULL = (
    "null, NaN or infinite values: refuse them, or leave their rows out; left out: as the model was"
    " trained"
)
Model = Annotated[str, Parameter(help="the directory that `train` wrote")]
OnNull = Annotated[
    Literal["error", "drop"] | None, Parameter(group=DATA, show_default=False, help=_ON_NULL)
]


def predict(
    model: Model,
    data: Annotated[
        str, Parameter(help="a file, a folder or a glob of shards with the model's feature columns")
    ],
    /,
    *,
    on_null: OnNull = None,
    out: Annotated[
        str | None,
        Parameter(
            name=("--out", "-o"), group=GLOBAL, metavar="FILE", show_default=False, help=_OUT
        ),
    ] = None,
    storage_option: StorageOption = None,
    output: Output = Output(),
) -> None:
    """Write a trained model's predictions as Parquet, each with its row id."""
    from streamtrain import api

    file = Path(out) if out else api.default_out("predict") / "predictions.parquet"
    with plain_warnings(quiet=output.quiet), writing(file):
        done = api.predict(
            Path(model),
            data,
            file,
            on_null=on_null or trained_on_null(model),
            storage_options=storage_options(storage_option),
        )
    _tell_dropped(done["dropped"], quiet=output.quiet)
    show(
        f"{plural(done['rows'], 'prediction')}: {file}",
        {**done, "out": str(file)},
        as_json=output.json,
    )


def evaluate(
    model: Model,
    data: Annotated[str, Parameter(help="shards with the model's feature columns and its target")],
    /,
    *,
    on_null: OnNull = None,
    storage_option: StorageOption = None,
    output: Output = Output(),
) -> None:
    """Say how well a trained model does on a data set that it was not trained on."""
    from streamtrain import api

    with plain_warnings(quiet=output.quiet):
        document = api.evaluate(
            Path(model),
            data,
            on_null=on_null or trained_on_null(model),
            storage_options=storage_options(storage_option),
        )
    _tell_dropped(document["dropped"], quiet=output.quiet)
    show(page(document), document, as_json=output.json)


def page(document: dict[str, Any]) -> str:
    """The errors, beside those of the best constant."""
    if document["loss"] is None:
        loss = f"none: {document['target']} is constant here"
    else:
        loss = (
            f"{document['loss']:.6g}  (share of the target's variance here that is left; the best"
            " constant's is 1)"
        )
    return table(
        [
            ["rows", f"{document['rows']:,}"],
            ["loss", loss],
            [
                "rmse",
                (
                    f"{document['rmse']:.6g}  (in units of {document['target']}; the best"
                    f" constant's is {document['best_constant_rmse']:.6g})"
                ),
            ],
            ["mae", f"{document['mae']:.6g}"],
        ]
    )


def trained_on_null(model: str) -> Literal["error", "drop"]:
    """The policy of the run that made the model, as far as it can be had without its data: a
    dropped row has no prediction.
    """
    try:
        config = yaml.safe_load((Path(model) / "config.resolved.yaml").read_text(encoding="utf-8"))
        return "drop" if config["data"]["on_null"] == "drop" else "error"
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return "error"


def _tell_dropped(dropped: int, *, quiet: bool) -> None:
    if dropped and not quiet:
        note(
            f"warning: {plural(dropped, 'row')} left out: a null, NaN or infinite value."
            " [--on-null]"
        )
