"""Files that are there whole, or not at all.

Every call of the system goes through `os`, one by one: tests make each fail in turn.
"""

import os
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file beside `path`, fsync it, rename it over `path`, fsync the folder.

    Raises OSError.

    Whatever fails, and wherever the process is killed, `path` holds the old bytes or the new ones.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            write_whole(file, content)
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def write_whole(file: int, content: bytes) -> None:
    """Write all of `content` to a descriptor; the system may take it in parts. Raises OSError."""
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed process left of `write_atomically`; call it where no other process
    writes.
    """
    for temporary in folder.glob(".*.tmp"):
        with suppress(OSError):
            os.unlink(temporary)
