"""Which files are tables that only `open_tables` reads, and which are shards: by their names.

Text files (CSV and its kin, JSON lines) and Arrow files are tables. A `.txt` file is one where it
has fields; else it is a list of files.
"""

import glob
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from streamtrain.base.redact import redact_url
from streamtrain.errors import DataError
from streamtrain.storage.locate import LIST_SUFFIX, NothingFound, locate, read_list
from streamtrain.storage.remote.filesystem import open_filesystem, web_mark
from streamtrain.storage.remote.remote_file import as_store_error
from streamtrain.storage.remote.store_options import take_query
from streamtrain.storage.remote.urls import absolute_path, is_remote, is_web, normal_url, split
from streamtrain.types import LOCAL, Storage

COMPRESSED = (".gz", ".bz2", ".xz", ".zip", ".zst", ".lz4")
_FIELDS = (".csv", ".tsv", ".tab", ".data", ".dat")
_LINES = (".jsonl", ".ndjson")


def _also_compressed(suffixes: Sequence[str]) -> tuple[str, ...]:
    return tuple(suffix + more for suffix in suffixes for more in ("", *COMPRESSED))


CSV_SUFFIXES = (
    *_also_compressed(_FIELDS),
    *(LIST_SUFFIX + more for more in COMPRESSED),
)
JSON_SUFFIXES = _also_compressed(_LINES)
#: A table where it is named; in a folder it is more often a description of the others.
NAMED_SUFFIXES = _also_compressed((".json",))
ARROW_SUFFIXES = (".arrow", ".feather", ".ipc")
TABLE_SUFFIXES = (*CSV_SUFFIXES, *JSON_SUFFIXES, *ARROW_SUFFIXES)

Kind = Literal["CSV", "JSON lines", "Arrow", "Parquet or Zarr"]
SHARDS: Kind = "Parquet or Zarr"

#: Bytes of a `.txt` file that are read to distinguish it from a list of files.
_HEAD_BYTES = 65_536
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")


def kind_of(path: str) -> Kind:
    """Return the kind of a file by its suffix; a file that starts like Parquet is Parquet."""
    name = path.lower()
    if not name.endswith((*TABLE_SUFFIXES, *NAMED_SUFFIXES, LIST_SUFFIX)) or os.path.isdir(path):
        return SHARDS
    if not is_remote(path) and _starts_like_parquet(path):
        return SHARDS
    if name.endswith((*JSON_SUFFIXES, *NAMED_SUFFIXES)):
        return "JSON lines"
    return "Arrow" if name.endswith(ARROW_SUFFIXES) else "CSV"


def is_table(path: str) -> bool:
    """Return whether a path, as `normal_url` returns it, is a file that is by its name no shard."""
    if path.lower().endswith(LIST_SUFFIX):
        return has_fields(path)
    exists = not glob.has_magic(path) if is_remote(path) else os.path.isfile(path)
    named = path.lower().endswith((*TABLE_SUFFIXES, *NAMED_SUFFIXES))
    return exists and named and kind_of(path) != SHARDS


def find_files(path: str, storage: Storage = LOCAL) -> tuple[list[str], Storage]:
    """Return the tables, or else the shards, that a path means, and the storage to read them with.

    In a folder that has shards, other files are not part of the data set.

    Raises DataError as `locate` does, and when kinds of files are mixed.
    """
    path, storage = take_query(path, storage)
    path = normal_url(path)
    if is_table(path):
        return [path], storage
    if (listed := read_list(path, storage)) is not None:
        paths, storage = listed
    else:
        paths = locate_data(path, storage)
    kinds = sorted(set(map(kind_of, paths)))
    if len(kinds) > 1:
        raise DataError(
            f"{path}: contains {' and '.join(kinds)} files. Choose one kind with a glob."
        )
    return paths, storage


def locate_data(path: str, storage: Storage = LOCAL) -> list[str]:
    """Return the shards that a path means, or the tables in a folder without shards.

    Raises DataError as `locate` does.
    """
    try:
        return locate(path, storage=storage)
    except NothingFound:
        with suppress(NothingFound):
            found = locate(path, TABLE_SUFFIXES, storage)
            if tables := [url for url in found if kind_of(url) != SHARDS]:
                return tables
        raise


def stamp(url: str, storage: Storage = LOCAL) -> list[object]:
    """Return what changes when a file does, as JSON; of a folder, that of all files below it.

    Where a web server gives a file neither an ETag nor a date, its stamp is the time of the call.
    """
    if is_web(url):
        query = dict(storage.queries).get(url)  # may choose the rows
        return [redact_url(url), query, *(web_mark(url, storage) or [time.time_ns()])]
    if is_remote(url):
        scheme, path = split(url)
        with as_store_error(url, storage):
            info = open_filesystem(scheme, storage).get_file_info([path])[0]
        return [url, info.size, info.mtime_ns]
    if not os.path.isdir(url):
        status = os.stat(url)
        return [absolute_path(url), status.st_size, status.st_mtime_ns]
    files = sorted(file for file in Path(url).rglob("*") if file.is_file())
    return [url, *(stamp(str(file)) for file in files)]


def _starts_like_parquet(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4) in (b"PAR1", b"PARE")
    except OSError:
        return False


def has_fields(path: str) -> bool:
    """Return whether a local `.txt` file has fields with numbers, rather than names of files."""
    if is_remote(path) or not path.lower().endswith(LIST_SUFFIX) or not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    lines = [line.strip() for line in head.replace(b"\0", b"").decode("latin-1").splitlines()[:200]]
    lines = [line for line in lines if line and not line.startswith("#")]
    folder = os.path.dirname(path)
    if any(is_remote(line) or os.path.exists(os.path.join(folder, line)) for line in lines):
        return False
    if any(line.lower().endswith((".parquet", ".zarr", *TABLE_SUFFIXES)) for line in lines):
        return False
    fields = [re.split(r'[,;\t|"]|\s+', line) for line in lines]
    return any(len(row) > 1 and any(map(_NUMBER.fullmatch, row)) for row in fields)
