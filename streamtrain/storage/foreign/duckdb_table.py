"""Tables and queries of a DuckDB database, streamed as Arrow batches."""

import os
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import pyarrow as pa

from streamtrain.errors import DataError, shown
from streamtrain.storage.foreign.foreign_source import DUCKDB, ForeignSource
from streamtrain.storage.foreign.foreign_table import (
    BATCH_ROWS,
    ForeignTable,
    library_errors,
    missing_extra,
)


def open_duckdb(source: ForeignSource) -> ForeignTable:
    """Open a table, or a query, of a DuckDB file; without either, its only table.

    The file is opened for reading only, and anew for each pass.

    Raises DataError when there is no such file or table, and ConfigError when duckdb is not
    installed.
    """
    try:
        import duckdb
    except ImportError:
        raise missing_extra(source, "duckdb", "duckdb") from None
    if not os.path.isfile(source.url):
        raise DataError(f"{source.name}: no such file. Correct the path.")
    with _connected(duckdb, source) as connection:
        selection = _selection(connection, source)
        reader = connection.sql(f"SELECT * FROM {selection}").to_arrow_reader(1)
        schema = reader.schema
        reader.close()

    def batches(chosen: Sequence[str]) -> Generator[pa.RecordBatch, None, None]:
        columns = ", ".join(map(_quoted, chosen))
        with _connected(duckdb, source) as connection:
            query = connection.sql(f"SELECT {columns} FROM {selection}")
            with closing(query.to_arrow_reader(BATCH_ROWS)) as reader:
                yield from reader

    return ForeignTable(name=source.name, schema=schema, batches=batches)


@contextmanager
def _connected(duckdb: Any, source: ForeignSource) -> Iterator[Any]:
    # what a sort spills would otherwise be written beside the database
    config = {"temp_directory": tempfile.gettempdir()}
    with (
        library_errors(source),
        closing(duckdb.connect(source.url, read_only=True, config=config)) as connection,
    ):
        yield connection


def _selection(connection: Any, source: ForeignSource) -> str:
    """Return what to select from: a quoted table, or the query in parentheses."""
    if source.query:
        return f"({source.query.strip().rstrip(';')}\n)"  # a comment may end the query
    tables: list[tuple[str, str]] = connection.execute(
        "SELECT table_schema, table_name FROM information_schema.tables"
        " WHERE table_catalog = current_database() ORDER BY ALL"
    ).fetchall()
    names = {name if schema == "main" else f"{schema}.{name}": (schema, name)
             for schema, name in tables}  # fmt: skip
    if not source.table and len(names) == 1:
        return ".".join(map(_quoted, tables[0]))
    if source.table in names:
        return ".".join(map(_quoted, names[source.table]))
    fault = f"no table {shown(source.table)!r}" if source.table else "name a table"
    listed = ", ".join(map(shown, names)) or "none"
    raise DataError(
        f"{source.name}: {fault}; it has {listed}. Write {DUCKDB}{source.url}?table=NAME, or"
        " ?query=SELECT …"
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
