"""What every record is: a frozen dataclass with a JSON form."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, cast

from streamtrain.types import Json

#: Metadata of a field that is left out of the JSON when it is None.
OPTIONAL = {"omit_when_none": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record. `EVENT` is its `event` key."""

    EVENT: ClassVar[str] = ""

    def to_json(self) -> Json:
        """Return the record as JSON values: `event` first, then the fields in order."""
        values: Json = {"event": self.EVENT}
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None or "omit_when_none" not in item.metadata:
                values[item.name] = to_json(value)
        return values


#: A function that takes a record, such as the writer of a run's log.
Emit = Callable[[Record], None]


def to_json(value: Any) -> Any:
    """Return dataclasses, tuples and mappings as JSON values; other values unchanged.

    An object with a `to_json` method is converted by that method.
    """
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value)
        return {str(key): to_json(item) for key, item in pairs.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in cast("Iterable[object]", value)]
    return value
