"""Nested mappings to a checked `Config`, with errors that name the key and its origin."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from streamtrain.base.words import did_you_mean
from streamtrain.config.sections import Config
from streamtrain.errors import ConfigError


def make_config(values: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> Config:
    """Check a nested mapping.

    `origins` says where a dotted key came from (`sweep.yaml:14`, `--set`), for messages.

    Raises ConfigError that names the key, its origin and the remedy.

    >>> make_config({"train": {"batch_size": "64Ki"}}).train.batch_size
    65536
    """
    try:
        return Config.model_validate(values)
    except ValidationError as failure:
        raise ConfigError(
            "\n".join(_explain(error, origins or {}) for error in failure.errors())
        ) from None


def set_key(values: dict[str, Any], key: str, value: Any) -> None:
    """Put `value` at the dotted `key` of a nested mapping, in place."""
    *parts, last = key.split(".")
    for part in parts:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{key}: {part} is not a section")
    values[last] = value


def flag_values(flags: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    """The nested mapping of the flags that are set (not None).

    Raises ConfigError with a did-you-mean for unknown ones.
    """
    values: dict[str, Any] = {}
    for flag, value in flags.items():
        if flag not in table:
            raise ConfigError(f"{flag}: unknown option.{did_you_mean(flag, table)}")
        if value is not None:
            set_key(values, table[flag], value)
    return values


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, later ones over earlier ones.

    >>> merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            merged[key] = merge(merged[key], value) if both else value
    return merged


def config_keys() -> dict[str, Any]:
    """Every dotted key → its pydantic field, in order."""
    return {
        f"{part}.{name}": field
        for part, section in Config.model_fields.items()
        for name, field in section.annotation.model_fields.items()
    }


def _explain(error: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    key = ".".join(str(part) for part in error["loc"][:2])
    place = f"{origins[key]}: " if key in origins else ""
    if error["type"] == "extra_forbidden":
        known = config_keys()
        suggestion = did_you_mean(key, known) or did_you_mean(
            key.split(".")[-1], [name.split(".")[-1] for name in known]
        )
        return f"{place}{key}: unknown key.{suggestion}"
    message = error["msg"].removeprefix("Value error, ")
    tells = "got" in message or key == "data.storage_options"  # a secret may stand there
    return f"{place}{key}: {message}" + ("" if tells else f" (got {error['input']!r})")
