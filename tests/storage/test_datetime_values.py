"""Dates and times as numbers, against Python's own `datetime`."""

from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from fractions import Fraction
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.storage.datetime_values import (
    Part,
    datetime_part,
    epoch_seconds,
    parts_of_type,
    stores_datetime,
)

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Of 1906 to 2033, for which databases of time zones agree.
SECONDS = st.integers(-2_000_000_000, 2_000_000_000)
ZONES: dict[str | None, tzinfo] = {
    None: UTC,
    "UTC": UTC,
    "America/New_York": ZoneInfo("America/New_York"),
    "+05:30": timezone(timedelta(hours=5.5)),
}


def hour_of(moment: datetime) -> float:
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    return (moment.replace(tzinfo=None) - midnight) / timedelta(hours=1)


def parts_of(values: pa.ChunkedArray) -> dict[Part, list[float]]:
    parts: tuple[Part, ...] = ("hour", "weekday", "yearday")
    return {part: datetime_part(values, part).tolist() for part in parts}


@given(
    seconds=st.lists(SECONDS | st.none(), max_size=8),
    fraction=st.integers(0, 10**9 - 1),
    unit=st.sampled_from(sorted(PER_SECOND)),
    zone=st.sampled_from(list(ZONES)),
)
def test_times_are_those_of_python(seconds, fraction, unit, zone) -> None:
    per_second = PER_SECOND[unit]
    rest = fraction * per_second // 10**9
    ticks = [None if value is None else value * per_second + rest for value in seconds]
    values = pa.chunked_array([pa.array(ticks, pa.int64()).cast(pa.timestamp(unit, zone))])
    found, parts = epoch_seconds(values), parts_of(values)
    for row, tick in enumerate(ticks):
        if tick is None:
            assert np.isnan([found[row], *(column[row] for column in parts.values())]).all()
            continue
        # half a step of float64 for the fraction, and half a step for the sum
        assert abs(Fraction(found[row]) - Fraction(tick, per_second)) <= 2**-22
        moment = EPOCH + timedelta(microseconds=tick * 10**6 // per_second)
        moment = moment.astimezone(ZONES[zone])
        assert parts["hour"][row] == pytest.approx(hour_of(moment), abs=1e-9)
        assert parts["weekday"][row] == moment.weekday()
        assert parts["yearday"][row] == moment.timetuple().tm_yday


@given(
    days=st.lists(st.dates() | st.none(), max_size=8), kind=st.sampled_from(["date32", "date64"])
)
def test_dates_are_those_of_python(days: list[date | None], kind: str) -> None:
    values = pa.chunked_array([pa.array(days, getattr(pa, kind)())])
    seconds, parts = epoch_seconds(values), parts_of(values)
    for row, day in enumerate(days):
        if day is None:
            assert np.isnan([seconds[row], *(column[row] for column in parts.values())]).all()
            continue
        assert seconds[row] == (day - date(1970, 1, 1)).days * 86_400
        assert parts["hour"][row] == 0
        assert (parts["weekday"][row], parts["yearday"][row]) == (
            day.weekday(),
            day.timetuple().tm_yday,
        )


def test_microseconds_of_our_time_stay_apart() -> None:
    ticks = 1_700_000_000_000_000 + np.arange(1000)
    values = pa.chunked_array([pa.array(ticks).cast(pa.timestamp("us"))])
    assert len(np.unique(epoch_seconds(values))) == 1000


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        (pa.timestamp("us", "Europe/Berlin"), ("hour", "weekday", "yearday")),
        (pa.dictionary(pa.int32(), pa.timestamp("s")), ("hour", "weekday", "yearday")),
        (pa.date32(), ("weekday", "yearday")),
        (pa.date64(), ("weekday", "yearday")),
    ],
    ids=str,
)
def test_a_stored_type_says_its_parts(kind: pa.DataType, parts: tuple[str, ...]) -> None:
    assert stores_datetime(str(kind))
    assert parts_of_type(str(kind)) == parts


@pytest.mark.parametrize("kind", [pa.time64("us"), pa.duration("s"), pa.string(), pa.int64()])
def test_other_types_are_no_dates(kind: pa.DataType) -> None:
    assert not stores_datetime(str(kind))
