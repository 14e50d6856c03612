"""Zarr nodes of v2 and v3: an array (rows, columns), or a group with one array per column.

Of a group, only arrays of one dimension, one length and numbers are columns. Any other array is
described with the reason, and harms nobody who does not choose it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import zarr
from zarr.codecs import ShardingCodec
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata
from zarr.storage import LocalStore, StorePath

from streamtrain.errors import DataError
from streamtrain.storage.column_places import mark_sorted
from streamtrain.storage.decode import ONLY_NUMBERS, numpy_column
from streamtrain.storage.zarr.cf_attributes import Packing, read_packing
from streamtrain.storage.zarr.zarr_folder import Folder
from streamtrain.storage.zarr.zarr_metadata import (
    ARRAY_FILES,
    Document,
    is_number,
    one_line,
    read_document,
    read_documents,
    stored_type,
    unknown_codec,
    unknown_codec_message,
    zarr_version,
)
from streamtrain.types import Column

_MAX_COLUMNS = 1 << 20
_AS_STORED = Packing()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """The columns of a shard, and the arrays that hold them.

    Attributes:
        columns: All columns, in order.
        arrays: Name → array of each column that can be decoded, sorted; a single array (rows,
            columns) has an empty name.
        packings: What attributes say of the values of an array, by its name.
    """

    columns: tuple[Column, ...]
    arrays: Mapping[str, zarr.Array]
    packings: Mapping[str, Packing]


def open_node(folder: Folder) -> Node:
    """Open a Zarr array or group. Raises DataError."""
    url = folder.url
    version = zarr_version(folder)
    try:
        if version == 2 and folder.size(".zarray") is not None:
            return _single(url, _open_v2(folder), version)
        if version == 2:
            attributes = _attributes_v2(folder, "")
        elif read_document(folder, "zarr.json")["node_type"] == "array":
            return _single(url, _open_v3(folder), version)
        else:
            group = zarr.open_group(folder.store(), mode="r", zarr_format=3, use_consolidated=False)
            attributes = dict(group.attrs)
        return _group(url, _members(folder, version), attributes)
    except (DataError, MemoryError):
        raise
    # hostile metadata raises KeyError, TypeError, zarr's own errors …
    except Exception as error:
        raise DataError(
            f"{url}: the Zarr metadata cannot be used: {one_line(error)}. Write the array with"
            " codecs that zarr knows."
        ) from error


def _open_v3(folder: Folder) -> zarr.Array:
    codec = unknown_codec(read_document(folder, "zarr.json"), 3)
    if codec is not None:
        raise DataError(unknown_codec_message(folder.url, codec))
    return zarr.open_array(folder.store(), mode="r", zarr_format=3)


def _open_v2(folder: Folder) -> zarr.Array:
    document = read_document(folder, ".zarray")
    kind, codec = stored_type(document, 2), unknown_codec(document, 2)
    if not is_number(kind):
        raise DataError(
            f"{folder.url}: its values have the type {kind}, and only numbers can be decoded. Write"
            " them as float32."
        )
    if codec is not None:
        raise DataError(unknown_codec_message(folder.url, codec))
    return zarr.open_array(folder.store(), mode="r", zarr_format=2)


def _attributes_v2(folder: Folder, name: str) -> Document:
    file = f"{name}/.zattrs" if name else ".zattrs"
    return {} if folder.size(file) is None else read_document(folder, file)


def _single(url: str, array: zarr.Array, version: int) -> Node:
    """Return the node of an array (rows, columns).

    Its attribute `columns` names the columns, by default c0, c1, …
    """
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
    try:
        packing = _packing(array, version)
    except DataError as error:
        raise DataError(f"{url}: {error}, so it cannot be read. Write it as numbers.") from None
    return Node(
        columns=tuple(_column(name, array, packing) for name in names),
        arrays={"": array},
        packings={"": packing},
    )


def _packing(array: zarr.Array, version: int) -> Packing:
    if array.dtype.kind not in "biuf":
        return _AS_STORED  # refused as a column
    return read_packing(dict(array.attrs), array.dtype, array.metadata.fill_value, version)


def _column(name: str, array: zarr.Array, packing: Packing) -> Column:
    column = numpy_column(name, array.dtype)
    if packing.is_scaled and column.decoded_type is not None:
        return replace(column, stored_type=f"{column.stored_type}, scaled", decoded_type="float64")
    return column


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Member:
    """An array of a group: opened, or described with the reason why it is not a column.

    `aside`: it is left out by default, since nobody would take it for a column.
    """

    column: Column
    array: zarr.Array | None = None
    packing: Packing = _AS_STORED
    aside: bool = False


def _members(folder: Folder, version: int) -> dict[str, _Member]:
    """Return the arrays of a group by name, sorted."""
    suffix = f"/{ARRAY_FILES[version]}"
    files = sorted(
        name for name in folder.files() if name.count("/") == 1 and name.endswith(suffix)
    )
    names = [file.removesuffix(suffix) for file in files]
    opened = folder.store()
    store = LocalStore(opened, read_only=True) if isinstance(opened, str) else opened
    members = {}
    for name, document in zip(names, read_documents(folder, files), strict=True):
        if isinstance(document, dict) and document.get("node_type") == "group":
            continue
        members[name] = _member(folder, StorePath(store, name), name, document, version)
    if not members:
        _raise_for_nested(folder, suffix)
    return members


def _raise_for_nested(folder: Folder, suffix: str) -> None:
    """Raise DataError where the arrays of a group are in groups below it."""
    inner = sorted(
        {name.removesuffix(suffix).rpartition("/")[0] for name in folder.files() if suffix in name}
        - {""}
    )
    if inner:
        raise DataError(
            f"{folder.url}: its arrays are in groups below it: {', '.join(map(repr, inner[:4]))}."
            f" Open one of them, such as {folder.url}/{inner[0]}."
        )


def _member(
    folder: Folder, place: StorePath, name: str, document: Document | Exception, version: int
) -> _Member:
    kind = "unknown"
    try:
        if isinstance(document, Exception):
            raise document
        kind = stored_type(document, version)
        num_axes = len(document["shape"])
        if num_axes != 1:
            return _no_column(name, f"{num_axes}-D {kind}", "it is not 1-D", aside=True)
        if not is_number(kind):
            return _no_column(name, kind, ONLY_NUMBERS, aside=True)
        codec = unknown_codec(document, version)
        if codec is not None:
            return _no_column(name, kind, f"the codec {codec!r} is not known")
        if version == 2:
            document = {**document, "attributes": _attributes_v2(folder, name)}
        array = zarr.Array.from_dict(place, document)
        packing = _packing(array, version)
    except MemoryError:
        raise
    except DataError as error:  # by its attributes
        return _no_column(name, kind, str(error), aside=True)
    # hostile metadata raises KeyError, TypeError, zarr's own errors …
    except Exception as error:
        return _no_column(name, kind, f"its metadata cannot be used: {one_line(error)}")
    return _Member(column=_column(name, array, packing), array=array, packing=packing)


def _no_column(name: str, kind: str, reason: str, *, aside: bool = False) -> _Member:
    column = Column(name=name, stored_type=kind, decoded_type=None, refusal=reason)
    if not name.isprintable():
        column = replace(column, refusal="its name contains control characters")
    return _Member(column=column, aside=aside)


def _group(url: str, members: Mapping[str, _Member], attributes: Mapping[str, Any]) -> Node:
    """Return the node of a group.

    Its attribute `columns` names its columns in order. By default they are all 1-D arrays of
    numbers, sorted by name, of the length that most of them have.
    """
    names: Any = attributes.get("columns", list(members))
    named = "columns" in attributes
    if (
        not members
        or not isinstance(names, list)
        or not all(isinstance(name, str) and name in members for name in names)
        or len(set(names)) != len(names)
        or not names
    ):
        raise DataError(
            f"{url}: the group needs one array per column; it has {sorted(members)} and its"
            f" attribute `columns` is {attributes.get('columns')!r}."
        )
    lengths = Counter(
        member.array.shape[0] for name in names if (member := members[name]).array is not None
    )
    # the length of most arrays; of two such lengths the larger
    num_rows = max(lengths, key=lambda length: (lengths[length], length), default=0)
    chosen, others = dict.fromkeys(names), sorted(members.keys() - set(names))
    columns, arrays, packings = [], {}, {}
    for name in (*names, *others):
        member = members[name]
        column, aside = member.column, member.aside or name not in chosen
        if member.array is not None and member.array.shape[0] != num_rows:
            reason = f"it has {member.array.shape[0]:,} values, and the columns {num_rows:,}"
            column, aside = replace(column, decoded_type=None, refusal=reason), True
        elif member.array is not None and column.decoded_type is not None:
            arrays[name], packings[name] = member.array, member.packing
        # what the group itself calls a column is one, and choosing it by default must fail
        columns.append(replace(column, aside=aside and not (named and name in chosen)))
    if not arrays:
        causes = "; ".join(f"{column.name!r}: {column.refusal}" for column in columns[:4])
        raise DataError(
            f"{url}: none of its {len(columns):,} arrays is a column ({causes}). Write one 1-D"
            " array of numbers per column."
        )
    return Node(
        columns=tuple(columns) if named else mark_sorted(columns),
        arrays=dict(sorted(arrays.items())),
        packings=packings,
    )


def codecs_of(array: zarr.Array) -> tuple[Any, ...]:
    """Return the codecs of an array of v3 in the order of encoding; none for one of v2."""
    return array.metadata.codecs if isinstance(array.metadata, ArrayV3Metadata) else ()


def array_codec_names(array: zarr.Array) -> str:
    """Return the codecs of an array in readable form: `bytes+crc32c`, `sharding(bytes+zstd)`."""
    metadata = array.metadata
    if isinstance(metadata, ArrayV2Metadata):
        used = [*(metadata.filters or ()), *([metadata.compressor] if metadata.compressor else [])]
        return "+".join(["bytes", *(str(codec.get_config()["id"]) for codec in used)])
    return _codec_names(codecs_of(array))


def _codec_names(codecs: Sequence[Any]) -> str:
    names = [
        f"sharding({_codec_names(codec.codecs)})"
        if isinstance(codec, ShardingCodec)
        else str(codec.to_dict()["name"])
        for codec in codecs
    ]
    return "+".join(names)
