"""`streamtrain generate`."""

from typing import Annotated, Literal

from cyclopts import Parameter

from streamtrain.base.words import plural
from streamtrain.cli.config_layers import storage_options
from streamtrain.cli.flag_groups import (
    DATA,
    Output,
    ShardFormat,
    SpanRows,
    StorageOption,
    count,
    seed_flag,
)
from streamtrain.cli.terminal import plain_warnings, show
from streamtrain.types import Dataset

_KIND = "the target as a function of the features"
_NOISE = "standard deviation of the noise, as a multiple of the noiseless target's"
_SHIFT = (
    "standard deviation of a shift of the target shared by all rows of a span, in the same unit;"
    " for tests of shuffling"
)


def generate(
    out: Annotated[str, Parameter(help="a new or empty folder")],
    /,
    *,
    kind: Annotated[
        Literal["friedman2", "friedman3", "linear", "teacher"], Parameter(group=DATA, help=_KIND)
    ] = "friedman2",
    rows: Annotated[
        int,
        Parameter(
            group=DATA,
            metavar="N",
            converter=count,
            n_tokens=1,
            help="number of rows: 10M, 64Ki, 1e9",
        ),
    ] = 1_000_000,
    format: ShardFormat = "parquet",
    noise: Annotated[float, Parameter(group=DATA, metavar="X", help=_NOISE)] = 0.1,
    cluster_shift: Annotated[float, Parameter(group=DATA, metavar="S", help=_SHIFT)] = 0.0,
    span_rows: SpanRows = 262_144,
    seed: Annotated[int, seed_flag("rows")] = 0,
    storage_option: StorageOption = None,
    output: Output = Output(),
) -> None:
    """Make shards of four features and a target with a known noise floor.

    The noise floor is the loss that no model can beat.
    """
    import data_gen

    with plain_warnings(quiet=output.quiet):
        dataset = data_gen.generate(
            out,
            kind=kind,
            rows=rows,
            format=format,
            noise=noise,
            cluster_shift=cluster_shift,
            seed=seed,
            span_rows=span_rows,
            storage_options=storage_options(storage_option),
        )
    show(_text(dataset), _document(dataset), as_json=output.json)


def _text(dataset: Dataset) -> str:
    truth = dataset.truth
    assert truth is not None
    linear = ""
    if truth.best_linear_loss is not None:
        linear = f"; the best of a linear model {truth.best_linear_loss:.6g}"
    rows, shards = plural(dataset.num_rows, "row"), plural(len(dataset.shards), "shard")
    return (
        f"{rows} in {shards}: {dataset.url}\n"
        f"noise floor: the best possible loss is {truth.best_loss:.6g}{linear}"
    )


def _document(dataset: Dataset) -> dict[str, object]:
    assert dataset.truth is not None
    truth = {name: getattr(dataset.truth, name) for name in type(dataset.truth).__slots__}
    return {
        "out": dataset.url,
        "rows": dataset.num_rows,
        "shards": len(dataset.shards),
        "columns": list(dataset.columns),
        "truth": truth,
    }
