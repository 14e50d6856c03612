"""Where a Zarr node's files lie: a local folder, or a prefix of an object store.

What `zarr.py` asks of either is the same.
"""

import os
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, ObjectStore, WrapperStore

from streamtrain.errors import DataError, shown
from streamtrain.storage.remote.filesystem import NAMES, list_files, open_objects, read_range
from streamtrain.storage.remote.remote_file import Traffic, failure
from streamtrain.storage.remote.urls import is_remote, split
from streamtrain.types import LOCAL, Storage

_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
_REQUESTS_AT_ONCE = 16

Range = tuple[str, int, int]


class Folder(Protocol):
    """The files of a node, by their name relative to `url`."""

    url: str

    def store(self) -> str | WrapperStore:
        """What zarr opens, read only."""
        ...

    def files(self) -> dict[str, int]:
        """Name → size of every file below.

        Raises DataError for what is no file, StoreError when the store does not answer.
        """
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file; None when it is not there."""
        ...

    def read(self, name: str) -> bytes:
        """All of a small file."""
        ...

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """`(name, start, length)` → the bytes, in order; of a store several at once."""
        ...


def open_folder(url: str, storage: Storage = LOCAL, traffic: Traffic | None = None) -> Folder:
    return RemoteFolder(url, storage, traffic) if is_remote(url) else LocalFolder(url)


class LocalFolder:
    """See `Folder`."""

    def __init__(self, url: str):
        self.url = url

    def store(self) -> str:
        return self.url

    def files(self) -> dict[str, int]:
        """A pipe or device is refused: reading it might never end."""
        files = {}
        for folder, _, names in os.walk(self.url):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    about = os.stat(path)
                except OSError as error:
                    cause = error.strerror or error
                    raise DataError(
                        f"{shown(path)}: cannot be read: {cause}. Restore it, or write the array"
                        " again."
                    ) from error
                if not stat.S_ISREG(about.st_mode):
                    raise DataError(f"{shown(path)}: not a regular file. Move it out of the array.")
                files[Path(os.path.relpath(path, self.url)).as_posix()] = about.st_size
        return files

    def size(self, name: str) -> int | None:
        path = os.path.join(self.url, name)
        return os.path.getsize(path) if os.path.isfile(path) else None

    def read(self, name: str) -> bytes:
        return Path(self.url, name).read_bytes()

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        found = []
        for name, start, length in ranges:
            with open(os.path.join(self.url, name), "rb") as file:
                file.seek(start)
                found.append(file.read(length))
        return found


class RemoteFolder:
    """See `Folder`. Its files are listed once."""

    def __init__(self, url: str, storage: Storage, traffic: Traffic | None = None):
        self.url, self._storage, self._traffic = url, storage, traffic or Traffic()
        self._files: dict[str, int] | None = None

    def store(self) -> "CheckedStore":
        if split(self.url)[0] in NAMES:
            inner: ObjectStore | FsspecStore = ObjectStore(
                open_objects(self.url, self._storage), read_only=True
            )
        else:
            inner = FsspecStore.from_url(
                self.url, storage_options=dict(self._storage.options), read_only=True
            )
        return CheckedStore(inner, self.url, self._storage, self._traffic)

    def files(self) -> dict[str, int]:
        if self._files is None:
            self._files = list_files(self.url, self._storage)
        return self._files

    def size(self, name: str) -> int | None:
        return self.files().get(name)

    def read(self, name: str) -> bytes:
        return self._read_range((name, 0, self.files()[name]))

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        if len(ranges) < 2:
            return [self._read_range(each) for each in ranges]
        with ThreadPoolExecutor(
            min(_REQUESTS_AT_ONCE, len(ranges)), thread_name_prefix="ranges"
        ) as pool:
            return list(pool.map(self._read_range, ranges))

    def _read_range(self, wanted: Range) -> bytes:
        return read_range(self.url, *wanted, self._storage, self._traffic)


class CheckedStore(WrapperStore):
    """A store of zarr's that counts its traffic, names its failures, and refuses a chunk that is
    not there: zarr would make one up.
    """

    def __init__(
        self, store: ObjectStore | FsspecStore, url: str, storage: Storage, traffic: Traffic
    ):
        super().__init__(store)
        self._url, self._storage, self._traffic = url, storage, traffic

    def _with_store(self, store: ObjectStore | FsspecStore) -> "CheckedStore":
        return CheckedStore(store, self._url, self._storage, self._traffic)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        started = time.perf_counter()
        with failure(f"{self._url}/{key}", self._storage):
            found = await self._store.get(key, prototype, byte_range)
        if found is not None:
            self._traffic.add(len(found), time.perf_counter() - started)
        elif key.split("/")[-1] not in _METADATA:
            raise DataError(
                f"{self._url}: chunk {key} is missing. Restore it, or write the array again."
            )
        return found
