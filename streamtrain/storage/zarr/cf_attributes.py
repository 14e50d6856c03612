"""Attributes by the conventions of netCDF and CF, as xarray writes and applies them.

A stored value that equals `_FillValue` or `missing_value` is missing and becomes NaN; any other is
multiplied by `scale_factor`, then `add_offset` is added, both in float64. In Zarr v2, xarray stores
`_FillValue` as the fill value of the array. An array that says `units: … since …` holds times.

Convention: CF 1.11, §2.5.1 (missing data), §4.4 (times) and §8.1 (packed data).
"""

import base64
import binascii
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from streamtrain.errors import DataError, shown
from streamtrain.storage.decode import decode_numpy

#: The attribute by which an array of v2 is known to be xarray's.
_XARRAY_DIMENSIONS = "_ARRAY_DIMENSIONS"
#: hdmf-zarr (NWB) names dimensions as xarray does, and leaves the fill value at 0, a usual value.
_HDMF_TYPE = "zarr_dtype"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How stored values become values.

    `missing`: the stored values that stand for a missing one. `scale`, `offset`: None for none.
    """

    missing: tuple[float | int, ...] = ()
    scale: float | None = None
    offset: float | None = None

    @property
    def is_scaled(self) -> bool:
        """Whether values are computed, in float64."""
        return self.scale is not None or self.offset is not None

    def decode(self, name: str, stored: np.ndarray, decoded_type: str) -> np.ndarray:
        """Return the values of a column, where missing ones are NaN. Raises as `decode_numpy`."""
        if not self.missing and not self.is_scaled:
            return decode_numpy(name, stored, decoded_type)
        is_missing = np.zeros(stored.shape, dtype=bool)
        for value in self.missing:
            is_missing |= stored == value
        # a missing integer is often beyond 2^53
        present = np.where(is_missing, np.zeros((), stored.dtype), stored)
        values = decode_numpy(name, present, "float64").astype(np.float64)
        if self.scale is not None:
            values *= self.scale
        if self.offset is not None:
            values += self.offset
        values[is_missing] = np.nan
        return values.astype(decoded_type, copy=False)


def read_packing(
    attributes: Mapping[str, Any], dtype: np.dtype, fill_value: Any, version: int
) -> Packing:
    """Return what the attributes of an array of numbers say of its values.

    Raises DataError for what cannot be applied: times, and attributes that are not numbers.
    """
    units = attributes.get("units")
    if isinstance(units, str) and "since" in units.split():
        raise DataError(f"it holds times ({shown(units)})")
    # integers of the other sign: netCDF-3 has no unsigned ones, OPeNDAP no signed bytes
    sign = {"true": "u", "false": "i"}.get(str(attributes.get("_Unsigned")).lower(), dtype.kind)
    if dtype.kind in "iu" and sign != dtype.kind:
        raise DataError(f"its attribute _Unsigned ({attributes['_Unsigned']}) is not applied")
    fills = _numbers(attributes, "_FillValue", dtype if version == 3 else None)
    is_of_xarray = _XARRAY_DIMENSIONS in attributes and _HDMF_TYPE not in attributes
    if version == 2 and is_of_xarray and fill_value is not None:
        fills = [fill_value.item() if isinstance(fill_value, np.generic) else fill_value]
    fills += _numbers(attributes, "missing_value")
    stored = [_as_stored(value, dtype) for value in fills if value == value]
    return Packing(
        missing=tuple(dict.fromkeys(value for value in stored if value is not None)),
        scale=_number(attributes, "scale_factor"),
        offset=_number(attributes, "add_offset"),
    )


def _as_stored(value: float | int, dtype: np.dtype) -> float | int | None:
    """Return a missing value as an array of `dtype` stores it; None if it cannot hold it."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(value).item()
    if dtype.kind not in "iu" or not np.isfinite(value) or int(value) != value:
        return None
    limits = np.iinfo(dtype)
    return int(value) if limits.min <= value <= limits.max else None


def _number(attributes: Mapping[str, Any], name: str) -> float | None:
    numbers = _numbers(attributes, name)
    if len(numbers) > 1:
        raise DataError(f"its attribute {name} has {len(numbers)} values")
    return float(numbers[0]) if numbers else None


def _numbers(
    attributes: Mapping[str, Any], name: str, dtype: np.dtype | None = None
) -> list[float | int]:
    """Return the numbers of an attribute, which may be a list; none if it is absent.

    `dtype`: the type of the array where texts may be the missing values of v3.
    """
    value = attributes.get(name)
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    numbers: list[Any] = [
        _decoded(each, dtype) if isinstance(each, str) else each for each in values
    ]
    if not all(isinstance(number, Real) and _is_in_range(number) for number in numbers):
        raise DataError(f"its attribute {name} is {shown(repr(value)[:40])}, not a number")
    return numbers


def _is_in_range(number: Any) -> bool:
    """Return whether float64 has the number; JSON has integers of any length."""
    try:
        float(number)
    except OverflowError:
        return False
    return True


def _decoded(text: str, dtype: np.dtype | None) -> float | str:
    """Return the number that a text means: `NaN`, or the eight bytes that xarray writes in v3.

    Any other text stays one, and is refused: to xarray it equals no value.
    """
    if text in ("NaN", "Infinity", "-Infinity"):
        return float(text)
    if dtype is None or dtype.kind != "f":
        return text
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text
    return struct.unpack("<d", content)[0] if len(content) == 8 else text
