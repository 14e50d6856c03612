"""Warnings of what a data set holds that is not read as it is stored, once per data set."""

import re
import shlex
import warnings
from collections.abc import Sequence

from streamtrain.base.redact import redact_url
from streamtrain.errors import shown
from streamtrain.storage.remote.urls import is_remote, relative_url
from streamtrain.types import Column, Reading, Shard

_NAMED = 4

#: Fields of `Reading` that only text files need; their flags have the same names.
_TEXT_FLAGS = ("delimiter", "decimal", "header", "encoding")


def warn_of_absent_chunks(path: str, shards: Sequence[Shard]) -> None:
    """Warn of Zarr chunks that were left out, which are read as the fill value."""
    absent = sum(shard.absent_chunks for shard in shards)
    if absent:
        chunks = "1 chunk is" if absent == 1 else f"{absent:,} chunks are"
        warnings.warn(
            f"{path}: {chunks} missing and read as the fill value, as zarr leaves out chunks that"
            " hold nothing else. If they were lost, restore them.",
            stacklevel=4,
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
        warnings.warn(
            f"{path}: {', '.join(unused)} {has} no effect on {kind}, only on text files such as"
            f" CSV. Leave {it} out.",
            stacklevel=4,
        )
    if in_place and numbers:
        listed = ",".join(numbers)
        copy = shlex.join(["streamtrain", "ingest", path, "FOLDER", f"--na-values={listed}"])
        warnings.warn(
            f"{path}: --na-values {listed} has no effect on {kind}, which is read in place. Make"
            f" these numbers null in a copy: {copy}",
            stacklevel=4,
        )


def warn_of_columns_aside(url: str, columns: Sequence[Column]) -> None:
    """Warn of arrays that are not columns, and so are left out unless they are named."""
    aside = [column for column in columns if column.aside]
    if aside:
        names = [f"{shown(each.name)} ({each.stored_type}: {each.refusal})" for each in aside]
        named = ", ".join(names[:_NAMED])
        more = f", and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        grid = ""
        if any(re.match(r"(?!0-D)\d+-D ", column.stored_type) for column in aside):
            grid = " xarray makes columns of a grid: open_zarr(…).to_dataframe().to_parquet(…)."
        text = f"{url}: left out, since they are not columns: {named}{more}.{grid}"
        warnings.warn(text, stacklevel=4)


def warn_of_partitions(root: str, shards: Sequence[Shard]) -> None:
    """Warn of Hive partitions below `root` that are not columns of the files."""
    folders = (
        folder
        for shard in shards
        if shard.url.startswith(f"{root}/")
        for folder in relative_url(shard.url, root).split("/")[:-1]
    )
    partitions = {folder.partition("=")[0] for folder in folders if "=" in folder}
    unread = sorted(partitions - {column.name for shard in shards for column in shard.columns})
    if unread:
        names = ", ".join(map(shown, unread))
        warnings.warn(
            f"{root}: Hive partitions are not read ({names}): write them into the files as columns"
            " to learn from them.",
            stacklevel=4,
        )
