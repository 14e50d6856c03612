"""Parsing and formatting of counts, bytes, durations and ranges of sizes."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.base.units import (
    format_bytes,
    format_count,
    format_seconds,
    parse_bytes,
    parse_count,
    parse_seconds,
    parse_sizes,
)
from streamtrain.errors import ConfigError

DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@given(st.integers(0, 2**53), st.sampled_from([*(DECIMAL | BINARY).items()]))
def test_counts_are_exact_in_every_unit(number, unit_and_factor):
    unit, factor = unit_and_factor
    assert parse_count(f"{number}{unit}") == pytest.approx(number * factor, rel=1e-15)
    if number * factor < 2**53:
        assert parse_count(f"{number}{unit}") == number * factor


@given(st.integers(2**53, 2**70))
def test_plain_whole_numbers_are_exact_beyond_those_of_a_float(number):
    assert parse_count(str(number)) == parse_count(f" {number:_} ") == number


@pytest.mark.parametrize(
    "text", ["", "1.5", "ten", "1x", "1e400", "nan", "5Mb", "--3", "1 2"], ids=repr
)
def test_what_is_not_a_count_is_refused(text):
    with pytest.raises(ConfigError):
        parse_count(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("2GiB", 2**31), ("500MB", 5 * 10**8), ("100B", 100), ("7 GiB", 7 * 2**30)],
    ids=str,
)
def test_bytes(text, value):
    assert parse_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86400), ("5ms", 0.005), ("1.5", 1.5)],
    ids=str,
)
def test_durations(text, value):
    assert parse_seconds(text) == value


@given(st.integers(1, 10**6), st.integers(1, 10**8), st.integers(2, 10))
def test_a_range_of_sizes_is_geometric_and_ends_at_its_largest_term(first, end, factor):
    if end < first:
        with pytest.raises(ConfigError):
            parse_sizes(f"{first}..{end}*{factor}")
        return
    sizes = parse_sizes(f"{first}..{end}*{factor}")
    assert sizes[0] == first
    assert sizes[-1] <= end < sizes[-1] * factor
    assert all(b == a * factor for a, b in itertools.pairwise(sizes))


@given(st.lists(st.integers(1, 10**7), min_size=1))
def test_sizes_are_sorted_without_repeats(sizes):
    assert parse_sizes(",".join(map(str, sizes))) == parse_sizes(sizes) == sorted(set(sizes))


@pytest.mark.parametrize("text", ["", "0", "64..8", "64..1Mi*1", "64...128", "a..b"], ids=repr)
def test_what_is_not_a_range_is_refused(text):
    with pytest.raises(ConfigError):
        parse_sizes(text)


@given(st.floats(0, 1e12))
def test_formats_are_short_and_readable(number):
    for text in (format_bytes(number), format_count(number), format_seconds(number)):
        assert 0 < len(text) <= 14
        assert "e+" not in text
        assert math.isfinite(float(text.split()[0].rstrip("ms").split("h")[0].split("m")[0]))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (1.0, "1 s"),
        (99.96, "100 s"),
        (100, "1m40s"),
        (0, "0 ms"),
    ],
    ids=str,
)
def test_seconds_never_need_an_exponent(seconds, text):
    assert format_seconds(seconds) == text
