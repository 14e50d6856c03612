"""Which sources are read by another library: tables of a warehouse, and DuckDB databases.

Nothing here imports that library, so any verb can ask before it opens its data.
"""

import os
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from streamtrain.errors import ConfigError, DataError, shown
from streamtrain.storage.foreign.table_marks import (
    ICEBERG_METADATA,
    TableFormat,
    format_of,
    is_iceberg_metadata,
    split_version,
    table_message,
)
from streamtrain.storage.remote.filesystem import file_size, list_files
from streamtrain.storage.remote.store_options import take_query
from streamtrain.storage.remote.urls import absolute_path, is_remote, normal_url
from streamtrain.types import LOCAL, Storage

DUCKDB = "duckdb:"
_DUCKDB_SUFFIX = ".duckdb"
_DUCKDB_FORM = "duckdb:FILE?table=NAME or duckdb:FILE?query=SELECT …"
#: Files with these suffixes are no folders: no request asks whether they are tables.
_FILE_SUFFIXES = (".parquet", ".csv", ".gz", ".arrow", ".feather", ".ipc", ".txt", ".zarr")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignSource:
    """A source that another library reads.

    Attributes:
        kind: Whose library.
        name: The source as it was named, with an absolute path.
        url: Root of the table, Iceberg's metadata file, or the database.
        version: Version of a Delta table or snapshot of an Iceberg table; None for the newest.
        table: Table of a database; empty where there is a query, or only one table.
        query: Query of a database.
        storage: How to access the URL if it is remote.
    """

    kind: TableFormat | Literal["DuckDB"]
    name: str
    url: str
    version: int | None = None
    table: str = ""
    query: str = ""
    storage: Storage = LOCAL


def find_foreign(source: str, storage: Storage = LOCAL) -> ForeignSource | None:
    """Return the source if another library reads it; None for files that streamtrain reads.

    Raises DataError for a Hudi table, ConfigError for a database without a table or with both a
    table and a query, and StoreError.
    """
    if (named := split_database(source)) is not None:
        return _database(source, *named)
    path, storage = take_query(source, storage)
    path = normal_url(path)
    if not is_remote(path) and path.endswith(_DUCKDB_SUFFIX) and os.path.isfile(path):
        return ForeignSource(kind="DuckDB", name=f"{DUCKDB}{path}", url=path)
    folder, file = os.path.split(path)
    if is_iceberg_metadata(file) and os.path.basename(folder) == ICEBERG_METADATA:
        return ForeignSource(kind="Iceberg", name=path, url=path, storage=storage)
    if path.lower().endswith(_FILE_SUFFIXES) or (not is_remote(path) and os.path.isfile(path)):
        return None
    table, root, version = format_of(path, storage), path, None
    if table is None and not (os.path.exists(path) and not is_remote(path)):
        root, version = split_version(path)
        table = format_of(root, storage) if version is not None else None
    if table is None:
        return None
    if table == "Hudi":
        raise DataError(table_message(path, root, table))
    return ForeignSource(kind=table, name=path, url=root, version=version, storage=storage)


def split_database(source: str) -> tuple[str, str] | None:
    """Return the file and the settings of a `duckdb:` source; None for any other.

    >>> split_database("duckdb:a.db?table=t"), split_database("duckdb:a.db"), split_database("a.db")
    (('a.db', 'table=t'), ('a.db', ''), None)
    """
    if not source.startswith(DUCKDB):
        return None
    path, _, settings = source.removeprefix(DUCKDB).partition("?")
    return path, settings


def absolute_source(source: str) -> str:
    """Return a source with an absolute path; a URL of a store as it is.

    >>> absolute_source("duckdb:/a/../b.db?table=t"), absolute_source("s3://lake/rides")
    ('duckdb:/b.db?table=t', 's3://lake/rides')
    """
    if (named := split_database(source)) is not None:
        path, settings = named
        return f"{DUCKDB}{absolute_path(path)}{'?' if settings else ''}{settings}"
    path = normal_url(source)
    return source if is_remote(path) else path


def source_version(source: str, storage: Storage = LOCAL) -> str:
    """Return a text that changes whenever the rows of a foreign source may have changed.

    It is read from names, sizes and times of a few files; the library is not needed.

    Raises DataError when the source is not foreign, and StoreError.
    """
    found = find_foreign(source, storage)
    if found is None:
        raise DataError(f"{shown(source)}: not a Delta or Iceberg table, and no database.")
    if found.kind == "DuckDB":
        marks = [_mark(found.url), _mark(f"{found.url}.wal")]
        return " ".join(["DuckDB", *marks, found.table, found.query])
    if found.kind == "Delta":
        folder, names = _log(found, "_delta_log")
        names = [name for name in names if name[:1].isdigit() and "/" not in name]
        if found.version is not None:
            pinned = f"{found.version:020}.json"
            names = [pinned] if pinned in names else names
    elif is_iceberg_metadata(os.path.basename(found.url)):
        folder, names = os.path.split(found.url)[0], [os.path.basename(found.url)]
    else:
        folder, names = _log(found, ICEBERG_METADATA)
        names = [name for name in names if is_iceberg_metadata(name) or name == "version-hint.text"]
    newest = max(names, default="")
    mark = _mark(f"{folder}/{newest}", found.storage) if newest else ""
    return f"{found.kind} {'' if found.version is None else found.version} {newest} {mark}"


def _log(found: ForeignSource, name: str) -> tuple[str, list[str]]:
    folder = f"{found.url}/{name}"
    if is_remote(folder):
        return folder, list(list_files(folder, found.storage))
    return folder, os.listdir(folder)


def _mark(url: str, storage: Storage = LOCAL) -> str:
    if is_remote(url):
        return str(file_size(url, storage))
    if not os.path.exists(url):
        return "-"
    status = os.stat(url)
    return f"{status.st_size}/{status.st_mtime_ns}"


def _database(source: str, path: str, settings: str) -> ForeignSource:
    key, _, value = settings.partition("=")
    if not path or (settings and (key not in ("table", "query") or not value)):
        raise ConfigError(f"{shown(source)}: not of the form {_DUCKDB_FORM}.")
    path = absolute_path(path)
    return ForeignSource(
        kind="DuckDB",
        name=f"{DUCKDB}{path}{'?' if settings else ''}{settings}",
        url=path,
        table=unquote(value) if key == "table" else "",
        query=value if key == "query" else "",
    )
