"""Which stored types are decoded, into what, and how.

Arrow columns and NumPy arrays → float32 or float64.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamtrain.errors import DataError, shown
from streamtrain.types import Column

#: Beyond this, float64 skips whole numbers.
MAX_EXACT_INTEGER = 2**53


def arrow_column(name: str, kind: pa.DataType) -> Column:
    """How a column of the Arrow type `kind` is decoded: float32 where that holds every value
    exactly, else float64.

    Integers of up to 16 bits fit float32; longer ones, and decimals, take float64. Everything else
    is refused.
    """
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not name.isprintable():
        return Column(
            name=name,
            stored_type=shown(str(kind)),
            decoded_type=None,
            refusal="its name holds control characters",
        )
    if pa.types.is_float16(value) or pa.types.is_float32(value) or pa.types.is_boolean(value):
        return Column(name=name, stored_type=shown(str(kind)), decoded_type="float32")
    if pa.types.is_integer(value):
        return Column(
            name=name,
            stored_type=shown(str(kind)),
            decoded_type="float32" if value.bit_width <= 16 else "float64",
        )
    if pa.types.is_float64(value) or pa.types.is_decimal(value):
        return Column(name=name, stored_type=shown(str(kind)), decoded_type="float64")
    return Column(
        name=name,
        stored_type=shown(str(kind)),
        decoded_type=None,
        refusal="only numbers can be decoded",
    )


def numpy_column(name: str, dtype: np.dtype) -> Column:
    """How an array of `dtype` is decoded; the same rule as `arrow_column`."""
    if not name.isprintable():
        return Column(
            name=name,
            stored_type=str(dtype),
            decoded_type=None,
            refusal="its name holds control characters",
        )
    exact = (
        dtype.kind == "b"
        or (dtype.kind in "iu" and dtype.itemsize <= 2)
        or (dtype.kind == "f" and dtype.itemsize <= 4)
    )
    if exact or (dtype.kind in "iuf" and dtype.itemsize <= 8):
        return Column(
            name=name, stored_type=str(dtype), decoded_type="float32" if exact else "float64"
        )
    return Column(
        name=name, stored_type=str(dtype), decoded_type=None, refusal="only numbers can be decoded"
    )


def decode_arrow(name: str, values: pa.ChunkedArray, decoded_type: str) -> np.ndarray:
    """A column as a 1-D array of `decoded_type`; null becomes NaN.

    A view of Arrow's memory where no cast is needed.

    Raises DataError when a 64-bit integer, or a decimal without decimals, is beyond ±2⁵³.
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
        if kind.scale <= 0:  # whole numbers, as some databases write their keys
            _refuse_inexact(name, *_extremes(values))
        values = values.cast(pa.float64())
    elif pa.types.is_integer(kind) and kind.bit_width == 64:
        _refuse_inexact(name, *_extremes(values))
    if values.num_chunks == 1:
        return values.chunk(0).to_numpy(zero_copy_only=False).astype(decoded_type, copy=False)
    return _join(
        [chunk.to_numpy(zero_copy_only=False) for chunk in values.chunks], len(values), decoded_type
    )


def decode_numpy(name: str, values: np.ndarray, decoded_type: str) -> np.ndarray:
    """An array as `decoded_type`, without a copy where it is already.

    Raises DataError as `decode_arrow` does.
    """
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8 and len(values):
        _refuse_inexact(name, int(values.min()), int(values.max()))
    return values.astype(decoded_type, copy=False)


def _extremes(values: pa.ChunkedArray) -> tuple[int | None, int | None]:
    """The smallest and the largest of whole numbers; None where all are null."""
    return tuple(
        None if each is None else int(each) for each in pc.min_max(values).as_py().values()
    )


def _join(pieces: Sequence[np.ndarray], rows: int, decoded_type: str) -> np.ndarray:
    joined = np.empty(rows, dtype=decoded_type)
    filled = 0
    for piece in pieces:
        joined[filled : filled + len(piece)] = piece
        filled += len(piece)
    return joined


def _refuse_inexact(name: str, low: int | None, high: int | None) -> None:
    if (
        low is not None
        and high is not None
        and (low < -MAX_EXACT_INTEGER or high > MAX_EXACT_INTEGER)
    ):
        worst = high if high > MAX_EXACT_INTEGER else low
        raise DataError(
            f"column {name!r}: the integer {worst:,} is beyond ±2^53 and would be rounded. Store it"
            " as float64, or leave it out with --features."
        )
