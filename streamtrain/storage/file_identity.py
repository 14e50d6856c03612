"""Detect that a local shard was replaced or rewritten after it was opened.

It is checked on every read and costs a few system calls. Without it, a file that was replaced by
one of the same size, with correct checksums, would be read as rows of the old one.
"""

import os
from collections.abc import Iterable

FileIdentity = tuple[int, ...]


def file_identity(path: str) -> FileIdentity:
    """Return device, inode, size and modification time of a file.

    Another file of this name differs in one of them, and so does the same file after it was
    overwritten. Raises OSError.
    """
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class FolderIdentity:
    """The same check for a folder of many files.

    It stores the inode of the folder and the latest change time (ctime) of all files and folders in
    it, not one time per file: whatever has a later change time was modified, renamed, added or
    removed. Both times are from the file system's own clock.
    """

    def __init__(self, root: str):
        """Look at all files and folders below `root`. Raises OSError."""
        self._root = root
        self._inode = os.stat(root).st_ino
        self._latest = max(
            os.stat(path).st_ctime_ns
            for folder, _, names in os.walk(root)
            for path in (folder, *(os.path.join(folder, name) for name in names))
        )

    def unchanged(self, names: Iterable[str]) -> bool:
        """Return whether these files and the folders that contain them are unchanged.

        `names` are relative to the root. False when one is missing.
        """
        try:
            if os.stat(self._root).st_ino != self._inode:
                return False
            folders = {os.path.dirname(name) for name in names}
            return all(
                os.stat(os.path.join(self._root, name)).st_ctime_ns <= self._latest
                for name in (*_with_parents(folders), *names)
            )
        except OSError:
            return False


def _with_parents(folders: Iterable[str]) -> set[str]:
    """Return the folders and all their parents up to the root, whose name is empty."""
    parents = {""}
    for folder in folders:
        while folder not in parents:
            parents.add(folder)
            folder = os.path.dirname(folder)
    return parents
