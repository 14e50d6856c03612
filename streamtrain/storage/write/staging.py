"""A data set while it is written: there whole, or not at all.

A local folder is made under a temporary name and renamed at the end. In an object store nothing can
be renamed, so each shard is made on this machine, uploaded and removed here; `_unfinished` lies
beside the shards until the manifest does, and no reader takes what has the one and not the other.
"""

import fcntl
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Protocol

from streamtrain.errors import StoreError
from streamtrain.storage.manifest import MANIFEST_NAME, UNFINISHED_NAME
from streamtrain.storage.remote.filesystem import delete_file, write_file
from streamtrain.storage.remote.urls import is_remote
from streamtrain.types import LOCAL, Storage


class Draft(Protocol):
    """`folder`: where shards and, last, the manifest are made."""

    folder: Path

    def keep(self, shard: Path) -> None:
        """A shard in `folder` is ready. Called from several threads."""
        ...

    def finish(self) -> None:
        """The manifest lies in `folder`: give the data set its name."""
        ...


@contextmanager
def open_draft(out: str, storage: Storage = LOCAL) -> Iterator[Draft]:
    """A draft of `out`, which is empty or absent; what was not finished is removed at the end.

    Raises OSError or StoreError.
    """
    draft = RemoteDraft(out, storage) if is_remote(out) else LocalDraft(out)
    try:
        draft.begin()
        yield draft
    finally:
        draft.clear()


#: A draft that is younger may be one whose writer has not locked it yet.
_YOUNG_SECONDS = 60.0


class LocalDraft:
    """See `Draft`.

    Its writer holds a lock on the folder; one that nobody holds is of a process that was killed.
    """

    def __init__(self, out: str):
        self._out, self._lock = out, -1
        self.folder = Path(out).parent / f".{Path(out).name}.writing-{os.getpid()}"

    def begin(self) -> None:
        # of a process that was killed and had the same number
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._lock = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for other in glob.glob(f"{glob.escape(str(self.folder).removesuffix(str(os.getpid())))}*"):
            with suppress(OSError):
                if (
                    other.rpartition("-")[2].isdecimal()
                    and time.time() - os.stat(other).st_mtime > _YOUNG_SECONDS
                ):
                    _remove_abandoned(other)

    def keep(self, shard: Path) -> None:
        pass

    def finish(self) -> None:
        if os.path.isdir(self._out):
            os.rmdir(self._out)
        os.rename(self.folder, self._out)

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _remove_abandoned(folder: str) -> None:
    """Raises OSError when its writer is alive, or nobody can say."""
    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


class RemoteDraft:
    """See `Draft`."""

    def __init__(self, out: str, storage: Storage):
        self._out, self._storage = out, storage
        self.folder = Path(tempfile.mkdtemp(prefix="streamtrain-writing-"))
        self._uploaded: list[str] = []
        self._lock = Lock()

    def begin(self) -> None:
        (self.folder / UNFINISHED_NAME).write_bytes(b"being written\n")
        self._upload(self.folder / UNFINISHED_NAME)

    def keep(self, shard: Path) -> None:
        for file in sorted(shard.rglob("*")) if shard.is_dir() else [shard]:
            if file.is_file():
                self._upload(file)
        shutil.rmtree(shard) if shard.is_dir() else shard.unlink()

    def finish(self) -> None:
        self._upload(self.folder / MANIFEST_NAME)
        self._uploaded = [url for url in self._uploaded if url.endswith(f"/{UNFINISHED_NAME}")]

    def clear(self) -> None:
        """Remove the mark; before `finish` also what was uploaded, as far as the store lets us: the
        mark goes last.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(StoreError):  # it failed already, and that is what is told
            for url in reversed(self._uploaded):
                with suppress(FileNotFoundError):
                    delete_file(url, self._storage)

    def _upload(self, file: Path) -> None:
        url = f"{self._out}/{file.relative_to(self.folder).as_posix()}"
        with self._lock:
            self._uploaded.append(url)
        write_file(file, url, self._storage)
