"""Row ranges of a data set, decoded: one contract over every format."""

from functools import lru_cache
from typing import Protocol

import numpy as np

from streamtrain.errors import DataError
from streamtrain.storage.parquet import ParquetReader, first_line
from streamtrain.storage.zarr import ZarrReader
from streamtrain.types import Dataset, Shard

_CACHED_SHARDS = 256


class Reader(Protocol):
    """Row ranges of one shard; see `Readers.read`."""

    def read(self, columns: tuple[str, ...], decoded_type: str, start: int, stop: int) -> tuple[np.ndarray, ...]: ...


_READERS = {"parquet": ParquetReader, "zarr": ZarrReader}


class Readers:
    """Reads any row range of any shard; any number of threads at once.

    Parsed metadata of the last 256 shards is kept; no file stays open between calls.
    """

    def __init__(self, dataset: Dataset):
        self._dataset = dataset
        self._reader = lru_cache(_CACHED_SHARDS)(self._open)

    def read(self, shard: int, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """Rows `[start, stop)` of shard number `shard`: one 1-D array per column of the data set, target last.

        Arrays have the data set's `decoded_type`; null is NaN; they may be strided or read-only, and belong to the caller.
        Any range is right; ranges along the shard's boundaries are fast. Raises DataError naming file, rows and cause.
        """
        described = self._dataset.shards[shard]
        assert 0 <= start <= stop <= described.num_rows, (shard, start, stop)
        if start == stop:
            return tuple(np.empty(0, dtype=self._dataset.decoded_type) for _ in self._dataset.columns)
        try:
            columns = self._reader(shard).read(self._dataset.columns, self._dataset.decoded_type, start, stop)
        except MemoryError:
            raise
        except DataError as error:
            raise error if described.url in str(error) else DataError(f"{_place(described, start, stop)}: {error}") from error
        except Exception as error:  # hostile bytes raise OSError, ArrowInvalid, UnicodeDecodeError, RuntimeError …: one typed error
            raise DataError(
                f"{_place(described, start, stop)} cannot be decoded: {first_line(error)}. Restore the shard, or leave it out of the"
                f" data set."
            ) from error
        assert all(len(column) == stop - start for column in columns)
        return columns

    def _open(self, shard: int) -> Reader:
        described = self._dataset.shards[shard]
        return _READERS[described.format](described)


def _place(shard: Shard, start: int, stop: int) -> str:
    return f"{shard.url}: rows {start:,} to {stop:,}"
