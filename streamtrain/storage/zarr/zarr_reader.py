"""Zarr shards, v3 and v2: an array (rows, columns), or a group with one array per column."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from math import prod
from threading import Lock

import numpy as np
import zarr
from zarr.buffer.cpu import NDBuffer

from streamtrain.base.buffers import Buffers
from streamtrain.errors import DataError, ResourceError, StoreError, first_line
from streamtrain.storage.file_identity import FolderIdentity
from streamtrain.storage.remote.remote_file import Traffic
from streamtrain.storage.remote.urls import is_remote
from streamtrain.storage.zarr.zarr_chunks import (
    chunk_keys,
    count_absent_chunks,
    has_crc32c,
    is_raw,
    join_key,
    read_raw_chunks,
)
from streamtrain.storage.zarr.zarr_folder import Folder, open_folder
from streamtrain.storage.zarr.zarr_metadata import one_line, zarr_version
from streamtrain.storage.zarr.zarr_node import Node, array_codec_names, codecs_of, open_node
from streamtrain.types import LOCAL, MAX_ROWS, Column, Shard, Storage

# zarr's config is one object for the whole process: only one thread may change it at a time.
_CONFIG_LOCK = Lock()


def describe_zarr(url: str, storage: Storage = LOCAL) -> Shard:
    """Return the shard of one Zarr array or group, from its metadata and its list of chunks.

    No chunk is read. Chunks that were left out, also those inside shards of chunks, are counted:
    they are read as the fill value. Raises DataError for N5, for unknown codecs, and for chunks
    that are cut short.
    """
    try:
        return _describe(open_folder(url, storage), storage)
    except DataError:
        raise
    except MemoryError as error:
        raise ResourceError(
            f"{url}: its metadata does not fit in memory. Close other programs, or write the array"
            " again."
        ) from error
    # hostile metadata raises TypeError, OverflowError, zarr's own errors …
    except Exception as error:
        raise DataError(
            f"{url}: the Zarr metadata cannot be used: {one_line(error)}. Write the array again."
        ) from error


def _describe(folder: Folder, storage: Storage) -> Shard:
    url = folder.url
    node = open_node(folder)
    files = folder.files()
    columns, absent = _checked_columns(folder, node, files)
    (num_rows,) = {array.shape[0] for array in node.arrays.values()}
    if num_rows < 0 or num_rows > MAX_ROWS:
        raise DataError(
            f"{url}: the shape claims {num_rows:,} rows; the metadata is damaged. Write the array"
            " again."
        )
    step = _read_rows(node.arrays)
    return Shard(
        url=url,
        format="zarr",
        num_rows=num_rows,
        num_bytes=sum(files.values()),
        boundaries=np.append(np.arange(0, num_rows, max(step, 1), dtype=np.int64), num_rows),
        columns=columns,
        source=_hash_source(folder, files),
        read_rows=step,
        storage=storage,
        absent_chunks=absent,
        stamp=str(folder.written_ns),
    )


def _checked_columns(
    folder: Folder, node: Node, files: Mapping[str, int]
) -> tuple[tuple[Column, ...], int]:
    """Return the columns after their chunks were checked, and the chunks that were left out.

    In a group, a damaged array is a column that cannot be decoded.

    Raises DataError when no column is left, and when there is no chunk at all.
    """
    refusals: dict[str, str] = {}
    absent = present = 0
    for name, array in node.arrays.items():
        try:
            counts = count_absent_chunks(folder, name, array, files)
        except DataError as error:
            refusals[name] = first_line(error)
            continue
        absent, present = absent + counts[0], present + counts[1]
    if len(refusals) == len(node.arrays):
        raise DataError(next(iter(refusals.values())))
    if absent and not present:
        raise DataError(
            f"{folder.url}: none of its {absent:,} chunks exists. Restore them, or write the array"
            " again."
        )
    columns = tuple(
        replace(column, decoded_type=None, refusal=refusals[column.name])
        if column.name in refusals
        else column
        for column in node.columns
    )
    return columns, absent


def zarr_source(url: str, storage: Storage = LOCAL) -> str:
    """Return a hash of metadata, chunk keys and chunk sizes.

    It equals `Shard.source` as long as the array is the one described. Where chunks end in a crc32c
    the hash covers those as well.
    """
    folder = open_folder(url, storage)
    return _hash_source(folder, folder.files())


class ZarrReader:
    """Reads row ranges of one Zarr shard.

    Holds metadata and no open file. Thread-safe.

    Raw chunks of local arrays are read directly. Others are decoded by the `zarrs` pipeline where
    it knows the codecs, and otherwise, and in object stores, by zarr's own pipeline.
    """

    def __init__(
        self, shard: Shard, buffers: Buffers | None = None, traffic: Traffic | None = None
    ):
        """Open the shard; `buffers`: memory that chunks are decoded into.

        Raises DataError when it is no longer the shard that was described.
        """
        self._buffers = buffers or Buffers(0, keep=0)
        folder = open_folder(shard.url, shard.storage, traffic)
        self._shard = shard
        # names of the files, where chunks were left out: any other chunk that is missing was lost
        self._files: frozenset[str] = frozenset()
        self._identity = self._require_same_array(folder)
        self._url = shard.url
        self._indices = {column.name: index for index, column in enumerate(shard.columns)}
        node = _open_fast(folder, {column.name for column in shard.columns if column.decoded_type})
        self.arrays, self._packings = node.arrays, node.packings
        local = {} if is_remote(shard.url) else self.arrays
        self._raw = {name for name, array in local.items() if is_raw(array)}
        self._require_unchanged(shard, node)

    def read(
        self, columns: Sequence[str], decoded_type: str, start: int, stop: int
    ) -> tuple[np.ndarray, ...]:
        """Return rows `[start, stop)` of `columns`: one 1-D array per column.

        They are strided views of one decoded block where the shard is a single array.
        """
        if "" in self.arrays:
            block, packing = self.decode("", start, stop), self._packings[""]
            return tuple(
                packing.decode(name, block[:, self._indices[name]], decoded_type)
                for name in columns
            )
        return tuple(
            self._packings[name].decode(name, self._decode_of(name, start, stop), decoded_type)
            for name in columns
        )

    def _decode_of(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return what `decode` does; an error of a codec names the array of the group."""
        try:
            return self.decode(name, start, stop)
        except (DataError, MemoryError):
            raise
        except Exception as error:
            raise RuntimeError(f"array {name!r}: {one_line(error)}") from error

    def _require_same_array(self, folder: Folder) -> FolderIdentity | None:
        """Return the identity of a local folder.

        Raises DataError when the array has changed since it was described.
        """
        now = None if is_remote(self._shard.url) else FolderIdentity(self._shard.url)
        files = folder.files()
        if self._shard.absent_chunks:
            self._files = frozenset(files)
        if _hash_source(folder, files) != self._shard.source:
            raise DataError(
                f"{self._shard.url}: the array has changed since it was opened. Open the data set"
                " again."
            )
        return now

    def _require_unchanged(self, shard: Shard, node: Node) -> None:
        """Raise DataError when the shard's description, by a manifest, differs from its metadata.

        Reads follow the description, and decoding follows the metadata.
        """
        single = self.arrays.get("")
        names = None if single is None else single.attrs.get("columns")
        if names is not None and names != [column.name for column in shard.columns]:
            raise DataError(
                f"{shard.url}: its columns differ from those that were described. Write the array"
                " again."
            )
        if (
            {array.shape[0] for array in self.arrays.values()} != {shard.num_rows}
            or len(node.columns) != len(shard.columns)
            or _read_rows(self.arrays) > shard.read_rows
        ):
            raise DataError(
                f"{shard.url}: its rows, columns or chunks differ from those that were described."
                " Write the array again."
            )
        types = {column.name: column.decoded_type for column in node.columns}
        for number, column in enumerate(shard.columns):
            if column.decoded_type is None:
                continue
            name = column.name if single is None else node.columns[number].name
            if types.get(name) not in (column.decoded_type, "float32"):
                raise DataError(
                    f"{shard.url}: the type of column {column.name!r} differs from the one that was"
                    " described. Write the array again."
                )

    def decode(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return rows `[start, stop)` of array `name` with the type as stored.

        A chunk that was left out has the fill value. Raises DataError for one that was lost, and
        when the array has changed since it was described.
        """
        array = self.arrays[name]
        keys: list[str] = []
        if not is_remote(self._url):  # in a store, a CheckedStore refuses lost chunks
            keys = [key for _, key in chunk_keys(array, start, stop)]
        files = [join_key(name, key) for key in keys]
        present = [file for file in files if os.path.exists(os.path.join(self._url, file))]
        lost = set(files) - set(present)
        if self._shard.absent_chunks:
            lost &= self._files
        if lost:
            raise DataError(
                f"{self._url}: chunk {min(lost)} is missing. Restore it, or write the array again."
            )
        out = self._buffers.lend((stop - start, *array.shape[1:]), array.dtype)
        self._fill(out, name, keys if len(present) == len(files) else [], start, stop)
        if self._identity is not None and not self._identity.unchanged(present):
            self._identity = self._require_same_array(open_folder(self._url))
        return out

    def _fill(self, out: np.ndarray, name: str, keys: Sequence[str], start: int, stop: int) -> None:
        """Decode rows `[start, stop)` into `out`; `keys`: their chunks, in a local array.

        No keys: zarr reads them, also those that were left out.
        """
        array = self.arrays[name]
        chunk_rows = array.chunks[0]
        starts_chunk = start % chunk_rows == 0
        ends_chunk = stop in (start + len(keys) * chunk_rows, array.shape[0])
        if keys and name in self._raw and starts_chunk and ends_chunk:
            paths = [os.path.join(self._url, name, key) for key in keys]
            if read_raw_chunks(paths, chunk_rows, out, checked=has_crc32c(codecs_of(array))):
                return
        target = NDBuffer.from_ndarray_like(out)  # pyright: ignore[reportArgumentType]  NumPy's stubs
        array.get_basic_selection(slice(start, stop), out=target)


def decode_all_chunks(shard: Shard, limit_bytes: int) -> tuple[list[tuple[str, str]], bool]:
    """Return (place, cause) of each bad chunk, and whether all chunks carry a crc32c.

    Every chunk is decoded, which verifies its crc32c. Chunks that decode to more than `limit_bytes`
    are bad, and are not decoded.
    """
    reader = ZarrReader(shard)
    faults: list[tuple[str, str]] = []
    for name, array in reader.arrays.items():
        step = array.chunks[0]
        num_bytes = step * prod(array.shape[1:]) * array.dtype.itemsize
        if num_bytes > limit_bytes:
            cause = f"a row of chunks decodes to {num_bytes:,} bytes; memory allows {limit_bytes:,}"
            faults.append((f"array {name!r}", cause))
            continue
        for start in range(0, array.shape[0], step):
            stop = min(start + step, array.shape[0])
            try:
                reader.decode(name, start, stop)
            except StoreError:
                raise
            except Exception as error:  # whatever a decoder raises
                keys = ", ".join(join_key(name, key) for _, key in chunk_keys(array, start, stop))
                cause = f"rows {start:,} to {stop:,} cannot be decoded: {one_line(error)}"
                faults.append((f"chunk {keys}", cause))
    return faults, all(has_crc32c(codecs_of(array)) for array in reader.arrays.values())


class ZarrForward:
    """Reads one shard forward, with one decoded chunk in memory. For one thread at a time."""

    def __init__(
        self,
        shard: Shard,
        columns: Sequence[str],
        decoded_type: str,
        traffic: Traffic | None = None,
    ):
        self._edges, self._columns, self._type = shard.boundaries, columns, decoded_type
        self._reader = ZarrReader(shard, traffic=traffic)
        # rows [first, last) of the chunk in memory, and its columns
        self._held = (0, 0)
        self._chunk: tuple[np.ndarray, ...] = ()

    def read(self, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """Return rows `[start, stop)`; each chunk is decoded once as long as reads go forward."""
        pieces = []
        while start < stop:
            if not self._held[0] <= start < self._held[1]:
                chunk = int(np.searchsorted(self._edges, start, side="right")) - 1
                self._held = int(self._edges[chunk]), int(self._edges[chunk + 1])
                self._chunk = self._reader.read(self._columns, self._type, *self._held)
            first, end = self._held[0], min(stop, self._held[1])
            pieces.append([column[start - first : end - first] for column in self._chunk])
            start = end
        return tuple(np.concatenate(column) for column in zip(*pieces, strict=True))

    def close(self) -> None:
        """Release the decoded chunk."""
        self._held, self._chunk = (0, 0), ()


def zarr_codec(shard: Shard) -> str:
    """Return the codecs of a shard in readable form: `bytes+crc32c`, `sharding(bytes+zstd)`."""
    arrays = open_node(open_folder(shard.url, shard.storage)).arrays
    return ", ".join(sorted({array_codec_names(array) for array in arrays.values()}))


def _read_rows(arrays: Mapping[str, zarr.Array]) -> int:
    """Return the largest number of rows decoded at once.

    A chunk is always decoded whole, including its part beyond the shape.
    """
    return max(array.chunks[0] for array in arrays.values())


def _open_fast(folder: Folder, names: Set[str]) -> Node:
    """Return the node with its arrays bound to the `zarrs` pipeline where that supports them.

    `names`: the columns that are needed.

    Arrays in object stores use zarr's own pipeline: `zarrs` would connect to a store with its own
    client, without our timeouts. So do arrays of v2, of which `zarrs` reads only some. An array
    keeps its pipeline after the config is restored.
    """
    if is_remote(folder.url) or zarr_version(folder) == 2:
        return open_node(folder)
    pipeline = {
        "codec_pipeline.path": "zarrs.ZarrsCodecPipeline",
        "codec_pipeline.strict": True,
    }
    with suppress(Exception), _CONFIG_LOCK, zarr.config.set(pipeline):
        node = open_node(folder)
        if "" in node.arrays or not names - node.arrays.keys():
            return node
    # an unsupported codec, or no zarrs for this machine: zarr's own pipeline decides
    return open_node(folder)


def _hash_source(folder: Folder, files: dict[str, int]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(files.items())).encode())
    kinds = ("zarr.json",) if "zarr.json" in files else (".zarray", ".zattrs", ".zgroup")
    names = [name for name in sorted(files) if name.split("/")[-1] in kinds]
    contents = folder.read_ranges([(name, 0, files[name]) for name in names])
    for content in contents:
        digest.update(content)
    if names == ["zarr.json"] and _ends_in_checksum(contents[0]):
        # Two chunks of equal size that were swapped differ in their last four bytes.
        chunks = sorted(files.keys() - {"zarr.json"})
        ends = [(name, max(0, files[name] - 4), 4) for name in chunks]
        for checksum in folder.read_ranges(ends):
            digest.update(checksum)
    return digest.hexdigest()[:32]


def _ends_in_checksum(metadata: bytes) -> bool:
    try:
        return json.loads(metadata)["codecs"][-1]["name"] == "crc32c"
    except (ValueError, LookupError, TypeError):
        return False
