"""Access to the files of a Zarr node in a local folder or an object store, behind one interface."""

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
from streamtrain.storage.remote.filesystem import list_infos, open_objects, read_range
from streamtrain.storage.remote.remote_file import Traffic, as_store_error
from streamtrain.storage.remote.store_options import OPTION_NAMES
from streamtrain.storage.remote.urls import is_remote, split
from streamtrain.types import LOCAL, Storage

_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
_REQUESTS_AT_ONCE = 16

Range = tuple[str, int, int]


class Folder(Protocol):
    """The files of a node, by their names relative to `url`.

    `written_ns`: the latest modification time of the files that `files` found; 0 before.
    """

    url: str
    written_ns: int

    def store(self) -> str | WrapperStore:
        """Return what zarr opens, read only."""
        ...

    def files(self) -> dict[str, int]:
        """Return name → size of every file below.

        Raises DataError for anything that is not a regular file, and StoreError when the store does
        not answer.
        """
        ...

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; None when it does not exist."""
        ...

    def read(self, name: str) -> bytes:
        """Return all of a small file."""
        ...

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return the bytes of each `(name, start, length)`, in order.

        Several at once from an object store.
        """
        ...


def open_folder(url: str, storage: Storage = LOCAL, traffic: Traffic | None = None) -> Folder:
    """Return the folder of a node; `traffic` counts the bytes read from an object store."""
    return RemoteFolder(url, storage, traffic) if is_remote(url) else LocalFolder(url)


class LocalFolder:
    """A local `Folder`."""

    def __init__(self, url: str):
        self.url = url
        self.written_ns = 0

    def store(self) -> str:
        """Return what zarr opens."""
        return self.url

    def files(self) -> dict[str, int]:
        """Return name → size of every file below.

        A pipe or device is refused, because reading it might never end.
        """
        files = {}
        for folder, _, names in os.walk(self.url):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    status = os.stat(path)
                except OSError as error:
                    cause = error.strerror or error
                    raise DataError(
                        f"{shown(path)}: cannot be read: {cause}. Restore it, or write the array"
                        " again."
                    ) from error
                if not stat.S_ISREG(status.st_mode):
                    raise DataError(f"{shown(path)}: not a regular file. Move it out of the array.")
                files[Path(os.path.relpath(path, self.url)).as_posix()] = status.st_size
                self.written_ns = max(self.written_ns, status.st_mtime_ns)
        return files

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; None when it does not exist."""
        path = os.path.join(self.url, name)
        return os.path.getsize(path) if os.path.isfile(path) else None

    def read(self, name: str) -> bytes:
        """Return all of a small file."""
        return Path(self.url, name).read_bytes()

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return the bytes of each range, in order."""
        contents = []
        for name, start, length in ranges:
            with open(os.path.join(self.url, name), "rb") as file:
                file.seek(start)
                contents.append(file.read(length))
        return contents


class RemoteFolder:
    """A `Folder` in an object store. Its files are listed once."""

    def __init__(self, url: str, storage: Storage, traffic: Traffic | None = None):
        self.url = url
        self.storage = storage
        self.traffic = traffic or Traffic()
        self.written_ns = 0
        self._files: dict[str, int] | None = None

    def store(self) -> "CheckedStore":
        """Return what zarr opens."""
        if split(self.url)[0] in OPTION_NAMES:
            inner: ObjectStore | FsspecStore = ObjectStore(
                open_objects(self.url, self.storage), read_only=True
            )
        else:
            inner = FsspecStore.from_url(
                self.url, storage_options=dict(self.storage.options), read_only=True
            )
        return CheckedStore(inner, self)

    def files(self) -> dict[str, int]:
        """Return name → size of every file below."""
        if self._files is None:
            infos = list_infos(self.url, self.storage)
            self._files = {name: info.size for name, info in infos.items()}
            self.written_ns = max((info.mtime_ns or 0 for info in infos.values()), default=0)
        return self._files

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; None when it does not exist."""
        return self.files().get(name)

    def read(self, name: str) -> bytes:
        """Return all of a small file."""
        return self._read_range((name, 0, self.files()[name]))

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return the bytes of each range, in order."""
        if len(ranges) < 2:
            return [self._read_range(item) for item in ranges]
        threads = min(_REQUESTS_AT_ONCE, len(ranges))
        with ThreadPoolExecutor(threads, thread_name_prefix="ranges") as pool:
            return list(pool.map(self._read_range, ranges))

    def _read_range(self, wanted: Range) -> bytes:
        return read_range(self.url, *wanted, self.storage, self.traffic)


class CheckedStore(WrapperStore):
    """A zarr store that counts its traffic, raises StoreError, and refuses a lost chunk.

    That is one which was there when the folder was listed: zarr itself would read it as the fill
    value, as it reads chunks that were left out.
    """

    def __init__(self, store: ObjectStore | FsspecStore, folder: "RemoteFolder"):
        super().__init__(store)
        self._folder = folder

    def _with_store(self, store: ObjectStore | FsspecStore) -> "CheckedStore":
        return CheckedStore(store, self._folder)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object; None for missing metadata. Raises StoreError, and DataError."""
        started = time.perf_counter()
        folder = self._folder
        with as_store_error(f"{folder.url}/{key}", folder.storage):
            content = await self._store.get(key, prototype, byte_range)
        if content is not None:
            folder.traffic.add(len(content), time.perf_counter() - started)
        elif key.split("/")[-1] not in _METADATA and key in folder.files():
            raise DataError(
                f"{folder.url}: chunk {key} is missing. Restore it, or write the array again."
            )
        return content
