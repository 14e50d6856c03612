"""`_manifest.json`: the shards of a written data set, with hashes that verify them."""

import hashlib
import os
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from streamtrain.base.atomic_files import write_atomically
from streamtrain.base.finite import finite_or_none
from streamtrain.errors import DataError
from streamtrain.storage.moments import Moments
from streamtrain.storage.parquet.parquet_footer import parquet_source
from streamtrain.storage.remote.filesystem import (
    file_size,
    is_folder,
    list_files,
    open_sequential,
    read_file,
)
from streamtrain.storage.remote.urls import is_remote, is_web
from streamtrain.types import LOCAL, MAX_ROWS, Column, Format, Shard, Storage, Truth

MANIFEST_NAME = "_manifest.json"

#: Marks a remote folder from before its first shard is written until its manifest is there, because
#: an object store cannot rename a folder.
UNFINISHED_NAME = "_unfinished"
_MAX_BYTES = 1 << 30

#: Decoded type → Arrow's name of it, as it is shown for Parquet columns.
_ARROW_NAMES = {"float32": "float", "float64": "double"}

Count = Annotated[int, Field(ge=0, le=MAX_ROWS)]


class _StrictModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Statistics(_StrictModel):
    """Statistics of one column.

    `mean`, `sd` (of the population), `min` and `max` are over its `count` finite values, and null
    where there are none or a figure exceeds float64. `nulls` counts null and NaN, `infinite` ±Inf.
    """

    count: Count
    nulls: Count
    infinite: Count
    mean: float | None
    sd: float | None
    min: float | None
    max: float | None

    @staticmethod
    def of(moments: Moments) -> "Statistics":
        """Return the moments of a column in the form in which the manifest stores them."""
        mean = sd = low = high = None
        if moments.count:
            mean = finite_or_none(moments.mean)
            sd = finite_or_none(moments.variance**0.5)
            low = finite_or_none(moments.low)
            high = finite_or_none(moments.high)
        return Statistics(
            count=moments.count,
            nulls=moments.nulls,
            infinite=moments.infinite,
            mean=mean,
            sd=sd,
            min=low,
            max=high,
        )


class ShardEntry(_StrictModel):
    """One shard.

    `boundaries`: runs `[length, repeats]`, see `compact_boundaries`. `sha256`: see `hash_shard`.
    """

    name: str
    rows: Count
    boundaries: list[tuple[Count, Count]]
    bytes: Count
    sha256: str
    source: str


class Manifest(_StrictModel):
    """The content of the file.

    `shuffle_seed`: the seed by which the rows were shuffled as a whole; absent when they were not.
    """

    schema_version: Literal[1] = 1
    format: Format
    rows: Count
    columns: list[str]
    decoded_type: Literal["float32", "float64"]
    span_rows: Annotated[int, Field(ge=1)]
    shards: list[ShardEntry]
    statistics: dict[str, Statistics]
    truth: Truth | None = None
    shuffle_seed: int | None = None

    @model_validator(mode="after")
    def _names_agree(self) -> "Manifest":
        if sorted(self.columns) != sorted(self.statistics):
            raise ValueError("its columns and its statistics have different names")
        return self


def read_manifest(folder: str, storage: Storage = LOCAL) -> Manifest | None:
    """Return the manifest of a folder, or None where there is none.

    Raises DataError when it is damaged.
    """
    path = os.path.join(folder, MANIFEST_NAME)
    if is_remote(folder) and folder.endswith(".parquet"):
        return None  # a file has no manifest, and a web server may answer any request
    num_bytes = file_size(path, storage)
    if num_bytes is None:
        return None
    try:
        if num_bytes > _MAX_BYTES:
            raise ValueError(f"{num_bytes:,} bytes; the limit is {_MAX_BYTES:,}")
        try:
            return Manifest.model_validate_json(read_file(path, storage))
        except ValidationError:
            if not is_remote(path):
                raise
            # its bytes may have been damaged on their way
            return Manifest.model_validate_json(read_file(path, storage))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        cause = ": ".join(filter(None, (key, message)))
    except DataError:
        raise
    except (OSError, ValueError) as error:
        cause = str(error)
    raise DataError(
        f"{path}: the manifest cannot be used ({cause}). Restore it, or delete it to read the"
        " shards unverified."
    )


def refuse_unfinished(folder: str, storage: Storage) -> None:
    """Raise DataError for a remote folder whose writer ended early, so that shards are missing."""
    if not is_remote(folder) or is_web(folder):
        return
    if file_size(os.path.join(folder, UNFINISHED_NAME), storage) is not None:
        raise DataError(
            f"{folder}: writing was not finished, so shards are missing. Delete the folder and"
            " write it again."
        )


def write_manifest(folder: str, manifest: Manifest) -> None:
    """Write the manifest atomically."""
    # older versions, which could not shuffle, refuse the key
    unset = {"shuffle_seed"} if manifest.shuffle_seed is None else None
    content = manifest.model_dump_json(indent=1, exclude=unset)
    write_atomically(Path(folder) / MANIFEST_NAME, content.encode())


def shard_from_entry(
    folder: str,
    manifest: Manifest,
    entry: ShardEntry,
    *,
    check: bool = True,
    storage: Storage = LOCAL,
) -> Shard:
    """Return the shard of an entry, without parsing its footer.

    Raises DataError when the name leaves the folder, and, with `check`, when the shard's size or
    footer hash (Zarr: chunk keys and sizes) differ from the manifest. Without `check` the shard is
    described by the manifest alone, and reading it fails if that is wrong.
    """
    url = safe_path(folder, entry.name)
    if check:
        _require_listed_shard(url, manifest, entry, storage)
    last = sum(length * repeats for length, repeats in entry.boundaries)
    # A boundary takes more than one byte of any shard; a manifest that claims more boundaries than
    # bytes would only fill memory here.
    if last != entry.rows or sum(repeats for _, repeats in entry.boundaries) > entry.bytes:
        raise DataError(
            f"{url}: {MANIFEST_NAME} gives {entry.rows:,} rows and boundaries up to {last:,}."
            " Restore the manifest."
        )
    stored_type: str = manifest.decoded_type
    if manifest.format == "parquet":
        stored_type = _ARROW_NAMES[manifest.decoded_type]
    columns = tuple(
        Column(name=name, stored_type=stored_type, decoded_type=manifest.decoded_type)
        for name in manifest.columns
    )
    return Shard(
        url=url,
        format=manifest.format,
        num_rows=entry.rows,
        num_bytes=entry.bytes,
        boundaries=expand_boundaries(entry.boundaries),
        columns=columns,
        source=entry.source,
        read_rows=manifest.span_rows if manifest.format == "zarr" else 0,
        storage=storage,
        listed=True,
    )


def _require_listed_shard(
    url: str, manifest: Manifest, entry: ShardEntry, storage: Storage
) -> None:
    """Raise DataError when the file is not the shard that the manifest lists."""
    missing = DataError(
        f"{url}: listed in {MANIFEST_NAME}, but missing. Restore it, or write the data set again."
    )
    if not is_remote(url) and not os.path.exists(url):
        raise missing
    is_parquet = manifest.format == "parquet"
    try:
        if is_parquet:
            source, num_bytes = parquet_source(url, storage)
        else:
            # imported where a shard is Zarr: see `describe_shard`
            from streamtrain.storage.zarr.zarr_reader import zarr_source

            source, num_bytes = zarr_source(url, storage), entry.bytes
    except DataError as error:
        not_found = isinstance(error.__cause__, FileNotFoundError)
        raise (missing if not_found else error) from error.__cause__
    if source != entry.source or num_bytes != entry.bytes:
        raise DataError(
            f"{url}: not the shard that {MANIFEST_NAME} describes (size or"
            f" {'footer' if is_parquet else 'chunks'} differ). Restore it, or delete"
            f" {MANIFEST_NAME} to read it unverified."
        )


def compact_boundaries(boundaries: np.ndarray) -> list[tuple[int, int]]:
    """Return boundaries as runs `(length, repeats)`.

    >>> compact_boundaries(np.array([0, 4, 8, 12, 13]))
    [(4, 3), (1, 1)]
    """
    runs: list[tuple[int, int]] = []
    for length in np.diff(boundaries).tolist():
        repeats = runs.pop()[1] if runs and runs[-1][0] == length else 0
        runs.append((length, repeats + 1))
    return runs


def expand_boundaries(runs: list[tuple[int, int]]) -> np.ndarray:
    """Return the boundaries of runs; the inverse of `compact_boundaries`.

    >>> expand_boundaries([(4, 3), (1, 1)]).tolist()
    [0, 4, 8, 12, 13]
    """
    lengths = np.repeat([length for length, _ in runs], [repeats for _, repeats in runs])
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def hash_shard(url: str, storage: Storage = LOCAL) -> str:
    """Return the SHA-256 of a file, or of a folder's sorted (name, size, SHA-256) lines."""
    if not is_folder(url, storage):
        with open_sequential(url, storage) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for name, num_bytes in _sizes(url, storage):
        digest.update(f"{name}\t{num_bytes}\t{hash_shard(f'{url}/{name}', storage)}\n".encode())
    return digest.hexdigest()


def _sizes(url: str, storage: Storage) -> list[tuple[str, int]]:
    """Return (name, size) of the files below a folder, in the order of their paths."""
    if is_remote(url):
        files = list_files(url, storage)
        return [
            (name, files[name])
            for name in sorted(files, key=lambda name: PurePosixPath(name).parts)
        ]
    paths = sorted(path for path in Path(url).rglob("*") if path.is_file())
    return [(path.relative_to(url).as_posix(), path.stat().st_size) for path in paths]


def exists(url: str, storage: Storage = LOCAL) -> bool:
    """Return whether there is a file or a folder at `url`. Raises StoreError."""
    if is_remote(url):
        return file_size(url, storage) is not None or is_folder(url, storage)
    return os.path.exists(url)


def safe_path(folder: str, name: str) -> str:
    """Return the path of a shard.

    Raises DataError when it is not inside the folder, with links resolved.
    """
    parts = PurePosixPath(name).parts
    path = os.path.join(folder, name)
    root = os.path.realpath(folder)
    inside = is_remote(folder) or os.path.realpath(path).startswith(root + os.sep)
    if (
        not parts
        or ".." in parts
        or PurePosixPath(name).is_absolute()
        or "\\" in name
        or not name.isprintable()
        or not inside
    ):
        raise DataError(
            f"{os.path.join(folder, MANIFEST_NAME)}: the shard name {name!r} leaves the folder."
            " Shards must be inside it."
        )
    return path
