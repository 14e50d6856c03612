"""Bombs: column chunks and pages that say they decode to far more than their rows can take, refused by arithmetic, before they do."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import BinaryIO

import numpy as np

from streamtrain.errors import DataError
from streamtrain.storage.filesystem import is_remote
from streamtrain.storage.pages import Chunk, walk_pages
from streamtrain.types import Shard

#: A column of numbers takes 16 bytes a row at most, and its pages' headers and dictionary; a footer that says more is a bomb or a lie.
_MOST_ROW_BYTES = 256
_MOST_EXTRA_BYTES = 4 << 20


def refuse_bomb(shard: Shard, chunks: Sequence[Chunk], name: str) -> None:
    """What a chunk, and in foreign files each of its pages, says that it decodes to is held against its rows.

    Only the decoder looks into pages' headers, and takes memory as they say: up to 2 GiB each. Pages in a store are not looked at: it
    would take a request for each.
    """
    with ExitStack() as stack:
        file = None if shard.listed or is_remote(shard.url) else stack.enter_context(open(shard.url, "rb"))
        for group, (chunk, rows) in enumerate(zip(chunks, np.diff(shard.boundaries).tolist(), strict=True)):
            most = rows * _MOST_ROW_BYTES + _MOST_EXTRA_BYTES
            place = f"{shard.url}: row group {group}, column {name!r}"
            if max(chunk.decoded_bytes, chunk.value_bytes * rows) > most or chunk.num_values != rows:
                raise DataError(
                    f"{place}: the footer claims {chunk.num_values:,} values that decode to"
                    f" {max(chunk.decoded_bytes, chunk.value_bytes * rows):,} bytes, for {rows:,} rows. Write the file again."
                )
            if file is not None:
                _refuse_false_pages(place, file, chunk, most)


def _refuse_false_pages(place: str, file: BinaryIO, chunk: Chunk, most: int) -> None:
    try:
        largest = max((page.decoded_bytes for page in walk_pages(file, chunk, checksums=False)), default=0)
    except DataError as error:
        raise DataError(f"{place}: {error}; the file is damaged. Write it again.") from error
    if largest > most:
        raise DataError(f"{place}: a page claims to decode to {largest:,} bytes, for {chunk.num_values:,} rows. Write the file again.")
