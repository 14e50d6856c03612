"""Which stored types can be decoded, and decoding of Arrow columns and NumPy arrays.

Values are decoded to float32 or float64.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamtrain.errors import DataError, shown
from streamtrain.storage.datetime_values import epoch_seconds, is_datetime
from streamtrain.types import Column, Datetime

#: Above this, float64 cannot represent every integer, but only those with enough trailing zeros.
MAX_EXACT_INTEGER = 2**53

#: Why a column of another type is refused.
ONLY_NUMBERS = "only numbers can be decoded"
#: How a column of texts becomes one that can be decoded.
WRITE_NUMBERS = "write its values as numbers, such as 0 and 1 for no and yes"
#: How the reason ends for a column of numbers that has a text.
NOT_A_NUMBER = "is not a number"
#: What to do with an integer of a text file that float64 would round.
WITH_A_POINT = "Write it with a decimal point if it is a measurement"
#: Why a date or a time is refused without `--datetime`.
NO_DATETIME = "it is a feature with --datetime epoch or --datetime parts"


class ColumnError(DataError):
    """Columns have values that cannot be decoded; the others can be read without them.

    `refusals`: why each of these columns is refused, by name.
    """

    def __init__(self, message: str, refusals: Mapping[str, str]):
        super().__init__(message)
        self.refusals = dict(refusals)


def arrow_column(name: str, kind: pa.DataType, datetime: Datetime | None = None) -> Column:
    """Return how a column of the Arrow type `kind` is decoded.

    float32 where that holds every value exactly, otherwise float64: integers of up to 16 bits fit
    float32; wider ones and decimals take float64. So do dates and times as seconds since 1970,
    which are refused without `datetime`. Any other type is refused.
    """
    stored_type = shown(str(kind))
    if not name.isprintable():
        return _refused(name, stored_type, "its name contains control characters")
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_float16(value) or pa.types.is_float32(value) or pa.types.is_boolean(value):
        return Column(name=name, stored_type=stored_type, decoded_type="float32")
    if pa.types.is_integer(value):
        fits = value.bit_width <= 16
        return Column(
            name=name, stored_type=stored_type, decoded_type="float32" if fits else "float64"
        )
    if pa.types.is_float64(value) or pa.types.is_decimal(value):
        return Column(name=name, stored_type=stored_type, decoded_type="float64")
    if not is_datetime(value):
        return _refused(name, stored_type, ONLY_NUMBERS)
    if datetime is None:
        return _refused(name, stored_type, NO_DATETIME)
    return Column(name=name, stored_type=stored_type, decoded_type="float64")


def numpy_column(name: str, dtype: np.dtype) -> Column:
    """Return how an array of `dtype` is decoded; the same rule as `arrow_column`."""
    if not name.isprintable():
        return _refused(name, str(dtype), "its name contains control characters")
    exact = (
        dtype.kind == "b"
        or (dtype.kind in "iu" and dtype.itemsize <= 2)
        or (dtype.kind == "f" and dtype.itemsize <= 4)
    )
    if exact or (dtype.kind in "iuf" and dtype.itemsize <= 8):
        return Column(
            name=name, stored_type=str(dtype), decoded_type="float32" if exact else "float64"
        )
    return _refused(name, str(dtype), ONLY_NUMBERS)


def refuse_repeated(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Return the columns, those refused whose name occurs more than once."""
    counts = Counter(column.name for column in columns)
    return tuple(
        column
        if counts[column.name] == 1
        else _refused(column.name, column.stored_type, f"it occurs {counts[column.name]} times")
        for column in columns
    )


def _refused(name: str, stored_type: str, reason: str) -> Column:
    return Column(name=name, stored_type=stored_type, decoded_type=None, refusal=reason)


def decode_arrow(name: str, values: pa.ChunkedArray, decoded_type: str) -> np.ndarray:
    """Return a column as a 1-D array of `decoded_type`; null becomes NaN, a time its seconds.

    It is a view of Arrow's memory where no cast is needed.

    Raises ColumnError when float64 would round a 64-bit integer, or a decimal without fractional
    digits.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        values = values.cast(kind)
    if pa.types.is_boolean(kind):
        values = values.cast(pa.uint8())
    elif pa.types.is_float16(kind):
        values = values.cast(pa.float32())
    elif pa.types.is_decimal(kind):
        decoded = values.cast(pa.float64())
        if kind.scale <= 0 and _are_large(*min_max(values)):
            # integers, as some databases write their keys
            pairs = zip(values.to_pylist(), decoded.to_pylist(), strict=True)
            _refuse_rounded(name, ((int(a), b) for a, b in pairs if a is not None))
        values = decoded
    elif pa.types.is_integer(kind) and kind.bit_width == 64:
        if _are_large(*min_max(values)):
            for chunk in values.chunks:
                _refuse_inexact(name, chunk.drop_null().to_numpy())
    elif is_datetime(kind):
        return epoch_seconds(values).astype(decoded_type, copy=False)
    if values.num_chunks == 1:
        return values.chunk(0).to_numpy(zero_copy_only=False).astype(decoded_type, copy=False)
    pieces = [chunk.to_numpy(zero_copy_only=False) for chunk in values.chunks]
    return _join(pieces, len(values), decoded_type)


def decode_numpy(name: str, values: np.ndarray, decoded_type: str) -> np.ndarray:
    """Return an array as `decoded_type`, without a copy where it has that type already.

    Raises ColumnError as `decode_arrow` does.
    """
    is_wide = values.dtype.kind in "iu" and values.dtype.itemsize == 8 and len(values)
    if is_wide and _are_large(values.min(), values.max()):
        _refuse_inexact(name, values)
    return values.astype(decoded_type, copy=False)


def min_max(values: pa.Array | pa.ChunkedArray) -> tuple[Any, Any]:
    """Return the smallest and the largest value as Python objects; None where all are null."""
    if pa.types.is_decimal32(values.type) or pa.types.is_decimal64(values.type):
        # Arrow compares only the wider decimals
        values = values.cast(pa.decimal128(38, values.type.scale))
    # pyarrow.compute creates its functions at import
    extremes = pc.min_max(values).as_py()  # pyright: ignore[reportAttributeAccessIssue]
    return extremes["min"], extremes["max"]


def _join(pieces: Sequence[np.ndarray], rows: int, decoded_type: str) -> np.ndarray:
    joined = np.empty(rows, dtype=decoded_type)
    filled = 0
    for piece in pieces:
        joined[filled : filled + len(piece)] = piece
        filled += len(piece)
    return joined


def _are_large(low: Any, high: Any) -> bool:
    """Return whether an integer between `low` and `high` may be one that float64 would round.

    Both are numbers, or None where all values are null.
    """
    if low is None or high is None:
        return False
    return int(low) < -MAX_EXACT_INTEGER or int(high) > MAX_EXACT_INTEGER


def _refuse_inexact(name: str, values: np.ndarray) -> None:
    """Raise ColumnError for a 64-bit integer that float64 would round."""
    sizes = np.abs(values).astype(np.uint64)  # the smallest int64 keeps its bits, and so its size
    lowest_bits = sizes & (~sizes + np.uint64(1))
    rounded = np.flatnonzero(sizes // np.maximum(lowest_bits, 1) > MAX_EXACT_INTEGER)
    if len(rounded):
        raise rounded_error(name, f"{values[rounded[0]]:,}", "Store it as float64")


def _refuse_rounded(name: str, pairs: Iterable[tuple[int, float]]) -> None:
    """Raise ColumnError for the first integer that is not the float64 it was decoded to."""
    for integer, value in pairs:
        if is_rounded(integer, value):
            raise rounded_error(name, f"{integer:,}", "Store it as float64")


def is_rounded(integer: int, value: float) -> bool:
    """Return whether `value` is another number than the integer it was decoded from.

    >>> is_rounded(2**60, float(2**60)), is_rounded(2**60 + 1, float(2**60 + 1))
    (False, True)
    """
    return not math.isfinite(value) or int(value) != integer


def rounded_error(name: str, integer: str, cure: str) -> ColumnError:
    """Return the error for an integer that float64 would round."""
    refusal = f"the integer {integer} is beyond ±2^53 and would be rounded"
    return ColumnError(
        f"column {name!r}: {refusal}. {cure}, or leave the column out with --features.",
        {name: refusal},
    )
