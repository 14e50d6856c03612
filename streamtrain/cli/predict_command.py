"""`streamtrain predict` and `evaluate`: a trained model on a data set."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from streamtrain.base.words import aligned, plural
from streamtrain.cli.config_layers import kept_layer, storage_options
from streamtrain.cli.flag_groups import (
    DATA,
    GLOBAL,
    TRAINING,
    Output,
    StorageOption,
    TextFlags,
    reading,
)
from streamtrain.cli.terminal import note, plain_warnings, show, writing
from streamtrain.config import RESOLVED
from streamtrain.errors import shown

_OUT = "the file, .parquet or .csv; default: predictions.parquet in runs/predict-<date>-<n>"
_ON_NULL = (
    "rows with null, NaN or infinite values: refuse or drop them; default: as the model was trained"
)
_MODEL = "module:function that the model was trained with: it is imported only if named here"
_TRANSFORM = "module:function that made its features: it is imported only if named here"
Model = Annotated[str, Parameter(help="the directory of a `train` run")]
ModelCode = Annotated[
    str | None,
    Parameter(name="--model", group=TRAINING, show_default=False, metavar="M:F", help=_MODEL),
]
TransformCode = Annotated[
    str | None,
    Parameter(name="--transform", group=DATA, show_default=False, metavar="M:F", help=_TRANSFORM),
]
OnNull = Annotated[
    Literal["error", "drop"] | None, Parameter(group=DATA, show_default=False, help=_ON_NULL)
]


def predict(
    model: Model,
    data: Annotated[
        str,
        Parameter(
            help="a file, a folder or a glob with the model's feature columns: shards, CSV, …"
        ),
    ],
    /,
    *,
    code: ModelCode = None,
    transform: TransformCode = None,
    on_null: OnNull = None,
    out: Annotated[
        str | None,
        Parameter(
            name=("--out", "-o"), group=GLOBAL, metavar="FILE", show_default=False, help=_OUT
        ),
    ] = None,
    storage_option: StorageOption = None,
    texts: TextFlags = TextFlags(),
    output: Output = Output(),
) -> None:
    """Write a trained model's predictions as Parquet or CSV, with row ids."""
    from streamtrain.run.open_run import new_folder
    from streamtrain.run.predict import predict as write_predictions

    with ExitStack() as stack:
        folder = Path() if out else stack.enter_context(new_folder("predict"))
        file = folder / (out or "predictions.parquet")
        stack.enter_context(plain_warnings(quiet=output.quiet))
        stack.enter_context(writing(file))
        counts = write_predictions(
            Path(model),
            data,
            file,
            model=code,
            transform=transform,
            on_null=on_null or trained_on_null(model),
            storage_options=storage_options(storage_option),
            reading=reading(texts),
        )
    _warn_of_dropped(counts["dropped"], quiet=output.quiet)
    show(
        f"{plural(counts['rows'], 'prediction')}: {file}",
        {**counts, "out": str(file)},
        as_json=output.json,
    )


def evaluate(
    model: Model,
    data: Annotated[
        str, Parameter(help="data with the model's feature columns and its target: shards, CSV, …")
    ],
    /,
    *,
    code: ModelCode = None,
    transform: TransformCode = None,
    on_null: OnNull = None,
    storage_option: StorageOption = None,
    texts: TextFlags = TextFlags(),
    output: Output = Output(),
) -> None:
    """Show the errors of a trained model on a data set that it was not trained on."""
    from streamtrain.run.predict import evaluate as compute_errors

    with plain_warnings(quiet=output.quiet):
        document = compute_errors(
            Path(model),
            data,
            model=code,
            transform=transform,
            on_null=on_null or trained_on_null(model),
            storage_options=storage_options(storage_option),
            reading=reading(texts),
        )
    _warn_of_dropped(document["dropped"], quiet=output.quiet)
    show(page(document), document, as_json=output.json)


def page(document: dict[str, Any]) -> str:
    """Return the errors of a model, compared with the errors of the best constant."""
    target = shown(document["target"])
    if document["loss"] is None:
        loss = f"none: {target} is constant in this data"
    else:
        loss = (
            f"{document['loss']:.6g}  (fraction of the target's variance in this data that is left;"
            " the best constant has 1)"
        )
    best_constant_rmse = f"{document['best_constant_rmse']:.6g}"
    rmse = (
        f"{document['rmse']:.6g}  (in units of {target}; the best constant has"
        f" {best_constant_rmse})"
    )
    return aligned(
        [
            ["rows", f"{document['rows']:,}"],
            ["loss", loss],
            ["rmse", rmse],
            ["mae", f"{document['mae']:.6g}"],
        ]
    )


def trained_on_null(model: str) -> Literal["error", "drop"]:
    """Return the null policy for a model's predictions, from the config of its run.

    `drop` if the run dropped rows; otherwise, or without a config, `error`. A model that was
    trained with `impute` fills values itself. The model of the smallest loss, in the folder best of
    a run, has that of the run. Raises DataError for a damaged config.
    """
    folder = Path(model)
    path = folder / RESOLVED
    if not path.exists() and folder.name == "best":
        path = folder.parent / RESOLVED
    if not path.exists():
        return "error"
    setting = kept_layer(str(path)).get("data.on_null")
    return "drop" if setting is not None and setting.value == "drop" else "error"


def _warn_of_dropped(dropped: int, *, quiet: bool) -> None:
    if dropped and not quiet:
        note(
            f"warning: {plural(dropped, 'row')} dropped, with a null, NaN or infinite value."
            " [--on-null]"
        )
