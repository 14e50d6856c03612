"""Predictions on disk: one Parquet file of row ids and values, written as they come."""

import os
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_SCHEMA = pa.schema([pa.field("row_id", pa.int64()), pa.field("prediction", pa.float32())])


class PredictionWriter:
    """Use as a context: the file gets its name only when all of it is written."""

    def __init__(self, path: Path):
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, row_ids: np.ndarray, predictions: np.ndarray) -> None:
        """Append rows: int64 ids and float32 predictions of one length."""
        self._writer.write_table(pa.table([row_ids, predictions], schema=_SCHEMA))

    def __enter__(self) -> "PredictionWriter":
        self._writer = pq.ParquetWriter(self._temporary, _SCHEMA, compression="snappy", write_page_checksum=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            self._writer.close()
            if error is None:
                os.replace(self._temporary, self._path)
        finally:  # closing writes the footer, for which there may be no room
            self._temporary.unlink(missing_ok=True)
