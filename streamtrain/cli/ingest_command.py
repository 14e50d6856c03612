"""`streamtrain ingest`."""

from typing import Annotated, Literal

from cyclopts import Parameter

from streamtrain.base.words import plural
from streamtrain.cli.config_layers import storage_options
from streamtrain.cli.flag_groups import (
    DATA,
    Features,
    Output,
    SpanRows,
    StorageOption,
    Target,
    column_names,
)
from streamtrain.cli.terminal import plain_warnings, show


def ingest(
    source: Annotated[
        str,
        Parameter(
            help="CSV, Parquet, Arrow or Zarr: a file, a folder or a glob; a Delta or Iceberg table"
            " (of a version: TABLE@v3); duckdb:FILE?table=NAME or ?query=SELECT …"
        ),
    ],
    out: Annotated[str, Parameter(help="a new or empty folder")],
    /,
    *,
    format: Annotated[
        Literal["parquet", "zarr"], Parameter(group=DATA, help="format of the shards")
    ] = "parquet",
    target: Target = None,
    features: Features = None,
    span_rows: SpanRows = 262_144,
    storage_option: StorageOption = None,
    output: Output = Output(),
) -> None:
    """Convert data to shards with checksums, good row groups and a manifest.

    The target becomes the last column.
    """
    from streamtrain.storage.write.ingest import ingest as ingest_data

    with plain_warnings(quiet=output.quiet):
        dataset = ingest_data(
            source,
            out,
            format=format,
            features=column_names(features),
            target=target,
            span_rows=span_rows,
            storage_options=storage_options(storage_option),
        )
    columns = ", ".join(dataset.features)
    rows, shards = plural(dataset.num_rows, "row"), plural(len(dataset.shards), "shard")
    document = {
        "out": dataset.url,
        "rows": dataset.num_rows,
        "shards": len(dataset.shards),
        "columns": list(dataset.columns),
    }
    text = f"{rows} in {shards}: {dataset.url}\ncolumns: {columns} → {dataset.target}"
    show(text, document, as_json=output.json)
