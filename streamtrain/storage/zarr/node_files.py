"""The files by which a folder is recognised as a Zarr node; does not import zarr."""

import os
from pathlib import Path

#: Files that mark a folder as a Zarr node, of v3 or an older version.
NODE_FILES = frozenset({"zarr.json", ".zarray", ".zgroup", ".zmetadata"})


def is_zarr(url: str) -> bool:
    """Return whether a folder is a Zarr node, or one of N5, which is refused later."""
    return any(os.path.isfile(os.path.join(url, name)) for name in NODE_FILES) or _is_n5(url)


def _is_n5(url: str) -> bool:
    try:
        attributes = Path(url, "attributes.json").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return '"n5"' in attributes or '"blockSize"' in attributes
