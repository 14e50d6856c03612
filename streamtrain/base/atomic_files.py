"""Files that are written completely or not at all.

Every system call goes through `os`, so that tests can make each one fail.
"""

import os
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file beside `path`, fsync it, rename it over `path`, fsync the folder.

    If this fails or the process is killed at any moment, `path` holds either the old bytes or the
    new ones. Raises OSError.
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
    """Write all of `content` to a descriptor, in several writes if needed. Raises OSError."""
    remaining = memoryview(content)
    while remaining:
        remaining = remaining[os.write(file, remaining) :]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files of `write_atomically` that a killed process left behind.

    Call it only when no other process writes to the folder.
    """
    for temporary in folder.glob(".*.tmp"):
        with suppress(OSError):
            os.unlink(temporary)
