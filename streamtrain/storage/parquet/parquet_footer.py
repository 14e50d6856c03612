"""Parquet footers: describe a shard, detect that it has changed, validate it before decoding."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streamtrain.errors import DataError, ResourceError, first_line, shown
from streamtrain.storage.column_places import mark_index
from streamtrain.storage.decode import arrow_column, refuse_repeated
from streamtrain.storage.other_formats import MAGIC_BYTES, other_format
from streamtrain.storage.parquet.guard import (
    Chunk,
    EncryptedColumns,
    check_footer,
    check_pages,
    read_chunks,
)
from streamtrain.storage.remote.filesystem import open_binary
from streamtrain.storage.remote.remote_file import RemoteFile
from streamtrain.storage.remote.urls import is_remote
from streamtrain.types import LOCAL, MAX_ROWS, Column, Datetime, Shard, Storage

#: The column chunks of each row group.
Chunks = list[list[Chunk]]
#: Bytes of the first request for a remote footer.
_TAIL_BYTES = 1 << 16


def describe_parquet(url: str, storage: Storage = LOCAL) -> Shard:
    """Return the shard of one Parquet file, from its footer alone.

    Raises DataError when the file is cut short, encrypted, or not Parquet, and StoreError when its
    store does not answer.
    """
    footer, num_bytes, stamp = _read_footer(url, storage)
    metadata = _parse_footer(url, footer)
    boundaries = _boundaries(url, metadata)
    return Shard(
        url=url,
        format="parquet",
        num_rows=metadata.num_rows,
        num_bytes=num_bytes,
        boundaries=boundaries,
        columns=_columns(url, metadata, storage.reading.datetime),
        source=_hash(footer),
        storage=storage,
        stamp=stamp,
    )


def parquet_source(url: str, storage: Storage = LOCAL) -> tuple[str, int]:
    """Return the hash of the footer and the size of the file.

    They equal `Shard.source` and `Shard.num_bytes` as long as the file is the one described.
    """
    footer, num_bytes, _ = _read_footer(url, storage)
    return _hash(footer), num_bytes


def read_metadata(shard: Shard) -> tuple[pq.FileMetaData, Chunks]:
    """Return the parsed footer and the column chunks of each row group.

    After this call Arrow's accessors for column chunks are safe to use.

    Raises DataError when the file is no longer the one that was described.
    """
    metadata, footer = reread_footer(shard)
    try:
        chunks = _chunks_of(_Footer(footer, metadata.schema))
        if len(chunks) != metadata.num_row_groups:
            raise DataError("the footer does not describe its column chunks")
        return metadata, chunks
    except EncryptedColumns as error:
        raise DataError(f"{shard.url}: {error}.") from error
    except (DataError, UnicodeDecodeError) as error:
        raise DataError(f"{shard.url}: {error}; the file is damaged. Write it again.") from error


@dataclass(frozen=True, slots=True)
class _Footer:
    """The bytes of a footer, which tell footers apart, and the schema that Arrow read from them."""

    content: bytes
    schema: pq.ParquetSchema = field(compare=False)


@lru_cache(maxsize=1)
def _chunks_of(footer: _Footer) -> Chunks:
    """Return the column chunks of each row group.

    Those of the last footer are kept, because `inspect` asks for them up to three times, and those
    of 20,000 columns take a second.
    """
    leaves = [footer.schema.column(index) for index in range(len(footer.schema))]
    return read_chunks(footer.content, leaves)


def reread_footer(shard: Shard) -> tuple[pq.FileMetaData, bytes]:
    """Return the footer, parsed and as bytes.

    Raises DataError when it is no longer the one that was described.
    """
    footer, _, _ = _read_footer(shard.url, shard.storage)
    if _hash(footer) != shard.source:
        raise DataError(
            f"{shard.url}: the file has changed since it was opened. Open the data set again."
        )
    return _parse_footer(shard.url, footer), footer


def validate_footer(
    shard: Shard, columns: Sequence[str], *, validated: bool = False
) -> tuple[pq.FileMetaData, Chunks | None]:
    """Return the footer after checking all that it says of `columns`, and its column chunks.

    Pass the chunks to `validate_pages`, which would otherwise read them again. With `validated`,
    this footer was validated before: its hash is compared and the chunks are None.

    Raises DataError.
    """
    if validated:
        return reread_footer(shard)[0], None
    metadata, chunks = read_metadata(shard)
    require_unchanged(shard, metadata, chunks, columns)
    return metadata, chunks


def validate_pages(shard: Shard, columns: Sequence[str], chunks: Chunks | None) -> None:
    """Check the page headers of `columns` before Arrow decodes them.

    `chunks`: what `validate_footer` returned; None to read them again.

    Raises DataError.
    """
    if chunks is None:
        _, chunks = read_metadata(shard)
    names = [column.name for column in shard.columns]
    if chunks and len(chunks[0]) == len(names):  # a flat schema: leaves are columns
        places = {name: place for place, name in enumerate(names)}
        check_pages(shard, {name: [group[places[name]] for group in chunks] for name in columns})


def require_unchanged(
    shard: Shard, metadata: pq.FileMetaData, chunks: Chunks, columns: Sequence[str]
) -> None:
    """Raise DataError when `columns` of the file do not match the shard's description.

    That is when its row groups differ from those in the manifest, or when a column is missing, is
    not numeric, is wider than described, or claims a size that only a decompression bomb has.
    """
    if not np.array_equal(_boundaries(shard.url, metadata), shard.boundaries):
        raise DataError(
            f"{shard.url}: its row groups differ from those that were described. Restore the file,"
            " or write the data set again."
        )
    present = _columns(shard.url, metadata, shard.storage.reading.datetime)
    if [column.name for column in present] != [column.name for column in shard.columns]:
        raise DataError(
            f"{shard.url}: its columns differ from those that were described. Restore the file, or"
            " write the data set again."
        )
    by_name = {column.name: (index, column) for index, column in enumerate(present)}
    described_types = {column.name: column.decoded_type for column in shard.columns}
    is_flat = metadata.num_columns == len(by_name)  # leaves are columns
    for name in columns:
        if name not in by_name:
            raise DataError(
                f"{shard.url}: no column {name!r}. It has {', '.join(map(shown, by_name))}."
            )
        index, column = by_name[name]
        if column.decoded_type is None:
            raise DataError(
                f"{shard.url}: column {name!r} has type {column.stored_type}: {column.refusal}."
                " Leave it out with --features."
            )
        if column.decoded_type == "float64" and described_types.get(name) == "float32":
            raise DataError(
                f"{shard.url}: column {name!r} has type {column.stored_type}, not the float32 that"
                " was described. Write the data set again."
            )
        if is_flat:
            check_footer(shard.url, shard.boundaries, [group[index] for group in chunks], name)


def _boundaries(url: str, metadata: pq.FileMetaData) -> np.ndarray:
    """Return the row group boundaries: int64, from 0 to the number of rows.

    They are summed as Python integers, because a damaged footer may claim any count.
    """
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
            f"{url}: the footer claims {metadata.num_rows:,} rows, but its row groups have"
            f" {edges[-1]:,}. Write the file again."
        )
    return np.array(edges, dtype=np.int64)


def _read_footer(url: str, storage: Storage) -> tuple[bytes, int, str]:
    """Return the footer, with its length and the closing magic; the file's size, and its stamp."""
    try:
        with open_binary(url, storage) as file:
            if isinstance(file, RemoteFile):
                stamp = file.stamp
            else:
                stamp = str(os.fstat(file.fileno()).st_mtime_ns)
            num_bytes = file.seek(0, os.SEEK_END)
            # One request brings most footers; on a disk the length is read first.
            tail_bytes = _TAIL_BYTES if is_remote(url) else 8
            file.seek(max(0, num_bytes - tail_bytes))
            tail = file.read(tail_bytes)
            if tail[-4:] == b"PARE":
                raise DataError(f"{url}: the Parquet file is encrypted. Decrypt it first.")
            if tail[-4:] != b"PAR1" or len(tail) < 8:
                file.seek(0)
                head = file.read(MAGIC_BYTES)
                if head[:4] == b"PAR1":
                    raise DataError(
                        f"{url}: a Parquet file that is cut short ({num_bytes:,} bytes). Copy or"
                        " write it again."
                    )
                if what := other_format(url, head):
                    raise DataError(f"{url}: {what}.")
                raise DataError(
                    f"{url}: not a Parquet file, or cut short ({num_bytes:,} bytes). If it is CSV"
                    " or Arrow, give it the suffix .csv or .arrow."
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
            return tail[-length - 8 :], num_bytes, stamp
    except OSError as error:
        raise DataError(
            f"{url}: cannot be read: {error.strerror or error}. Check the path and its permissions."
        ) from error


def _parse_footer(url: str, footer: bytes) -> pq.FileMetaData:
    try:
        # Parse the very bytes that were hashed; nothing else of the file is needed.
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


def _columns(url: str, metadata: pq.FileMetaData, datetime: Datetime | None) -> tuple[Column, ...]:
    try:
        schema = metadata.schema.to_arrow_schema()
        columns = [arrow_column(field.name, field.type, datetime) for field in schema]
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(
            f"{url}: the schema cannot be parsed ({first_line(error)}); the file is damaged. Write"
            " it again."
        ) from error
    return mark_index(refuse_repeated(columns), metadata.metadata)


def _hash(footer: bytes) -> str:
    return hashlib.sha256(footer).hexdigest()[:32]
