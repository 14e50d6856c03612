"""`streamtrain init`: writes a commented config from the columns of a data set."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from cyclopts import Parameter

from streamtrain.base.atomic_files import write_atomically
from streamtrain.base.redact import HIDDEN, redact_options, redact_url
from streamtrain.base.words import plural
from streamtrain.cli.config_layers import storage_options
from streamtrain.cli.flag_groups import (
    GLOBAL,
    DataPath,
    Features,
    Output,
    StorageOption,
    Target,
    TextFlags,
    column_names,
    reading,
)
from streamtrain.cli.terminal import escape, plain_warnings, show, writing
from streamtrain.config import config_keys
from streamtrain.errors import ConfigError
from streamtrain.types import Reading

if TYPE_CHECKING:
    from streamtrain.storage.dataset import FoundShards

_OUT = "the file to write, - for stdout; default: streamtrain.yaml"
File = Annotated[
    str,
    Parameter(
        name=("--out", "-o"),
        group=GLOBAL,
        metavar="FILE",
        show_default=False,
        allow_leading_hyphen=True,
        help=_OUT,
    ),
]


def init(
    data: DataPath,
    /,
    *,
    target: Target = None,
    features: Features = None,
    out: File = "streamtrain.yaml",
    storage_option: StorageOption = None,
    texts: TextFlags = TextFlags(),
    output: Output = Output(),
) -> None:
    """Write a config for a data set.

    Its columns are filled in; every other key is commented out, with its default and meaning.
    """
    from streamtrain.storage.column_places import eligible
    from streamtrain.storage.dataset import bind_columns, find_shards
    from streamtrain.storage.inspect import inspect
    from streamtrain.storage.nothing_to_learn import empty_features
    from streamtrain.storage.remote.store_options import make_storage

    if out != "-" and Path(out).exists():
        raise ConfigError(
            f"{out} exists, and nothing is overwritten. Choose another --out, or remove it."
        )
    options = storage_options(storage_option)
    with plain_warnings(quiet=output.quiet):
        how = reading(texts)
        storage = replace(make_storage(options), reading=how)
        found = find_shards(data, storage=storage)
        named = column_names(features)
        present = found.table or found.shards[0].columns
        present = eligible(present, named, target, found.url)
        numeric = [column.name for column in present if column.decoded_type is not None]
        chosen = target if target is not None or not numeric else numeric[-1]
        names = named or [name for name in numeric if name != chosen]
        document = inspect(bind_columns(found, features=names, target=chosen))
        # what was not asked for is left out where no training could use it
        empty = [] if named else empty_features(document)
        if len(empty) < len(names):
            names = [name for name in names if name not in empty]
            columns = [column for column in document["columns"] if column["name"] not in empty]
            document["columns"] = columns
    shown = {name: value for name, value in redact_options(options).items() if value != HIDDEN}
    text = config_text(
        redact_url(data),
        document,
        left_out(found, document),
        shown,
        how,
        name="streamtrain.yaml" if out == "-" else out,
    )
    if out == "-":
        show(text, {"config": text}, as_json=output.json)
        return
    with writing(Path(out)):
        write_atomically(Path(out), text.encode())
    next_move = (
        f"{out}: {plural(len(names), 'feature')}, target {chosen}\nnext: streamtrain sweep -c {out}"
        " --dry-run"
    )
    show(next_move, {"out": out, "features": names, "target": chosen}, as_json=output.json)


def left_out(found: "FoundShards", document: Mapping[str, Any]) -> list[str]:
    """Return the columns of the data that the config does not name, each with its type."""
    bound = {column["name"] for column in document["columns"]}
    return [
        f"{column.name} ({column.stored_type})"
        for column in found.table or found.shards[0].columns
        if column.name not in bound
    ]


def config_text(
    path: str,
    document: Mapping[str, Any],
    others: list[str],
    options: Mapping[str, str],
    texts: Reading,
    *,
    name: str,
) -> str:
    """Return the text of the YAML file.

    Every value has its own line, so that it can be edited, or the # before it removed. `document`:
    the result of `inspect`. `others`: columns that are not used. `options`: storage options that
    are not secret. `texts`: how text files are read. `name`: the name of the file.
    """
    size = (
        f"{plural(document['num_rows'], 'row')} in"
        f" {plural(document['num_shards'], document['format'].capitalize() + ' shard')}"
    )
    schema = files("streamtrain.cli").joinpath("config.schema.json")
    lines = [
        f"# yaml-language-server: $schema={schema}",
        (
            f"# {_one_line(document['url'])}: {size}. Check: streamtrain config validate"
            f" {_one_line(name)}"
        ),
        (
            "# A line that starts with # shows a default. Numbers: 10M, 64Ki, 1e9, 2GiB; durations:"
            " 30s, 10m, 2h."
        ),
    ]
    settings = _settings_of_data(path, document, others, options)
    for word, value in asdict(texts).items():
        if value is not None:
            settings[f"data.{word}"] = [f"{word}: {_default(value)}"]
    current = ""
    for key, field in config_keys().items():
        section, _, word = key.partition(".")
        if section != current:
            lines += ["", f"{section}:"]
            current = section
        if key in settings:
            lines += [f"  {line}" for line in settings[key]]
        else:
            default = _default(field.get_default(call_default_factory=True))
            lines.append(f"  # {f'{word}: {default}':<34} # {field.description}")
    return "\n".join(lines) + "\n"


def _settings_of_data(
    path: str, document: Mapping[str, Any], others: list[str], options: Mapping[str, str]
) -> dict[str, list[str]]:
    """Return the lines of the keys that the data set determines, by key."""
    from streamtrain.storage.inspect import null_policy

    *features, target = document["columns"]
    settings = {
        "data.path": [f"path: {_scalar(path)}"],
        "data.target": [f"target: {_scalar(target['name'])}{_about(target)}"],
        "data.features": [
            "features:",
            *(f"  - {_scalar(column['name'])}{_about(column)}" for column in features),
            *(f"  # not used: {_one_line(name)}" for name in others),
        ],
    }
    if policy := null_policy(document):
        settings["data.on_null"] = [
            f"on_null: {policy}  # there are nulls: error refuses them, drop drops their rows,"
            " impute replaces them by the mean"
        ]
    if options:
        settings["data.storage_options"] = [
            "storage_options:",
            *(f"  {name}: {_scalar(value)}" for name, value in options.items()),
        ]
    return settings


def _about(column: Mapping[str, Any]) -> str:
    extent = "" if column["min"] is None else f", {column['min']:.6g} to {column['max']:.6g}"
    nulls = f", {plural(column['nulls'], 'null')}" if column["nulls"] else ""
    return f"  # {column['stored_type']}{extent}{nulls}"


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return _scalar(list(value) if isinstance(value, tuple) else value)


def _scalar(value: Any) -> str:
    """Return a value as YAML on one line.

    Text that YAML would read as another type, or with unprintable characters, is quoted.
    """
    if isinstance(value, str):
        text = yaml.safe_dump(value, width=10**6).removesuffix("...\n").strip()
        return text if "\n" not in text and text.isprintable() else json.dumps(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()


def _one_line(text: str) -> str:
    return escape(text.replace("\n", "\\n"))
