"""From JSON values back to records: the only reader of a line of `events.jsonl`."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from streamtrain.errors import DataError, shown
from streamtrain.records import events, sweep_events
from streamtrain.records.events import SCHEMA_VERSION, PassEnded, RunStarted
from streamtrain.records.record import Record
from streamtrain.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherRecord(Record):
    """A record of a newer version, kept unchanged."""

    name: str
    values: Json = field(default_factory=dict)

    def to_json(self) -> Json:
        """Return the JSON values that were read."""
        return {"event": self.name, **self.values}


#: The bytes of a log at most, which is read whole. Logs of long sweeps have a few MiB.
MAX_LOG_BYTES = 1 << 30

#: Every event by the `event` key of its records.
EVENTS: dict[str, type[Record]] = {
    kind.EVENT: kind
    for module in (events, sweep_events)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Record) and kind is not Record
}


class NewerLog(DataError):
    """A log was written by a newer version, whose records mean something else."""


def newer_version_text(version: int, known: int) -> str:
    """Return why a file of a newer `schema_version` is not read, without a full stop."""
    return (
        f"its schema_version is {version:,}, and this streamtrain reads {known}. Read it with the"
        " version that wrote it"
    )


def parse_record(values: Json) -> Record:
    """Return the typed record of one JSON line; unknown events become `OtherRecord`.

    Raises NewerLog, and DataError naming the event and the first field that is wrong.
    """
    name = values.get("event")
    if not isinstance(name, str):
        raise DataError("it has no `event` that is text")
    kind = EVENTS.get(name)
    if kind is None:
        return OtherRecord(name=name, values={k: v for k, v in values.items() if k != "event"})
    record = parse(kind, {key: value for key, value in values.items() if key != "event"}, name)
    if isinstance(record, RunStarted) and record.schema_version > SCHEMA_VERSION:
        raise NewerLog(newer_version_text(record.schema_version, SCHEMA_VERSION))
    return record


def parse_pass(values: Json | None) -> PassEnded | None:
    """Return the `pass` record that a checkpoint holds; None where the pass had not ended.

    Raises DataError when it is a different record.
    """
    if values is None:
        return None
    record = parse_record(values)
    if not isinstance(record, PassEnded):
        raise DataError(f"a checkpoint's `pass` record is `{values['event']}`")
    return record


def started_record(record: Record) -> RunStarted:
    """Return the first record of a log; raises DataError when it is not a `run` record."""
    if not isinstance(record, RunStarted):
        raise DataError("events.jsonl does not start with a `run` record")
    return record


Parsed = TypeVar("Parsed")


def parse(kind: type[Parsed], values: Json, name: str) -> Parsed:
    """Return `values` as the dataclass `kind`; `name` describes them in errors.

    Raises DataError naming the first field that is wrong.
    """
    try:
        return _adapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = shown(".".join(map(str, first["loc"])))[:200]
        message = first["msg"].removeprefix("Value error, ")
        raise DataError(f"`{name}`: {where}: {message[:1].lower()}{message[1:]}") from None


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
