"""Staging of a data set while it is written, so that it appears whole or not at all.

A local data set is written to a folder with a temporary name, which is renamed at the end. An
object store cannot rename a folder, so each shard is written on this machine, uploaded, and removed
here. A file `_unfinished` marks the remote folder until the manifest is uploaded, and every reader
refuses a folder that has the mark and no manifest.
"""

import fcntl
import glob
import os
import shutil
import tempfile
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


class Staging(Protocol):
    """A data set that is being written; shards and, last, the manifest are written to `folder`."""

    folder: Path

    def add(self, shard: Path) -> None:
        """Take a finished shard in `folder`. Thread-safe."""
        ...

    def publish(self) -> None:
        """Make the data set visible under its name; its manifest is in `folder`."""
        ...


@contextmanager
def open_staging(out: str, storage: Storage = LOCAL) -> Iterator[Staging]:
    """Open the staging of `out`, which is empty or absent.

    What was not published is removed on exit. Raises OSError or StoreError.
    """
    staging = RemoteStaging(out, storage) if is_remote(out) else LocalStaging(out)
    try:
        staging.start()
        yield staging
    finally:
        staging.clean_up()


class LocalStaging:
    """The staging of a local folder.

    The writer locks the temporary folder. An unlocked one belongs to a process that was killed.
    """

    def __init__(self, out: str):
        self._out, self._lock = out, -1
        self._prefix = f".{Path(out).name}.writing-"
        self.folder = Path(out).parent / f"{self._prefix}{os.getpid()}"

    def start(self) -> None:
        """Make and lock the folder, and remove abandoned ones of the same data set."""
        # locked before it has the name by which other writers find it
        unlocked = self.folder.with_name(f".{Path(self._out).name}.starting-{os.getpid()}")
        for left in (unlocked, self.folder):  # from a killed process of the same process id
            shutil.rmtree(left, ignore_errors=True)
        unlocked.mkdir(parents=True)
        self._lock = _lock(unlocked)
        os.rename(unlocked, self.folder)
        pattern = glob.escape(str(self.folder.parent / self._prefix)) + "*"
        for other in glob.glob(pattern):
            if other.rpartition("-")[2].isdecimal():
                _remove_abandoned(other)

    def add(self, shard: Path) -> None:
        """Do nothing: the shard is in the folder that will be renamed."""

    def publish(self) -> None:
        """Rename the folder to its final name."""
        if os.path.isdir(self._out):
            os.rmdir(self._out)
        os.rename(self.folder, self._out)

    def clean_up(self) -> None:
        """Remove the folder if it was not published, and release the lock."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _lock(folder: Path) -> int:
    """Lock a folder, where the file system has locks; return the descriptor that holds it."""
    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    with suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def _remove_abandoned(folder: str) -> None:
    """Remove a staging folder, unless its writer is alive or locks do not work."""
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


class RemoteStaging:
    """The staging of a folder in an object store, in a locked temporary folder of this machine."""

    _STARTING, _WRITING = "streamtrain-starting-", "streamtrain-writing-"

    def __init__(self, out: str, storage: Storage):
        self._out, self._storage = out, storage
        # locked before it has the name by which other writers find it
        unlocked = Path(tempfile.mkdtemp(prefix=self._STARTING))
        self._folder_lock = _lock(unlocked)
        self.folder = unlocked.with_name(unlocked.name.replace(self._STARTING, self._WRITING))
        os.rename(unlocked, self.folder)
        self._uploaded: list[str] = []
        self._lock = Lock()

    def start(self) -> None:
        """Remove what killed writers left on this machine, and upload the mark `_unfinished`."""
        for other in glob.glob(f"{glob.escape(str(self.folder.parent))}/{self._WRITING}*"):
            _remove_abandoned(other)
        (self.folder / UNFINISHED_NAME).write_bytes(b"being written\n")
        self._upload(self.folder / UNFINISHED_NAME)

    def add(self, shard: Path) -> None:
        """Upload a shard, and remove it from this machine."""
        for file in sorted(shard.rglob("*")) if shard.is_dir() else [shard]:
            if file.is_file():
                self._upload(file)
        if shard.is_dir():
            shutil.rmtree(shard)
        else:
            shard.unlink()

    def publish(self) -> None:
        """Upload the manifest."""
        self._upload(self.folder / MANIFEST_NAME)
        # what `clean_up` deletes now is the mark alone
        self._uploaded = [url for url in self._uploaded if url.endswith(f"/{UNFINISHED_NAME}")]

    def clean_up(self) -> None:
        """Remove the mark and, before `publish`, all uploads, as far as the store allows it.

        The mark is removed last.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._folder_lock)
        with suppress(StoreError):  # the store has failed already, and that error is reported
            for url in reversed(self._uploaded):
                with suppress(FileNotFoundError):
                    delete_file(url, self._storage)

    def _upload(self, file: Path) -> None:
        url = f"{self._out}/{file.relative_to(self.folder).as_posix()}"
        with self._lock:
            self._uploaded.append(url)
        write_file(file, url, self._storage)
