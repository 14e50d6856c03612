"""Change every text of a record or another dataclass, however deeply it is nested."""

from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def map_texts(value: T, change: Callable[[str], str], *, keys: bool = False) -> T:
    """Return a copy with each text changed, except in fields that are a `Literal`.

    `value`: a dataclass, or what JSON can hold. `keys`: those of mappings are changed too. A value
    without texts is returned as it is.
    """
    return cast("T", _mapped(value, change, keys))


def _mapped(value: Any, change: Callable[[str], str], keys: bool) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        pairs = cast("dict[Any, Any]", value).items()
        return {
            _mapped(key, change, keys) if keys else key: _mapped(item, change, keys)
            for key, item in pairs
        }
    if isinstance(value, list | tuple):
        items = [_mapped(item, change, keys) for item in cast("Iterable[Any]", value)]
        return items if isinstance(value, list) else tuple(items)
    if is_dataclass(value) and not isinstance(value, type):
        changed: dict[str, Any] = {}
        for name in _with_texts(type(value)):
            changed[name] = _mapped(getattr(value, name), change, keys)
        return replace(value, **changed) if changed else value
    return value


@cache
def _with_texts(kind: type) -> tuple[str, ...]:
    """Return the fields of a dataclass that may hold a free text."""
    hints = get_type_hints(kind)
    return tuple(item.name for item in fields(cast("Any", kind)) if _holds_text(hints[item.name]))


def _holds_text(hint: Any) -> bool:
    if hint is str or hint is Any or is_dataclass(hint):
        return True
    return get_origin(hint) is not Literal and any(map(_holds_text, get_args(hint)))
