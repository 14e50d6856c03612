"""`streamtrain ingest`."""

from typing import Annotated, Literal

from cyclopts import Parameter

from streamtrain.cli.config_layers import storage_options
from streamtrain.cli.flag_groups import DATA, Features, Output, SpanRows, StorageOption, Target
from streamtrain.cli.terminal import plain_warnings, plural, show


def ingest(
    source: Annotated[
        str, Parameter(help="CSV, Parquet, Arrow or Zarr: a file, a folder or a glob")
    ],
    out: Annotated[str, Parameter(help="a folder that is empty or absent")],
    /,
    *,
    format: Annotated[
        Literal["parquet", "zarr"], Parameter(group=DATA, help="of the shards")
    ] = "parquet",
    target: Target = None,
    features: Features = None,
    span_rows: SpanRows = 262_144,
    storage_option: StorageOption = None,
    output: Output = Output(),
) -> None:
    """Turn data into shards with checksums, good row groups and a manifest; the target becomes the
    last column.
    """
    from streamtrain.storage.write.ingest import ingest as ingest_data

    names = [name.strip() for name in features.split(",")] if features else None
    with plain_warnings(quiet=output.quiet):
        dataset = ingest_data(
            source,
            out,
            format=format,
            features=names,
            target=target,
            span_rows=span_rows,
            storage_options=storage_options(storage_option),
        )
    columns = ", ".join(dataset.features)
    size = (
        f"{plural(dataset.num_rows, 'row')} in {plural(len(dataset.shards), 'shard')}:"
        f" {dataset.url}"
    )
    document = {
        "out": dataset.url,
        "rows": dataset.num_rows,
        "shards": len(dataset.shards),
        "columns": list(dataset.columns),
    }
    show(f"{size}\ncolumns: {columns} → {dataset.target}", document, as_json=output.json)
