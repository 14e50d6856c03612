"""`_manifest.json`: what a written data set holds, and the hashes that vouch for it."""

import hashlib
import os
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from streamtrain.errors import DataError
from streamtrain.storage.parquet import parquet_source
from streamtrain.storage.zarr import zarr_source
from streamtrain.types import MAX_ROWS, Column, Format, Shard, Truth

MANIFEST_NAME = "_manifest.json"
_MAX_BYTES = 1 << 30

Count = Annotated[int, Field(ge=0, le=MAX_ROWS)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Statistics(_Part):
    """Of one column: mean, sd (population), min and max are over its `count` finite values; null when there is none.

    `nulls` counts null and NaN, `infinite` ±Inf.
    """

    count: Count
    nulls: Count
    infinite: Count
    mean: float | None
    sd: float | None
    min: float | None
    max: float | None


class ShardEntry(_Part):
    """One shard: `boundaries` as runs `[length, repeats]`; `sha256` of the file, or of a Zarr shard's chunk list."""

    name: str
    rows: Count
    boundaries: list[tuple[Count, Count]]
    bytes: Count
    sha256: str
    source: str


class Manifest(_Part):
    """A written data set."""

    schema_version: Literal[1] = 1
    format: Format
    rows: Count
    columns: list[str]
    decoded_type: Literal["float32", "float64"]
    span_rows: Annotated[int, Field(ge=1)]
    shards: list[ShardEntry]
    statistics: dict[str, Statistics]
    truth: Truth | None = None

    @model_validator(mode="after")
    def _names_agree(self) -> "Manifest":
        if sorted(self.columns) != sorted(self.statistics):
            raise ValueError("its columns and its statistics have different names")
        return self


def read_manifest(folder: str) -> Manifest | None:
    """The manifest of a folder, or None where there is none. Raises DataError when it is damaged."""
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes; the limit is {_MAX_BYTES:,}")
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        cause = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, "))))
    except (OSError, ValueError) as error:
        cause = str(error)
    raise DataError(f"{path}: the manifest cannot be used ({cause}). Restore it, or delete it to read the shards unverified.")


def write_manifest(folder: str, manifest: Manifest) -> None:
    """Write it whole or not at all: temporary file, fsync, replace."""
    path = Path(folder) / MANIFEST_NAME
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=1))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def shard_from_entry(folder: str, manifest: Manifest, entry: ShardEntry, *, check: bool = True) -> Shard:
    """The shard of an entry, without parsing its footer: its size and footer hash (Zarr: chunk keys and sizes) must match.

    Raises DataError when they do not, and when the name leaves the folder. Without `check` the shard is as the manifest promises
    it, and reading it will fail where it is not.
    """
    url = safe_path(folder, entry.name)
    if check:
        _refuse_changed(url, manifest, entry)
    last = sum(length * repeats for length, repeats in entry.boundaries)
    # A boundary costs more than a byte of any shard: what claims more would only fill memory here.
    if last != entry.rows or sum(repeats for _, repeats in entry.boundaries) > entry.bytes:
        raise DataError(f"{url}: {MANIFEST_NAME} gives {entry.rows:,} rows and boundaries up to {last:,}. Restore the manifest.")
    kind = {"float32": "float", "float64": "double"}[manifest.decoded_type] if manifest.format == "parquet" else manifest.decoded_type
    columns = tuple(Column(name=name, stored_type=kind, decoded_type=manifest.decoded_type) for name in manifest.columns)
    return Shard(
        url=url, format=manifest.format, num_rows=entry.rows, num_bytes=entry.bytes,
        boundaries=expand_boundaries(entry.boundaries), columns=columns, source=entry.source,
        read_rows=manifest.span_rows if manifest.format == "zarr" else 0, listed=True,
    )


def _refuse_changed(url: str, manifest: Manifest, entry: ShardEntry) -> None:
    if not os.path.exists(url):
        raise DataError(f"{url}: listed in {MANIFEST_NAME}, but not there. Restore it, or write the data set again.")
    source = parquet_source(url) if manifest.format == "parquet" else zarr_source(url)
    if source != entry.source or (manifest.format == "parquet" and os.path.getsize(url) != entry.bytes):
        raise DataError(
            f"{url}: not the shard that {MANIFEST_NAME} describes (size or {'footer' if manifest.format == 'parquet' else 'chunks'} differ)."
            f" Restore it, or delete {MANIFEST_NAME} to read it unverified."
        )


def compact_boundaries(boundaries: np.ndarray) -> list[tuple[int, int]]:
    """Runs `(length, repeats)`.

    >>> compact_boundaries(np.array([0, 4, 8, 12, 13]))
    [(4, 3), (1, 1)]
    """
    runs: list[tuple[int, int]] = []
    for length in np.diff(boundaries).tolist():
        repeats = runs.pop()[1] if runs and runs[-1][0] == length else 0
        runs.append((length, repeats + 1))
    return runs


def expand_boundaries(runs: list[tuple[int, int]]) -> np.ndarray:
    """The inverse of `compact_boundaries`.

    >>> expand_boundaries([(4, 3), (1, 1)]).tolist()
    [0, 4, 8, 12, 13]
    """
    lengths = np.repeat([length for length, _ in runs], [repeats for _, repeats in runs])
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def hash_shard(url: str) -> str:
    """SHA-256 of a file; of a folder, over its sorted (name, size, SHA-256) lines."""
    if os.path.isfile(url):
        with open(url, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(url).rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(url).as_posix()}\t{path.stat().st_size}\t{hash_shard(str(path))}\n".encode())
    return digest.hexdigest()


def safe_path(folder: str, name: str) -> str:
    """The path of a shard, which must lie below the folder, links resolved. Raises DataError when it does not."""
    parts = PurePosixPath(name).parts
    path = os.path.join(folder, name)
    root = os.path.realpath(folder)
    inside = os.path.realpath(path).startswith(root + os.sep)
    if not parts or ".." in parts or PurePosixPath(name).is_absolute() or "\\" in name or not name.isprintable() or not inside:
        raise DataError(f"{os.path.join(folder, MANIFEST_NAME)}: the shard name {name!r} leaves the folder. Shards must lie below it.")
    return path
