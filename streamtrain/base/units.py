"""Human-readable numbers: parse and format `10M`, `64Ki`, `2GiB`, `30s`, `256..65536*4,1M`."""

import math
import re
from typing import Any

from streamtrain.errors import ConfigError

_DECIMAL = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = re.compile(r"\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z]*)\s*")


def _split(text: str, kind: str, examples: str) -> tuple[float, str]:
    """Split `text` into a number and its unit; `kind` and `examples` are for the message."""
    match = _NUMBER.fullmatch(text)
    if not match:
        raise ConfigError(f"{text!r} is not a {kind}. Write it like {examples}.")
    return float(match[1].replace("_", "")), match[2]


#: The largest count of rows: kernels count in int64 and add a few such counts.
MAX_COUNT = 2**62


def parse_count(value: int | float | str) -> int:
    """Parse a whole number: `10M` is ten million, `64Ki` is 65,536, `1e9` is a billion.

    Raises ConfigError.

    >>> parse_count("10M"), parse_count("64Ki"), parse_count("1e9"), parse_count(12)
    (10000000, 65536, 1000000000, 12)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ConfigError(f"{value!r} is not a count. Write it like 1000, 10M, 64Ki or 1e9.")
    if isinstance(value, int):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d[\d_]{0,99}\s*", value):
        # not through a float, which cannot hold every whole number beyond 2^53; a seed may be that
        # large
        return int(value.replace("_", ""))
    if isinstance(value, float):
        number, unit = value, ""
    else:
        number, unit = _split(value, "count", "1000, 10M, 64Ki or 1e9")
    factor = _DECIMAL.get(unit) or _BINARY.get(unit)
    if factor is None:
        raise ConfigError(
            f"{value!r}: unknown unit {unit!r}. Counts take k, M, G, T or Ki, Mi, Gi, Ti."
        )
    count = number * factor
    if not math.isfinite(count) or count != round(count):
        raise ConfigError(f"{value!r} is not a whole number.")
    return round(count)


def parse_bytes(value: int | float | str) -> int:
    """Parse a number of bytes: `2GiB`, `500MB`, or a plain number. Raises ConfigError.

    >>> parse_bytes("2GiB"), parse_bytes("500MB"), parse_bytes(4096)
    (2147483648, 500000000, 4096)
    """
    if isinstance(value, str):
        value = re.sub(r"(?<=[A-Za-z])B\s*$|(?<=\d)\s*B\s*$", "", value)
    return parse_count(value)


def parse_seconds(value: int | float | str) -> float:
    """Parse a duration in seconds; only here does `m` mean minutes. Raises ConfigError.

    >>> parse_seconds("30s"), parse_seconds("10m"), parse_seconds(5)
    (30.0, 600.0, 5.0)
    """
    if not isinstance(value, str):
        return float(value)
    number, unit = _split(value, "duration", "30s, 10m or 2h")
    if unit not in _SECONDS:
        raise ConfigError(f"{value!r}: unknown unit {unit!r}. Durations take ms, s, m, h or d.")
    return number * _SECONDS[unit]


def parse_sizes(value: int | str | list[Any] | tuple[Any, ...]) -> list[int]:
    """Parse minibatch sizes from a list, or from text of sizes and ranges `first..end*factor`.

    A range stops at its largest term that does not exceed `end`; `factor` defaults to 2. The result
    is ascending and has no duplicates. Raises ConfigError.

    >>> parse_sizes("256..65536*4,1M")
    [256, 1024, 4096, 16384, 65536, 1000000]
    >>> parse_sizes([1024, "64"])
    [64, 1024]
    """
    parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
    sizes: set[int] = set()
    for part in parts:
        first, dots, rest = str(part).partition("..")
        end, star, factor = rest.partition("*")
        if not dots:
            sizes.add(parse_count(part if not isinstance(part, str) else part.strip()))
            continue
        size = parse_count(first.strip())
        last = parse_count(end.strip())
        ratio = parse_count(factor.strip()) if star else 2
        if ratio < 2 or size < 1 or last < size:
            raise ConfigError(
                f"{part!r} is not a range of sizes. Write it like 64..1Mi*4: first, end, factor of"
                " at least 2."
            )
        while size <= last:
            sizes.add(size)
            size *= ratio
    if not sizes or min(sizes) < 1 or max(sizes) > MAX_COUNT:
        raise ConfigError(
            f"{value!r}: minibatch sizes are whole numbers from 1 to 2^62, like 256..65536*4,1M."
        )
    return sorted(sizes)


def format_bytes(count: float) -> str:
    """Return a number of bytes in a binary unit.

    >>> format_bytes(2147483648), format_bytes(999)
    ('2.0 GiB', '999 B')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_count(count: float) -> str:
    """Return a count as three significant digits and a decimal unit.

    Use `f"{count:,}"` for exact figures.

    >>> format_count(4_012_345), format_count(950), format_count(999_868_928)
    ('4.01 M', '950', '1 G')
    """
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(count) >= 0.9995 * size:  # from there on, it rounds to a whole unit
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g}"


def format_seconds(seconds: float) -> str:
    """Return a duration as three significant digits and a unit; from 100 s on, like `3m12s`.

    >>> format_seconds(5.55e-5), format_seconds(0.0123), format_seconds(6.24), format_seconds(192)
    ('55.5 µs', '12.3 ms', '6.24 s', '3m12s')
    """
    if 0 < seconds < 0.9995e-3:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 0.9995:  # from there on, it rounds to a whole second
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def format_percent(fraction: float, decimals: int = 0) -> str:
    """Return a fraction in percent.

    >>> format_percent(0.24), format_percent(0.98941, 2)
    ('24 %', '98.94 %')
    """
    return f"{100 * fraction:.{decimals}f} %"


def two_digits(value: float) -> str:
    """Return a number rounded to two digits, without an exponent where it is large.

    >>> two_digits(99.7), two_digits(1234.0), two_digits(0.0123)
    ('100', '1,200', '0.012')
    """
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if 100 <= abs(rounded) < 1e15 else f"{value:.2g}"
