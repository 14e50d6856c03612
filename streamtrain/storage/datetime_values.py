"""Dates and times as numbers: seconds since 1970, or hour, weekday and day of the year.

Seconds are UTC, also where a column has no time zone; parts are local time in the column's zone.
Both are computed from integers, so seconds are exact to half a step of float64: 0.12 µs.
"""

import re
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Part = Literal["hour", "weekday", "yearday"]
_DATE_PARTS: tuple[Part, ...] = ("weekday", "yearday")

_DAY = 86_400
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
#: A stored type as Arrow writes it, of a dictionary, or of a part of a column.
_TYPE = re.compile(r"(?:\w+ of )?(?:dictionary<values=)?(date32|date64|timestamp)\[")

# pyarrow.compute creates its functions at import
_compute: Any = pc


def is_datetime(kind: pa.DataType) -> bool:
    """Return whether an Arrow type is a date or a point in time."""
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def stores_datetime(stored_type: str) -> bool:
    """Return whether the stored type of a `Column` is a date or a time.

    >>> stores_datetime("timestamp[us, tz=UTC]"), stores_datetime("hour of timestamp[us]")
    (True, True)
    """
    return _TYPE.match(stored_type) is not None


def is_part(stored_type: str) -> bool:
    """Return whether the stored type of a `Column` is a part of a date or a time.

    >>> is_part("hour of timestamp[us]"), is_part("timestamp[us, tz=UTC]")
    (True, False)
    """
    return stores_datetime(stored_type) and " of " in stored_type


def parts_of_type(stored_type: str) -> tuple[Part, ...]:
    """Return the parts of a stored type that is a date or a time: a date has no hour."""
    match = _TYPE.match(stored_type)
    is_time = match is not None and match[1] == "timestamp"
    return ("hour", *_DATE_PARTS) if is_time else _DATE_PARTS


def epoch_seconds(values: pa.ChunkedArray) -> np.ndarray:
    """Return seconds since 1970 as float64; null is NaN."""
    ticks, per_second = _ticks(values)
    whole = ticks // per_second
    return _with_nulls(values, whole + (ticks - whole * per_second) / per_second)


def datetime_part(values: pa.ChunkedArray, part: Part) -> np.ndarray:
    """Return a part of each value as float64; null is NaN.

    The hour is below 24, with fractions; weekdays count from Monday, 0, days of the year from 1.
    """
    if pa.types.is_timestamp(values.type) and values.type.tz is not None:
        values = _compute.local_timestamp(values)
    ticks, per_second = _ticks(values)
    days = ticks // (_DAY * per_second)
    if part == "hour":
        numbers = (ticks - days * _DAY * per_second) / (3600 * per_second)
    elif part == "weekday":
        numbers = (days + 3) % 7  # 1970 began on a Thursday
    else:
        dates = days.astype("datetime64[D]")
        numbers = (dates - dates.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64)
        numbers += 1
    return _with_nulls(values, numbers.astype(np.float64))


def _ticks(values: pa.ChunkedArray) -> tuple[np.ndarray, int]:
    """Return int64 counts of ticks since 1970, 0 for null, and the ticks of a second."""
    kind = values.type
    if pa.types.is_date32(kind):
        days = values.cast(pa.int32()).fill_null(0).to_numpy()
        return days.astype(np.int64) * _DAY, 1
    per_second = 1000 if pa.types.is_date64(kind) else _PER_SECOND[kind.unit]
    return values.cast(pa.int64()).fill_null(0).to_numpy(), per_second


def _with_nulls(values: pa.ChunkedArray, numbers: np.ndarray) -> np.ndarray:
    if values.null_count:
        numbers[values.is_null().to_numpy()] = np.nan
    return numbers
