"""`streamtrain config show | schema | validate`."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import yaml
from cyclopts import Parameter

from streamtrain.base.words import plural
from streamtrain.cli.config_layers import file_layer, resolve
from streamtrain.cli.flag_groups import AllFlags, Output, Sources, load_config
from streamtrain.cli.terminal import show as show_result
from streamtrain.config import Config


def show(
    data: Annotated[str | None, Parameter(help="data.path")] = None,
    /,
    *,
    flags: AllFlags = AllFlags(),
    sources: Sources = Sources(),
    output: Output = Output(),
) -> None:
    """Print every value with its origin. The output is a config file."""
    config, origins = load_config(data, flags, sources, imports=False)
    lines, document = [], {}
    for section, values in config.model_dump(mode="json").items():
        lines.append(f"{section}:")
        for name, value in values.items():
            key = f"{section}.{name}"
            origin = _origin(key, origins)
            setting = f"  {name}: {_yaml(value)}"
            lines.append(f"{setting:<60}  # {origin}")
            document[key] = {"value": value, "origin": origin}
    show_result("\n".join(lines), document, as_json=output.json)


def schema(*, output: Output = Output()) -> None:
    """Print the JSON schema of the config, for editors.

    The package has it as well: streamtrain/cli/config.schema.json.
    """
    document = config_schema()
    show_result(json.dumps(document, indent=2), document, as_json=output.json)


def validate(
    file: Annotated[str, Parameter(help="a YAML config file")], /, *, output: Output = Output()
) -> None:
    """Check a config file, and name every wrong key with its line."""
    layer = file_layer(file)
    resolve(layer)
    document = {"file": file, "valid": True, "keys": sorted(layer)}
    show_result(f"{file}: valid, {plural(len(layer), 'key')} set", document, as_json=output.json)


def config_schema() -> dict[str, Any]:
    """Return the JSON schema of a config file. A section may be null, which counts as absent."""
    document = Config.model_json_schema()
    for section in document["properties"].values():
        reference = section.pop("$ref", None)
        if reference is not None:
            section["anyOf"] = [{"$ref": reference}, {"type": "null"}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}


def _origin(key: str, origins: Mapping[str, str]) -> str:
    """Return the origin of a key, or the origins of the items of a mapping."""
    if key in origins:
        return origins[key]
    of_items = dict.fromkeys(
        origin for item, origin in origins.items() if item.startswith(f"{key}.")
    )
    return ", ".join(of_items) or "default"


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("...\n").strip()
