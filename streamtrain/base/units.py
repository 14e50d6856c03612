"""Numbers as people write them: `10M`, `64Ki`, `2GiB`, `30s`, `256..65536*4,1M`."""

import math
import re

from streamtrain.errors import ConfigError

_DECIMAL = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = re.compile(r"\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z]*)\s*")


def _split(text: str, kind: str, examples: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text)
    if not match:
        raise ConfigError(f"{text!r} is not a {kind}. Write it like {examples}.")
    return float(match[1].replace("_", "")), match[2]


#: The largest count of rows: kernels count in 64 bits, and a few of these are added.
MOST_ROWS = 2**62


def parse_count(value: int | float | str) -> int:
    """A whole number: `10M` is ten million, `64Ki` is 65,536, `1e9` is a billion.

    >>> parse_count("10M"), parse_count("64Ki"), parse_count("1e9"), parse_count(12)
    (10000000, 65536, 1000000000, 12)
    """
    if isinstance(value, bool):
        raise ConfigError(f"{value!r} is not a count. Write it like 1000, 10M, 64Ki or 1e9.")
    if isinstance(value, int):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d[\d_]{0,99}\s*", value):
        # exactly: a float skips whole numbers from 2^53 on, and a seed may lie there
        return int(value.replace("_", ""))
    number, unit = (
        (value, "")
        if isinstance(value, float)
        else _split(value, "count", "1000, 10M, 64Ki or 1e9")
    )
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
    """A number of bytes: `2GiB`, `500MB`, or a plain number.

    >>> parse_bytes("2GiB"), parse_bytes("500MB"), parse_bytes(4096)
    (2147483648, 500000000, 4096)
    """
    if isinstance(value, str):
        value = re.sub(r"(?<=[A-Za-z])B\s*$|(?<=\d)\s*B\s*$", "", value)
    return parse_count(value)


def parse_seconds(value: int | float | str) -> float:
    """A duration in seconds; `m` is minutes here and nowhere else.

    >>> parse_seconds("30s"), parse_seconds("10m"), parse_seconds(5)
    (30.0, 600.0, 5.0)
    """
    if not isinstance(value, str):
        return float(value)
    number, unit = _split(value, "duration", "30s, 10m or 2h")
    if unit not in _SECONDS:
        raise ConfigError(f"{value!r}: unknown unit {unit!r}. Durations take ms, s, m, h or d.")
    return number * _SECONDS[unit]


def parse_sizes(value: int | str | list | tuple) -> list[int]:
    """Minibatch sizes: a list, or text of sizes and ranges `first..end*factor`; sorted, without
    repeats.

    A range ends at its largest term that is at most `end`; the factor is 2 when left out.

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
        size, last, ratio = (
            parse_count(first.strip()),
            parse_count(end.strip()),
            parse_count(factor.strip()) if star else 2,
        )
        if ratio < 2 or size < 1 or last < size:
            raise ConfigError(
                f"{part!r} is not a range of sizes. Write it like 64..1Mi*4: first, end, factor of"
                " at least 2."
            )
        while size <= last:
            sizes.add(size)
            size *= ratio
    if not sizes or min(sizes) < 1 or max(sizes) > MOST_ROWS:
        raise ConfigError(
            f"{value!r}: minibatch sizes are whole numbers from 1 to 2^62, like 256..65536*4,1M."
        )
    return sorted(sizes)


def format_bytes(count: float) -> str:
    """Bytes for people.

    >>> format_bytes(2147483648), format_bytes(999)
    ('2.0 GiB', '999 B')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_count(count: float) -> str:
    """Large counts for people: three digits and a unit. Exact figures use `f"{n:,}"` instead.

    >>> format_count(4_012_345), format_count(950), format_count(999_868_928)
    ('4.01 M', '950', '1 G')
    """
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(count) >= 0.9995 * size:  # rounds to a whole unit
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g}"


def format_seconds(seconds: float) -> str:
    """A duration for people.

    >>> format_seconds(5.55e-5), format_seconds(0.0123), format_seconds(6.24), format_seconds(192)
    ('55.5 µs', '12.3 ms', '6.24 s', '3m12s')
    """
    if 0 < seconds < 0.9995e-3:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 0.9995:  # beyond, it rounds to a whole second
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
