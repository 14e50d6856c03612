"""Turn nested mappings into a checked `Config`, with errors that name the key and its origin."""

from collections.abc import Mapping
from typing import Any, TypeGuard, TypeVar

from pydantic import BaseModel, ValidationError

from streamtrain.base.redact import NO_SECRETS
from streamtrain.base.words import did_you_mean
from streamtrain.config.sections import Config
from streamtrain.config.values import is_mapping
from streamtrain.errors import ConfigError, shown

T = TypeVar("T")

#: The file in which a run keeps its whole config.
RESOLVED = "config.resolved.yaml"


def make_config(values: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> Config:
    """Check a nested mapping and return its config.

    `origins` says where each dotted key was set (`sweep.yaml:14`, `--set`), for messages. Raises
    ConfigError that names the key, its origin and the remedy.

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
    """Set the dotted `key` of a nested mapping to `value`, in place.

    Raises ConfigError if a part of the key before the last is not a mapping.
    """
    *sections, last = key.split(".")
    mapping: Any = values
    for section in sections:
        mapping = mapping.setdefault(section, {})
        if not is_mapping(mapping):
            raise ConfigError(f"{key}: {section} is not a section")
    mapping[last] = value


def with_holdout_seed(settings: Mapping[str, T]) -> dict[str, T]:
    """Return the settings of a run by dotted key, with the seed that its hold-out was drawn by.

    Until `eval.holdout_seed` existed, `order.seed` decided the held-out rows too.

    >>> with_holdout_seed({"order.seed": 5})
    {'order.seed': 5, 'eval.holdout_seed': 5}
    """
    filled = dict(settings)
    if "order.seed" in filled:
        filled.setdefault("eval.holdout_seed", filled["order.seed"])
    return filled


def flag_values(flags: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    """Return the nested mapping of the flags that are set (not None).

    Raises ConfigError, with a suggestion, for a flag that is not in the table.
    """
    values: dict[str, Any] = {}
    for flag, value in flags.items():
        if flag not in table:
            raise ConfigError(f"{flag}: unknown option.{did_you_mean(flag, table)}")
        if value is not None:
            set_key(values, table[flag], value)
    return values


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; later ones take precedence. The layers are not changed.

    >>> merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            if _is_section(value) and _is_section(below):
                merged[key] = merge(below, value)
            else:
                merged[key] = value
    return merged


def _is_section(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def config_keys() -> dict[str, Any]:
    """Return the pydantic field of every dotted key, in the order of definition."""
    keys: dict[str, Any] = {}
    for name, section in Config.model_fields.items():
        default: BaseModel = section.default  # every section has a default
        for key, field in type(default).model_fields.items():
            keys[f"{name}.{key}"] = field
    return keys


def _explain(error: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """Return the message for one of pydantic's errors."""
    key = ".".join(str(part) for part in error["loc"][:2])
    origin = f"{origins[key]}: " if key in origins else ""
    if error["type"] == "extra_forbidden":
        keys = config_keys()
        suggestion = did_you_mean(key, keys) or did_you_mean(
            key.split(".")[-1], [name.split(".")[-1] for name in keys]
        )
        return f"{origin}{key}: unknown key.{suggestion}"
    message: str = error["msg"].removeprefix("Value error, ")
    # a storage option may be a secret
    shows_value = "got" in message or key == "data.storage_options"
    if shows_value:
        return f"{origin}{key}: {message}"
    value = NO_SECRETS.hide(shown(repr(error["input"])))  # links have queries
    return f"{origin}{key}: {message} (got {value[:200]})"
