"""How figures are written for people: the table, the Markdown and the page print the same
digits.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Figure = Mapping[str, Any]
NOTHING = "–"


class Scale(NamedTuple):
    """How to print a number and its interval: divide by `size`, print `decimals`, append `unit`."""

    size: float
    unit: str
    decimals: int

    def number(self, value: float) -> str:
        scaled = value / self.size
        return (
            f"{scaled:.3e}"
            if scaled and not 1e-9 < abs(scaled) < 1e7
            else f"{scaled:.{self.decimals}f}"
        )


def size_text(batch_size: int) -> str:
    """A batch size, exactly: 1000 and 1024 never look alike.

    >>> size_text(65536)
    '65,536'
    """
    return f"{batch_size:,}"


def sizes_text(sizes: Sequence[int]) -> str:
    """The sizes, or the first and last of many.

    >>> sizes_text([64, 1024]), sizes_text(range(1, 9))
    ('64, 1,024', '8 sizes (1 … 8)')
    """
    names = [size_text(size) for size in sizes]
    return ", ".join(names) if len(names) <= 6 else f"{len(names)} sizes ({names[0]} … {names[-1]})"


def rate_text(lr: float) -> str:
    """A learning rate, short.

    >>> rate_text(0.004), rate_text(0.00012589254117941674)
    ('0.004', '0.0001259')
    """
    return f"{lr:.4g}"


def times_text(ratio: float) -> str:
    """A ratio to two digits, without exponent.

    >>> times_text(1.234), times_text(147.3)
    ('1.2', '147')
    """
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}"


def target_word(target: float) -> str:
    """A target loss as it was given."""
    return f"{target:.6g}"


def loss_text(value: float | None) -> str:
    """A loss to four decimals, or three significant digits where that says more.

    >>> loss_text(0.0812), loss_text(0.001234), loss_text(None)
    ('0.0812', '0.00123', '–')
    """
    return NOTHING if value is None else _loss(value).number(value)


def loss_figure_text(figure: Figure) -> str:
    """A loss with its interval.

    >>> loss_figure_text({"value": 0.0812, "n": 5, "lo": 0.0808, "hi": 0.0816})
    '0.0812 ± 0.0004'
    """
    return _with_interval(figure, _loss)


def rmse_text(figure: Figure) -> str:
    """A root mean squared error in the target's units, with its interval; four significant
    digits.
    """
    return _with_interval(
        figure,
        lambda value: Scale(1.0, "", max(0, 3 - math.floor(math.log10(value))) if value > 0 else 1),
    )


def speed_text(figure: Figure) -> str:
    """Rows per second with its interval.

    >>> speed_text({"value": 4.01e6, "n": 5, "lo": 3.9e6, "hi": 4.1e6})
    '4.01 M [3.90, 4.10]'
    """
    return _with_interval(figure, _count, brackets=True)


def count_text(figure: Figure) -> str:
    """Rows or steps with their interval."""
    return _with_interval(figure, _count)


def seconds_text(figure: Figure) -> str:
    """Seconds with their interval.

    >>> seconds_text({"value": 6.2, "n": 5, "lo": 6.0, "hi": 6.4})
    '6.20 s ± 0.20'
    >>> seconds_text({"value": 0.0123, "n": 1, "lo": None, "hi": None})
    '12.3 ms'
    >>> seconds_text({"value": 0.0348, "n": 2, "lo": 9e-6, "hi": 134.9})
    '34.8 ms [9.00 µs, 135 s]'
    >>> seconds_text({"value": 7.4e-5, "n": 3, "lo": 3.1e-5, "hi": 1.2e-4})
    '74.0 µs [31.0, 120.0]'
    """
    return _with_interval(figure, _seconds)


def share_text(figure: Figure) -> str:
    """A share in whole percent."""
    return NOTHING if figure["value"] is None else f"{100 * figure['value']:.0f} %"


def _with_interval(
    figure: Figure, scale_of: Callable[[float], Scale], *, brackets: bool = False
) -> str:
    """`value ± half-width`, or `value [lo, hi]` where the interval is lopsided or wider than a
    quarter of the value.
    """
    value, lo, hi = figure["value"], figure["lo"], figure["hi"]
    if value is None:
        return NOTHING
    scale = scale_of(value)
    text = scale.number(value) + scale.unit
    if lo is None or hi is None:
        return text
    half = (hi - lo) / 2
    if brackets or half > abs(value) / 4 or abs((hi + lo) / 2 - value) > half / 2:
        # Two runs can leave everything open: each end then in its own unit.
        if hi > 100 * abs(value):
            ends = ", ".join(scale_of(end).number(end) + scale_of(end).unit for end in (lo, hi))
            return f"{text} [{ends}]"
        return f"{text} [{scale.number(lo)}, {scale.number(hi)}]"
    return f"{text} ± {scale.number(half)}"


def _loss(value: float) -> Scale:
    size = abs(value)
    return Scale(
        1.0, "", 4 if size == 0 or 0.01 <= size < 100 else max(0, 2 - math.floor(math.log10(size)))
    )


def _count(value: float) -> Scale:
    size, unit = next(
        ((s, f" {u}") for u, s in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if abs(value) >= s),
        (1.0, ""),
    )
    return Scale(size, unit, _decimals(value / size))


def _seconds(value: float) -> Scale:
    size, unit = (
        (1e-6, " µs")
        if 0 < value < 1e-3
        else (
            (1e-3, " ms")
            if value < 1
            else (
                (1.0, " s") if value < 600 else (60.0, " min") if value < 36_000 else (3600.0, " h")
            )
        )
    )
    return Scale(size, unit, _decimals(value / size))


def _decimals(scaled: float) -> int:
    return 2 if abs(scaled) < 10 else 1 if abs(scaled) < 100 else 0
