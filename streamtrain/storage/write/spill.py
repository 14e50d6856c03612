"""Buckets of rows on disk, in files that vanish with their process."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType

import numpy as np

from streamtrain.base.units import format_bytes
from streamtrain.errors import ResourceError
from streamtrain.kernels.deal_rows import deal_rows


class Spill:
    """Rows dealt to `num_buckets` files in `folder`; a context manager.

    The files have no name, so that nothing is left behind when the process is killed. Rows are
    uint32 (rows, words). Not thread-safe.
    """

    def __init__(self, folder: str, words: int, num_buckets: int, key: int):
        self._folder, self._words, self._key = folder, words, np.uint64(key)
        self._stack, self._dealt = ExitStack(), 0
        self.num_rows = [0] * num_buckets
        try:
            self._files = [
                self._stack.enter_context(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115
                for _ in range(num_buckets)
            ]
        except OSError as error:
            self._stack.close()
            raise self._failure(error) from error

    def __enter__(self) -> "Spill":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def add(self, rows: np.ndarray) -> None:
        """Deal the next rows to the files. Raises ResourceError when the disk is full."""
        dealt = np.empty_like(rows)
        starts = deal_rows(rows, self._key, self._dealt, len(self._files), dealt).tolist()
        self._dealt += len(rows)
        try:
            for bucket, file in enumerate(self._files):
                first, end = starts[bucket], starts[bucket + 1]
                file.write(dealt[first:end].data)
                self.num_rows[bucket] += end - first
        except OSError as error:
            raise self._failure(error) from error

    def take(self, bucket: int) -> np.ndarray:
        """Return all rows of a bucket, and free its space on disk."""
        rows = np.empty((self.num_rows[bucket], self._words), dtype=np.uint32)
        for _ in self._read(bucket, rows):
            pass
        return rows

    def take_blocks(self, bucket: int, block_rows: int) -> Iterator[np.ndarray]:
        """Yield the rows of a bucket, `block_rows` at a time, then free its space on disk."""
        rows = np.empty((min(block_rows, self.num_rows[bucket]), self._words), dtype=np.uint32)
        for count in self._read(bucket, rows):
            yield rows[:count].copy()

    def _read(self, bucket: int, rows: np.ndarray) -> Iterator[int]:
        """Fill `rows` with the next rows of a bucket, again and again; yield how many came."""
        left, file = self.num_rows[bucket], self._files[bucket]
        try:
            file.seek(0)
            while left:
                count = min(left, len(rows))
                if file.readinto(rows[:count].data) != rows[:count].nbytes:
                    raise OSError("a temporary file is shorter than what was written")
                left -= count
                yield count
            file.close()
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> ResourceError:
        kept = format_bytes(4 * self._words * sum(self.num_rows))
        return ResourceError(
            f"{self._folder}: cannot keep the rows being shuffled ({kept} so far, besides the"
            f" result): {error.strerror or error}. Free space there, raise --memory, or use"
            " --no-shuffle."
        )
