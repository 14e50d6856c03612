"""One config from five layers: defaults < file < `STREAMTRAIN_…` < `--set` < flag; each value knows
where it came from.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from streamtrain.base.words import did_you_mean
from streamtrain.base.yaml_lines import parse_scalar, read_yaml
from streamtrain.config import Config, config_keys, flag_name, make_config, set_key
from streamtrain.errors import ConfigError

PREFIX = "STREAMTRAIN_"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and its origin.

    `sweep.yaml:14`, `STREAMTRAIN_TRAIN__LR`, `--set train.lr`, `--lr`.
    """

    value: Any
    origin: str


#: Dotted key → setting.
Layer = dict[str, Setting]


def file_layer(path: str | None) -> Layer:
    """The keys of a YAML file; an empty section counts as absent.

    Raises ConfigError that names the line.
    """
    if path is None:
        return {}
    values, origins = read_yaml(path)
    layer: Layer = {}
    for section, value in values.items():
        if isinstance(value, dict) and (value or section in Config.model_fields):
            for key, item in value.items():
                layer |= _settings(f"{section}.{key}", item, origins[f"{section}.{key}"])
        elif value is not None or section not in Config.model_fields:
            layer[section] = Setting(value, origins[section])
    return layer


def environment_layer(environment: Mapping[str, str]) -> Layer:
    """`STREAMTRAIN_TRAIN__BATCH_SIZE` sets train.batch_size; names without `__` are not ours."""
    return {
        name.removeprefix(PREFIX).replace("__", ".").lower(): Setting(_from_text(text), name)
        for name, text in environment.items()
        if name.startswith(PREFIX) and "__" in name
    }


def set_layer(assignments: Iterable[str]) -> Layer:
    """`a.b=c`, as often as wanted; the value is written as on a flag, or as a YAML list, or `null`
    for unset.
    """
    layer: Layer = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: write it like --set train.batch_size=4096")
        layer[key.strip()] = Setting(_from_text(text), f"--set {key.strip()}")
    return layer


def flag_layer(flags: Mapping[str, Any], table: Mapping[str, str]) -> Layer:
    """The flags that were given, by the tables of `streamtrain.config`; a repeated flag is a
    list.
    """
    layer: Layer = {}
    for name, value in flags.items():
        if table.get(name) == _OPTIONS and value is not None:
            layer |= _settings(_OPTIONS, storage_options(value), flag_name(name))
        elif value is not None:
            layer[table[name]] = Setting(
                ",".join(value) if isinstance(value, list) else value, flag_name(name)
            )
    return layer


def storage_options(assignments: Iterable[str] | None) -> dict[str, str]:
    """`k=v`, as often as wanted. Raises ConfigError, and shows no value: it may be a secret."""
    options: dict[str, str] = {}
    for assignment in assignments or ():
        name, equals, value = assignment.partition("=")
        if not equals or not name.strip():
            raise ConfigError("--storage-option: write it like --storage-option region=eu-west-1")
        options[name.strip()] = value
    return options


def _settings(key: str, value: Any, origin: str) -> Layer:
    """One setting; of storage options one each, so that layers are laid over one another option by
    option.
    """
    if key == _OPTIONS and isinstance(value, Mapping) and value:
        return {f"{key}.{name}": Setting(item, origin) for name, item in value.items()}
    return {key: Setting(value, origin)}


def path_layer(path: str | None) -> Layer:
    """The positional DATA of a verb."""
    return {} if path is None else {"data.path": Setting(path, "DATA")}


_OPTIONS = "data.storage_options"
_LENGTHS = ("train.epochs", "train.max_rows")


def resolve(*layers: Layer) -> tuple[Config, dict[str, str]]:
    """The checked config, later layers over earlier ones, and the origin of every key that was set.

    Raises ConfigError that names key, origin and remedy; every wrong key is listed.
    """
    settings: Layer = {}
    for layer in layers:
        for one, other in (_LENGTHS, _LENGTHS[::-1]):
            if one in layer and other not in layer:
                settings.pop(other, None)  # they say the same thing: the later layer's word counts
        settings |= layer
    origins = {key: setting.origin for key, setting in settings.items()}
    _refuse_non_sections(settings)
    values: dict[str, Any] = {}
    for key, setting in settings.items():
        set_key(values, key, setting.value)
    return make_config(values, origins), origins


def _refuse_non_sections(settings: Layer) -> None:
    """A key without its section, or a section without a key: said before pydantic would say it in
    its own words.
    """
    known = config_keys()
    for key, setting in settings.items():
        section, dot, _ = key.partition(".")
        if section in Config.model_fields and not dot:
            raise ConfigError(
                f"{setting.origin}: {key} is a section; give one of its keys, like"
                f" {_first_key(key, known)}"
            )
        if section not in Config.model_fields:
            close = [name for name in known if name.split(".")[1] == key.split(".")[-1]][:1]
            hint = (
                f" Did you mean {close[0]}?"
                if close
                else did_you_mean(section, Config.model_fields)
            )
            hint = hint or " A key is section.name; `streamtrain config show` lists all."
            raise ConfigError(f"{setting.origin}: {key}: unknown key.{hint}")


def _first_key(section: str, known: Iterable[str]) -> str:
    return next(key for key in known if key.startswith(f"{section}."))


def _from_text(text: str) -> Any:
    """Text as on a flag, so that `2024` can name a column; but YAML's null, and lists in
    brackets.
    """
    value = parse_scalar(text)
    return value if isinstance(value, list) or (value is None and text.strip()) else text
