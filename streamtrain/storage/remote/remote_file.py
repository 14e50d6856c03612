"""A file in an object store, as Python and Arrow read files.

Its traffic is counted, and its failures become one StoreError that names the file. Retries are
limited, so that a store that stays silent is given up in time.
"""

import errno
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import pyarrow as pa

from streamtrain.base.redact import redact_url
from streamtrain.errors import StoreError, shown
from streamtrain.types import Storage

#: In what obstore says of a server that answers a request for a range with the whole file.
_NO_RANGES = "Range request not supported"

#: Before retry n, pyarrow waits a random time of at most 2^(n-1) seconds, up to this limit.
_MAX_WAIT_SECONDS = 20.0


def count_attempts(request_seconds: float, total_seconds: float, max_attempts: int) -> int:
    """Return how many attempts of `request_seconds` fit into `total_seconds`.

    pyarrow's waits between attempts are included. At least 2, at most `max_attempts`.

    >>> [count_attempts(seconds, 10 * seconds, 10) for seconds in (0.1, 2.0, 30.0, 600.0)]
    [2, 4, 7, 9]
    """
    used, attempts = request_seconds, 1
    while attempts < max_attempts:
        used += min(2.0 ** (attempts - 1), _MAX_WAIT_SECONDS) + request_seconds
        if used > total_seconds:
            break
        attempts += 1
    return max(2, attempts)


@dataclass(slots=True)
class Traffic:
    """Bytes read from object stores, and the seconds their requests took, summed over threads.

    Thread-safe.
    """

    read_bytes: int = 0
    read_seconds: float = 0.0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def add(self, read_bytes: int, read_seconds: float) -> None:
        """Count one request."""
        with self._lock:
            self.read_bytes += read_bytes
            self.read_seconds += read_seconds


@contextmanager
def as_store_error(url: str, storage: Storage) -> Iterator[None]:
    """Turn whatever a store's client raises into one StoreError.

    It names the file and no secret. A missing file stays FileNotFoundError.
    """
    try:
        yield
    except (StoreError, MemoryError):
        raise
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such file", url) from None
    # pyarrow raises OSError, obstore its own errors, fsspec's file systems any exception
    except Exception as error:
        lines = str(error).strip().splitlines()
        cause = shown(storage.redact(lines[0].rstrip(". "))) if lines else type(error).__name__
        if _NO_RANGES in str(error):
            raise StoreError(
                f"{url}: the server sends whole files only, no ranges of bytes, which reading parts"
                " of a file needs. Download the file (curl -O), and name the copy."
            ) from None
        endpoint = "the endpoint"
        if storage.endpoint:
            endpoint += f" {redact_url(storage.endpoint)}"
        raise StoreError(
            f"{url}: the request failed after retries: {cause}. Check {endpoint}, the credentials"
            " and the network."
        ) from None


def object_stamp(about: Mapping[Any, Any] | None) -> str:
    """Return the version of an object, or else its ETag or date; "" where its store says neither.

    `about`: what pyarrow or obstore return.

    >>> object_stamp({b"ETag": b'"9b2c"', b"Content-Length": b"12"})
    '"9b2c"'
    """
    known = {_text(name).lower(): _text(value) for name, value in (about or {}).items() if value}
    names = ("versionid", "version", "generation", "etag", "e_tag", "last-modified")
    return next((known[name] for name in (*names, "last_modified") if name in known), "")


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class RemoteFile(io.RawIOBase):
    """A file of known size that is read by range.

    `read_range(start, length)` returns a buffer. `stamp`: the version or ETag of the object, or the
    time when it was written; empty where the store gives none. For one thread at a time; holds no
    connection.
    """

    def __init__(
        self,
        url: str,
        storage: Storage,
        size: int,
        read_range: Callable[[int, int], pa.Buffer],
        traffic: Traffic | None = None,
        *,
        stamp: str = "",
    ):
        self.size = size
        self.stamp = stamp
        self._url = url
        self._storage = storage
        self._read_range = read_range
        self._traffic = traffic or Traffic()
        self._position = 0

    def read_buffer(self, length: int = -1) -> pa.Buffer:
        """Return the next `length` bytes without a copy; fewer at the end of the file.

        Arrow calls this method instead of `read`. Raises StoreError.
        """
        bytes_left = max(self.size - self._position, 0)
        length = bytes_left if length is None or length < 0 else min(length, bytes_left)
        if not length:
            return pa.py_buffer(b"")
        started = time.perf_counter()
        with as_store_error(self._url, self._storage):
            content = self._read_range(self._position, length)
        if len(content) != length:
            raise StoreError(
                f"{self._url}: the store returned {len(content):,} bytes at {self._position:,}"
                f" instead of {length:,}. Try again."
            )
        self._traffic.add(length, time.perf_counter() - started)
        self._position += length
        return content

    def read(self, length: int = -1) -> bytes:
        """Return the next `length` bytes, by default all that are left."""
        return self.read_buffer(length).to_pybytes()

    def readinto(self, target: bytearray | memoryview) -> int:
        """Fill `target` with the next bytes; return their number."""
        content = self.read_buffer(len(target))
        memoryview(target).cast("B")[: len(content)] = memoryview(content).cast("B")
        return len(content)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, and return it."""
        origins = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}
        self._position = max(0, offset + origins[whence])
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True
