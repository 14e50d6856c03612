"""Footers of Parquet files: what a shard is, whether it is still that, and whether it may be
decoded.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streamtrain.errors import DataError, ResourceError, first_line, shown
from streamtrain.storage.decode import arrow_column
from streamtrain.storage.parquet.guard import Chunk, read_chunks, refuse_bomb, refuse_false_pages
from streamtrain.storage.remote.filesystem import open_binary
from streamtrain.storage.remote.urls import is_remote
from streamtrain.types import LOCAL, MAX_ROWS, Column, Shard, Storage

#: The column chunks of each row group.
Chunks = list[list[Chunk]]
_FIRST_BYTES = 1 << 16


def describe_parquet(url: str, storage: Storage = LOCAL) -> Shard:
    """The shard of one Parquet file, from its footer alone.

    Raises DataError when the file is cut short, encrypted, or not Parquet, StoreError when its
    store does not answer.
    """
    footer, num_bytes = _read_footer(url, storage)
    metadata = _parse_footer(url, footer)
    boundaries = _boundaries(url, metadata)
    return Shard(
        url=url,
        format="parquet",
        num_rows=metadata.num_rows,
        num_bytes=num_bytes,
        boundaries=boundaries,
        columns=_columns(url, metadata),
        source=_hash(footer),
        storage=storage,
    )


def parquet_source(url: str, storage: Storage = LOCAL) -> tuple[str, int]:
    """The footer's hash and the file's size: what `Shard.source` and `num_bytes` must equal for it
    to be the one that was described.
    """
    footer, num_bytes = _read_footer(url, storage)
    return _hash(footer), num_bytes


def read_metadata(shard: Shard) -> tuple[pq.FileMetaData, Chunks]:
    """The parsed footer, and the column chunks of each row group, which Arrow's accessors can then
    be asked for too.

    Raises DataError when the file is no longer the one that was described.
    """
    metadata, footer = read_again(shard)
    try:
        chunks = read_chunks(
            footer, [metadata.schema.column(i) for i in range(metadata.num_columns)]
        )
        if len(chunks) != metadata.num_row_groups:
            raise DataError("the footer does not describe its column chunks")
        return metadata, chunks
    except (DataError, UnicodeDecodeError) as error:
        raise DataError(f"{shard.url}: {error}; the file is damaged. Write it again.") from error


def read_again(shard: Shard) -> tuple[pq.FileMetaData, bytes]:
    footer, _ = _read_footer(shard.url, shard.storage)
    if _hash(footer) != shard.source:
        raise DataError(
            f"{shard.url}: the file has changed since it was opened. Open the data set again."
        )
    return _parse_footer(shard.url, footer), footer


def judge_footer(
    shard: Shard, columns: Sequence[str], *, checked: bool = False
) -> tuple[pq.FileMetaData, Chunks | None]:
    """The footer, after all that it says of `columns` was found fit to be decoded, and what
    `judge_pages` would read again.

    Raises DataError. `checked`: it was judged before; then there are no chunks.
    """
    if checked:
        return read_again(shard)[0], None
    metadata, chunks = read_metadata(shard)
    refuse_other(shard, metadata, chunks, columns)
    return metadata, chunks


def judge_pages(shard: Shard, columns: Sequence[str], chunks: Chunks | None) -> None:
    """What must be seen of a judged file before Arrow decodes `columns` of it.

    Raises DataError. `chunks`: its own, None to read them.
    """
    if chunks is None:
        _, chunks = read_metadata(shard)
    places = [column.name for column in shard.columns]
    if chunks and len(chunks[0]) == len(places):  # flat: leaves are columns
        refuse_false_pages(
            shard, {name: [group[places.index(name)] for group in chunks] for name in columns}
        )


def refuse_other(
    shard: Shard, metadata: pq.FileMetaData, chunks: Chunks, columns: Sequence[str]
) -> None:
    """Raise DataError when `columns` cannot be read as the shard promises: other row groups than a
    manifest says, a column that is missing, is no number or is wider, or one whose stored size says
    that it is a decompression bomb.
    """
    if not np.array_equal(_boundaries(shard.url, metadata), shard.boundaries):
        raise DataError(
            f"{shard.url}: its row groups are not those that were described. Restore the file, or"
            " write the data set again."
        )
    present = _columns(shard.url, metadata)
    if [column.name for column in present] != [column.name for column in shard.columns]:
        raise DataError(
            f"{shard.url}: its columns are not those that were described. Restore the file, or"
            " write the data set again."
        )
    held = {column.name: (place, column) for place, column in enumerate(present)}
    promised = {column.name: column.decoded_type for column in shard.columns}
    for name in columns:
        if name not in held:
            raise DataError(
                f"{shard.url}: no column {name!r}. It has {', '.join(map(shown, held))}."
            )
        place, column = held[name]
        if column.decoded_type is None:
            raise DataError(
                f"{shard.url}: column {name!r} has type {column.stored_type}: {column.refusal}."
                " Leave it out with --features."
            )
        if column.decoded_type == "float64" and promised.get(name) == "float32":
            kind = f"has type {column.stored_type}, not the float32 that was described"
            raise DataError(f"{shard.url}: column {name!r} {kind}. Write the data set again.")
        if metadata.num_columns == len(held):  # flat: leaves are columns
            refuse_bomb(shard.url, shard.boundaries, [group[place] for group in chunks], name)


def _boundaries(url: str, metadata: pq.FileMetaData) -> np.ndarray:
    """Row groups as edges. Summed as Python integers: a damaged footer may claim any count."""
    edges = [0]
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if not 0 <= rows <= MAX_ROWS - edges[-1]:
            raise DataError(
                f"{url}: row group {group}: the footer claims {rows:,} rows; the file is damaged."
                " Write it again."
            )
        edges.append(edges[-1] + rows)
    if edges[-1] != metadata.num_rows:
        raise DataError(
            f"{url}: the footer says {metadata.num_rows:,} rows and its row groups {edges[-1]:,}."
            " Write the file again."
        )
    return np.array(edges, dtype=np.int64)


def _read_footer(url: str, storage: Storage) -> tuple[bytes, int]:
    """The footer with its length and closing magic, and the size of the file."""
    try:
        with open_binary(url, storage) as file:
            num_bytes = file.seek(0, os.SEEK_END)
            # One request brings most footers; on a disk the length comes first.
            first = _FIRST_BYTES if is_remote(url) else 8
            file.seek(max(0, num_bytes - first))
            tail = file.read(first)
            if tail[-4:] == b"PARE":
                raise DataError(f"{url}: the Parquet file is encrypted. Decrypt it first.")
            if tail[-4:] != b"PAR1" or len(tail) < 8:
                raise DataError(
                    f"{url}: not a Parquet file, or cut short ({num_bytes:,} bytes). If it is CSV"
                    " or Arrow, run streamtrain ingest."
                )
            length = int.from_bytes(tail[-8:-4], "little")
            if length + 12 > num_bytes:
                raise DataError(
                    f"{url}: the footer claims {length:,} of {num_bytes:,} bytes; the file is"
                    " damaged. Write it again."
                )
            if length + 8 > len(tail):
                file.seek(num_bytes - 8 - length)
                tail = file.read(length + 8)
            return tail[-length - 8 :], num_bytes
    except OSError as error:
        raise DataError(
            f"{url}: cannot be read: {error.strerror or error}. Check the path and its permissions."
        ) from error


def _parse_footer(url: str, footer: bytes) -> pq.FileMetaData:
    try:
        # The footer is parsed from the very bytes that were hashed; nothing else of the file is
        # needed for that.
        return pq.read_metadata(pa.BufferReader(b"PAR1" + footer))
    except MemoryError as error:
        raise ResourceError(
            f"{url}: its footer does not fit in memory: {first_line(error)}. Close other programs,"
            " or write the file again."
        ) from error
    except Exception as error:  # OSError, ArrowInvalid, UnicodeDecodeError, IndexError …
        raise DataError(
            f"{url}: the footer cannot be parsed ({first_line(error)}); the file is damaged. Write"
            " it again."
        ) from error


def _columns(url: str, metadata: pq.FileMetaData) -> tuple[Column, ...]:
    try:
        schema = metadata.schema.to_arrow_schema()
        seen = Counter(schema.names)
        columns = [arrow_column(field.name, field.type) for field in schema]
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(
            f"{url}: the schema cannot be parsed ({first_line(error)}); the file is damaged. Write"
            " it again."
        ) from error
    return tuple(
        (
            column
            if seen[column.name] == 1
            else Column(
                name=column.name,
                stored_type=column.stored_type,
                decoded_type=None,
                refusal=f"it occurs {seen[column.name]} times",
            )
        )
        for column in columns
    )


def _hash(footer: bytes) -> str:
    return hashlib.sha256(footer).hexdigest()[:32]
