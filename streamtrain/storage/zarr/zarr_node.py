"""Zarr v3 nodes: opened only if every codec is known, bound to columns.

An unknown codec is refused before zarr sees it, because zarr would look for a plugin of that name.
None of the known codecs runs code from the data.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import zarr
from zarr.codecs import ShardingCodec
from zarr.core.metadata import ArrayV3Metadata

from streamtrain.errors import DataError, shown
from streamtrain.storage.column_places import mark_sorted
from streamtrain.storage.decode import numpy_column
from streamtrain.storage.zarr.zarr_folder import Folder
from streamtrain.types import Column

_NUMCODECS = (
    "blosc",
    "lz4",
    "zstd",
    "zlib",
    "gzip",
    "bz2",
    "lzma",
    "shuffle",
    "delta",
    "fixedscaleoffset",
    "bitround",
    "quantize",
    "packbits",
    "astype",
    "crc32",
    "crc32c",
    "adler32",
    "fletcher32",
    "jenkins_lookup3",
    "pcodec",
    "zfpy",
)
#: Codecs that are decoded.
_CODECS = frozenset(
    {
        "bytes",
        "transpose",
        "gzip",
        "zstd",
        "blosc",
        "crc32c",
        "sharding_indexed",
        *(f"numcodecs.{name}" for name in _NUMCODECS),
    }
)
_MAX_METADATA_BYTES = 1 << 26
_MAX_COLUMNS = 1 << 20


def open_node(folder: Folder) -> zarr.Array | zarr.Group:
    """Open a Zarr v3 array or group. Raises DataError."""
    url = folder.url
    if folder.size("zarr.json") is None:
        raise DataError(
            f"{url}: not Zarr v3 (no zarr.json). Convert Zarr v2 or N5 to Zarr v3 first."
        )
    try:
        kind = _read_metadata(folder, "zarr.json")["node_type"]
        if kind == "array":
            return zarr.open_array(folder.store(), mode="r", zarr_format=3)
        children = sorted(
            name for name in folder.files() if name.count("/") == 1 and name.endswith("/zarr.json")
        )
        for name in children:
            _read_metadata(folder, name)
        return zarr.open_group(folder.store(), mode="r", zarr_format=3, use_consolidated=False)
    except (DataError, MemoryError):
        raise
    # hostile metadata raises KeyError, TypeError, zarr's own errors …
    except (Exception, RecursionError) as error:
        raise DataError(
            f"{url}: the Zarr metadata cannot be used: {one_line(error)}. Write the array with"
            " codecs that zarr knows."
        ) from error


def _read_metadata(folder: Folder, name: str) -> Mapping[str, Any]:
    """Return `zarr.json` of one node.

    Raises DataError for a codec that is not known, and whatever damaged JSON raises.
    """
    num_bytes = folder.size(name) or 0
    if num_bytes > _MAX_METADATA_BYTES:
        raise DataError(
            f"{folder.url}/{name}: {num_bytes:,} bytes of metadata; the limit is"
            f" {_MAX_METADATA_BYTES:,}. Write the array again."
        )
    metadata = json.loads(folder.read(name))
    for codec in _all_codecs(metadata.get("codecs", ())):
        if codec not in _CODECS:
            url = f"{folder.url}/{name}".removesuffix("/zarr.json")
            raise DataError(
                f"{url}: the Zarr metadata cannot be used: the codec {codec!r} is not known. Write"
                " it with zstd, blosc or gzip."
            )
    return metadata


def _all_codecs(codecs: Sequence[Mapping[str, Any] | str]) -> Iterator[str]:
    """Yield the names of codecs, and of those inside shards of chunks."""
    for codec in codecs:
        if isinstance(codec, str):
            yield codec
            continue
        yield str(codec["name"])
        configuration = codec.get("configuration") or {}
        for key in ("codecs", "index_codecs"):
            yield from _all_codecs(configuration.get(key, ()))


def one_line(error: BaseException) -> str:
    """Return the message of an error on one printable line."""
    return shown(" ".join(str(error).split()).rstrip(".")) or type(error).__name__


def node_arrays(node: zarr.Array | zarr.Group) -> dict[str, zarr.Array]:
    """Return the arrays of a shard by name, sorted; the name of a single array is empty."""
    return {"": node} if isinstance(node, zarr.Array) else dict(sorted(node.arrays()))


def codecs_of(array: zarr.Array) -> tuple[Any, ...]:
    """Return the codecs of an array in the order of encoding."""
    assert isinstance(array.metadata, ArrayV3Metadata), "opened as Zarr v3 only"
    return array.metadata.codecs


def codec_names(codecs: Sequence[Any]) -> str:
    """Return codecs in readable form: `bytes+crc32c`, `sharding(bytes+zstd)`."""
    names = [
        f"sharding({codec_names(codec.codecs)})"
        if isinstance(codec, ShardingCodec)
        else str(codec.to_dict()["name"])
        for codec in codecs
    ]
    return "+".join(names)


def node_columns(url: str, node: zarr.Array | zarr.Group) -> tuple[Column, ...]:
    """Return the columns of a shard.

    An array (rows, columns) names its columns in its attribute `columns`, by default c0, c1, … A
    group has one 1-D array per column, in the order of its attribute `columns`, by default sorted
    by name.

    Raises DataError.
    """
    if isinstance(node, zarr.Array):
        return _array_columns(url, node)
    return _group_columns(url, node)


def _array_columns(url: str, array: zarr.Array) -> tuple[Column, ...]:
    if array.ndim != 2:
        raise DataError(
            f"{url}: the array has {array.ndim} dimensions; a shard is (rows, columns), or a group"
            " with one array per column."
        )
    num_columns = array.shape[1]
    if num_columns > _MAX_COLUMNS:
        raise DataError(
            f"{url}: the shape claims {num_columns:,} columns; the limit is {_MAX_COLUMNS:,}. Write"
            " the array again."
        )
    names: Any = array.attrs.get("columns", [f"c{i}" for i in range(num_columns)])
    if (
        not isinstance(names, list)
        or len(names) != num_columns
        or not all(isinstance(name, str) for name in names)
    ):
        raise DataError(
            f"{url}: the attribute `columns` must name its {num_columns} columns; it is {names!r}."
        )
    if len(set(names)) != len(names):
        raise DataError(f"{url}: the attribute `columns` names a column twice: {names}.")
    return tuple(numpy_column(name, array.dtype) for name in names)


def _group_columns(url: str, group: zarr.Group) -> tuple[Column, ...]:
    arrays = node_arrays(group)
    names: Any = group.attrs.get("columns", list(arrays))
    if not arrays or sorted(names) != sorted(arrays):
        raise DataError(
            f"{url}: the group needs one array per column; it has {sorted(arrays)} and its"
            f" attribute `columns` is {names!r}."
        )
    columns = tuple(_group_column(name, arrays[name]) for name in names)
    return columns if "columns" in group.attrs else mark_sorted(columns)


def _group_column(name: str, array: zarr.Array) -> Column:
    if array.ndim == 1:
        return numpy_column(name, array.dtype)
    return Column(
        name=name,
        stored_type=f"{array.ndim}-D {array.dtype}",
        decoded_type=None,
        refusal="it is not 1-D",
    )
