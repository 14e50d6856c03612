"""Keys of JSON lines whose values have several kinds, such as numbers and strings.

Arrow refuses a whole file for one of them, and names neither its value nor its kind.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from streamtrain.errors import shown
from streamtrain.storage.decode import ColumnError

#: The keys that lead to a value.
Path = tuple[str, ...]

_CHANGED = re.compile(r"Column\((/.*)\) changed from (\w+) to (\w+) in row (\d+)")
#: What stands for a value of a mixed key: a text that is no time.
_TEXT = "mixed"


def has_changed(error: BaseException | None) -> bool:
    """Return whether Arrow's error is that the values of a key changed their kind."""
    return _CHANGED.search(str(error)) is not None


def changed_column(
    error: BaseException, paths: Mapping[str, Path], first_row: int
) -> ColumnError | None:
    """Return the error for the columns whose values Arrow's error is about; None for other errors.

    `paths`: the path of each column by its name. `first_row`: of the block that Arrow read.
    """
    if not (found := _CHANGED.search(str(error))):
        return None
    place, before, after, row = found.groups()
    row = first_row + int(row)
    refusal = _refusal("the value", row, after, before)
    names = [name for name, path in paths.items() if f"/{'/'.join(path)}/".startswith(f"{place}/")]
    if not names:
        return None
    return ColumnError(
        f"column {names[0]!r}: {refusal}. Correct it, or leave the column out with --features.",
        dict.fromkeys(names, refusal),
    )


def with_one_kind(rows: bytes) -> tuple[bytes, dict[Path, tuple[str, str]]]:
    """Return lines in which every key has values of one kind, and the keys that had several.

    Those have texts in the lines. For each, the kinds and a sentence with the first value of
    another kind. Lists are empty, since they are no numbers. Raises ValueError for a line that is
    not JSON.
    """
    objects = [json.loads(line) for line in rows.splitlines() if line.strip()]
    first: dict[Path, dict[str, tuple[int, Any]]] = {}
    for row, value in enumerate(objects):
        _note(value, (), row, first)
    mixed = {path: _texts(kinds) for path, kinds in first.items() if len(kinds) > 1 and path}
    lines = (json.dumps(_replaced(value, (), mixed)) for value in objects)
    return "".join(f"{line}\n" for line in lines).encode(), mixed


def _note(value: Any, path: Path, row: int, first: dict[Path, dict[str, tuple[int, Any]]]) -> None:
    """Note the first row and value of each kind that the keys within `value` have."""
    if value is not None:
        first.setdefault(path, {}).setdefault(_kind(value), (row, value))
    if isinstance(value, dict):
        for key, inner in value.items():
            _note(inner, (*path, key), row, first)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    kinds: Iterable[tuple[Any, str]] = ((str, "string"), (dict, "object"), (list, "array"))
    return next((kind for type_, kind in kinds if isinstance(value, type_)), "number")


def _texts(kinds: Mapping[str, tuple[int, Any]]) -> tuple[str, str]:
    """Return the kinds, and a sentence that shows the first value of the second kind."""
    (before, _), (after, (row, value)) = list(kinds.items())[:2]
    text = shown(json.dumps(value, ensure_ascii=False)[:40])
    return " and ".join(kinds), _refusal(text, row, after, before)


def _refusal(value: str, row: int, after: str, before: str) -> str:
    return f"{value} in row {row:,} is of kind {after}, not {before} as in the rows before"


def _replaced(value: Any, path: Path, mixed: Mapping[Path, tuple[str, str]]) -> Any:
    if path in mixed:
        return _TEXT
    if isinstance(value, list):
        return []
    if isinstance(value, dict):
        return {key: _replaced(inner, (*path, key), mixed) for key, inner in value.items()}
    return value
