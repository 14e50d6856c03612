"""Write predictions as a stream: one Parquet or CSV file of row ids and values."""

import errno
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from streamtrain.base.atomic_files import new_file


class PredictionWriter:
    """A context manager; the file gets its name only when it is complete.

    A name that ends in `.csv` makes a CSV file, any other a Parquet file.
    """

    def __init__(self, path: Path, value_type: Literal["float32", "float64"] = "float32"):
        value = {"float32": pa.float32(), "float64": pa.float64()}[value_type]
        self._schema = pa.schema([pa.field("row_id", pa.int64()), pa.field("prediction", value)])
        self._path = path
        self._files = ExitStack()

    def write(self, row_ids: np.ndarray, predictions: np.ndarray) -> None:
        """Append rows: int64 ids, and predictions of the same length, which are cast."""
        dtype = self._schema.field("prediction").type.to_pandas_dtype()
        values = predictions.astype(dtype, copy=False)
        self._writer.write_table(pa.table([row_ids, values], schema=self._schema))

    def __enter__(self) -> "PredictionWriter":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as files:
            descriptor = files.enter_context(new_file(self._path))
            file = files.enter_context(open(descriptor, "wb", closefd=False))
            if self._path.suffix.lower() == ".csv":
                self._writer = csv.CSVWriter(file, self._schema)
            else:
                self._writer = pq.ParquetWriter(
                    file, self._schema, compression="snappy", write_page_checksum=True
                )
            files.push(self._close_writer)
            self._files = files.pop_all()
        return self

    def _close_writer(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._writer.close()
            if kind is None and os.path.lexists(self._path):  # made by another process meanwhile
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self._path)
        except BaseException:
            if isinstance(self._writer, pq.ParquetWriter):
                self._writer.is_open = False  # it would write once more when it is collected
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # also if closing fails, since it writes the footer and the disk may be full
        self._files.__exit__(kind, error, traceback)
