"""What every record is: a frozen dataclass with a JSON form."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any, ClassVar, cast

from streamtrain.types import Json

#: Metadata of a field that is left out of the JSON when it is None or an empty text.
OPTIONAL = {"omit_when_unset": True}


@dataclass(frozen=True, slots=True)
class WrittenAs:
    """Annotation of a field that holds JSON: the type whose JSON form it has.

    `Annotated[Json, WrittenAs(Estimate)]` is a document, as `Estimate.to_json` returns it.
    """

    form: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record. `EVENT` is its `event` key."""

    EVENT: ClassVar[str] = ""

    def to_json(self) -> Json:
        """Return the record as JSON values: `event` first, then the fields in order."""
        values = {key: to_json(value) for key, value in json_values(self).items()}
        return {"event": self.EVENT, **values}


def json_fields(kind: Any) -> dict[str, Field[Any]]:
    """Return the fields of a dataclass, or of one of its instances, by their keys in JSON.

    Whatever writes or describes the JSON form of a dataclass takes its keys from here.
    """
    return {item.name: item for item in fields(kind)}


def is_optional(item: Field[Any]) -> bool:
    """True for a field that the JSON may lack."""
    return "omit_when_unset" in item.metadata


def json_values(instance: Any) -> dict[str, Any]:
    """Return the values of a dataclass by their keys in JSON, without optional ones not set."""
    values = {
        key: (getattr(instance, item.name), item) for key, item in json_fields(instance).items()
    }
    return {
        key: value
        for key, (value, item) in values.items()
        if not (is_optional(item) and (value is None or value == ""))
    }


#: A function that takes a record, such as the writer of a run's log.
Emit = Callable[[Record], None]


def to_json(value: Any) -> Any:
    """Return dataclasses, tuples and mappings as JSON values; other values unchanged.

    An object with a `to_json` method is converted by that method.
    """
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {key: to_json(item) for key, item in json_values(value).items()}
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value)
        return {str(key): to_json(item) for key, item in pairs.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in cast("Iterable[object]", value)]
    return value
