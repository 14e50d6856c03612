"""The options of the verbs.

Those that set the config come from its tables, so each is named, explained and checked once.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, make_dataclass
from typing import Annotated, Any, Literal, get_origin

from cyclopts import Group, Parameter
from pydantic.fields import FieldInfo

from streamtrain.base.units import parse_count
from streamtrain.cli.config_layers import (
    environment_layer,
    file_layer,
    flag_layer,
    path_layer,
    resolve,
    set_layer,
)
from streamtrain.config import DATA_FLAGS, SWEEP_FLAGS, TRAIN_FLAGS, Config, config_keys, flag_name

DATA, TRAINING, SWEEP, CLUSTER, GLOBAL = (
    Group(name, sort_key=place)
    for place, name in enumerate(("Data", "Training", "Sweep", "Cluster", "Global"), 1)
)
_GLOBAL_FLAGS = {"seed", "memory", "device"}
_REPEATABLE = {"target_loss", "storage_options"}
_PROGRESS = "on stderr; auto: live on a terminal, lines elsewhere"
_METAVARS = {dict: "K=V", tuple: "A,B,…", int: "N", float: "X", str: "TEXT"}


def _option(
    help: str, *names: str, metavar: str | None = None, show_default: bool | None = False
) -> Parameter:
    return Parameter(
        name=names or None,
        help=help,
        group=GLOBAL,
        metavar=metavar,
        negative=(),
        show_default=show_default,
    )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Output:
    """What is written, for every verb."""

    json: Annotated[bool, _option("write the result document to stdout as JSON")] = False
    quiet: Annotated[bool, _option("no progress, no warnings", "--quiet", "-q")] = False
    verbose: Annotated[bool, _option("progress at every evaluation", "--verbose", "-v")] = False
    progress: Annotated[
        Literal["auto", "live", "lines", "none"], _option(_PROGRESS, show_default=True)
    ] = "auto"
    debug: Annotated[bool, _option("show the traceback of an error")] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the config comes from, besides flags and the environment."""

    config: Annotated[
        str | None, _option("a YAML file; flags win over it", "--config", "-c", metavar="FILE")
    ] = None
    set: Annotated[list[str], _option("set any key of the config; repeatable", metavar="A.B=C")] = (
        field(default_factory=list)
    )


#: Shared parameters of single verbs.
Out = Annotated[
    str | None,
    _option("where the results go; left out: runs/<verb>-<date>-<n>", "--out", "-o", metavar="DIR"),
]
Resume = Annotated[
    str,
    _option(
        "auto: go on with an interrupted run in --out, or in runs/, or begin one; never; or a run's"
        " folder",
        metavar="auto|never|DIR",
        show_default=True,
    ),
]
DryRun = Annotated[bool, _option("say what would be read and how much memory it takes, and stop")]
StorageOption = Annotated[
    list[str] | None,
    Parameter(
        name="--storage-option",
        group=DATA,
        metavar="K=V",
        negative=(),
        show_default=False,
        help=config_keys()["data.storage_options"].description,
    ),
]
Features = Annotated[
    str | None,
    Parameter(
        group=DATA, metavar="A,B,…", help="the columns to learn from; left out: all but the target"
    ),
]
Target = Annotated[
    str | None,
    Parameter(group=DATA, metavar="TEXT", help="the column to predict; left out: the last column"),
]


def count(type_: Any, tokens: Any) -> int:
    """Cyclopts' converter for `10M`, `64Ki`, `1e9`."""
    return parse_count(tokens[0].value)


SpanRows = Annotated[
    int,
    Parameter(
        group=DATA, metavar="N", converter=count, n_tokens=1, help="rows of a row group or chunk"
    ),
]


def _group(flag: str, key: str) -> Group:
    if flag in _GLOBAL_FLAGS:
        return GLOBAL
    if key.startswith("cluster."):
        return CLUSTER
    return DATA if flag in DATA_FLAGS else SWEEP if key.startswith("sweep.") else TRAINING


def _type(flag: str, field_info: FieldInfo) -> Any:
    """Choices stay choices; all else is text, which the config reads."""
    if get_origin(field_info.annotation) is Literal:
        return field_info.annotation | None
    if field_info.annotation is bool:
        return Literal["on", "off"] | None
    return list[str] | None if flag in _REPEATABLE else str | None


def _metavar(annotation: Any) -> str | None:
    """From the types inside, whatever wraps them: `Annotated[int, …] | None` takes `N`."""
    kinds = _kinds(annotation)
    return next((word for kind, word in _METAVARS.items() if kind in kinds), None)


def _kinds(annotation: Any) -> set[Any]:
    return {annotation, get_origin(annotation)}.union(
        *map(_kinds, getattr(annotation, "__args__", ()))
    )


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _flags_class(name: str, table: Mapping[str, str]) -> type:
    """A frozen dataclass with one optional text field a flag.

    None means that the flag was not given.
    """
    known, fields = config_keys(), []
    for flag, key in table.items():
        info = known[key]
        shown = _default(info.default) if info.default not in (None, (), {}) else ""
        parameter = Parameter(
            name=flag_name(flag),
            group=_group(flag, key),
            help=info.description,
            metavar=_metavar(info.annotation),
            negative=(),
            show_default=(lambda _, shown=shown: shown) if shown else False,
        )
        fields.append((flag, Annotated[_type(flag, info), parameter], field(default=None)))
    cls = make_dataclass(name, fields, frozen=True, kw_only=True)
    cls.__module__ = __name__  # Cyclopts looks annotations up in the class's module
    return Parameter(name="*")(cls)


SweepFlags = _flags_class("SweepFlags", SWEEP_FLAGS)
TrainFlags = _flags_class("TrainFlags", TRAIN_FLAGS)
#: What delivery depends on, and what the other sides of a benchmark can do too.
_STREAM_FLAGS = (
    "target",
    "features",
    "storage_options",
    "span_rows",
    "window_rows",
    "readers",
    "batch_size",
    "seed",
    "memory",
)
StreamFlags = _flags_class("StreamFlags", {flag: TRAIN_FLAGS[flag] for flag in _STREAM_FLAGS})
#: What a step depends on; and what a learner that is fed from shards does.
_STEP_FLAGS = (
    "batch_sizes",
    "hidden",
    "activation",
    "model",
    "loss",
    "optimizer",
    "engine",
    "device",
    "seed",
)
StepFlags = _flags_class("StepFlags", {flag: SWEEP_FLAGS[flag] for flag in _STEP_FLAGS})
_FED_FLAGS = (
    *_STEP_FLAGS,
    "target",
    "features",
    "storage_options",
    "span_rows",
    "window_rows",
    "readers",
    "memory",
)
FedFlags = _flags_class("FedFlags", {flag: SWEEP_FLAGS[flag] for flag in _FED_FLAGS})
AllFlags = _flags_class("AllFlags", TRAIN_FLAGS | SWEEP_FLAGS)


def load_config(path: str | None, flags: Any, sources: Sources) -> tuple[Config, dict[str, str]]:
    """The config of a verb, and the origin of every key that was set.

    `path` is the verb's positional DATA.
    """
    given = path_layer(path) | flag_layer(asdict(flags), TRAIN_FLAGS | SWEEP_FLAGS)
    return resolve(
        file_layer(sources.config), environment_layer(os.environ), set_layer(sources.set), given
    )
