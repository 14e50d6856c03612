"""Zarr v3 shards: an array (rows, columns), or a group with one array per column."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from math import prod
from threading import Lock

import numpy as np
import zarr
from zarr.buffer.cpu import NDBuffer
from zarr.codecs import Crc32cCodec, ShardingCodec

from streamtrain.base.buffers import Buffers
from streamtrain.errors import DataError, ResourceError, StoreError
from streamtrain.storage.decode import decode_numpy, numpy_column
from streamtrain.storage.file_identity import FolderStamp
from streamtrain.storage.remote.remote_file import Traffic
from streamtrain.storage.remote.urls import is_remote
from streamtrain.storage.zarr.zarr_chunks import (
    chunk_keys,
    is_raw,
    join_key,
    read_raw_chunks,
    refuse_bad_chunks,
)
from streamtrain.storage.zarr.zarr_folder import Folder, open_folder
from streamtrain.storage.zarr.zarr_node import one_line, open_node
from streamtrain.types import LOCAL, MAX_ROWS, Column, Shard, Storage

_MOST_COLUMNS = 1 << 20

# zarr's config is one object for the process: a `with` around open must not overlap another
# thread's.
_CONFIG = Lock()


def describe_zarr(url: str, storage: Storage = LOCAL) -> Shard:
    """The shard of one Zarr array or group, from metadata and the list of chunks; no chunk is read.

    Raises DataError for Zarr v2 and N5, for unknown codecs, and for chunks, also those inside
    shards of chunks, that are missing (they would read as the fill value, silently) or cut short.
    """
    try:
        return _describe(open_folder(url, storage), storage)
    except DataError:
        raise
    except MemoryError as error:
        raise ResourceError(
            f"{url}: its metadata do not fit in memory. Close other programs, or write the array"
            " again."
        ) from error
    # hostile metadata raises TypeError, OverflowError, zarr's own errors …
    except (Exception, RecursionError) as error:
        raise DataError(
            f"{url}: the Zarr metadata is refused: {one_line(error)}. Write the array again."
        ) from error


def _describe(folder: Folder, storage: Storage) -> Shard:
    url = folder.url
    node = open_node(folder)
    files = folder.files()
    arrays = _arrays(node)
    for name, array in arrays.items():
        refuse_bad_chunks(folder, name, array, files)
    columns = (
        _array_columns(url, node)
        if isinstance(node, zarr.Array)
        else _group_columns(url, node, arrays)
    )
    lengths = {array.shape[0] for array in arrays.values() if array.ndim}
    if len(lengths) != 1:
        raise DataError(
            f"{url}: its arrays have different lengths: {sorted(lengths)}. Every column needs the"
            " same rows."
        )
    (num_rows,) = lengths
    if num_rows < 0 or num_rows > MAX_ROWS:
        raise DataError(
            f"{url}: the shape claims {num_rows:,} rows; the metadata is damaged. Write the array"
            " again."
        )
    step = max(array.chunks[0] for array in arrays.values() if array.ndim)
    return Shard(
        url=url,
        format="zarr",
        num_rows=num_rows,
        num_bytes=sum(files.values()),
        boundaries=np.append(np.arange(0, num_rows, max(step, 1), dtype=np.int64), num_rows),
        columns=columns,
        source=_hash_source(folder, files),
        read_rows=_read_rows(arrays),
        storage=storage,
    )


def zarr_source(url: str, storage: Storage = LOCAL) -> str:
    """A hash of metadata, chunk keys, chunk sizes and, where chunks end in a crc32c, of those: what
    `Shard.source` must equal.
    """
    folder = open_folder(url, storage)
    return _hash_source(folder, folder.files())


class ZarrReader:
    """Row ranges of one Zarr shard.

    Holds metadata, no open file; any number of threads may read at once.

    Raw chunks of local arrays are read as they are; others are decoded by the `zarrs` pipeline
    where it knows the codecs, else, and in object stores, by zarr's own.
    """

    def __init__(
        self, shard: Shard, buffers: Buffers | None = None, traffic: Traffic | None = None
    ):
        self._buffers = buffers or Buffers(0, keep=0)
        folder = open_folder(shard.url, shard.storage, traffic)
        self._shard = shard
        self._stamp = self._check(folder)
        self._url = shard.url
        self._places = {column.name: i for i, column in enumerate(shard.columns)}
        self.arrays = _open_fast(folder)
        local = {} if is_remote(shard.url) else self.arrays
        self._raw = {name for name, array in local.items() if array.ndim and is_raw(array)}
        self._refuse_other(shard)

    def read(
        self, columns: Sequence[str], decoded_type: str, start: int, stop: int
    ) -> tuple[np.ndarray, ...]:
        """Rows `[start, stop)` of `columns`: strided views of one decoded block, or one array a
        column.
        """
        if "" in self.arrays:
            block = self.decode("", start, stop)
            return tuple(
                decode_numpy(name, block[:, self._places[name]], decoded_type) for name in columns
            )
        return tuple(
            decode_numpy(name, self.decode(name, start, stop), decoded_type) for name in columns
        )

    def _check(self, folder: Folder) -> FolderStamp | None:
        """Raises DataError when the array is not the one that was described."""
        now = None if is_remote(self._shard.url) else FolderStamp(self._shard.url)
        if _hash_source(folder, folder.files()) != self._shard.source:
            raise DataError(
                f"{self._shard.url}: the array has changed since it was opened. Open the data set"
                " again."
            )
        return now

    def _refuse_other(self, shard: Shard) -> None:
        """What a manifest says of a shard must be what its metadata say: reads go by the first,
        decoding by the second.
        """
        lengths = {array.shape[0] for array in self.arrays.values() if array.ndim}
        width = self.arrays[""].shape[1] if "" in self.arrays else len(self.arrays)
        names = self.arrays[""].attrs.get("columns") if "" in self.arrays else None
        if names is not None and names != [column.name for column in shard.columns]:
            raise DataError(
                f"{shard.url}: its columns are not those that were described. Write the array"
                " again."
            )
        if (
            lengths != {shard.num_rows}
            or width != len(shard.columns)
            or _read_rows(self.arrays) > shard.read_rows
        ):
            raise DataError(
                f"{shard.url}: rows, columns or chunks are not those that were described. Write the"
                " array again."
            )
        for column in shard.columns:
            array = self.arrays.get("" if "" in self.arrays else column.name)
            if array is None or numpy_column(column.name, array.dtype).decoded_type not in (
                column.decoded_type,
                "float32",
            ):
                raise DataError(
                    f"{shard.url}: column {column.name!r} is not of the type that was described."
                    " Write the array again."
                )

    def decode(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows of one array as stored; see `read`."""
        array = self.arrays[name]
        # a CheckedStore refuses by itself
        keys = [] if is_remote(self._url) else [key for _, key in chunk_keys(array, start, stop)]
        for key in keys:
            if not os.path.exists(os.path.join(self._url, name, key)):
                raise DataError(
                    f"{self._url}: chunk {join_key(name, key)} is missing. Restore it, or write the"
                    " array again."
                )
        out = self._buffers.lend((stop - start, *array.shape[1:]), array.dtype)
        self._fill(out, name, keys, start, stop)
        if self._stamp is not None and not self._stamp.holds([join_key(name, key) for key in keys]):
            self._stamp = self._check(open_folder(self._url))
        return out

    def _fill(self, out: np.ndarray, name: str, keys: Sequence[str], start: int, stop: int) -> None:
        array = self.arrays[name]
        if (
            name in self._raw
            and start % array.chunks[0] == 0
            and stop in (start + len(keys) * array.chunks[0], array.shape[0])
        ):
            paths = [os.path.join(self._url, name, key) for key in keys]
            if read_raw_chunks(
                paths, array.chunks[0], out, checked=_has_crc32c(array.metadata.codecs)
            ):
                return
        array.get_basic_selection(slice(start, stop), out=NDBuffer.from_ndarray_like(out))


def check_chunks(shard: Shard, limit_bytes: int) -> tuple[list[tuple[str, str]], bool]:
    """Decode every chunk: (place, cause) of each bad one, and whether all chunks carry a crc32c,
    which decoding verifies.

    Chunks that decode to more than `limit_bytes` are not decoded, and are bad.
    """
    reader, bad = ZarrReader(shard), []
    for name, array in reader.arrays.items():
        if not array.ndim:
            continue
        step = array.chunks[0]
        num_bytes = step * prod(array.shape[1:]) * array.dtype.itemsize
        if num_bytes > limit_bytes:
            bad.append(
                (
                    f"array {name!r}",
                    (
                        f"a row of chunks decodes to {num_bytes:,} bytes; memory allows"
                        f" {limit_bytes:,}"
                    ),
                )
            )
            continue
        for start in range(0, array.shape[0], step):
            stop = min(start + step, array.shape[0])
            try:
                reader.decode(name, start, stop)
            except StoreError:
                raise
            except Exception as error:  # whatever a decoder throws
                keys = ", ".join(join_key(name, key) for _, key in chunk_keys(array, start, stop))
                bad.append(
                    (
                        f"chunk {keys}",
                        f"rows {start:,} to {stop:,} cannot be decoded: {one_line(error)}",
                    )
                )
    return bad, all(_has_crc32c(array.metadata.codecs) for array in reader.arrays.values())


def _has_crc32c(codecs: Sequence[object]) -> bool:
    inner = [codec.codecs for codec in codecs if isinstance(codec, ShardingCodec)]
    return any(isinstance(codec, Crc32cCodec) for codec in codecs) or any(map(_has_crc32c, inner))


class ZarrForward:
    """Reads one shard forward with one chunk of it decoded in memory; for one thread at a time."""

    def __init__(
        self,
        shard: Shard,
        columns: Sequence[str],
        decoded_type: str,
        traffic: Traffic | None = None,
    ):
        self._edges, self._columns, self._type = shard.boundaries, columns, decoded_type
        self._reader = ZarrReader(shard, traffic=traffic)
        self._held, self._chunk = (0, 0), ()

    def read(self, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """Rows `[start, stop)`: each chunk is decoded once as long as reads go forward."""
        pieces = []
        while start < stop:
            if not self._held[0] <= start < self._held[1]:
                at = int(np.searchsorted(self._edges, start, side="right")) - 1
                self._held = int(self._edges[at]), int(self._edges[at + 1])
                self._chunk = self._reader.read(self._columns, self._type, *self._held)
            low, end = self._held[0], min(stop, self._held[1])
            pieces.append([column[start - low : end - low] for column in self._chunk])
            start = end
        return tuple(np.concatenate(column) for column in zip(*pieces, strict=True))

    def close(self) -> None:
        self._held, self._chunk = (0, 0), ()


def zarr_codec(shard: Shard) -> str:
    """The codecs of a shard, for people: `bytes+crc32c`, `sharding(bytes+zstd)`."""
    arrays = _arrays(open_node(open_folder(shard.url, shard.storage)))
    return ", ".join(sorted({_codec_names(array.metadata.codecs) for array in arrays.values()}))


def _codec_names(codecs: Sequence[object]) -> str:
    return "+".join(
        (
            f"sharding({_codec_names(codec.codecs)})"
            if isinstance(codec, ShardingCodec)
            else str(codec.to_dict()["name"])
        )
        for codec in codecs
    )


def _read_rows(arrays: Mapping[str, zarr.Array]) -> int:
    """The most rows that are decoded at once: a chunk is decoded whole, whatever part of it lies
    within the shape.
    """
    return max(array.chunks[0] for array in arrays.values() if array.ndim)


def _arrays(node: zarr.Array | zarr.Group) -> dict[str, zarr.Array]:
    """The arrays of a shard by name, sorted; the name of a lone array is empty."""
    return {"": node} if isinstance(node, zarr.Array) else dict(sorted(node.arrays()))


def _open_fast(folder: Folder) -> dict[str, zarr.Array]:
    """The arrays, bound to the `zarrs` pipeline; where it refuses the codecs, and for object
    stores, to zarr's own.

    They keep their pipeline after the config is back as it was. `zarrs` would reach a store by a
    client of its own, without our timeouts.
    """
    if is_remote(folder.url):
        return _arrays(open_node(folder))
    try:
        with (
            _CONFIG,
            zarr.config.set(
                {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}
            ),
        ):
            return _arrays(open_node(folder))
    # an unsupported codec, or no zarrs for this machine: the plain pipeline decides
    except Exception:
        return _arrays(open_node(folder))


def _array_columns(url: str, array: zarr.Array) -> tuple[Column, ...]:
    if array.ndim != 2:
        raise DataError(
            f"{url}: the array has {array.ndim} dimensions; a shard is (rows, columns), or a group"
            " with one array per column."
        )
    if array.shape[1] > _MOST_COLUMNS:
        raise DataError(
            f"{url}: the shape claims {array.shape[1]:,} columns; the limit is {_MOST_COLUMNS:,}."
            " Write the array again."
        )
    names = array.attrs.get("columns", [f"c{i}" for i in range(array.shape[1])])
    if (
        not isinstance(names, list)
        or len(names) != array.shape[1]
        or not all(isinstance(name, str) for name in names)
    ):
        raise DataError(
            f"{url}: the attribute `columns` must name its {array.shape[1]} columns; it is"
            f" {names!r}."
        )
    if len(set(names)) != len(names):
        raise DataError(f"{url}: the attribute `columns` names a column twice: {names}.")
    return tuple(numpy_column(name, array.dtype) for name in names)


def _group_columns(
    url: str, group: zarr.Group, arrays: dict[str, zarr.Array]
) -> tuple[Column, ...]:
    """In the order of the attribute `columns`, else by name: a folder has no order of its own."""
    names = group.attrs.get("columns", list(arrays))
    if not arrays or sorted(names) != sorted(arrays):
        raise DataError(
            f"{url}: the group needs one array per column; it has {sorted(arrays)} and its"
            f" attribute `columns` is {names!r}."
        )
    return tuple(
        (
            numpy_column(name, arrays[name].dtype)
            if arrays[name].ndim == 1
            else Column(
                name=name,
                stored_type=f"{arrays[name].ndim}-D {arrays[name].dtype}",
                decoded_type=None,
                refusal="it is not 1-D",
            )
        )
        for name in names
    )


def _hash_source(folder: Folder, files: dict[str, int]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(files.items())).encode())
    names = [name for name in sorted(files) if name.split("/")[-1] == "zarr.json"]
    metadata = dict(
        zip(names, folder.read_ranges([(name, 0, files[name]) for name in names]), strict=True)
    )
    for content in metadata.values():
        digest.update(content)
    if names == ["zarr.json"] and _ends_in_checksum(metadata["zarr.json"]):
        # Chunks of equal size that were swapped differ in their last four bytes.
        for last in folder.read_ranges(
            [(name, max(0, files[name] - 4), 4) for name in sorted(files.keys() - {"zarr.json"})]
        ):
            digest.update(last)
    return digest.hexdigest()[:32]


def _ends_in_checksum(metadata: bytes) -> bool:
    try:
        return json.loads(metadata)["codecs"][-1]["name"] == "crc32c"
    except (ValueError, LookupError, TypeError):
        return False
