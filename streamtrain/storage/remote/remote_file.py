"""How often a request is made before its failure counts, so that a store which stays silent is
given up in time.

One file of an object store as Python and Arrow read files, with its traffic counted and its
failures named.
"""

import errno
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

import pyarrow as pa

from streamtrain.base.redact import redact_url
from streamtrain.errors import StoreError, shown
from streamtrain.types import Storage

#: pyarrow's waits before it makes a request again are drawn from 1, 2, 4 … seconds at most, and
#: never longer than this.
_LONGEST_WAIT = 20.0


def count_attempts(request_seconds: float, end_seconds: float, most: int) -> int:
    """Attempts of `request_seconds` each that fit into `end_seconds` with pyarrow's waits between
    them: 2 at least, `most` at most.

    >>> [count_attempts(seconds, 10 * seconds, 10) for seconds in (0.1, 2.0, 30.0, 600.0)]
    [2, 4, 7, 9]
    """
    used, attempts = request_seconds, 1
    while attempts < most:
        used += min(2.0 ** (attempts - 1), _LONGEST_WAIT) + request_seconds
        if used > end_seconds:
            break
        attempts += 1
    return max(2, attempts)


@dataclass(slots=True)
class Traffic:
    """What came from object stores: bytes, and the seconds that their requests took, added up over
    threads. Thread-safe.
    """

    read_bytes: int = 0
    read_seconds: float = 0.0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def add(self, read_bytes: int, read_seconds: float) -> None:
        with self._lock:
            self.read_bytes += read_bytes
            self.read_seconds += read_seconds


@contextmanager
def failure(url: str, storage: Storage) -> Iterator[None]:
    """Whatever a store's client raises becomes one StoreError that names the file and no secret; a
    missing file stays FileNotFoundError.
    """
    try:
        yield
    except (StoreError, MemoryError):
        raise
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such file", url) from None
    # pyarrow raises OSError, obstore its own, fsspec's file systems whatever they like
    except Exception as error:
        lines = str(error).strip().splitlines()
        cause = shown(storage.redact(lines[0].rstrip(". "))) if lines else type(error).__name__
        at = f"its address {redact_url(storage.endpoint)}" if storage.endpoint else "its address"
        raise StoreError(
            f"{url}: the store failed for good: {cause}. Look at {at}, the credentials and the"
            " network."
        ) from None


class RemoteFile(io.RawIOBase):
    """A file of known size, read by range.

    `read_range(start, length)` → a buffer. For one thread at a time; holds no connection.
    """

    def __init__(
        self,
        url: str,
        storage: Storage,
        size: int,
        read_range: Callable[[int, int], pa.Buffer],
        traffic: Traffic | None = None,
    ):
        self.size, self._url, self._storage, self._read_range = size, url, storage, read_range
        self._traffic = traffic or Traffic()
        self._place = 0

    def read_buffer(self, length: int = -1) -> pa.Buffer:
        """The next `length` bytes, or fewer at the file's end, without a copy: what Arrow calls.

        Raises StoreError.
        """
        left = max(self.size - self._place, 0)
        length = left if length is None or length < 0 else min(length, left)
        if not length:
            return pa.py_buffer(b"")
        started = time.perf_counter()
        with failure(self._url, self._storage):
            found = self._read_range(self._place, length)
        if len(found) != length:
            raise StoreError(
                f"{self._url}: the store gave {len(found):,} bytes at {self._place:,} where"
                f" {length:,} were asked for. Try again."
            )
        self._traffic.add(length, time.perf_counter() - started)
        self._place += length
        return found

    def read(self, length: int = -1) -> bytes:
        return self.read_buffer(length).to_pybytes()

    def readinto(self, target: bytearray | memoryview) -> int:
        found = self.read_buffer(len(target))
        memoryview(target).cast("B")[: len(found)] = memoryview(found).cast("B")
        return len(found)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = max(
            0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence]
        )
        return self._place

    def tell(self) -> int:
        return self._place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
