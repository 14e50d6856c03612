"""How the report writes numbers: the table, the Markdown and the page print the same digits."""

import math
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

from streamtrain.base.units import format_percent
from streamtrain.science.intervals import Estimate

NOTHING = "–"

_COUNT_UNITS = ((1e9, " G"), (1e6, " M"), (1e3, " k"))
#: The unit of a duration → the seconds below which it is used, and its length in seconds.
_SECOND_UNITS = {
    " µs": (1e-3, 1e-6),
    " ms": (1.0, 1e-3),
    " s": (600.0, 1.0),
    " min": (36_000.0, 60.0),
    " h": (math.inf, 3600.0),
}


class Scale(NamedTuple):
    """How to print a number and its interval: divide by `size`, print `decimals`, append `unit`."""

    size: float
    unit: str
    decimals: int
    separator: str = ""

    def number(self, value: float) -> str:
        """Return the number without its unit; far from 1 in powers of ten."""
        scaled = value / self.size
        if scaled and not 1e-9 < abs(scaled) < (1e15 if self.separator else 1e7):
            return f"{scaled:.3e}"
        return f"{scaled:{self.separator}.{self.decimals}f}"


def status_text(status: str) -> str:
    """Return the status or the outcome of a training in words.

    >>> status_text("out_of_memory")
    'out of memory'
    """
    return status.replace("_", " ")


def size_text(batch_size: int) -> str:
    """Return a batch size in full, so that 1000 and 1024 never look alike.

    >>> size_text(65536)
    '65,536'
    """
    return f"{batch_size:,}"


def sizes_in_turn(sizes: Iterable[int]) -> str:
    """Return the sizes of a training in their order.

    >>> sizes_in_turn([32, 64, 1024]), sizes_in_turn([32])
    ('32, then 64, then 1,024', '32')
    """
    return ", then ".join(map(size_text, sizes))


def cell_size_text(batch_size: int, sizes_used: Sequence[int]) -> str:
    """Return the size of a cell; where it changed in training, all sizes that `train` used.

    >>> cell_size_text(64, []), cell_size_text(32, [32, 1024])
    ('64', '32, then 1,024')
    """
    return sizes_in_turn(sizes_used) if len(sizes_used) > 1 else size_text(batch_size)


def sizes_text(sizes: Sequence[int]) -> str:
    """Return the sizes, or the first and the last of more than six.

    >>> sizes_text([64, 1024]), sizes_text(range(1, 9))
    ('64, 1,024', '8 sizes (1 … 8)')
    """
    names = [size_text(size) for size in sizes]
    return ", ".join(names) if len(names) <= 6 else f"{len(names)} sizes ({names[0]} … {names[-1]})"


def rate_text(lr: float) -> str:
    """Return a learning rate at four digits.

    >>> rate_text(0.004), rate_text(0.00012589254117941674)
    ('0.004', '0.0001259')
    """
    return f"{lr:.4g}"


def times_text(ratio: float) -> str:
    """Return a ratio at two digits, without an exponent.

    >>> times_text(1.234), times_text(147.3)
    ('1.2', '147')
    """
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}"


def slower_text(fraction: float) -> str:
    """Return how much slower something is: in percent, from 200 % on as a factor.

    >>> slower_text(0.124), slower_text(4.3)
    ('12 %', '5.3 times')
    """
    return format_percent(fraction) if fraction < 2 else f"{times_text(1 + fraction)} times"


def slower_figure_text(figure: Estimate) -> str:
    """Return how much slower a size is with its interval: in percent, from 200 % on as a factor.

    >>> slower_figure_text(Estimate(value=0.31, lo=0.1, hi=0.55, n=3))
    '31 % [10, 55]'
    >>> slower_figure_text(Estimate(value=13.4, lo=3.9, hi=42.0, n=3))
    '14 times [4.9, 43]'
    >>> slower_figure_text(Estimate(value=0.31, lo=0.1, n=3))
    '31 %, at least 10 %'
    >>> slower_figure_text(Estimate(value=3.0, lo=1.6, n=3))  # both in one unit
    '4.0 times, at least 2.6 times'
    >>> slower_figure_text(Estimate(value=0.4, lo=-0.08, n=3))
    '40 %, not certain'
    >>> slower_figure_text(Estimate(value=-0.61, lo=-0.75, n=3))  # a bound that bounds nothing
    '–'
    """
    if figure.value is None:
        return NOTHING
    text = slower_text(figure.value)
    if figure.lo is None:
        return text
    if figure.hi is None and figure.value < 0:
        return NOTHING
    if figure.hi is None and figure.lo < 0:
        return f"{text}, not certain"
    if figure.hi is None:
        least = slower_text(figure.lo) if figure.value < 2 else f"{times_text(1 + figure.lo)} times"
        return f"{text}, at least {least}"
    if figure.value < 2:
        return f"{text} [{100 * figure.lo:,.0f}, {100 * figure.hi:,.0f}]"
    return f"{text} [{times_text(1 + figure.lo)}, {times_text(1 + figure.hi)}]"


def loss_above_text(figure: Estimate) -> str:
    """Return how much larger a loss is with its interval, in percent at one decimal.

    >>> loss_above_text(Estimate(value=0.0123, lo=-0.001, hi=0.0256, n=3))
    '1.2 % [-0.1, 2.6]'
    """
    if figure.value is None:
        return NOTHING
    text = format_percent(figure.value, 1)
    if figure.lo is None or figure.hi is None:
        return text
    return f"{text} [{100 * figure.lo:.1f}, {100 * figure.hi:.1f}]"


def at_most_slower_text(fraction: float) -> str:
    """Return an upper bound of how much slower something is, rounded up to whole percent.

    >>> at_most_slower_text(0.121), at_most_slower_text(0.0)
    ('13 %', '1 %')
    """
    return slower_text(max(1, math.ceil(100 * fraction - 1e-9)) / 100)


def target_word(target: float | None) -> str:
    """Return a target loss as it was given, small ones as tables write losses.

    >>> target_word(0.02), target_word(9.17e-05)
    ('0.02', '0.0000917')
    """
    if target is None:
        return NOTHING
    return f"{Decimal(f'{target:.6g}'):f}" if 1e-9 < target < 1e7 else f"{target:.6g}"


def loss_text(value: float | None) -> str:
    """Return a loss at four decimals, or at three significant digits where those say more.

    >>> loss_text(0.0812), loss_text(0.001234), loss_text(None)
    ('0.0812', '0.00123', '–')
    """
    return NOTHING if value is None else _loss(value).number(value)


def loss_figure_text(figure: Estimate) -> str:
    """Return a loss with its interval.

    >>> loss_figure_text(Estimate(value=0.0812, n=5, lo=0.0808, hi=0.0816))
    '0.0812 ± 0.0004'
    """
    return _with_interval(figure, _loss)


def rmse_text(figure: Estimate) -> str:
    """Return an RMSE in the target's units with its interval, written as by `error_text`.

    >>> rmse_text(Estimate(value=14470512.0, n=30, lo=14434058.0, hi=14506966.0))
    '14,470,512 ± 36,454'
    """
    return _with_interval(figure, _four_digits)


def error_text(value: float) -> str:
    """Return an RMSE in the target's units at four significant digits, without an exponent.

    >>> error_text(3.9362), error_text(21460.3)
    ('3.936', '21,460')
    """
    return f"{value:.4g}" if value < 1e4 else f"{value:,.0f}"


def speed_text(figure: Estimate) -> str:
    """Return rows per second with their interval.

    >>> speed_text(Estimate(value=4.01e6, n=5, lo=3.9e6, hi=4.1e6))
    '4.01 M [3.90, 4.10]'
    """
    return _with_interval(figure, _count, brackets=True)


def count_text(figure: Estimate) -> str:
    """Return rows or steps with their interval."""
    return _with_interval(figure, _count)


def seconds_text(figure: Estimate) -> str:
    """Return seconds with their interval.

    >>> seconds_text(Estimate(value=6.2, n=5, lo=6.0, hi=6.4))
    '6.20 s ± 0.20'
    >>> seconds_text(Estimate(value=0.0123, n=1))
    '12.3 ms'
    >>> seconds_text(Estimate(value=0.0348, n=2, lo=9e-6, hi=134.9))
    '34.8 ms [9.00 µs, 135 s]'
    >>> seconds_text(Estimate(value=7.4e-5, n=3, lo=3.1e-5, hi=1.2e-4))
    '74.0 µs [31.0, 120.0]'
    """
    return _with_interval(figure, _seconds)


def share_text(figure: Estimate) -> str:
    """Return a fraction in whole percent."""
    return NOTHING if figure.value is None else format_percent(figure.value)


def interval_text(figure: Estimate | None, text: Callable[[float], str], unit: str = "") -> str:
    """Return `value [lo, hi]` and the unit, with each number written by `text`.

    The kind of the interval and its n follow where the figure has a kind.

    >>> figure = Estimate(value=3.0, lo=2.0, hi=5.0, n=8, kind="t")
    >>> interval_text(figure, "{:.0f}".format, " rows")
    '3 [2, 5] rows (t, n = 8)'
    """
    if figure is None or figure.value is None:
        return NOTHING
    if figure.lo is None or figure.hi is None:
        return text(figure.value) + unit + (" (1 run)" if figure.kind == "1 run" else "")
    kind = f" ({figure.kind}, n = {figure.n:,})" if figure.kind else ""
    return f"{text(figure.value)} [{text(figure.lo)}, {text(figure.hi)}]{unit}{kind}"


def _with_interval(
    figure: Estimate, scale_of: Callable[[float], Scale], *, brackets: bool = False
) -> str:
    """Return `value ± half-width`, or `value [lo, hi]`.

    Brackets are for an interval that is lopsided or wider than a quarter of the value.
    """
    value, lo, hi = figure.value, figure.lo, figure.hi
    if value is None:
        return NOTHING
    scale = scale_of(value)
    text = scale.number(value) + scale.unit
    if lo is None or hi is None:
        return text
    half = (hi - lo) / 2
    lopsided = abs((hi + lo) / 2 - value) > half / 2
    if not (brackets or half > abs(value) / 4 or lopsided):
        return f"{text} ± {scale.number(half)}"
    if hi <= 100 * abs(value):
        return f"{text} [{scale.number(lo)}, {scale.number(hi)}]"
    # Two repeats can have an interval over many orders of magnitude: each end has its own unit.
    ends = ", ".join(scale_of(end).number(end) + scale_of(end).unit for end in (lo, hi))
    return f"{text} [{ends}]"


def _loss(value: float) -> Scale:
    size = abs(value)
    decimals = 4
    if size and not 0.01 <= size < 100:
        decimals = max(0, 2 - math.floor(math.log10(size)))
    return Scale(1.0, "", decimals)


def _four_digits(value: float) -> Scale:
    decimals = max(0, 3 - math.floor(math.log10(value))) if value > 0 else 1
    return Scale(1.0, "", decimals, "," if value >= 1e4 else "")


def _count(value: float) -> Scale:
    size, unit = next(
        ((size, unit) for size, unit in _COUNT_UNITS if abs(value) >= size), (1.0, "")
    )
    return Scale(size, unit, _decimals(value / size))


def _seconds(value: float) -> Scale:
    if value <= 0:
        return Scale(1e-3, " ms", _decimals(value / 1e-3))
    unit = next(unit for unit, (below, _) in _SECOND_UNITS.items() if value < below)
    size = _SECOND_UNITS[unit][1]
    return Scale(size, unit, _decimals(value / size))


def _decimals(scaled: float) -> int:
    """Return the decimals that leave three digits."""
    if abs(scaled) < 10:
        return 2
    return 1 if abs(scaled) < 100 else 0
