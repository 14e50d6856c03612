"""Checkpoints on disk: `NNNNNN.safetensors` (arrays) and `NNNNNN.json` (everything else).

The JSON holds the hashes of both files. Nothing is pickled, and the bytes hold no time, so equal
states give equal files.

The arrays are written first and the JSON last, each through a temporary file, fsync, rename and
fsync of the folder. So a checkpoint whose JSON exists is complete. A checkpoint with any changed
byte is refused.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load, save

from streamtrain.base.atomic_files import write_atomically
from streamtrain.base.untrusted import read_regular
from streamtrain.errors import DataError, shown
from streamtrain.records import parse, to_json
from streamtrain.types import Json

SCHEMA_VERSION = 1

_MAX_JSON_BYTES = 1 << 30

_NAME = re.compile(r"(\d{6,})\.json")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A saved state: JSON values, and arrays by name."""

    number: int
    document: Json
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a file holds up to some place: its bytes and their hash."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: str


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write both files.

    Checkpoints of other numbers are not touched. Raises OSError, and DataError if `folder` is a
    link.
    """
    content = save(
        {name: np.asarray(array, order="C") for name, array in checkpoint.arrays.items()}
    )
    tensors_path, document_path = _paths(folder, checkpoint.number)
    document = {
        "schema_version": SCHEMA_VERSION,
        **checkpoint.document,
        "number": checkpoint.number,
        "tensors": to_json(Mark(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())),
    }
    write_atomically(tensors_path, content, within=folder.parent)
    write_atomically(document_path, _encode(document), within=folder.parent)


def read_checkpoint(folder: Path, number: int) -> Checkpoint:
    """Read a checkpoint back.

    Raises DataError, naming the file and what is wrong with it, unless both files are exactly what
    was written.
    """
    tensors_path, document_path = _paths(folder, number)
    document = _read_document(document_path)
    content = _read_tensors(tensors_path, parse(Mark, document.get("tensors", {}), "tensors"))
    try:
        arrays = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{shown(str(tensors_path))}: it is not a safetensors file ({error})"
        ) from None
    return Checkpoint(number=number, document=document, arrays=arrays)


def _read_document(path: Path) -> Json:
    """Read the JSON of a checkpoint, and verify its hash and schema version."""
    try:
        text = read_regular(path, limit_bytes=_MAX_JSON_BYTES)
        document: Json = dict(json.loads(text)["checkpoint"])
        matches = _encode(document) == text
    except OSError as error:
        raise DataError(f"{shown(str(path))}: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError) as error:
        # A plain ValueError is from `_encode`: NaN or infinity, which is never written.
        if type(error) is ValueError:
            raise DataError(f"{shown(str(path))}: its hash does not match") from None
        raise DataError(f"{shown(str(path))}: it is not a complete JSON document") from None
    if not matches:
        raise DataError(f"{shown(str(path))}: its hash does not match")
    if (version := document.get("schema_version")) != SCHEMA_VERSION:
        raise DataError(
            f"{shown(str(path))}: schema_version is {shown(str(version))[:40]}; this streamtrain"
            f" reads {SCHEMA_VERSION}"
        )
    return document


def _read_tensors(path: Path, expected: Mark) -> bytes:
    """Read the arrays' file, and verify its size and hash."""
    try:
        content = read_regular(path, limit_bytes=expected.bytes + 1)
    except OSError as error:
        raise DataError(f"{shown(str(path))}: {error.strerror or error}") from None
    if len(content) != expected.bytes:
        raise DataError(
            f"{shown(str(path))}: it has {len(content):,} bytes instead of {expected.bytes:,}"
        )
    if hashlib.sha256(content).hexdigest() != expected.sha256:
        raise DataError(f"{shown(str(path))}: its hash does not match")
    return content


def list_checkpoints(folder: Path) -> list[int]:
    """Return the numbers of the checkpoints in a folder, ascending, damaged ones included.

    The list is empty when there is no such folder.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        matches = [_NAME.fullmatch(name) for name in os.listdir(folder)]
        return sorted(int(match[1]) for match in matches if match)
    return []


def remove_checkpoint(folder: Path, number: int) -> None:
    """Remove a checkpoint.

    The JSON goes first, so that a checkpoint is either complete or absent. Raises OSError.
    """
    tensors_path, document_path = _paths(folder, number)
    for path in (document_path, tensors_path):
        with suppress(FileNotFoundError):
            os.unlink(path)


def nest(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays with `prefix/` before their names, so that several sets fit into one."""
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def unnest(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays that `nest` put under a prefix, with their own names."""
    start = f"{prefix}/"
    return {
        name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)
    }


def _paths(folder: Path, number: int) -> tuple[Path, Path]:
    return folder / f"{number:06d}.safetensors", folder / f"{number:06d}.json"


def _encode(document: Json) -> bytes:
    """Return the bytes of a document's file: the hash of its JSON text, and the text."""
    text = json.dumps(document, sort_keys=True, allow_nan=False)
    return b'{"sha256": "%s", "checkpoint": %s}\n' % (
        hashlib.sha256(text.encode()).hexdigest().encode(),
        text.encode(),
    )
