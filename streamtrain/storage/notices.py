"""Warnings of what a data set holds that is not read as it is stored, once per data set."""

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Protocol

from streamtrain.base.caller import warn_caller
from streamtrain.base.redact import redact_url
from streamtrain.base.words import plural
from streamtrain.errors import shown
from streamtrain.storage.remote.urls import is_remote, relative_url
from streamtrain.types import Column, Reading, Shard

_NAMED = 4

#: Counts and numbers of rows, such as `2 rows`, `row 1,500` and `row (1,500)`.
_ROWS = re.compile(r"[\d,]+ rows?\b|\brow \(?[\d,]+")

#: Fields of `Reading` that only text files need; their flags have the same names.
_TEXT_FLAGS = ("delimiter", "decimal", "header", "encoding")


#: How the arrays of a grid become columns, whose last one is the variable.
FROM_GRID = (
    "xarray makes columns of a grid: xarray.open_zarr(…).to_dataframe().reset_index().to_parquet(…)"
)


def is_grid(column: Column) -> bool:
    """Return whether a column is an array of several axes, which is no column."""
    return column.aside and re.match(r"(?![01]-D)\d+-D ", column.stored_type) is not None


def warn_of_absent_chunks(path: str, shards: Sequence[Shard]) -> None:
    """Warn of Zarr chunks that were left out, which are read as the fill value."""
    absent = sum(shard.absent_chunks for shard in shards)
    if absent:
        chunks = "1 chunk is" if absent == 1 else f"{absent:,} chunks are"
        warn_caller(
            f"{path}: {chunks} missing and read as the fill value, as zarr leaves out chunks that"
            " hold nothing else. If they were lost, restore them."
        )


def warn_of_flags(path: str, kind: str, reading: Reading, *, in_place: bool = False) -> None:
    """Warn of flags that have no effect on tables of this kind, any but CSV.

    `in_place`: the table is read where it is, so numbers of `--na-values` stay numbers.
    """
    unused = [f"--{flag}" for flag in _TEXT_FLAGS if getattr(reading, flag) is not None]
    if kind == "JSON lines" and "--encoding" in unused:
        unused.remove("--encoding")
    numbers = reading.null_numbers
    words = [word for word in reading.na_values or () if word not in numbers]
    path = redact_url(path) if is_remote(path) else path
    if words:
        unused.append(f"--na-values {','.join(map(shown, words))}")
    if unused:
        has, it = ("has", "it") if len(unused) == 1 else ("have", "them")
        warn_caller(
            f"{path}: {', '.join(unused)} {has} no effect on {kind}, only on text files such as"
            f" CSV. Leave {it} out."
        )
    if in_place and numbers:
        listed = ",".join(numbers)
        copy = shlex.join(["streamtrain", "ingest", path, "FOLDER", f"--na-values={listed}"])
        warn_caller(
            f"{path}: --na-values {listed} has no effect on {kind}, which is read in place. Make"
            f" these numbers null in a copy: {copy}"
        )


def once_per_kind(texts: Iterable[str], urls: Iterable[str]) -> list[str]:
    """Return warnings, those of several files as one that counts the files.

    A file's warning starts with its URL and a colon. Two are of one kind if, but for their files,
    counts of rows and numbers of rows, they say the same.

    >>> once_per_kind(["a: 'x' in 1 row", "b: 'x' in 2 rows", "b: 'y' in 1 row"], ["a", "b"])
    ["a (and 1 more file): 'x' in 1 row", "b: 'y' in 1 row"]
    """
    known = set(urls)
    kinds: dict[str, list[tuple[str, str]]] = {}
    for text in dict.fromkeys(texts):
        url, colon, rest = text.partition(": ")
        if not colon or url not in known:
            url, rest = "", text
        kind = _ROWS.sub("", rest) if url else rest
        kinds.setdefault(kind, []).append((url, rest))
    grouped = []
    for (url, rest), *others in kinds.values():
        files = len({other for other, _ in others} - {url})
        more = f" (and {plural(files, 'more file')})" if files else ""
        grouped.append(f"{url}{more}: {rest}" if url else rest)
    return grouped


def warn_of_columns_aside(url: str, columns: Sequence[Column]) -> None:
    """Warn of arrays that are not columns, and so are left out unless they are named."""
    aside = [column for column in columns if column.aside]
    if aside:
        names = [f"{shown(each.name)} ({each.stored_type}: {each.refusal})" for each in aside]
        named = ", ".join(names[:_NAMED])
        more = f", and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        cure = f" {FROM_GRID}." if any(map(is_grid, aside)) else ""
        warn_caller(f"{url}: left out, since they are not columns: {named}{more}.{cure}")


class _File(Protocol):
    """A shard, or a table of one file."""

    @property
    def url(self) -> str: ...
    @property
    def columns(self) -> Sequence[Column]: ...


def warn_of_partitions(root: str, files: Sequence[_File], *, is_parquet: bool = True) -> None:
    """Warn of Hive partitions below `root` that are not columns of the files.

    `is_parquet`: the files are Parquet, which pyarrow copies with the partitions.
    """
    folders = (
        folder
        for file in files
        if file.url.startswith(f"{root}/")
        for folder in relative_url(file.url, root).split("/")[:-1]
    )
    partitions = {folder.partition("=")[0] for folder in folders if "=" in folder}
    unread = sorted(partitions - {column.name for file in files for column in file.columns})
    if unread:
        names = ", ".join(map(shown, unread))
        cure = partition_cure(root, unread) if is_parquet else _WRITE_PARTITIONS
        warn_caller(f"{root}: Hive partitions are not read ({names}). {cure}")


_WRITE_PARTITIONS = "Write them into the files as columns to learn from them."


def partition_cure(root: str, names: Sequence[str]) -> str:
    """Return what makes columns of the Hive partitions `names` below a folder.

    For local folders it is a command, which writes these columns first: the last one of a table is
    its target.
    """
    if is_remote(root):
        return _WRITE_PARTITIONS
    source, copy = (json.dumps(path, ensure_ascii=False) for path in (root, f"{root}-columns"))
    first = json.dumps(list(names), ensure_ascii=False)
    code = (
        f'import pyarrow.dataset as d; t = d.dataset({source}, partitioning="hive");'
        f" k = {first}; k += [n for n in t.schema.names if n not in k];"
        f' d.write_dataset(t.scanner(columns=k), {copy}, format="parquet", preserve_order=True)'
    )
    return f"To learn from them, make a table that has them: {shlex.join(['python', '-c', code])}"
