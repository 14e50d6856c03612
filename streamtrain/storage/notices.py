"""Warnings of what a data set holds that is not read as it is stored, once per data set."""

import warnings
from collections.abc import Sequence

from streamtrain.errors import shown
from streamtrain.storage.remote.urls import relative_url
from streamtrain.types import Column, Shard

_NAMED = 4


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


def warn_of_columns_aside(url: str, columns: Sequence[Column]) -> None:
    """Warn of arrays that are not columns, and so are left out unless they are named."""
    aside = [column for column in columns if column.aside]
    if aside:
        names = [f"{shown(each.name)} ({each.stored_type}: {each.refusal})" for each in aside]
        named = ", ".join(names[:_NAMED])
        more = f", and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        warnings.warn(f"{url}: left out, since they are not columns: {named}{more}.", stacklevel=4)


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
