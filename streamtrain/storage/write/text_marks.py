"""How the numbers of a text file are written: decimal mark, and thousands."""

import re
from collections.abc import Sequence

from streamtrain.errors import DataError, shown
from streamtrain.storage.write.text_signs import without_sign
from streamtrain.types import Reading

_POINT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(\d+,?\d*|,\d+)([eE][+-]?\d+)?")
_GROUPS = {
    mark: re.compile(rf"[+-]?\d{{1,3}}({re.escape(mark)}\d{{3}})+({re.escape(other)}\d*)?")
    for mark, other in ((",", "."), (".", ","))
}
_SPACED = re.compile(r"[+-]?\d{1,3}([ \u00a0\u202f']\d{3})+([.,]\d*)?")
#: One group of three digits: 1,234 may be 1234 or 1.234.
_ONE_GROUP = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")


def is_number(field: str) -> bool:
    """Return whether a field may be a number, with either decimal mark."""
    field = field.strip()
    return bool(
        _POINT.fullmatch(field)
        or _COMMA.fullmatch(field)
        or _SPACED.fullmatch(field)
        or any(groups.fullmatch(field) for groups in _GROUPS.values())
        or field.lower().lstrip("+-") in ("inf", "infinity")
    )


def find_marks(
    path: str,
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    delimiter: str,
    reading: Reading,
) -> tuple[str, str]:
    """Return the decimal mark and the thousands mark.

    Raises DataError where a comma may be either.
    """
    fields = [without_sign(field.strip())[0] for row in rows for field in row]
    marked = [field for field in fields if ("," in field or "." in field) and is_number(field)]
    spaced = next((field for field in fields if _SPACED.fullmatch(field)), "")
    unsure = [field for field in marked if _ONE_GROUP.fullmatch(field) and "," in field]
    sure = [field for field in marked if field not in set(unsure)]
    commas = [field for field in sure if _is_decimal(field, ",")]
    points = [
        field for field in sure if _is_decimal(field, ".") and not _ONE_GROUP.fullmatch(field)
    ]
    decimal = reading.decimal
    if decimal is None:
        # In a comma-separated file, a quoted field may also be a list of numbers.
        if commas and len(commas) >= len(points) and not (points and delimiter == ","):
            decimal = ","
        elif unsure and not points and not any(_GROUPS[","].fullmatch(field) for field in sure):
            raise DataError(
                f"{path}: {_place(names, rows, unsure[0])} may have a decimal or a thousands comma."
                " Give --decimal , or --decimal . (a point)."
            )
        else:
            decimal = "."
    other = "," if decimal == "." else "."
    thousands = ""
    groups = [field for field in marked if _GROUPS[other].fullmatch(field)]
    several = [field for field in groups if field.count(other) > 1 or decimal in field]
    if several or (groups and other == "," and decimal == "."):
        thousands = other
    elif spaced:
        thousands = re.sub(r"[\d+.,-]", "", spaced)[0]
    return decimal, thousands


def _place(names: Sequence[str], rows: Sequence[Sequence[str]], number: str) -> str:
    """Return the column, the value and the row of a number."""
    row, index, field = next(
        (row, index, field)
        for row, fields in enumerate(rows)
        for index, field in enumerate(fields)
        if without_sign(field.strip())[0] == number
    )
    name = names[index] if index < len(names) else f"field {index + 1}"
    return f"column {shown(name)!r}: {shown(field.strip())} in row {row:,}"


def _is_decimal(field: str, mark: str) -> bool:
    """Return whether `mark` is certainly, or by default, the decimal mark of a number."""
    other = "," if mark == "." else "."
    if mark not in field:
        return False
    if other in field:
        return field.rfind(mark) > field.rfind(other)
    return field.count(mark) == 1
