"""Delta tables, read by deltalake: it applies deletion vectors, column mapping and partitions."""

import json
from collections.abc import Generator, Sequence
from os.path import basename
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from streamtrain.errors import ConfigError, DataError
from streamtrain.storage.foreign.foreign_source import ForeignSource
from streamtrain.storage.foreign.foreign_table import (
    BATCH_ROWS,
    ForeignTable,
    library_errors,
    missing_extra,
)
from streamtrain.storage.remote.filesystem import open_binary
from streamtrain.storage.remote.store_options import OBSTORE, OPTION_NAMES, client_options
from streamtrain.storage.remote.urls import is_remote
from streamtrain.types import Storage

#: One partition, so that files come one after another, always in the order of the log. pyarrow's
#: data set of deltalake is not used: it neither applies nor notices what DataFusion applies.
_SESSION = {
    "datafusion.execution.target_partitions": "1",
    "datafusion.execution.batch_size": str(BATCH_ROWS),
}


def open_delta(source: ForeignSource) -> ForeignTable:
    """Open a Delta table at its newest version, or at the one that the source names.

    Raises DataError when it cannot be read, and ConfigError when deltalake is not installed.
    """
    try:
        import deltalake
    except ImportError:
        raise missing_extra(source, "deltalake", "delta") from None
    options = _options(source.url, source.storage)
    with library_errors(source):
        newest = deltalake.DeltaTable(source.url, storage_options=options).version()
        if source.version is not None and source.version > newest:
            raise DataError(
                f"{source.name}: the newest version is {newest}. Name one of 0 to {newest}."
            )
        table = deltalake.DeltaTable(source.url, version=source.version, storage_options=options)
        if table.metadata().configuration.get("delta.columnMapping.mode") == "id":
            _refuse_other_names(source, table)
        schema = _query(deltalake, table, "*", " LIMIT 0").schema

    def batches(chosen: Sequence[str]) -> Generator[pa.RecordBatch, None, None]:
        columns = ", ".join(f'"{name.replace(chr(34), chr(34) * 2)}"' for name in chosen)
        with library_errors(source):
            yield from _query(deltalake, table, columns)

    return ForeignTable(name=source.name, schema=schema, batches=batches)


def _refuse_other_names(source: ForeignSource, table: Any) -> None:
    """Refuse files whose columns can be found by id only: deltalake would read them as nulls."""
    columns = [field["metadata"] for field in json.loads(table.schema().to_json())["fields"]]
    physical = {
        str(each["delta.columnMapping.id"]): each["delta.columnMapping.physicalName"]
        for each in columns
    }
    for url in table.file_uris():
        with open_binary(url, source.storage) if is_remote(url) else open(url, "rb") as file:
            fields = pq.read_schema(file)
        for field in fields:
            name = physical.get((field.metadata or {}).get(b"PARQUET:field_id", b"").decode())
            if name is not None and name != field.name:
                raise DataError(
                    f"{source.name}: column {field.name!r} of {basename(url)} can be found by its"
                    " id only (column mapping by id), which deltalake does not support. Rewrite the"
                    " table with column mapping by name."
                )


def _query(deltalake: Any, table: Any, columns: str, limit: str = "") -> pa.RecordBatchReader:
    builder = deltalake.QueryBuilder(_SESSION).register("rows", table)
    return pa.RecordBatchReader.from_stream(builder.execute(f"SELECT {columns} FROM rows{limit}"))


def _options(url: str, storage: Storage) -> dict[str, str] | None:
    """Return the storage options under the names of deltalake, which are obstore's, as text.

    Raises ConfigError for an option that does not apply.
    """
    scheme = url.partition("://")[0]
    if not is_remote(url):
        return None
    if scheme not in OPTION_NAMES:
        raise ConfigError(
            f"{scheme}://: Delta tables are read from disks, s3://, gs:// and az://. Copy it."
        )
    options = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in client_options(scheme, storage, OBSTORE).items()
    }
    return options | {"allow_http": "true"}
