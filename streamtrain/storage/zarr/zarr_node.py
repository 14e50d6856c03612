"""Zarr v3 nodes: told by their files, opened only where every codec is known by name.

None of them runs code.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import zarr

from streamtrain.errors import DataError, shown
from streamtrain.storage.zarr.zarr_folder import Folder

#: Codecs that are decoded; any other is refused before zarr may look for a plugin of that name.
#: None of them runs code.
_CODECS = frozenset(
    {
        "bytes",
        "transpose",
        "gzip",
        "zstd",
        "blosc",
        "crc32c",
        "sharding_indexed",
        *(
            f"numcodecs.{name}"
            for name in (
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
        ),
    }
)
_MAX_METADATA_BYTES = 1 << 26

#: What makes a folder a Zarr node, v3 or older.
NODE_FILES = frozenset({"zarr.json", ".zarray", ".zgroup", ".zmetadata"})


def is_zarr(url: str) -> bool:
    """Whether a folder says that it is a Zarr v3 node, or an older one or N5, which deserve a
    refusal by name.
    """
    return any(os.path.isfile(os.path.join(url, name)) for name in NODE_FILES) or _is_n5(url)


def open_node(folder: Folder) -> zarr.Array | zarr.Group:
    url = folder.url
    if folder.size("zarr.json") is None:
        raise DataError(
            f"{url}: not Zarr v3 (no zarr.json). Convert Zarr v2 or N5 to Zarr v3 first."
        )
    try:
        kind = _read_metadata(folder, "zarr.json")["node_type"]
        if kind == "array":
            return zarr.open_array(folder.store(), mode="r", zarr_format=3)
        for name in sorted(
            name for name in folder.files() if name.count("/") == 1 and name.endswith("/zarr.json")
        ):
            _read_metadata(folder, name)
        return zarr.open_group(folder.store(), mode="r", zarr_format=3, use_consolidated=False)
    except (DataError, MemoryError):
        raise
    # hostile metadata raises KeyError, TypeError, zarr's own errors …
    except (Exception, RecursionError) as error:
        raise DataError(
            f"{url}: the Zarr metadata is refused: {one_line(error)}. Write the array with codecs"
            " that zarr knows."
        ) from error


def _read_metadata(folder: Folder, name: str) -> Mapping[str, object]:
    """`zarr.json` of one node, its codecs known by name.

    Raises DataError for others, and whatever damaged JSON raises.
    """
    num_bytes = folder.size(name)
    if num_bytes > _MAX_METADATA_BYTES:
        size = f"{num_bytes:,} bytes of metadata; the limit is {_MAX_METADATA_BYTES:,}"
        raise DataError(f"{folder.url}/{name}: {size}. Write the array again.")
    metadata = json.loads(folder.read(name))
    for codec in _all_codecs(metadata.get("codecs", ())):
        if codec not in _CODECS:
            url = f"{folder.url}/{name}".removesuffix("/zarr.json")
            raise DataError(
                f"{url}: the Zarr metadata is refused: the codec {codec!r} is not known. Write it"
                " with zstd, blosc or gzip."
            )
    return metadata


def _all_codecs(codecs: Sequence[Mapping]) -> Iterator[str]:
    """The names of codecs, those inside shards of chunks too."""
    for codec in codecs:
        yield str(codec if isinstance(codec, str) else codec["name"])
        inside = {} if isinstance(codec, str) else codec.get("configuration") or {}
        for part in ("codecs", "index_codecs"):
            yield from _all_codecs(inside.get(part, ()))


def _is_n5(url: str) -> bool:
    try:
        return any(
            f'"{word}"' in Path(url, "attributes.json").read_text(encoding="utf-8")
            for word in ("n5", "blockSize")
        )
    except (OSError, ValueError):
        return False


def one_line(error: BaseException) -> str:
    return shown(" ".join(str(error).split()).rstrip(".")) or type(error).__name__
