"""Write Zarr shards."""

from collections.abc import Sequence

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec


class ZarrWriter:
    """Writes one shard: an array (rows, columns) with one chunk per span.

    Raw bytes with a crc32c, fill value NaN; empty chunks are written too.
    """

    def __init__(
        self, path: str, columns: Sequence[str], decoded_type: str, span_rows: int, max_rows: int
    ):
        self._path, self._columns, self._type = path, list(columns), decoded_type
        self._span_rows, self._max_rows, self._num_rows = span_rows, max_rows, 0
        self._array: zarr.Array | None = None

    def write(self, columns: Sequence[np.ndarray]) -> None:
        """Write one span: 1-D arrays of equal length; only the last may be below `span_rows`."""
        block = np.stack(columns, axis=1)
        if self._array is None:
            if len(block) < self._span_rows:
                # It is the only span, so its chunk need not be padded to `span_rows`.
                self._array = self._create(len(block), len(block))
            else:
                self._array = self._create(self._span_rows, self._max_rows)
        self._array[self._num_rows : self._num_rows + len(block)] = block
        self._num_rows += len(block)

    def close(self) -> None:
        """Set the array's final number of rows."""
        if self._array is not None:
            self._array.resize((self._num_rows, len(self._columns)))

    def _create(self, chunk_rows: int, num_rows: int) -> zarr.Array:
        width = len(self._columns)
        return zarr.create_array(
            self._path,
            shape=(num_rows, width),
            chunks=(chunk_rows, width),
            dtype=self._type,
            compressors=[Crc32cCodec()],
            filters=None,
            fill_value=np.nan,
            attributes={"columns": self._columns},
            config={"write_empty_chunks": True},
        )
