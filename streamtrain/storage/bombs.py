"""Bombs: column chunks and pages that say they decode to far more than their rows can take, refused
by arithmetic, before they do.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from streamtrain.errors import DataError
from streamtrain.storage.pages import Chunk, walk_pages
from streamtrain.storage.urls import is_remote
from streamtrain.types import Shard

#: A column of numbers takes 16 bytes a row at most, and its pages' headers and dictionary; a footer
#: that says more is a bomb or a lie.
_MOST_ROW_BYTES = 256
_MOST_EXTRA_BYTES = 4 << 20


def refuse_bomb(url: str, boundaries: np.ndarray, chunks: Sequence[Chunk], name: str) -> None:
    """What each row group's chunk of a column says that it decodes to is held against its rows.

    Raises DataError.
    """
    for group, (chunk, rows) in enumerate(zip(chunks, np.diff(boundaries).tolist(), strict=True)):
        claimed = max(chunk.decoded_bytes, chunk.value_bytes * rows)
        if claimed > _most(rows) or chunk.num_values != rows:
            raise DataError(
                f"{_place(url, group, name)}: the footer claims {chunk.num_values:,} values that"
                f" decode to {claimed:,} bytes, for {rows:,} rows. Write the file again."
            )


def refuse_false_pages(shard: Shard, columns: Mapping[str, Sequence[Chunk]]) -> None:
    """What the pages of each column's chunks say is held against their rows; for files that no
    manifest lists. Raises DataError.

    Arrow looks into pages' headers only as it decodes, and takes memory as they say: up to 2 GiB
    each. So this comes before it. Pages in a store are not looked at: it would take a request for
    each.
    """
    if shard.listed or is_remote(shard.url):
        return
    with open(shard.url, "rb") as file:
        for name, chunks in columns.items():
            for group, chunk in enumerate(chunks):
                try:
                    largest = max(
                        (page.decoded_bytes for page in walk_pages(file, chunk, checksums=False)),
                        default=0,
                    )
                except DataError as error:
                    raise DataError(
                        f"{_place(shard.url, group, name)}: {error}; the file is damaged. Write it"
                        " again."
                    ) from error
                if largest > _most(chunk.num_values):
                    raise DataError(
                        f"{_place(shard.url, group, name)}: a page claims to decode to {largest:,}"
                        f" bytes, for {chunk.num_values:,} rows. Write the file again."
                    )


def _most(rows: int) -> int:
    return rows * _MOST_ROW_BYTES + _MOST_EXTRA_BYTES


def _place(url: str, group: int, name: str) -> str:
    return f"{url}: row group {group}, column {name!r}"
