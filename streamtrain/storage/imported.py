"""Tables that are not shards, imported as shards into the user's cache folder.

The shards have every column that is numbers, in the order of the rows of the table, so a row id is
a row of the table. A changed table has another key. A folder of the cache is complete when it has
`table.json`, which is written last.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from streamtrain.base.atomic_files import write_atomically
from streamtrain.base.caller import warn_caller
from streamtrain.base.redact import redact_url
from streamtrain.base.units import format_bytes, format_seconds
from streamtrain.base.user_cache import user_cache
from streamtrain.base.words import plural
from streamtrain.errors import DataError, ResourceError
from streamtrain.storage.column_choice import EMPTY, TEXT_REFUSED, no_numbers_message
from streamtrain.storage.dataset import FoundShards, find_shards
from streamtrain.storage.decode import NOT_A_NUMBER, ONLY_NUMBERS, ColumnError
from streamtrain.storage.foreign.foreign_source import (
    absolute_source,
    find_foreign,
    source_version,
)
from streamtrain.storage.manifest import read_manifest
from streamtrain.storage.notices import once_per_kind
from streamtrain.storage.remote.urls import is_remote
from streamtrain.storage.table_files import find_files, stamp
from streamtrain.storage.write.ingest import spans_of
from streamtrain.storage.write.table_type import BadShard, Table
from streamtrain.storage.write.tables import open_tables
from streamtrain.storage.write.writer import Layout, write_dataset
from streamtrain.types import Column, OnBadShard, Storage

#: The variable that names the folder of imported tables.
FOLDER_VARIABLE = "STREAMTRAIN_TABLES"

#: What the cache keeps. Beyond it the least recently used tables are removed, but none that was
#: used within the last day, since a run may be reading it.
LIMIT_BYTES = 32 << 30
_IN_USE_SECONDS = 86_400.0

#: Changes whenever the same table would be imported as other rows.
_VERSION = 4
_SPAN_ROWS = 262_144

#: Larger files take long, so a message is printed before they are read.
_LONG_BYTES = 256 << 20
_NOTE_NAME, _ROWS_NAME, _LOCK_NAME = "table.json", "rows", "lock"

_log = logging.getLogger("streamtrain")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Note:
    """What `table.json` says of an imported table."""

    source: str
    rows: int
    columns: tuple[Column, ...]
    warnings: tuple[str, ...]
    needs_target: str
    left_out: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, path: Path) -> "_Note | None":
        """Return the note; None where there is none, or where it is damaged."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                source=document["source"],
                rows=document["rows"],
                columns=tuple(Column(**column) for column in document["columns"]),
                warnings=tuple(document["warnings"]),
                needs_target=document["needs_target"],
                left_out=tuple((url, cause) for url, cause in document.get("left_out", ())),
            )
        except (OSError, ValueError, TypeError, KeyError):
            return None


def import_table(path: str, storage: Storage, on_bad_shard: OnBadShard = "error") -> FoundShards:
    """Return the shards of a table, which are written at its first use.

    With `on_bad_shard="quarantine"`, shards that cannot be read are left out as a whole.

    Raises DataError for the table, and ResourceError when the cache cannot be written.
    """
    shown_path = redact_url(path) if is_remote(path) else absolute_source(path)
    folder = _folder_of_tables() / _key(path, storage)
    with _locked(folder):
        note = _Note.read(folder / _NOTE_NAME)
        if note is not None and note.left_out and on_bad_shard == "error":
            note = None  # reading says what is bad
        found = _open(folder, storage) if note else None
        is_new = found is None
        if note is None or found is None:
            started = time.perf_counter()
            size = os.path.getsize(path) if os.path.isfile(path) else 0
            if size > _LONG_BYTES:
                _log.info(f"reading {shown_path} ({format_bytes(size)}) into {folder}, once")
            with _advising():
                note, found_out = _import(path, shown_path, folder, storage, on_bad_shard)
            found = _kept_shards(folder, storage)
            seconds = format_seconds(time.perf_counter() - started)
            name = os.path.basename(shown_path)
            how = f" ({found_out})" if found_out else ""
            _log.info(
                f"read {name}: {plural(note.rows, 'row')} in {seconds}{how}; kept in {folder}"
            )
        else:
            _log.info(f"using the rows of {os.path.basename(shown_path)} kept in {folder}")
    for text in note.warnings:
        warn_caller(text)
    with suppress(OSError):
        os.utime(folder / _NOTE_NAME)
    if is_new:  # else the cache is no larger, and a look at a thousand tables takes 0.1 s
        _remove_oldest(folder)
    return replace(
        found,
        url=shown_path,
        table=note.columns,
        left_out=note.left_out,
        needs_target=note.needs_target,
        notices=note.warnings,
        folder=str(folder / _ROWS_NAME),
    )


@contextmanager
def _advising() -> Iterator[None]:
    """Say where else tables can be kept when their folder cannot be written."""
    try:
        yield
    except (OSError, ResourceError) as error:
        if isinstance(error, ResourceError) and not isinstance(error.__cause__, OSError):
            raise  # memory
        raise ResourceError(
            f"{str(error).rstrip('.')}. Or set {FOLDER_VARIABLE} to a folder with space for"
            " imported tables."
        ) from error


def _open(folder: Path, storage: Storage) -> FoundShards | None:
    """Return the shards that were imported before; None where they are damaged."""
    try:
        return _kept_shards(folder, storage)
    except DataError:
        return None


def _kept_shards(folder: Path, storage: Storage) -> FoundShards:
    """Return the shards of a folder of the cache; `storage` is that of the table."""
    found = find_shards(str(folder / _ROWS_NAME))  # the flags were for the table
    shards = tuple(replace(shard, storage=storage) for shard in found.shards)
    return replace(found, shards=shards)


def _import(
    path: str, shown_path: str, folder: Path, storage: Storage, on_bad_shard: OnBadShard
) -> tuple[_Note, str]:
    """Write the shards of a table and their note; return it with what was found out.

    A column that turns out not to be numbers is left out, as a bad shard is under quarantine, and
    the table is read again.
    """
    bad_shards: dict[str, str] | None = {} if on_bad_shard == "quarantine" else None
    rows_folder = folder / _ROWS_NAME
    (folder / _NOTE_NAME).unlink(missing_ok=True)
    shutil.rmtree(rows_folder, ignore_errors=True)
    refusals: dict[str, str] = {}
    while True:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tables = open_tables(path, storage, bad_shards)
            columns = _columns(tables, refusals)
            names = tuple(column.name for column in columns if column.decoded_type)
            if not names:
                raise DataError(no_numbers_message(shown_path, columns))
            decoded_type = _widest(columns)
            pieces = (piece for table in tables for piece in table.pieces(names, decoded_type))
            layout = Layout(
                columns=names, decoded_type=decoded_type, format="parquet", span_rows=_SPAN_ROWS
            )
            try:
                write_dataset(
                    rows_folder, layout, spans_of(shown_path, pieces, _SPAN_ROWS), workers=1
                )
            except ColumnError as error:
                refusals |= error.refusals
                continue
            except BadShard as error:
                assert bad_shards is not None, "only raised under quarantine"
                bad_shards[error.url] = error.cause
                continue
        break
    manifest = read_manifest(str(rows_folder))
    if manifest is None:
        raise DataError(f"{rows_folder}: its manifest is missing. Run the command again.")
    empty = {name for name, statistics in manifest.statistics.items() if not statistics.count}
    note = _Note(
        source=shown_path,
        rows=manifest.rows,
        columns=tuple(
            replace(column, stored_type=EMPTY, decoded_type=None, refusal="no value")
            if column.name in empty
            else column
            for column in columns
        ),
        warnings=tuple(
            once_per_kind(
                (str(warning.message) for warning in caught), (table.url for table in tables)
            )
        ),
        needs_target=tables[0].needs_target,
        left_out=tables[0].left_out,
    )
    text = json.dumps(asdict(note))  # with an indent, Python would encode it, not C
    write_atomically(folder / _NOTE_NAME, text.encode())
    return note, tables[0].found


def _columns(tables: list[Table], refusals: Mapping[str, str]) -> tuple[Column, ...]:
    """Return the columns of the first table; one that another table lacks is refused."""
    others = [(table.url, {column.name: column for column in table.columns}) for table in tables]
    columns = []
    for column in tables[0].columns:
        refusal = refusals.get(column.name, "")
        wide = column.decoded_type == "float64"
        for url, present in others:
            other = present.get(column.name)
            if other is None:
                refusal = refusal or f"{url} has no such column"
            elif other.decoded_type is None:
                refusal = refusal or other.refusal
            wide = wide or (other is not None and other.decoded_type == "float64")
        if column.decoded_type is None or refusal:
            has_text = refusal == ONLY_NUMBERS or refusal.endswith(NOT_A_NUMBER)
            stored_type = TEXT_REFUSED if column.decoded_type and has_text else column.stored_type
            column = replace(
                column,
                stored_type=stored_type,
                decoded_type=None,
                refusal=refusal or column.refusal,
            )
        elif wide:
            column = replace(column, decoded_type="float64")
        columns.append(column)
    return tuple(columns)


def _widest(columns: tuple[Column, ...]) -> Literal["float32", "float64"]:
    wide = any(column.decoded_type == "float64" for column in columns)
    return "float64" if wide else "float32"


def _key(path: str, storage: Storage) -> str:
    """Return the name of a table's folder: its own name, and a hash of what decides its rows."""
    if find_foreign(path, storage):
        files = [absolute_source(path), source_version(path, storage)]
    else:
        paths, storage = find_files(path, storage)
        files = [stamp(url, storage) for url in paths]
    content = [_VERSION, files, asdict(storage.reading)]
    digest = hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:16]
    base = os.path.basename(path.rstrip("/"))
    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in base)
    return f"{name[:60]}-{digest}"


def _folder_of_tables() -> Path:
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).absolute()
    cache = user_cache()
    if cache is None:
        raise ResourceError(
            "there is no folder to keep imported tables in: neither the home folder nor the one for"
            f" temporary files can be written. Set {FOLDER_VARIABLE} to a folder."
        )
    return cache / "tables"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make a folder of the cache and hold its lock: one process imports, others wait for it."""
    try:
        # Rows may be private where their file is: no other user may read the cache.
        folder.parent.parent.mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        while True:
            folder.mkdir(mode=0o700, exist_ok=True)
            lock = os.open(folder / _LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                # another process may have removed the folder while this one waited
                if os.stat(folder / _LOCK_NAME).st_ino == os.fstat(lock).st_ino:
                    break
            except FileNotFoundError:
                pass
            os.close(lock)
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot be written ({error.strerror}). Set {FOLDER_VARIABLE} to a"
            " folder with space for imported tables."
        ) from None
    try:
        yield
    finally:
        if not (folder / _NOTE_NAME).exists():
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_oldest(kept: Path) -> None:
    """Remove the least recently used tables until the others fit in the limit."""
    entries = []
    for folder in kept.parent.iterdir():
        note = folder / _NOTE_NAME
        with suppress(OSError):
            size = sum(file.stat().st_size for file in folder.rglob("*"))
            used = note if note.exists() else folder  # without a note: a killed import
            entries.append((used.stat().st_mtime, size, folder))
    total = sum(size for _, size, _ in entries)
    for used_at, size, folder in sorted(entries):
        if total <= LIMIT_BYTES or time.time() - used_at < _IN_USE_SECONDS:
            break
        if folder != kept:
            (folder / _NOTE_NAME).unlink(missing_ok=True)  # first, so that no part is ever used
            shutil.rmtree(folder, ignore_errors=True)
            total -= size
            _log.info(f"removed {folder} ({format_bytes(size)}), the least recently used table")
