"""Whether a local shard is still the one that was opened: looked at with every read, for the price
of a few calls of the system.

A file that was replaced by one of the same size, whose checksums are right, would else be read as
rows of the old one.
"""

import os
from collections.abc import Iterable

Stamp = tuple[int, ...]


def stamp(path: str) -> Stamp:
    """Device, inode, size and time of the last write: another file under this name, or one written
    over, has another. Raises OSError.
    """
    about = os.stat(path)
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


class FolderStamp:
    """The same for a folder of many files.

    Not each is remembered, only the latest change of all: what changed later is not as it was.

    A change is one of contents, of the name, or of what lies in a folder; the system's own clock of
    files says when it was.
    """

    def __init__(self, root: str):
        """Look at all files and folders below. Raises OSError."""
        self._root = root
        self._inode = os.stat(root).st_ino
        self._latest = max(
            os.stat(path).st_ctime_ns
            for folder, _, names in os.walk(root)
            for path in (folder, *(os.path.join(folder, name) for name in names))
        )

    def holds(self, names: Iterable[str]) -> bool:
        """Whether these files, and the folders they lie in, are as they were.

        False when one is gone.
        """
        try:
            if os.stat(self._root).st_ino != self._inode:
                return False
            folders = {os.path.dirname(name) for name in names}
            return all(
                os.stat(os.path.join(self._root, each)).st_ctime_ns <= self._latest
                for each in (*self._above(folders), *names)
            )
        except OSError:
            return False

    @staticmethod
    def _above(folders: set[str]) -> set[str]:
        """The folders, and those above them up to the root, which is the empty name."""
        found = {""}
        for folder in folders:
            while folder not in found:
                found.add(folder)
                folder = os.path.dirname(folder)
        return found
