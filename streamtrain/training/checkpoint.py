"""Checkpoints on disk: `NNNNNN.safetensors` (arrays) and `NNNNNN.json` (all else, with the hash of
both). No pickle, no time in the bytes.

The arrays are written first, the JSON last, each by temporary, fsync, rename, fsync of the folder:
a checkpoint that has its JSON has all of itself. A byte that is not the one written makes it
refused.
"""

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from streamtrain.base.atomic_files import write_atomically
from streamtrain.errors import DataError, shown
from streamtrain.types import Json

SCHEMA_VERSION = 1

_NAME = re.compile(r"(\d{6,})\.json")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """What was saved: JSON values, and arrays by name."""

    number: int
    document: Json
    arrays: dict[str, np.ndarray]


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write both files. Raises OSError; checkpoints of other numbers are not touched."""
    content = save(
        {name: np.asarray(array, order="C") for name, array in checkpoint.arrays.items()}
    )
    tensors, about = _paths(folder, checkpoint.number)
    document = {
        "schema_version": SCHEMA_VERSION,
        **checkpoint.document,
        "number": checkpoint.number,
        "tensors": {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()},
    }
    write_atomically(tensors, content)
    write_atomically(about, _encode(document))


def read_checkpoint(folder: Path, number: int) -> Checkpoint:
    """Read a checkpoint back.

    Raises DataError, naming the file and what is wrong with it, for anything but what was written.
    """
    tensors, about = _paths(folder, number)
    try:
        stated = about.read_bytes()
        document = json.loads(stated)["checkpoint"]
        if _encode(document) != stated:
            raise ValueError("its hash does not match")
    except OSError as error:
        raise DataError(f"{shown(str(about))}: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        cause = (
            "its hash does not match"
            if type(error) is ValueError
            else "it is no whole JSON document"
        )
        raise DataError(f"{shown(str(about))}: {cause}") from None
    if document["schema_version"] != SCHEMA_VERSION:
        raise DataError(
            f"{shown(str(about))}: schema_version is {document['schema_version']!r}; this"
            f" streamtrain reads {SCHEMA_VERSION}"
        )
    try:
        content = tensors.read_bytes()
    except OSError as error:
        raise DataError(f"{shown(str(tensors))}: {error.strerror or error}") from None
    stated = document["tensors"]
    if len(content) != stated["bytes"]:
        raise DataError(
            f"{shown(str(tensors))}: it has {len(content):,} bytes instead of {stated['bytes']:,}"
        )
    if hashlib.sha256(content).hexdigest() != stated["sha256"]:
        raise DataError(f"{shown(str(tensors))}: its hash does not match")
    try:
        return Checkpoint(number=number, document=document, arrays=load(content))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{shown(str(tensors))}: it is no safetensors file ({error})") from None


def list_checkpoints(folder: Path) -> list[int]:
    """The numbers of the checkpoints in a folder, ascending, good and damaged ones alike; none when
    there is no folder.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        return sorted(
            int(found[1]) for name in os.listdir(folder) if (found := _NAME.fullmatch(name))
        )
    return []


def remove_checkpoint(folder: Path, number: int) -> None:
    """Remove one, the JSON first, so that it is whole or not there. Raises OSError."""
    tensors, about = _paths(folder, number)
    for path in (about, tensors):
        with suppress(FileNotFoundError):
            os.unlink(path)


def _paths(folder: Path, number: int) -> tuple[Path, Path]:
    return folder / f"{number:06d}.safetensors", folder / f"{number:06d}.json"


def _encode(document: Json) -> bytes:
    """The one way to write a document: with the hash of its text beside it."""
    text = json.dumps(document, sort_keys=True, allow_nan=False)
    return b'{"sha256": "%s", "checkpoint": %s}\n' % (
        hashlib.sha256(text.encode()).hexdigest().encode(),
        text.encode(),
    )
