"""The JSON schema of `summary.json`, generated from `Summary` and the types it refers to.

The package ships it as `schema.json`. Regenerate it after changing a type:

    python -m streamtrain.report.summary_schema > streamtrain/report/schema.json

`json_fields` gives the keys, here and wherever JSON is written. The description of a field is its
text in the `Attributes` section of its class, where this project documents fields anyway; this
keeps long texts out of annotations. `Annotated` holds what a text cannot say: limits
(`pydantic.Field`), and for a field of type `Json` the type it is written as (`WrittenAs`).
Pydantic's own schema is used for simple types only. For a dataclass it would describe what may be
read, where keys may be missing or unknown, and not what is written.
"""

import inspect
import json
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from streamtrain.records import WrittenAs, is_optional, json_fields
from streamtrain.report.analysis import Summary
from streamtrain.types import Json

_ATTRIBUTES = re.compile(r"^Attributes:\n((?:(?: {4}.*)?\n?)*)", re.MULTILINE)
_ENTRY = re.compile(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)
_PYTHON_WORDS = {"None": "null", "True": "true", "False": "false"}


def summary_schema() -> Json:
    """Return the JSON schema of `summary.json`. Raises as `schema_of` does."""
    return schema_of(Summary, "streamtrain summary.json")


def schema_of(kind: type, title: str) -> Json:
    """Return the JSON schema of documents that are a dataclass.

    Raises TypeError for a field whose type has no JSON form, and ValueError for a docstring that
    describes a field that does not exist.
    """
    definitions: Json = {}
    root = object_schema(kind, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def object_schema(kind: type, definitions: Json) -> Json:
    """Return the schema of a dataclass or TypedDict; `definitions` gets those that it refers to.

    Other keys are refused, and every key is required that is always written. Raises TypeError and
    ValueError as `schema_of` does.
    """
    hints = get_type_hints(kind, include_extras=True)
    if is_dataclass(kind):
        items = json_fields(kind)
        types_by_key = {key: hints[item.name] for key, item in items.items()}
        required = [key for key, item in items.items() if not is_optional(item)]
        names = {item.name: key for key, item in items.items()}
    else:
        types_by_key, names = hints, {key: key for key in hints}
        required = [key for key in hints if key in kind.__required_keys__]  # pyright: ignore
    text, described = field_texts(kind)
    if unknown := described.keys() - names.keys():
        raise ValueError(f"{kind.__name__} describes fields that it does not have: {unknown}")
    texts = {names[name]: entry for name, entry in described.items()}
    return {
        "type": "object",
        "description": text,
        "properties": {
            key: _schema(hint, definitions) | ({"description": texts[key]} if key in texts else {})
            for key, hint in types_by_key.items()
        },
        "required": required,
        "additionalProperties": False,
    }


def field_texts(kind: type) -> tuple[str, dict[str, str]]:
    """Return the text of a class, and the texts of its fields by name, from its docstring."""
    document = inspect.cleandoc(kind.__doc__ or "")
    section = _ATTRIBUTES.search(document)
    entries = _ENTRY.findall(section[1]) if section else []
    text = document[: section.start()] if section else document
    return _json_words(text), {name: _json_words(entry) for name, entry in entries}


def _json_words(text: str) -> str:
    """Return a text on one line, with JSON's words for Python's."""
    words = re.sub(r"\b(None|True|False)\b", lambda word: _PYTHON_WORDS[word[1]], text)
    return " ".join(words.split())


def _schema(hint: Any, definitions: Json) -> Json:
    """Return the schema of the values of a type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(hint, definitions)
    if origin in (Union, types.UnionType):
        return _union(arguments, definitions)
    is_tuple = origin is tuple
    if arguments[1:] == (...,) if is_tuple else _is(origin, Sequence):
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if _is(origin, Mapping):
        values = (
            {}
            if arguments[1] is Any
            else {"additionalProperties": _schema(arguments[1], definitions)}
        )
        return {"type": "object", **values}
    if _has_fields(hint):
        if hint.__name__ not in definitions:
            definitions[hint.__name__] = {}  # for a type that refers to itself
            definitions[hint.__name__] = object_schema(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    return _simple(hint)


def _annotated(hint: Any, definitions: Json) -> Json:
    base, *metadata = get_args(hint)
    forms = [item.form for item in metadata if isinstance(item, WrittenAs)]
    if forms:
        return _schema(forms[0], definitions)
    if not _has_fields(base):
        return _simple(hint)
    schema = _schema(base, definitions)
    for item in metadata:
        if isinstance(item, FieldInfo) and isinstance(item.json_schema_extra, dict):
            schema |= item.json_schema_extra
    return schema


def _union(members: Sequence[Any], definitions: Json) -> Json:
    """Return the schema of a union, in the short form where it is of simple types."""
    schemas = [
        {"type": "null"} if member is types.NoneType else _schema(member, definitions)
        for member in members
    ]
    if all(schema.keys() == {"type"} for schema in schemas):
        return {"type": [schema["type"] for schema in schemas]}
    return {"anyOf": schemas}


def _simple(hint: Any) -> Json:
    """Return Pydantic's schema of a type without fields, such as a number or a Literal."""
    if hint is Any or isinstance(hint, types.GenericAlias):
        raise TypeError(f"{hint} does not say what JSON has in its place")
    return TypeAdapter(hint).json_schema()


def _is(origin: Any, kind: type) -> bool:
    return isinstance(origin, type) and issubclass(origin, kind)


def _has_fields(hint: Any) -> bool:
    return isinstance(hint, type) and (is_dataclass(hint) or is_typeddict(hint))


if __name__ == "__main__":
    print(json.dumps(summary_schema(), indent=1))
