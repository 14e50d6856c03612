"""How a value of the config may be written: `64Ki`, `0.1`, `64..1Mi*4`, `on`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from streamtrain.base.units import MOST_ROWS, parse_bytes, parse_count, parse_seconds, parse_sizes


def _split_names(value: Any) -> Any:
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str)
        else value
    )


def _split_counts(value: Any) -> Any:
    if isinstance(value, int):
        return [value]
    parts = _split_names(value)
    return [parse_count(part) for part in parts] if isinstance(parts, (list, tuple)) else parts


def _losses(value: Any) -> Any:
    return (value,) if isinstance(value, (int, float)) else _split_names(value)


def _lr_grid(value: Any) -> Any:
    """`5` is a number of rates; `0.001,0.01` or a list are the rates themselves."""
    if isinstance(value, (list, tuple)):
        return tuple(float(part) for part in value)
    if isinstance(value, str):
        return (
            tuple(float(part) for part in value.split(","))
            if any(c in value for c in ".,eE")
            else parse_count(value)
        )
    return (value,) if isinstance(value, float) else value


def _measures(value: Any) -> Any:
    return (
        {"all": ("noise", "curvature", "sharpness", "shuffle"), "none": ()}.get(value)
        if value in ("all", "none")
        else _split_names(value)
    )


def _on_off(value: Any) -> Any:
    return {"on": True, "off": False}.get(value, value) if isinstance(value, str) else value


def _holdout(value: Any) -> Any:
    """Rows (`131072`, `64Ki`) or, below 1 and written with a point, a fraction of the rows
    (`0.1`).
    """
    written = value
    if isinstance(value, str):
        value = float(value) if "." in value else parse_count(value)
    fraction = isinstance(value, float) and (isinstance(written, str) or value != round(value))
    if (
        isinstance(value, bool)
        or (fraction and not 0 <= value < 1)
        or (value is not None and value < 0)
    ):
        raise ValueError("write rows as a whole number, or a fraction below 1 with a point (0.1)")
    return int(value) if isinstance(value, float) and value == round(value) else value


def _options(value: Any) -> Any:
    """Values as text: YAML reads `anon: true` as a truth value."""
    return (
        {
            str(name): str(item).lower() if isinstance(item, bool) else str(item)
            for name, item in value.items()
        }
        if isinstance(value, dict)
        else value
    )


# What may be written, for the JSON schema: `10M`, `64..1Mi*4,1M`.
_Number = int | float | str
_Numbers = int | float | str | list[int | float | str]

Count = Annotated[int, BeforeValidator(parse_count, json_schema_input_type=_Number)]
Bytes = Annotated[int, BeforeValidator(parse_bytes, json_schema_input_type=_Number), Field(gt=0)]
Seconds = Annotated[
    float, BeforeValidator(parse_seconds, json_schema_input_type=_Number), Field(gt=0)
]
PositiveCount = Annotated[
    int, BeforeValidator(parse_count, json_schema_input_type=_Number), Field(ge=1, le=MOST_ROWS)
]
OnOff = Annotated[
    bool, BeforeValidator(_on_off, json_schema_input_type=bool | Literal["on", "off"])
]
Names = Annotated[
    tuple[str, ...], BeforeValidator(_split_names, json_schema_input_type=str | list[str])
]
Counts = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    BeforeValidator(_split_counts, json_schema_input_type=_Numbers),
]
Sizes = Annotated[tuple[int, ...], BeforeValidator(parse_sizes, json_schema_input_type=_Numbers)]
Losses = Annotated[
    tuple[Annotated[float, Field(gt=0)], ...],
    BeforeValidator(_losses, json_schema_input_type=_Numbers),
]
Holdout = Annotated[
    int | float | None, BeforeValidator(_holdout, json_schema_input_type=_Number | None)
]
Rates = Annotated[
    Annotated[int, Field(ge=1)] | tuple[Annotated[float, Field(gt=0)], ...],
    BeforeValidator(_lr_grid, json_schema_input_type=_Numbers),
]


Options = Annotated[
    dict[str, str], BeforeValidator(_options, json_schema_input_type=dict[str, str | bool])
]
Rules = Annotated[
    tuple[Literal["tuned", "fixed", "linear", "sqrt"], ...],
    BeforeValidator(_split_names),
    Field(min_length=1),
]
Measures = Annotated[
    tuple[Literal["noise", "curvature", "sharpness", "shuffle"], ...], BeforeValidator(_measures)
]
