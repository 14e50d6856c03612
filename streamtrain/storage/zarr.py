"""Zarr v3 shards: an array (rows, columns), or a group with one array per column. The only importer of zarr."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from pathlib import Path
from threading import Lock

import numpy as np
import zarr
from zarr.buffer.cpu import NDBuffer
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from streamtrain.buffers import Buffers
from streamtrain.errors import DataError
from streamtrain.storage.decode import decode_numpy, numpy_column
from streamtrain.types import Column, Shard

# zarr's config is one object for the process: a `with` around open must not overlap another thread's.
_CONFIG = Lock()


def is_zarr(url: str) -> bool:
    """Whether a folder says that it is a Zarr v3 node, or an older one that deserves a refusal by name."""
    return any(os.path.isfile(os.path.join(url, name)) for name in ("zarr.json", ".zarray", ".zgroup"))


def describe_zarr(url: str) -> Shard:
    """The shard of one Zarr array or group, from metadata and the list of chunks; no chunk is read.

    Raises DataError for Zarr v2 and N5, for unknown codecs, and for chunks that are missing (they would read as the fill
    value, silently) or cut short.
    """
    files = _list_files(url)
    node = _open_node(url)
    arrays = _arrays(node)
    for name, array in arrays.items():
        _refuse_bad_chunks(url, name, array, files)
    columns = _array_columns(url, node) if isinstance(node, zarr.Array) else _group_columns(url, node, arrays)
    lengths = {array.shape[0] for array in arrays.values() if array.ndim}
    if len(lengths) != 1:
        raise DataError(f"{url}: its arrays have different lengths: {sorted(lengths)}. Every column needs the same rows.")
    (num_rows,) = lengths
    step = max(array.chunks[0] for array in arrays.values() if array.ndim)
    return Shard(
        url=url, format="zarr", num_rows=num_rows, num_bytes=sum(files.values()),
        boundaries=np.append(np.arange(0, num_rows, max(step, 1), dtype=np.int64), num_rows),
        columns=columns, source=_hash_source(url, files),
    )


def zarr_source(url: str) -> str:
    """A hash of metadata, chunk keys, chunk sizes and, where chunks end in a crc32c, of those: what `Shard.source` must equal."""
    return _hash_source(url, _list_files(url))


class ZarrReader:
    """Row ranges of one Zarr shard. Holds metadata, no open file; any number of threads may read at once.

    Decoded by the `zarrs` pipeline where it knows the codecs, else by zarr's own.
    """

    def __init__(self, shard: Shard, buffers: Buffers | None = None):
        self._buffers = buffers or Buffers(0, keep=0)
        if zarr_source(shard.url) != shard.source:
            raise DataError(f"{shard.url}: the array has changed since it was opened. Open the data set again.")
        self._url = shard.url
        self._places = {column.name: i for i, column in enumerate(shard.columns)}
        self._arrays = _open_fast(shard.url)

    def read(self, columns: Sequence[str], decoded_type: str, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """Rows `[start, stop)` of `columns`: strided views of one decoded block, or one array a column."""
        if "" in self._arrays:
            block = self._decode("", start, stop)
            return tuple(decode_numpy(name, block[:, self._places[name]], decoded_type) for name in columns)
        return tuple(decode_numpy(name, self._decode(name, start, stop), decoded_type) for name in columns)

    def _decode(self, name: str, start: int, stop: int) -> np.ndarray:
        array = self._arrays[name]
        for key in _chunk_keys(array, start, stop):
            if not os.path.exists(os.path.join(self._url, name, key)):
                raise DataError(f"{self._url}: chunk {_join_key(name, key)} is missing. Restore it, or write the array again.")
        out = self._buffers.lend((stop - start, *array.shape[1:]), array.dtype)
        array.get_basic_selection(slice(start, stop), out=NDBuffer.from_ndarray_like(out))
        return out


class ZarrForward:
    """Reads one shard forward with one chunk of it decoded in memory; for one thread at a time."""

    def __init__(self, shard: Shard, columns: Sequence[str], decoded_type: str):
        self._edges, self._columns, self._type = shard.boundaries, columns, decoded_type
        self._reader = ZarrReader(shard)
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


class ZarrWriter:
    """Writes one shard: an array (rows, columns), a chunk a span: raw bytes, crc32c, fill value NaN, empty chunks too."""

    def __init__(self, path: str, columns: Sequence[str], decoded_type: str, span_rows: int, max_rows: int):
        self._path, self._columns, self._type = path, list(columns), decoded_type
        self._span_rows, self._max_rows, self._num_rows = span_rows, max_rows, 0
        self._array: zarr.Array | None = None

    def write(self, columns: Sequence[np.ndarray]) -> None:
        """One span: 1-D arrays of one length; only the last may be shorter than `span_rows`."""
        block = np.stack(columns, axis=1)
        if self._array is None:
            # A first span that is short is the only one: its chunk need not be padded to `span_rows`.
            short = len(block) < self._span_rows
            self._array = self._create(len(block), len(block)) if short else self._create(self._span_rows, self._max_rows)
        self._array[self._num_rows : self._num_rows + len(block)] = block
        self._num_rows += len(block)

    def close(self) -> None:
        if self._array is not None:
            self._array.resize((self._num_rows, len(self._columns)))

    def _create(self, chunk_rows: int, num_rows: int) -> zarr.Array:
        width = len(self._columns)
        return zarr.create_array(
            self._path, shape=(num_rows, width), chunks=(chunk_rows, width), dtype=self._type, compressors=[Crc32cCodec()],
            filters=None, fill_value=np.nan, attributes={"columns": self._columns}, config={"write_empty_chunks": True},
        )


def zarr_codec(url: str) -> str:
    """The codecs of a shard, for people: `bytes+crc32c`, `sharding(bytes+zstd)`."""
    return ", ".join(sorted({_codec_names(array.metadata.codecs) for array in _arrays(_open_node(url)).values()}))


def _codec_names(codecs: Sequence[object]) -> str:
    return "+".join(
        f"sharding({_codec_names(codec.codecs)})" if isinstance(codec, ShardingCodec) else str(codec.to_dict()["name"]) for codec in codecs
    )


def _open_node(url: str) -> zarr.Array | zarr.Group:
    if not os.path.isfile(os.path.join(url, "zarr.json")):
        raise DataError(f"{url}: not Zarr v3 (no zarr.json). Convert Zarr v2 or N5 to Zarr v3 first.")
    try:
        with open(os.path.join(url, "zarr.json"), encoding="utf-8") as file:
            kind = json.load(file)["node_type"]
        if kind == "array":
            return zarr.open_array(url, mode="r", zarr_format=3)
        return zarr.open_group(url, mode="r", zarr_format=3, use_consolidated=False)
    except Exception as error:  # hostile metadata raises KeyError, TypeError, zarr's own errors …
        raise DataError(f"{url}: the Zarr metadata is refused: {_one_line(error)}. Write the array with codecs that zarr knows.") from error


def _arrays(node: zarr.Array | zarr.Group) -> dict[str, zarr.Array]:
    """The arrays of a shard by name, sorted; the name of a lone array is empty."""
    return {"": node} if isinstance(node, zarr.Array) else dict(sorted(node.arrays()))


def _open_fast(url: str) -> dict[str, zarr.Array]:
    """The arrays, bound to the `zarrs` pipeline; where it refuses the codecs, to zarr's own.

    They keep their pipeline after the config is back as it was.
    """
    try:
        with _CONFIG, zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}):
            return _arrays(_open_node(url))
    except Exception:  # an unsupported codec, or no zarrs for this machine: the plain pipeline decides
        return _arrays(_open_node(url))


def _array_columns(url: str, array: zarr.Array) -> tuple[Column, ...]:
    if array.ndim != 2:
        raise DataError(f"{url}: the array has {array.ndim} dimensions; a shard is (rows, columns), or a group with one array per column.")
    names = array.attrs.get("columns", [f"c{i}" for i in range(array.shape[1])])
    if not isinstance(names, list) or len(names) != array.shape[1] or not all(isinstance(name, str) for name in names):
        raise DataError(f"{url}: the attribute `columns` must name its {array.shape[1]} columns; it is {names!r}.")
    if len(set(names)) != len(names):
        raise DataError(f"{url}: the attribute `columns` names a column twice: {names}.")
    return tuple(numpy_column(name, array.dtype) for name in names)


def _group_columns(url: str, group: zarr.Group, arrays: dict[str, zarr.Array]) -> tuple[Column, ...]:
    """In the order of the attribute `columns`, else by name: a folder has no order of its own."""
    names = group.attrs.get("columns", list(arrays))
    if not arrays or sorted(names) != sorted(arrays):
        raise DataError(f"{url}: the group needs one array per column; it has {sorted(arrays)} and its attribute `columns` is {names!r}.")
    return tuple(
        numpy_column(name, arrays[name].dtype) if arrays[name].ndim == 1
        else Column(name=name, stored_type=f"{arrays[name].ndim}-D {arrays[name].dtype}", decoded_type=None, refusal="it is not 1-D")
        for name in names
    )


def _list_files(url: str) -> dict[str, int]:
    """Relative path → size of every file below `url`."""
    files = {}
    for folder, _, names in os.walk(url):
        for name in names:
            path = os.path.join(folder, name)
            files[Path(os.path.relpath(path, url)).as_posix()] = os.path.getsize(path)
    return files


def _hash_source(url: str, files: dict[str, int]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(files.items())).encode())
    metadata = [name for name in sorted(files) if name.split("/")[-1] == "zarr.json"]
    for name in metadata:
        digest.update((Path(url) / name).read_bytes())
    if metadata == ["zarr.json"] and _ends_in_checksum((Path(url) / "zarr.json").read_bytes()):
        for name in sorted(files.keys() - {"zarr.json"}):
            with open(Path(url) / name, "rb") as file:  # chunks of equal size that were swapped differ in their last four bytes
                file.seek(max(0, files[name] - 4))
                digest.update(file.read(4))
    return digest.hexdigest()[:32]


def _ends_in_checksum(metadata: bytes) -> bool:
    try:
        return json.loads(metadata)["codecs"][-1]["name"] == "crc32c"
    except (ValueError, LookupError, TypeError):
        return False


def _chunk_keys(array: zarr.Array, start: int, stop: int) -> Iterator[str]:
    """The stored objects (chunks, or shards of chunks) that hold rows `[start, stop)`."""
    shape = array.shards or array.chunks
    counts = [-(-length // size) for length, size in zip(array.shape[1:], shape[1:], strict=True)]
    rows = range(start // shape[0], -(-stop // shape[0])) if array.ndim else ()
    for row in rows:
        for rest in product(*map(range, counts)):
            yield array.metadata.encode_chunk_key((row, *rest))


def _refuse_bad_chunks(url: str, name: str, array: zarr.Array, files: dict[str, int]) -> None:
    if array.ndim == 0:
        return
    stored = _stored_bytes(array)
    # Lazily: metadata may claim any number of chunks, and the first that is missing ends the walk.
    for key in (_join_key(name, key) for key in _chunk_keys(array, 0, array.shape[0])):
        if key not in files:
            raise DataError(
                f"{url}: the shape is {array.shape}, but chunk {key} is missing and would read as the fill value. Restore it, or write"
                f" the array again (with write_empty_chunks=True if it was left out as empty)."
            )
        if stored is not None and files[key] != stored:
            raise DataError(f"{url}: chunk {key} has {files[key]:,} bytes instead of {stored:,}. Restore it, or write the array again.")


def _stored_bytes(array: zarr.Array) -> int | None:
    """The size of every chunk where the codecs fix it (raw bytes, with or without a checksum)."""
    codecs = array.metadata.codecs
    if not all(isinstance(codec, (BytesCodec, Crc32cCodec)) for codec in codecs):
        return None
    return prod(array.chunks) * array.dtype.itemsize + 4 * sum(isinstance(codec, Crc32cCodec) for codec in codecs)


def _join_key(name: str, key: str) -> str:
    return f"{name}/{key}" if name else key


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
