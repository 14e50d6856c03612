"""Files that are written completely or not at all, also into folders that somebody else made.

A file is written under a new random name in its folder, and then renamed. That name is created, not
opened, and no link is followed, so a file or a link that was put there cannot be written through.

Every system call goes through `os`, so that tests can make each one fail.
"""

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from streamtrain.errors import DataError, shown

#: `.NAME.ID.tmp`: ID is 16 random hex digits; older versions used the process id.
_TEMPORARY = re.compile(r"\..+\.(?:[0-9a-f]{16}|\d+)\.tmp", re.DOTALL)

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LEFT = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def write_atomically(path: Path, content: bytes, *, within: Path | None = None) -> None:
    """Write a temporary file beside `path`, fsync it, rename it over `path`, fsync the folder.

    If this fails or the process is killed at any moment, `path` holds either the old bytes or the
    new ones. `within`: see `open_folder`. Raises OSError, and DataError for a link.
    """
    with new_file(path, within=within) as file:
        write_whole(file, content)


@contextmanager
def new_file(path: Path, *, within: Path | None = None) -> Iterator[int]:
    """Yield the descriptor of a new file, which gets the name `path` when the block has ended.

    It is on the disk by then. Where the block raises, nothing is left. See `write_atomically`.
    """
    folder = open_folder(path.parent, within=within)
    try:
        file, temporary = _create(folder, path.name)
        try:
            try:
                yield file
                os.fsync(file)
            finally:
                os.close(file)
            os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
        os.fsync(folder)
    finally:
        os.close(folder)


def _create(folder: int, name: str) -> tuple[int, str]:
    """Create a locked file under a random name in an open folder."""
    while True:
        temporary = f".{name}.{secrets.token_hex(8)}.tmp"
        file = os.open(temporary, _NEW, 0o666, dir_fd=folder)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        # `remove_temporaries` may have removed it before it was locked
        if os.fstat(file).st_nlink:
            return file, temporary
        os.close(file)


def write_whole(file: int, content: bytes) -> None:
    """Write all of `content` to a descriptor, in several writes if needed. Raises OSError."""
    remaining = memoryview(content)
    while remaining:
        remaining = remaining[os.write(file, remaining) :]


def open_folder(folder: Path, *, within: Path | None = None, make: bool = False) -> int:
    """Return a descriptor of a folder; the caller closes it.

    `within`: the folder of a run, which may have been made by somebody else. What is below it on
    the way to `folder` must be folders, not links to other places. `make`: make those that are
    missing. Raises OSError, and DataError for a link.
    """
    descriptor = os.open(folder if within is None else within, _FOLDER)
    place = within or folder
    for name in () if within is None else folder.relative_to(within).parts:
        place = place / name
        try:
            below = _open_below(descriptor, place, make=make)
        except BaseException:
            os.close(descriptor)
            raise
        try:
            os.close(descriptor)
        except BaseException:
            os.close(below)
            raise
        descriptor = below
    return descriptor


def _open_below(above: int, place: Path, *, make: bool) -> int:
    """Open the folder `place`, which is in the open folder `above`."""
    try:
        if make:
            with suppress(FileExistsError):
                os.mkdir(place.name, dir_fd=above)
        return os.open(place.name, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            refuse_link(place)
        if error.errno == errno.ENOTDIR:
            raise DataError(
                f"{shown(str(place))}: it is not a folder. Remove it, or choose another --out."
            ) from None
        raise


def refuse_link(path: Path) -> None:
    """Raise DataError if there is a link in place of a file or folder of a run."""
    if path.is_symlink():
        raise DataError(
            f"{shown(str(path))}: it is a link, and nothing is written or removed through one."
            " Replace it by what it links to, or choose another --out."
        )


def make_folder(folder: Path, *, within: Path) -> Path:
    """Make a folder of a run unless it is there; see `open_folder`."""
    os.close(open_folder(folder, within=within, make=True))
    return folder


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path, *, within: Path | None = None) -> None:
    """Remove the temporary files of `new_file` that killed processes left behind.

    A process that still writes one holds its lock. Nothing else is removed, and a folder that is
    missing or a link is passed over.
    """
    with suppress(OSError, DataError):
        descriptor = open_folder(folder, within=within)
        try:
            for name in os.listdir(descriptor):
                if _TEMPORARY.fullmatch(name):
                    with suppress(OSError):
                        _remove_unless_held(name, descriptor)
        finally:
            os.close(descriptor)


def _remove_unless_held(name: str, folder: int) -> None:
    file = os.open(name, _LEFT, dir_fd=folder)
    try:
        if stat.S_ISREG(os.fstat(file).st_mode):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(name, dir_fd=folder)
    finally:
        os.close(file)
