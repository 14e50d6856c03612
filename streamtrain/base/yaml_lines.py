"""YAML as nested plain values, with the line of every key.

Scalars follow YAML 1.2, unlike PyYAML's own resolver: `1e-3` is a float; `on`, `off`, `yes`, `no`,
`10:30` and `2026-11-22` are text; `010` is ten. Anchors, tags and repeated keys are refused, and no
code from the file is executed.
"""

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from streamtrain.base.untrusted import read_regular
from streamtrain.errors import ConfigError, DataError, first_line

#: PyYAML takes a second per megabyte.
_MAX_BYTES = 1 << 23

_SCALARS = (  # tag, pattern, first characters
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2 scalars, and without anchors."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent) or self.peek_event().anchor:
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not supported",
                problem_mark=self.peek_event().start_mark,
            )
        return super().compose_node(parent, index)


for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first
    )
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Loader.add_constructor(
    "tag:yaml.org,2002:float",
    lambda loader, node: float(re.sub(r"^([-+]?)\.(?=[a-zA-Z])", r"\1", node.value)),
)


def parse_scalar(text: str) -> Any:
    """Return the value that `text` has in a YAML file; text that is not YAML stays text.

    >>> parse_scalar("1e-3"), parse_scalar("off"), parse_scalar("[8, 8]"), parse_scalar("64..1Mi*4")
    (0.001, 'off', [8, 8], '64..1Mi*4')
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError):
        return text


def read_yaml(path: str | Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a file; return its nested mapping, and `{dotted key: "file:line"}` for every key.

    Raises ConfigError, with file and line, if the file cannot be read, is not YAML, or is not a
    mapping.
    """
    try:
        text = read_regular(Path(path), limit_bytes=_MAX_BYTES).decode()
    except DataError as failure:
        raise ConfigError(str(failure)) from None
    except (OSError, UnicodeDecodeError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    r"""Parse text as `read_yaml` parses a file; `name` is the file's name in origins and messages.

    >>> parse_yaml("train:\n  lr: 1e-3\n", "a.yaml")
    ({'train': {'lr': 0.001}}, {'train': 'a.yaml:1', 'train.lr': 'a.yaml:2'})
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return {}, {}
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(
                f"{name}:{_line(root)}: a config is sections of keys, such as `train:` with"
                " `lr: 0.004` indented below it"
            )
        origins: dict[str, str] = {}
        return _mapping(loader, root, name, "", origins), origins
    except yaml.MarkedYAMLError as failure:
        line = f":{failure.problem_mark.line + 1}" if failure.problem_mark else ""
        raise ConfigError(f"{name}{line}: not YAML: {failure.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as failure:
        if isinstance(failure, ConfigError):
            raise
        raise ConfigError(f"{name}: not YAML: {first_line(failure)}") from None


def _mapping(
    loader: _Loader, node: yaml.MappingNode, name: str, prefix: str, origins: dict[str, str]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
        dotted = f"{prefix}{key}"
        origin = f"{name}:{_line(key_node)}"
        if key in values:
            raise ConfigError(f"{origin}: {dotted}: given twice; the first is at {origins[dotted]}")
        origins[dotted] = origin
        if isinstance(value_node, yaml.MappingNode):
            values[key] = _mapping(loader, value_node, name, f"{dotted}.", origins)
        else:
            values[key] = loader.construct_object(value_node, deep=True)
    return values


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1
