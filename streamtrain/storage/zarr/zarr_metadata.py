"""Metadata documents of Zarr v2 and v3, read and checked before zarr sees them.

zarr would look for a plugin by the name of a codec that it does not know, so such a codec is
refused here. None of the known codecs runs code from the data. Objects of Python, which Zarr v2
stores by pickle, are refused by their type.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from streamtrain.errors import DataError, shown
from streamtrain.storage.zarr.zarr_folder import Folder, Range

Document = dict[str, Any]

#: Names of an array's metadata, by version of Zarr.
ARRAY_FILES = {2: ".zarray", 3: "zarr.json"}

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
#: Codecs of v3 that are decoded.
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
#: Compressors and filters of v2 that are decoded.
_COMPRESSORS = frozenset({"blosc", "lz4", "zstd", "zlib", "gzip", "bz2", "lzma"})
_FILTERS = frozenset(
    {
        "shuffle",
        "delta",
        "fixedscaleoffset",
        "bitround",
        "quantize",
        "crc32",
        "crc32c",
        "adler32",
        "fletcher32",
        "jenkins_lookup3",
    }
)
_NUMBERS = frozenset(
    {"bool", "float16", "float32", "float64"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
#: The largest document that is parsed, so that a damaged or hostile one does not take the memory.
_MAX_METADATA_BYTES = 1 << 26


def zarr_version(folder: Folder) -> int:
    """Return the version of a node's format, 2 or 3. Raises DataError for what is neither."""
    if folder.size("zarr.json") is not None:
        return 3
    if any(folder.size(name) is not None for name in (".zarray", ".zgroup", ".zmetadata")):
        return 2
    raise DataError(
        f"{folder.url}: not Zarr (neither zarr.json nor .zarray). Convert N5 to Zarr v3 first."
    )


def read_documents(folder: Folder, names: Sequence[str]) -> list[Document | Exception]:
    """Return the JSON documents of these files, several at once from an object store.

    In place of a document that cannot be read there is the error that says why.
    """
    documents: dict[str, Document | Exception] = {}
    ranges: list[Range] = []
    for name in names:
        num_bytes = folder.size(name) or 0
        if num_bytes <= _MAX_METADATA_BYTES:
            ranges.append((name, 0, num_bytes))
        else:
            documents[name] = DataError(
                f"{folder.url}/{name}: {num_bytes:,} bytes of metadata; the limit is"
                f" {_MAX_METADATA_BYTES:,}. Write the array again."
            )
    for (name, _, _), content in zip(ranges, folder.read_ranges(ranges), strict=True):
        try:
            document = json.loads(content)
            if not isinstance(document, dict):
                raise ValueError(f"{name} is not a JSON object")
            documents[name] = document
        except (ValueError, RecursionError) as error:
            documents[name] = error
    return [documents[name] for name in names]


def read_document(folder: Folder, name: str) -> Document:
    """Return one JSON document; raise the error of one that cannot be read."""
    (document,) = read_documents(folder, [name])
    if isinstance(document, Exception):
        raise document
    return document


def unknown_codec(document: Mapping[str, Any], version: int) -> str | None:
    """Return the name of the first codec that is not decoded, or None.

    Metadata of another shape raise what looking into them raises, such as KeyError.
    """
    if version == 3:
        names: Iterator[str] = _all_codecs(document.get("codecs", ()))
        return next((name for name in names if name not in _CODECS), None)
    compressor, filters = document["compressor"], document["filters"] or ()
    if compressor is not None and str(compressor["id"]) not in _COMPRESSORS:
        return str(compressor["id"])
    return next((str(each["id"]) for each in filters if str(each["id"]) not in _FILTERS), None)


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


def unknown_codec_message(url: str, codec: str) -> str:
    """Return the error message for an array with a codec that is not decoded."""
    return (
        f"{url}: the Zarr metadata cannot be used: the codec {codec!r} is not known. Write it with"
        " zstd, blosc or gzip."
    )


def stored_type(document: Mapping[str, Any], version: int) -> str:
    """Return the type of an array's values as its metadata name it: `float32`, `string`."""
    kind = document["data_type" if version == 3 else "dtype"]
    if version == 3:
        return kind if isinstance(kind, str) else str(kind.get("name", kind))
    # only text is given to NumPy: a list would be a record
    return str(np.dtype(kind)) if isinstance(kind, str) else "structured"


def is_number(kind: str) -> bool:
    """Return whether values of this `stored_type` are numbers; big-endian ones of v2 too."""
    return kind in _NUMBERS or re.fullmatch(r"[<>][iuf][248]", kind) is not None


def one_line(error: BaseException) -> str:
    """Return the message of an error on one printable line."""
    return shown(" ".join(str(error).split()).rstrip(".")) or type(error).__name__
