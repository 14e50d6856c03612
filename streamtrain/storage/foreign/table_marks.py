"""Recognise Delta, Iceberg and Hudi tables by their files; refuse to read them as plain folders.

The files of such a table also hold rows that were removed or replaced; its log says which are live.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import PurePosixPath
from typing import Literal, NoReturn

from streamtrain.errors import DataError, shown
from streamtrain.storage.remote.filesystem import is_folder, list_files
from streamtrain.storage.remote.urls import absolute_path, is_remote, is_web
from streamtrain.types import Storage

TableFormat = Literal["Delta", "Iceberg", "Hudi"]

_DELTA_LOG, _HOODIE, ICEBERG_METADATA = "_delta_log", ".hoodie", "metadata"
#: `v3.metadata.json`, `00003-<uuid>.metadata.json`, `v3.gz.metadata.json`
_METADATA_FILE = re.compile(r"v?\d[^/]*\.metadata\.json(\.gz)?")
#: Names that Spark, delta-rs and Iceberg give to data files.
_WRITTEN_BY_ENGINE = re.compile(r"(part-)?\d{5}-\d*-?[0-9a-f]{8}")
#: `table@v3` (Delta) and `table@5937117119577207000` (an Iceberg snapshot)
_VERSION = re.compile(r"(?P<path>.+)@v?(?P<version>\d{1,19})")


def split_version(path: str) -> tuple[str, int | None]:
    """Return a path without its version, and the version.

    >>> split_version("lake/rides@v3"), split_version("lake/rides")
    (('lake/rides', 3), ('lake/rides', None))
    """
    match = _VERSION.fullmatch(path)
    return (match["path"], int(match["version"])) if match else (path, None)


def is_iceberg_metadata(name: str) -> bool:
    """Return whether a file name is that of the metadata of one state of an Iceberg table."""
    return _METADATA_FILE.fullmatch(name) is not None


def format_of(folder: str, storage: Storage) -> TableFormat | None:
    """Return the format of the table whose root is `folder`; None where it is not a table.

    A remote folder costs up to three requests. Raises StoreError.
    """
    if not is_remote(folder):
        return _local_format(folder)
    if is_web(folder):
        return None
    if is_folder(f"{folder}/{_DELTA_LOG}", storage):
        return "Delta"
    if is_folder(f"{folder}/{_HOODIE}", storage):
        return "Hudi"
    if is_folder(f"{folder}/{ICEBERG_METADATA}", storage):
        names = list_files(f"{folder}/{ICEBERG_METADATA}", storage)
        return "Iceberg" if any(map(is_iceberg_metadata, names)) else None
    return None


def _local_format(folder: str) -> TableFormat | None:
    if os.path.isdir(os.path.join(folder, _DELTA_LOG)):
        return "Delta"
    if os.path.isdir(os.path.join(folder, _HOODIE)):
        return "Hudi"
    with suppress(OSError):
        if any(map(is_iceberg_metadata, os.listdir(os.path.join(folder, ICEBERG_METADATA)))):
            return "Iceberg"
    return None


def refuse_local_tables(path: str, found: Sequence[str]) -> None:
    """Raise DataError when a local path is a table or lies in one, or when a found file does.

    `found`: the files that the path means; links are looked at where they lead, too.
    """
    path = absolute_path(path)
    format_at = lru_cache(maxsize=None)(_local_format)  # neighbouring folders share their parents

    @cache
    def refuse_in(folder: str) -> None:
        for place in {folder, os.path.realpath(folder)}:
            for above in _up(place):
                if table := format_at(above):
                    _refuse(path, above, table)

    refuse_in(split_version(path)[0])
    for folder in dict.fromkeys(map(os.path.dirname, found)):
        refuse_in(os.path.abspath(folder))
    for file in found:
        if os.path.islink(file):
            refuse_in(os.path.dirname(os.path.realpath(file)))


def _up(path: str) -> Iterator[str]:
    """Yield an absolute path and its parents."""
    yield path
    while (parent := os.path.dirname(path)) != path:
        path = parent
        yield path


def refuse_listed_tables(path: str, root: str, names: Iterable[str], found: Iterable[str]) -> None:
    """Raise DataError when a remote folder is a table, or when a found file lies in one below it.

    `names`: all files below `root`; `found`: the URLs that `path` means.
    """
    tables: dict[str, TableFormat] = {}
    for folder, table in _listed_tables(names):
        if table == "Delta" or folder not in tables:  # Delta tables can have Iceberg's files, too
            tables[folder] = table
    if "" in tables:
        _refuse(path, root, tables[""])
    for url in found if tables else ():
        for parent in PurePosixPath(url.removeprefix(f"{root}/")).parents:
            if table := tables.get(str(parent)):
                _refuse(path, f"{root}/{parent}", table)


def _listed_tables(names: Iterable[str]) -> Iterator[tuple[str, TableFormat]]:
    """Yield (folder, format) of the tables in a listing; the folder of the listing is empty."""
    for name in names:
        *folders, file = name.split("/")
        if _DELTA_LOG in folders:
            yield "/".join(folders[: folders.index(_DELTA_LOG)]), "Delta"
        elif _HOODIE in folders:
            yield "/".join(folders[: folders.index(_HOODIE)]), "Hudi"
        elif folders[-1:] == [ICEBERG_METADATA] and is_iceberg_metadata(file):
            yield "/".join(folders[:-1]), "Iceberg"


def refuse_remote_table(url: str, storage: Storage) -> None:
    """Raise DataError when a remote path lies in a table, as far as its name suggests one.

    Only folders above a partition (`day=3`), above `data/`, and those of files with the names that
    engines give are looked at: each costs requests.
    """
    if is_web(url):
        return
    parts = url.split("/")
    by_engine = bool(_WRITTEN_BY_ENGINE.match(parts[-1]))
    partition = next((i for i, part in enumerate(parts) if i > 3 and "=" in part), None)
    ends = {partition, len(parts) - 1 if by_engine else None}
    ends |= {i for i, part in enumerate(parts) if part == "data" and (by_engine or partition)}
    for end in sorted(end for end in ends if end and end > 3):
        folder = "/".join(parts[:end])
        if table := format_of(folder, storage):
            _refuse(url, folder, table)


def _refuse(path: str, root: str, table: TableFormat) -> NoReturn:
    raise DataError(table_message(path, root, table))


def table_message(path: str, root: str, table: TableFormat) -> str:
    """Return the error message for a path that is, lies in, or contains a table."""
    base = split_version(path)[0]
    if base == root:
        subject = f"{shown(path)}: {_article(table)} {table} table"
    else:
        relation = "lies in" if base.startswith(f"{root}/") else "reaches into"
        subject = f"{shown(path)}: {relation} the {table} table {shown(root)}"
    if table == "Hudi":
        return (
            f"{subject}, a format that is not read: its files also hold replaced rows. Write its"
            " current rows as Parquet with Spark, and name that folder."
        )
    source = path if base == root else root
    return (
        f"{subject}, whose files also hold removed and replaced rows. Run streamtrain ingest"
        f" {shown(source)} OUT --target NAME, which reads the live rows, then use OUT."
    )


def _article(table: TableFormat) -> str:
    return "an" if table == "Iceberg" else "a"
