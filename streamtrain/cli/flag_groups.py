"""The options of the verbs.

Options that set the config are made from its tables, so that each is named, explained and checked
in one place.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, make_dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args, get_origin

from cyclopts import Group, Parameter
from pydantic.fields import FieldInfo

from streamtrain.base.units import parse_bytes, parse_count, parse_seconds
from streamtrain.cli.config_layers import (
    environment_layer,
    file_layer,
    flag_layer,
    kept_layer,
    merge_layers,
    path_layer,
    refuse_code,
    resolve,
    set_layer,
)
from streamtrain.cli.from_sweep import (
    FinishedSweep,
    refuse_moved,
    sweep_layer,
    takes_recommended_size,
)
from streamtrain.config import (
    DATA_FLAGS,
    RESOLVED,
    SWEEP_FLAGS,
    TEXT_FLAGS,
    TRAIN_FLAGS,
    Config,
    config_keys,
    flag_name,
)
from streamtrain.types import Reading

DATA, TRAINING, SWEEP, CLUSTER, GLOBAL = (
    Group(name, sort_key=position)
    for position, name in enumerate(("Data", "Training", "Sweep", "Cluster", "Global"), 1)
)
_GLOBAL_FLAGS = {"seed", "memory", "device"}
_REPEATABLE = {"target_loss", "storage_options"}
_PROGRESS = "how to show progress on stderr; auto: live on a terminal, lines elsewhere"
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
    """What every verb writes, and how."""

    json: Annotated[bool, _option("write the result to stdout as JSON")] = False
    quiet: Annotated[bool, _option("hide progress and warnings", "--quiet", "-q")] = False
    verbose: Annotated[bool, _option("show progress at every evaluation", "--verbose", "-v")] = (
        False
    )
    progress: Annotated[
        Literal["auto", "live", "lines", "none"], _option(_PROGRESS, show_default=True)
    ] = "auto"
    debug: Annotated[bool, _option("show the traceback of an error")] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Sources:
    """The sources of the config besides flags and the environment."""

    config: Annotated[
        str | None, _option("YAML config file; flags override it", "--config", "-c", metavar="FILE")
    ] = None
    set: Annotated[list[str], _option("set any config key; repeatable", metavar="A.B=C")] = field(
        default_factory=list
    )


#: The data of a verb that has no config, and of one that may take it from the config.
DataPath = Annotated[
    str,
    Parameter(help="a file, a folder or a glob: Parquet or Zarr shards, CSV, JSON lines, Arrow"),
]
ConfigDataPath = Annotated[
    str | None,
    Parameter(
        help=(
            "a file, a folder or a glob: Parquet or Zarr shards, CSV, JSON lines, Arrow; default:"
            " data.path of the config"
        )
    ),
]

#: Parameters that several verbs share.
Out = Annotated[
    str | None,
    _option(
        "directory of the results; default: runs/<verb>-<date>-<n>", "--out", "-o", metavar="DIR"
    ),
]
Resume = Annotated[
    str,
    _option(
        "auto: resume an interrupted run in --out or runs/, or start a new one; never: always start"
        " a new one; DIR: resume that run",
        metavar="auto|never|DIR",
        show_default=True,
    ),
]
NoReport = Annotated[
    bool, _option("write no report.html and no charts; `streamtrain report DIR` makes them later")
]
FromRun = Annotated[
    str | None,
    Parameter(
        name="--from",
        group=TRAINING,
        metavar="RUN",
        show_default=False,
        help=(
            "folder of a sweep: take its data, recommended batch size, learning rate and rows;"
            " other flags win"
        ),
    ),
]
DryRun = Annotated[bool, _option("show what would be read and the memory needed, and stop")]
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
        group=DATA, metavar="A,B,…", help="the feature columns; default: all columns but the target"
    ),
]
Target = Annotated[
    str | None,
    Parameter(group=DATA, metavar="TEXT", help="the column to predict; default: the last column"),
]


def count(type_: Any, tokens: Any) -> int:
    """Convert `10M`, `64Ki` or `1e9`, for Cyclopts."""
    return parse_count(tokens[0].value)


def num_bytes(type_: Any, tokens: Any) -> int:
    """Convert `2GiB` or `500MB`, for Cyclopts."""
    return parse_bytes(tokens[0].value)


def duration(type_: Any, tokens: Any) -> float:
    """Convert `5s` or `1m` to seconds, for Cyclopts."""
    return parse_seconds(tokens[0].value)


def column_names(features: str | None) -> list[str] | None:
    """Split the value of `--features`; None where it was not given or is empty."""
    return [name.strip() for name in features.split(",")] if features else None


ShardFormat = Annotated[
    Literal["parquet", "zarr"], Parameter(group=DATA, help="format of the shards")
]
ShuffleMemory = Annotated[
    int | None,
    Parameter(
        group=GLOBAL,
        metavar="BYTES",
        converter=num_bytes,
        n_tokens=1,
        help="limit of the shuffle; default: a quarter of the memory available at start",
    ),
]


def seed_flag(what: str) -> Parameter:
    """Return the parameter `--seed` of a verb in which a seed decides `what`."""
    return Parameter(
        group=GLOBAL,
        metavar="N",
        converter=count,
        n_tokens=1,
        help=f"the same seed gives the same {what}",
    )


SpanRows = Annotated[
    int,
    Parameter(
        group=DATA, metavar="N", converter=count, n_tokens=1, help="rows per row group or chunk"
    ),
]


def _group(flag: str, key: str) -> Group:
    if flag in _GLOBAL_FLAGS:
        return GLOBAL
    if key.startswith("cluster."):
        return CLUSTER
    if flag in DATA_FLAGS:
        return DATA
    return SWEEP if key.startswith("sweep.") else TRAINING


def _type(flag: str, field_info: FieldInfo) -> Any:
    """Return the type of a flag: its choices, or text that the config parses."""
    annotation: Any = field_info.annotation
    # A list of choices, such as `--measure noise,shuffle`, is one text, and may be `all` or `none`.
    # Its type, `tuple[Literal[…], ...]`, has two members.
    kinds = (annotation,) if get_origin(annotation) is Literal else get_args(annotation)
    given = [kind for kind in kinds if kind is not NoneType]
    if len(given) == 1 and get_origin(given[0]) is Literal:
        return given[0] | None
    if annotation is bool or flag == "header":
        return Literal["on", "off"] | None
    return list[str] | None if flag in _REPEATABLE else str | None


def _metavar(annotation: Any) -> str | None:
    """Return the placeholder for a type, whatever wraps it: `N` for `Annotated[int, …] | None`."""
    kinds = _kinds(annotation)
    return next((word for kind, word in _METAVARS.items() if kind in kinds), None)


def _kinds(annotation: Any) -> set[Any]:
    return {annotation, get_origin(annotation)}.union(
        *map(_kinds, getattr(annotation, "__args__", ()))
    )


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _flags_class(name: str, table: Mapping[str, str]) -> type:
    """Make a frozen dataclass with one optional field per flag; None means it was not given."""
    keys, fields = config_keys(), []
    for flag, key in table.items():
        info = keys[key]
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
    # with a docstring, or `dataclass` would compose one from the text of all annotations
    namespace = {"__doc__": "Flags of the command line; None means that one was not given."}
    cls = make_dataclass(name, fields, namespace=namespace, frozen=True, kw_only=True)
    cls.__module__ = __name__  # Cyclopts looks annotations up in the class's module
    return Parameter(name="*")(cls)


#: Flags of `bench stream`: delivery depends on them, and the other programs compared have them too.
_STREAM_FLAGS = (
    "target",
    "features",
    "storage_options",
    *TEXT_FLAGS,
    "span_rows",
    "window_rows",
    "readers",
    "batch_size",
    "seed",
    "memory",
)

#: Flags of `bench step`, which times steps on rows in memory.
_STEP_FLAGS = (
    "batch_sizes",
    "hidden",
    "activation",
    "model",
    "loss",
    "optimizer",
    "average",
    "engine",
    "device",
    "seed",
)

#: Flags of `bench train`, whose learner is fed from shards.
_FED_FLAGS = (
    *_STEP_FLAGS,
    "target",
    "features",
    "storage_options",
    *TEXT_FLAGS,
    "span_rows",
    "window_rows",
    "readers",
    "memory",
)

if TYPE_CHECKING:

    class Flags:
        """Flags that set the config. Type checkers cannot see the fields, made at run time."""

    SweepFlags: TypeAlias = Flags
    TrainFlags: TypeAlias = Flags
    StreamFlags: TypeAlias = Flags
    StepFlags: TypeAlias = Flags
    FedFlags: TypeAlias = Flags
    TextFlags: TypeAlias = Flags
    AllFlags: TypeAlias = Flags
else:
    SweepFlags = _flags_class("SweepFlags", SWEEP_FLAGS)
    TrainFlags = _flags_class("TrainFlags", TRAIN_FLAGS)
    StreamFlags = _flags_class("StreamFlags", {flag: TRAIN_FLAGS[flag] for flag in _STREAM_FLAGS})
    StepFlags = _flags_class("StepFlags", {flag: SWEEP_FLAGS[flag] for flag in _STEP_FLAGS})
    FedFlags = _flags_class("FedFlags", {flag: SWEEP_FLAGS[flag] for flag in _FED_FLAGS})
    TextFlags = _flags_class("TextFlags", TEXT_FLAGS)
    AllFlags = _flags_class("AllFlags", TRAIN_FLAGS | SWEEP_FLAGS)


def load_config(
    path: str | None,
    flags: Any,
    sources: Sources,
    *,
    sweep: FinishedSweep | None = None,
    imports: bool = True,
) -> tuple[Config, dict[str, str]]:
    """Return the config of a verb, and the origin of every key that was set.

    `path`: the verb's positional DATA. `flags`: an instance of one of the classes above.
    `sweep`: the one whose recommendation comes before all other layers.
    `imports`: the verb imports the code that the config names, so the files of a run may not be the
    only ones to name it. Raises ConfigError, and DataError for a damaged file of a run.
    """
    is_kept = sources.config is not None and Path(sources.config).name == RESOLVED
    file = kept_layer(sources.config) if is_kept else file_layer(sources.config)
    kept, own = (file, {}) if is_kept else ({}, file)
    layers = (
        environment_layer(os.environ),
        set_layer(sources.set),
        path_layer(path) | flag_layer(asdict(flags), TRAIN_FLAGS | SWEEP_FLAGS),
    )
    own = merge_layers(own, *layers)
    given = merge_layers(file, *layers)
    if sweep is not None and takes_recommended_size(given):
        del given["train.batch_size"]
    recommended = sweep_layer(sweep, given)
    if imports:
        refuse_code(recommended | kept, own)
    refuse_moved(sweep, recommended, given)
    return resolve(recommended, given)


def reading(flags: Any) -> Reading:
    """Return how tables are read, for a verb that has no config. Raises ConfigError."""
    config, _ = resolve(flag_layer(asdict(flags), TEXT_FLAGS))
    return config.data.reading


def as_words(flags: Any) -> list[str]:
    """Return the flags that were given, as words of a command."""
    given = {flag: value for flag, value in asdict(flags).items() if value is not None}
    return [word for flag, value in given.items() for word in (flag_name(flag), value)]
