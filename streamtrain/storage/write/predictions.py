"""Write predictions as a stream: one Parquet or CSV file of row ids and values."""

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv


class PredictionWriter:
    """A context manager; the file gets its name only when it is complete.

    A name that ends in `.csv` makes a CSV file, any other a Parquet file.
    """

    def __init__(self, path: Path, value_type: Literal["float32", "float64"] = "float32"):
        value = {"float32": pa.float32(), "float64": pa.float64()}[value_type]
        self._schema = pa.schema([pa.field("row_id", pa.int64()), pa.field("prediction", value)])
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, row_ids: np.ndarray, predictions: np.ndarray) -> None:
        """Append rows: int64 ids, and predictions of the same length, which are cast."""
        dtype = self._schema.field("prediction").type.to_pandas_dtype()
        values = predictions.astype(dtype, copy=False)
        self._writer.write_table(pa.table([row_ids, values], schema=self._schema))

    def __enter__(self) -> "PredictionWriter":
        if self._path.suffix.lower() == ".csv":
            self._writer = csv.CSVWriter(self._temporary, self._schema)
        else:
            self._writer = pq.ParquetWriter(
                self._temporary, self._schema, compression="snappy", write_page_checksum=True
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._writer.close()
            if error is None:
                if os.path.lexists(self._path):  # made by another process meanwhile
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self._path)
                os.replace(self._temporary, self._path)
        finally:  # also if closing fails, since it writes the footer and the disk may be full
            self._temporary.unlink(missing_ok=True)
