"""Zarr shards as this project writes them."""

from collections.abc import Sequence

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec


class ZarrWriter:
    """Writes one shard: an array (rows, columns), a chunk a span: raw bytes, crc32c, fill value
    NaN, empty chunks too.
    """

    def __init__(
        self, path: str, columns: Sequence[str], decoded_type: str, span_rows: int, max_rows: int
    ):
        self._path, self._columns, self._type = path, list(columns), decoded_type
        self._span_rows, self._max_rows, self._num_rows = span_rows, max_rows, 0
        self._array: zarr.Array | None = None

    def write(self, columns: Sequence[np.ndarray]) -> None:
        """One span: 1-D arrays of one length; only the last may be shorter than `span_rows`."""
        block = np.stack(columns, axis=1)
        if self._array is None:
            # A first span that is short is the only one: its chunk need not be padded to
            # `span_rows`.
            short = len(block) < self._span_rows
            self._array = (
                self._create(len(block), len(block))
                if short
                else self._create(self._span_rows, self._max_rows)
            )
        self._array[self._num_rows : self._num_rows + len(block)] = block
        self._num_rows += len(block)

    def close(self) -> None:
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
