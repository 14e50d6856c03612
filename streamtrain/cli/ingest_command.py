"""`streamtrain ingest`."""

from typing import Annotated

from cyclopts import Parameter

from streamtrain.base.words import plural
from streamtrain.cli.config_layers import storage_options
from streamtrain.cli.flag_groups import (
    DATA,
    Features,
    Output,
    ShardFormat,
    ShuffleMemory,
    SpanRows,
    StorageOption,
    Target,
    TextFlags,
    column_names,
    reading,
    seed_flag,
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
    format: ShardFormat = "parquet",
    target: Target = None,
    features: Features = None,
    span_rows: SpanRows = 262_144,
    shuffle: Annotated[
        bool,
        Parameter(
            group=DATA,
            help="shuffle all rows, in files beside OUT where memory does not hold them;"
            " --no-shuffle keeps their order",
        ),
    ] = True,
    seed: Annotated[int, seed_flag("order")] = 0,
    memory: ShuffleMemory = None,
    storage_option: StorageOption = None,
    texts: TextFlags = TextFlags(),
    output: Output = Output(),
) -> None:
    """Convert data to shards with checksums, good row groups and a manifest, in random order.

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
            shuffle_seed=seed if shuffle else None,
            memory=memory,
            storage_options=storage_options(storage_option),
            reading=reading(texts),
        )
    columns = ", ".join(dataset.features)
    rows, shards = plural(dataset.num_rows, "row"), plural(len(dataset.shards), "shard")
    document = {
        "out": dataset.url,
        "rows": dataset.num_rows,
        "shards": len(dataset.shards),
        "columns": list(dataset.columns),
        "shuffle_seed": seed if shuffle else None,
    }
    order = f"shuffled by seed {seed}" if shuffle else "in the order of the source"
    text = f"{rows} in {shards}, {order}: {dataset.url}\ncolumns: {columns} → {dataset.target}"
    show(text, document, as_json=output.json)
