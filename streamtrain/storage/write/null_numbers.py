"""Numbers that mean null, in tables that store numbers: JSON, Arrow, Delta, shards."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from streamtrain.storage.write.table_type import Piece, Table
from streamtrain.types import Reading

#: Stored types of numeric columns; dates, parts of dates and booleans are not numeric.
_NUMERIC = re.compile(r"(dictionary<values=)?([<>][iuf]\d|u?int|float|double|half|decimal)")


def with_null_numbers(table: Table, reading: Reading) -> Table:
    """Return the table with NaN where a value is one of the numbers of `na_values`.

    A number is compared in the type of the column: in a column of float32, -999.9 means the nearest
    float32.
    """
    numbers = tuple(reading.null_numbers.values())
    if not numbers:
        return table
    types = {
        column.name: column.decoded_type
        for column in table.columns
        if column.decoded_type and _NUMERIC.match(column.stored_type)
    }

    def pieces(chosen: Sequence[str], decoded_type: str) -> Iterator[Piece]:
        for piece in table.pieces(chosen, decoded_type):
            yield tuple(
                _with_nulls(values, numbers, types[name]) if name in types else values
                for name, values in zip(chosen, piece, strict=True)
            )

    return replace(table, pieces=pieces)


def _with_nulls(values: np.ndarray, numbers: Sequence[float], type_name: str | None) -> np.ndarray:
    dtype = np.dtype(type_name)
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite
        wanted = np.array(numbers).astype(dtype)
    is_null = np.isin(values.astype(dtype, copy=False), wanted[np.isfinite(wanted)])
    return np.where(is_null, values.dtype.type(np.nan), values) if is_null.any() else values
