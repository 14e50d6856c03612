"""How config values may be written: `64Ki`, `0.1`, `64..1Mi*4`, `on`.

A parser returns a value that it does not recognise unchanged, and pydantic then refuses it.
"""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import BeforeValidator, Field

from streamtrain.base.units import MAX_COUNT, parse_bytes, parse_count, parse_seconds, parse_sizes
from streamtrain.errors import ConfigError

#: The minibatch size, or sizes, that follow from the rows.
AUTO: Literal["auto"] = "auto"

_DEVICES = r"auto|cpu|cuda(:\d+)?"
_MEASURES = ("noise", "curvature", "sharpness", "shuffle")


def _is_sequence(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, (list, tuple))


def is_mapping(value: Any) -> TypeGuard[dict[Any, Any]]:
    """Return True for a dict."""
    return isinstance(value, dict)


def _split_names(value: Any) -> Any:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _split_counts(value: Any) -> Any:
    if isinstance(value, int):
        return [value]
    parts = _split_names(value)
    return [parse_count(part) for part in parts] if _is_sequence(parts) else parts


def _losses(value: Any) -> Any:
    return (value,) if isinstance(value, (int, float)) else _split_names(value)


def _lr_grid(value: Any) -> Any:
    """Parse `5` as a number of learning rates, and `0.001,0.01` or a list as the rates."""
    if isinstance(value, float):
        return (value,)
    if isinstance(value, str):
        if not any(character in value for character in ".,eE"):
            return parse_count(value)
        return tuple(float(part) for part in value.split(","))
    if _is_sequence(value):
        return tuple(float(part) for part in value)
    return value


def _measures(value: Any) -> Any:
    if value == "all":
        return _MEASURES
    return () if value == "none" else _split_names(value)


def _on_off(value: Any) -> Any:
    return {"on": True, "off": False}.get(value, value) if isinstance(value, str) else value


def _delimiter(value: Any) -> Any:
    """Parse the names of characters that are hard to type.

    >>> _delimiter("space"), _delimiter(";")
    (' ', ';')
    """
    names = {"tab": "\t", "\\t": "\t", "space": " ", "spaces": " ", "comma": ",", "semicolon": ";"}
    return names.get(value, value) if isinstance(value, str) else value


def _decimal(value: Any) -> Any:
    return {"comma": ",", "point": "."}.get(value, value) if isinstance(value, str) else value


def _holdout(value: Any) -> Any:
    """Parse a number of rows (`131072`, `64Ki`) or a fraction of the rows (`0.1`).

    Text with a point is a fraction. A float is a fraction unless it is a whole number.
    """
    written_with_point = isinstance(value, str) and "." in value
    if isinstance(value, str):
        value = float(value) if written_with_point else parse_count(value)
    is_whole = not isinstance(value, float) or value.is_integer()
    is_fraction = written_with_point or not is_whole
    if value is None:
        return None
    if isinstance(value, bool) or value < 0 or (is_fraction and not 0 <= value < 1):
        raise ValueError("write rows as a whole number, or a fraction below 1 with a point (0.1)")
    return int(value) if isinstance(value, float) and is_whole else value


def parse_fraction(value: Any) -> Any:
    """Parse `20%` as 0.2; a number stays as it is."""
    if isinstance(value, str) and value.strip().endswith("%"):
        return float(value.strip()[:-1]) / 100
    return value


#: A whole number below this is not a budget in rows: seconds were meant.
_FEWEST_ROWS = 1000


def _budget(value: Any) -> Any:
    """Parse `60s` and `5m` as seconds, `100M` and whole numbers as rows.

    A unit of time is a small letter, a unit of rows a capital one.
    """
    if isinstance(value, str):
        text = value.strip()
        no_budget = ConfigError(f"{value!r} is not a budget. Write it like 60s, 5m or 100M rows.")
        if not text[:1].isdigit():
            raise no_budget
        try:
            value = parse_seconds(text) if text[-1:] in ("s", "m", "h") else parse_count(text)
        except ConfigError:  # it names the units of seconds alone, or those of rows alone
            raise no_budget from None
    if isinstance(value, int) and 0 < value < _FEWEST_ROWS:
        raise ConfigError(
            f"a budget of {value} is {value} rows, too few to compare sizes. Write {value}s for"
            " seconds, or more rows."
        )
    return value


def _options(value: Any) -> Any:
    """Convert the values of a mapping to text; YAML reads `anon: true` as a boolean."""
    if not is_mapping(value):
        return value
    return {
        str(name): str(item).lower() if isinstance(item, bool) else str(item)
        for name, item in value.items()
    }


def parse_batch_schedule(value: Any) -> Any:
    """Return (size, row) pairs of text such as `32@0,128@65k`, or of a list of pairs.

    Raises ValueError unless the first row is 0 and rows ascend.

    >>> parse_batch_schedule("32@0,128@65k")
    ((32, 0), (128, 65000))
    """
    example = "write size@rows with ascending rows, the first 0, like 32@0,128@65k"
    parts = _split_names(value)
    if not _is_sequence(parts) or not parts:
        raise ValueError(example)
    pairs = [part.split("@") if isinstance(part, str) else part for part in parts]
    if not all(_is_sequence(pair) and len(pair) == 2 for pair in pairs):
        raise ValueError(example)
    stages = tuple((parse_count(size), parse_count(row)) for size, row in pairs)
    rows = [row for _, row in stages]
    if rows[0] != 0 or rows != sorted(set(rows)) or rows[-1] > MAX_COUNT:
        raise ValueError(example)
    for size, _ in stages:
        _check_size(size)
    return stages


def _check_size(size: int) -> None:
    if not 1 <= size <= MAX_COUNT:
        raise ValueError("sizes are whole numbers from 1 to 2^62")


def _refuse_words(value: Any, examples: str) -> None:
    """Raise ValueError for text without a digit.

    The message of `parse_count` would not name `auto`, of which `AUTO` is a misspelling.
    """
    if isinstance(value, str) and not any(character.isdigit() for character in value):
        raise ValueError(f"write {examples}, or {AUTO}")


def _size_or_auto(value: Any) -> Any:
    if value == AUTO:
        return value
    _refuse_words(value, "rows like 256 or 64Ki")
    size = parse_count(value)
    _check_size(size)
    return size


def _sizes_or_auto(value: Any) -> Any:
    """Parse `auto` as None, which leaves the sizes to the sweep."""
    if value is None or value == AUTO:
        return None
    _refuse_words(value, "sizes like 64,1024 or 64..1Mi*4")
    return parse_sizes(value)


def _device(value: Any) -> Any:
    """Refuse what is no name of a device. Whether it is there is found out when it is used."""
    if isinstance(value, str) and not re.fullmatch(_DEVICES, value):
        raise ValueError("write auto, cpu, cuda, or cuda:N for one of several GPUs")
    return value


def _before(parse: Callable[[Any], Any], **schema: Any) -> BeforeValidator:
    """Return a validator that parses a value, or leaves one of a wrong type to pydantic."""

    def read(value: Any) -> Any:
        try:
            return parse(value)
        except (TypeError, OverflowError):
            return value

    return BeforeValidator(read, **schema)


# What a key accepts, for the JSON schema: `10M`; `64..1Mi*4,1M`.
_Number = int | float | str
_PositiveNumber = (
    Annotated[int, Field(ge=1, le=MAX_COUNT)] | Annotated[float, Field(ge=1, le=MAX_COUNT)] | str
)
_Numbers = int | float | str | list[int | float | str]

Count = Annotated[int, _before(parse_count, json_schema_input_type=_Number)]
Bytes = Annotated[int, _before(parse_bytes, json_schema_input_type=_Number), Field(gt=0)]
Seconds = Annotated[float, _before(parse_seconds, json_schema_input_type=_Number), Field(gt=0)]
PositiveCount = Annotated[
    int, _before(parse_count, json_schema_input_type=_PositiveNumber), Field(ge=1, le=MAX_COUNT)
]
OnOff = Annotated[bool, _before(_on_off, json_schema_input_type=bool | Literal["on", "off"])]
Delimiter = Annotated[
    str, _before(_delimiter, json_schema_input_type=str), Field(min_length=1, max_length=1)
]
Decimal = Annotated[str, _before(_decimal, json_schema_input_type=str), Field(pattern="^[.,]$")]
#: A float is seconds, an int rows.
Budget = Annotated[
    float | int,
    _before(_budget, json_schema_input_type=_Number),
    Field(gt=0),
]
Device = Annotated[
    str,
    _before(_device, json_schema_input_type=Annotated[str, Field(pattern=f"^({_DEVICES})$")]),
]
Names = Annotated[tuple[str, ...], _before(_split_names, json_schema_input_type=str | list[str])]
Counts = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    _before(_split_counts, json_schema_input_type=_Numbers),
]
BatchSchedule = Annotated[
    tuple[tuple[int, int], ...],
    _before(parse_batch_schedule, json_schema_input_type=str | list[str | list[_Number]]),
]
SizeOrAuto = Annotated[
    int | Literal["auto"],
    _before(_size_or_auto, json_schema_input_type=Literal["auto"] | _PositiveNumber),
]
SizesOrAuto = Annotated[
    tuple[int, ...] | None, _before(_sizes_or_auto, json_schema_input_type=_Numbers | None)
]
Losses = Annotated[
    tuple[Annotated[float, Field(gt=0)], ...],
    _before(_losses, json_schema_input_type=_Numbers),
]
Holdout = Annotated[int | float | None, _before(_holdout, json_schema_input_type=_Number | None)]
Rates = Annotated[
    Annotated[int, Field(ge=1)] | tuple[Annotated[float, Field(gt=0)], ...],
    _before(_lr_grid, json_schema_input_type=_Numbers),
]
Options = Annotated[dict[str, str], _before(_options, json_schema_input_type=dict[str, str | bool])]
Rules = Annotated[
    tuple[Literal["tuned", "fixed", "linear", "sqrt"], ...],
    _before(_split_names),
    Field(min_length=1),
]
Measures = Annotated[
    tuple[Literal["noise", "curvature", "sharpness", "shuffle"], ...], _before(_measures)
]
