"""Which files a path means: a file, a folder, or a glob → the shards' paths, sorted."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from streamtrain.errors import DataError, shown
from streamtrain.storage.zarr import is_zarr


def locate(path: str, suffixes: Sequence[str] = (".parquet",)) -> list[str]:
    """The files with one of `suffixes` (folders: recursive) and the Zarr nodes that `path` means.

    A file that is named, or matched by a glob, is taken whatever its suffix. Hidden files and folders, and those that begin
    with `_`, are left out. Raises DataError when there is nothing, and for a name with control characters, a pipe or a device.
    """
    found = _locate(path, suffixes)
    for url in found:
        if not url.isprintable():
            raise DataError(f"{shown(url)}: the name holds control characters. Rename it.")
        if not (os.path.isfile(url) or os.path.isdir(url)):
            raise DataError(f"{url}: not a regular file. Name a Parquet file or a Zarr array.")
    return found


def _locate(path: str, suffixes: Sequence[str]) -> list[str]:
    if not os.path.exists(path):
        found = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else []
        if not found:
            raise DataError(f"{shown(path)}: no such file or folder. Give a Parquet file, a Zarr array, a folder of them, or a quoted glob.")
        return [url for match in found for url in (_locate(match, suffixes) if os.path.isdir(match) else [match])]
    if os.path.isfile(path) or is_zarr(path):
        return [path]
    if not os.path.isdir(path):
        return [path]
    root = Path(path)
    files = [
        str(file) for file in root.rglob("*")
        if file.name.lower().endswith(tuple(suffixes)) and file.is_file() and not _is_hidden(file.relative_to(root))
    ]
    arrays = [str(child) for child in root.glob("*.zarr") if child.is_dir() and not _is_hidden(child.relative_to(root))]
    files = [file for file in files if not any(file.startswith(array + os.sep) for array in arrays)]
    if files and arrays:
        both = f"{Path(files[0]).name}, {Path(arrays[0]).name}"
        raise DataError(f"{path}: holds both files and Zarr arrays ({both}). Choose one kind with a glob.")
    if not files and not arrays:
        wanted = ", ".join(f"*{suffix}" for suffix in (*suffixes, ".zarr"))
        raise DataError(f"{path}: the folder holds no shard ({wanted}). Name another folder, or run streamtrain ingest.")
    return sorted(files or arrays)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)
