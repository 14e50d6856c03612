"""One config from its layers: defaults < `--from` < file < `STREAMTRAIN_…` < `--set` < flag.

Each value keeps its origin, so that errors and `config show` can name it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamtrain.base.redact import Secrets
from streamtrain.base.words import did_you_mean
from streamtrain.base.yaml_lines import parse_scalar, read_yaml
from streamtrain.cli.terminal import hide_from_now
from streamtrain.config import (
    RESOLVED,
    SWEEP_FLAGS,
    TRAIN_FLAGS,
    Config,
    config_keys,
    flag_name,
    make_config,
    set_key,
    with_holdout_seed,
)
from streamtrain.errors import ConfigError, DataError, shown

_FLAGS = TRAIN_FLAGS | SWEEP_FLAGS
PREFIX = "STREAMTRAIN_"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and its origin, such as `sweep.yaml:14`, `STREAMTRAIN_TRAIN__LR` or `--lr`."""

    value: Any
    origin: str


#: Dotted key → setting.
Layer = dict[str, Setting]


def file_layer(path: str | None) -> Layer:
    """Return the keys of a YAML file; an empty section counts as absent.

    The file that an older run kept gets the seed that its held-out rows were drawn by.

    Raises ConfigError, which names the line.
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
    return with_holdout_seed(layer) if Path(path).name == RESOLVED else layer


def kept_layer(path: str | None) -> Layer:
    """Return the keys of the `config.resolved.yaml` of a run, checked.

    Raises DataError with the line rather than ConfigError: nobody edits this file, so it is
    damaged.
    """
    try:
        layer = file_layer(path)
        resolve(layer)
    except ConfigError as failure:
        raise DataError(str(failure)) from None
    return layer


#: Keys that name code: a function that is imported with its module, or a Dask scheduler, whose
#: messages are pickles.
_CODE = (
    "data.transform",
    "model.factory",
    "cluster.factory",
    "cluster.scheduler",
    "cluster.scheduler_file",
)


def refuse_code(kept: Layer, given: Layer) -> None:
    """Refuse code that only the files of a run name, since the run may be from somebody else.

    `kept`: what these files say. `given`: what the user says in flags, variables and own files. A
    key that is set there is accepted. Raises ConfigError with the flag to give.
    """
    for key in _CODE:
        setting = kept.get(key)
        if setting is None or setting.value is None or key in given:
            continue
        flag = next(flag_name(flag) for flag, name in _FLAGS.items() if name == key)
        name = shown(str(setting.value))[:200]
        raise ConfigError(
            f"{setting.origin}: {key} is {name}, which runs code. What only a run's files name is"
            f" not used: if you trust it, name it too, {flag} {name}."
        )


def environment_layer(environment: Mapping[str, str]) -> Layer:
    """Return the keys set by variables: `STREAMTRAIN_TRAIN__BATCH_SIZE` sets train.batch_size.

    Names without `__` are ignored.
    """
    return {
        name.removeprefix(PREFIX).replace("__", ".").lower(): Setting(_from_text(text), name)
        for name, text in environment.items()
        if name.startswith(PREFIX) and "__" in name
    }


def set_layer(assignments: Iterable[str]) -> Layer:
    """Return the keys of assignments like `a.b=c`.

    A value is written as on a flag, or as a YAML list, or as `null` for unset. Raises ConfigError.
    """
    layer: Layer = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: write it like --set train.batch_size=4096")
        layer[key.strip()] = Setting(_from_text(text), f"--set {key.strip()}")
    return layer


def flag_layer(flags: Mapping[str, Any], table: Mapping[str, str]) -> Layer:
    """Return the keys of the flags that were given; the value of a repeated flag is a list.

    `table`: flag → key, as in `streamtrain.config`.
    """
    layer: Layer = {}
    for name, value in flags.items():
        if value is None:
            continue
        if table[name] == _OPTIONS:
            layer |= _settings(_OPTIONS, storage_options(value), flag_name(name))
        else:
            text = ",".join(value) if isinstance(value, list) else value
            layer[table[name]] = Setting(text, flag_name(name))
    return layer


def storage_options(assignments: Iterable[str] | None) -> dict[str, str]:
    """Parse assignments like `k=v`.

    Raises ConfigError, which shows no value, because that may be a secret.
    """
    options: dict[str, str] = {}
    for assignment in assignments or ():
        name, equals, value = assignment.partition("=")
        if not equals or not name.strip():
            raise ConfigError("--storage-option: write it like --storage-option region=eu-west-1")
        options[name.strip()] = value
    hide_from_now(Secrets.of(options))
    return options


def _settings(key: str, value: Any, origin: str) -> Layer:
    """Return one setting, or one per storage option, so that layers override single options."""
    if key == _OPTIONS and isinstance(value, Mapping) and value:
        return {f"{key}.{name}": Setting(item, origin) for name, item in value.items()}
    return {key: Setting(value, origin)}


def path_layer(path: str | None) -> Layer:
    """Return the key that a verb's positional DATA sets."""
    return {} if path is None else {"data.path": Setting(path, "DATA")}


_OPTIONS = "data.storage_options"

#: Two keys for one thing: a layer that sets one of them replaces the other of an earlier layer.
_ALTERNATIVES = (
    ("train.epochs", "train.max_rows"),
    ("train.batch_size", "train.batch_schedule"),
)


def is_set(layer: Layer, key: str) -> bool:
    """Return whether a layer gives a key a value; null, which unsets it, is none."""
    return key in layer and layer[key].value is not None


def merge_layers(*layers: Layer) -> Layer:
    """Return one layer in which later ones win."""
    settings: Layer = {}
    for layer in layers:
        for pair in _ALTERNATIVES:
            for key, other in (pair, pair[::-1]):
                if is_set(layer, key) and other not in layer:
                    settings.pop(other, None)
        settings |= layer
    return settings


def resolve(*layers: Layer) -> tuple[Config, dict[str, str]]:
    """Return the checked config and the origin of every key that was set; later layers win.

    Raises ConfigError, which lists every wrong key with its origin and a remedy.
    """
    settings = merge_layers(*layers)
    origins = {key: setting.origin for key, setting in settings.items()}
    _refuse_non_sections(settings)
    values: dict[str, Any] = {}
    for key, setting in settings.items():
        set_key(values, key, setting.value)
    config = make_config(values, origins)
    hide_from_now(config.data.secrets)
    return config, origins


def _refuse_non_sections(settings: Layer) -> None:
    """Raise ConfigError for a key without its section, or a section without a key.

    Done before pydantic, whose messages for these would be harder to understand.
    """
    keys = config_keys()
    for key, setting in settings.items():
        section, dot, _ = key.partition(".")
        if section in Config.model_fields and not dot:
            raise ConfigError(
                f"{setting.origin}: {key} is a section; give one of its keys, like"
                f" {_first_key(key, keys)}"
            )
        if section not in Config.model_fields:
            same_name = [name for name in keys if name.split(".")[1] == key.split(".")[-1]]
            if same_name:
                hint = f" Did you mean {same_name[0]}?"
            else:
                hint = did_you_mean(section, Config.model_fields)
            hint = hint or " A key is section.name; `streamtrain config show` lists all."
            raise ConfigError(f"{setting.origin}: {key}: unknown key.{hint}")


def _first_key(section: str, keys: Iterable[str]) -> str:
    return next(key for key in keys if key.startswith(f"{section}."))


def _from_text(text: str) -> Any:
    """Parse null and lists in brackets; keep other text, so that `2024` can name a column."""
    value = parse_scalar(text)
    is_null = value is None and text.strip() != ""
    return value if is_null or isinstance(value, list) else text
