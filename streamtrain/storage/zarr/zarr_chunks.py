"""The stored objects of a Zarr array: which there must be, how large, and what indexes of shards of
chunks may say. No chunk is read.

Zarr chunks that are stored as they are in memory, with or without a crc32c: read straight to
where their rows belong.

The `zarrs` pipeline takes 17 ns of processor time for a row of five float32 columns, on threads of
its own; this takes 2. Whatever is not just so is left to the pipeline, errors and wrong checksums
included.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from streamtrain.errors import DataError
from streamtrain.storage.zarr.zarr_folder import Folder

_MISSING = np.uint64(2**64 - 1)


def chunk_keys(array: zarr.Array, start: int, stop: int) -> Iterator[tuple[tuple[int, ...], str]]:
    """Place in the grid and key of the stored objects (chunks, or shards of chunks) that hold rows
    `[start, stop)`.
    """
    shape = array.shards or array.chunks
    counts = [-(-length // size) for length, size in zip(array.shape[1:], shape[1:], strict=True)]
    rows = range(start // shape[0], -(-stop // shape[0])) if array.ndim else ()
    for row in rows:
        for rest in _places(counts):
            yield (row, *rest), array.metadata.encode_chunk_key((row, *rest))


def _places(counts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All index tuples below `counts`, one by one: metadata may claim any number of them."""
    if not counts:
        yield ()
        return
    for first in range(counts[0]):
        for rest in _places(counts[1:]):
            yield first, *rest


def refuse_bad_chunks(folder: Folder, name: str, array: zarr.Array, files: dict[str, int]) -> None:
    if array.ndim == 0:
        return
    url = folder.url
    stored = _stored_bytes(array)
    # Lazily: metadata may claim any number of chunks, and the first that is missing ends the walk.
    for place, key in (
        (place, join_key(name, key)) for place, key in chunk_keys(array, 0, array.shape[0])
    ):
        if key not in files:
            raise DataError(
                f"{url}: the shape is {array.shape}, but chunk {key} is missing and would read as"
                " the fill value. Restore it, or write the array again (with"
                " write_empty_chunks=True if it was left out as empty)."
            )
        if stored is not None and files[key] != stored:
            raise DataError(
                f"{url}: chunk {key} has {files[key]:,} bytes instead of {stored:,}. Restore it, or"
                " write the array again."
            )
        if array.shards:
            _refuse_bad_inner_chunks(folder, place, key, array, files[key])


def _refuse_bad_inner_chunks(
    folder: Folder, place: tuple[int, ...], key: str, array: zarr.Array, num_bytes: int
) -> None:
    """The index of a shard of chunks.

    (offset, size) of each, all ones where one is missing; Zarr's sharding codec, v1.0.
    """
    codec, url = array.metadata.codecs[0], folder.url
    if len(array.metadata.codecs) > 1 or any(
        isinstance(inner, ShardingCodec) for inner in codec.codecs
    ):
        raise DataError(
            f"{url}: codecs around or shards inside the sharding codec are not read. Write the"
            " array with one level of shards."
        )
    if [type(each) for each in codec.index_codecs] not in ([BytesCodec], [BytesCodec, Crc32cCodec]):
        raise DataError(
            f"{url}: the index codecs of its shards are not read. Write the array with bytes and"
            " crc32c."
        )
    counts = [outer // inner for outer, inner in zip(array.shards, array.chunks, strict=True)]
    size = 16 * prod(counts)
    stored = size + 4 * (len(codec.index_codecs) - 1)
    if num_bytes < stored:
        raise DataError(
            f"{url}: chunk {key} has {num_bytes:,} bytes, its index alone {stored:,}. Restore it,"
            " or write the array again."
        )
    order = "<" if codec.index_codecs[0].endian.value == "little" else ">"
    (content,) = folder.read_ranges(
        [(key, 0 if codec.index_location.value == "start" else num_bytes - stored, size)]
    )
    index = np.frombuffer(content, dtype=f"{order}u8").reshape(*counts, 2)
    # An inner chunk beyond the array's edge may be left out; its rows do not exist.
    for axis, count in enumerate(counts):
        kept = min(
            count, -(-(array.shape[axis] - place[axis] * array.shards[axis]) // array.chunks[axis])
        )
        index = index[(slice(None),) * axis + (slice(0, kept),)]
    offsets, sizes = index[..., 0], index[..., 1]
    if (offsets == _MISSING).any():
        inner = tuple(int(axis[0]) for axis in np.nonzero(offsets == _MISSING))
        raise DataError(
            f"{url}: inner chunk {inner} of chunk {key} is missing and would read as the fill"
            " value. Restore it, or write the array again (with write_empty_chunks=True if it was"
            " left out as empty)."
        )
    if ((offsets > num_bytes) | (sizes > num_bytes)).any() or (offsets + sizes > num_bytes).any():
        raise DataError(
            f"{url}: the index of chunk {key} points beyond its {num_bytes:,} bytes. Restore it, or"
            " write the array again."
        )


def _stored_bytes(array: zarr.Array) -> int | None:
    """The size of every chunk where the codecs fix it (raw bytes, with or without a checksum)."""
    codecs = array.metadata.codecs
    if not all(isinstance(codec, (BytesCodec, Crc32cCodec)) for codec in codecs):
        return None
    return prod(array.chunks) * array.dtype.itemsize + 4 * sum(
        isinstance(codec, Crc32cCodec) for codec in codecs
    )


def join_key(name: str, key: str) -> str:
    return f"{name}/{key}" if name else key


def is_raw(array: Any) -> bool:
    """Whether a `zarr.Array` is made of such chunks, each of whole rows."""
    codecs = [codec.to_dict() for codec in array.metadata.codecs]
    names = [codec["name"] for codec in codecs]
    if (
        array.shards
        or names not in (["bytes"], ["bytes", "crc32c"])
        or array.chunks[1:] != array.shape[1:]
        or array.dtype.kind != "f"
    ):
        return False
    return (
        array.dtype.isnative and codecs[0].get("configuration", {}).get("endian") == sys.byteorder
    )


def read_raw_chunks(
    paths: Sequence[str], rows_a_chunk: int, out: np.ndarray, *, checked: bool
) -> bool:
    """Fill `out` (rows, …) from chunk files in order, the first from its first row; False when
    anything is not as it should be.

    `checked`: four bytes of crc32c end each file, and are verified. Raises OSError.
    """
    for number, path in enumerate(paths):
        part = out[number * rows_a_chunk : (number + 1) * rows_a_chunk]
        # the last chunk's rows beyond the array
        padding = np.empty((rows_a_chunk - len(part), *out.shape[1:]), dtype=out.dtype)
        checksum = np.zeros(4 if checked else 0, dtype=np.uint8)
        if not _read(path, [part, padding, checksum]):
            return False
        if checked and google_crc32c.extend(google_crc32c.value(part), padding) != int.from_bytes(
            checksum.tobytes(), "little"
        ):
            return False
    return True


def _read(path: str, pieces: Sequence[np.ndarray]) -> bool:
    """Fill the pieces, and nothing is left."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        wanted = sum(piece.nbytes for piece in pieces)
        return os.fstat(file).st_size == wanted and os.readv(file, pieces) == wanted
    finally:
        os.close(file)
