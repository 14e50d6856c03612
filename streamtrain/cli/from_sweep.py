"""`train --from RUN`: the config that a finished sweep recommends."""

import glob
import math
import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamtrain.base.units import parse_count
from streamtrain.base.words import plural
from streamtrain.cli.config_layers import Layer, Setting, is_set, kept_layer
from streamtrain.config import AUTO, RESOLVED, Config
from streamtrain.errors import ConfigError, shown
from streamtrain.records import DataInfo, stages_text
from streamtrain.storage.remote.urls import is_remote
from streamtrain.training.batch_schedule import all_stages

if TYPE_CHECKING:
    from streamtrain.report.analysis import Summary
    from streamtrain.report.summary_parts import CellFigures

#: Sections of the sweep's config that also hold for training. Storage options are left out: a run
#: hides those that may be secret.
_SECTIONS = ("data.", "order.", "fetch.", "model.", "train.", "eval.")
_LEFT_OUT = "data.storage_options"
_SCHEDULE = "train.batch_schedule"


@dataclass(frozen=True, slots=True)
class FinishedSweep:
    """The sweep of `--from`: its folder, as it was given, and its summary, read once."""

    folder: str
    summary: "Summary"

    @property
    def origin(self) -> str:
        """The origin of what is taken from it."""
        return f"--from {self.folder}"


def read_sweep(folder: str) -> FinishedSweep:
    """Return the sweep in a folder.

    Raises ConfigError for a folder without a sweep, and DataError for a damaged summary.
    """
    from streamtrain.report.run_files import read_summary

    path = Path(folder) / "summary.json"
    try:
        sweep = FinishedSweep(folder, read_summary(path))
    except OSError as failure:
        raise ConfigError(
            f"--from {folder}: {path} cannot be read ({failure.strerror}). Give the folder of a"
            " finished sweep."
        ) from None
    if sweep.summary.verb != "sweep":
        raise ConfigError(
            f"{sweep.origin}: this is not a sweep. Give the folder of a finished sweep."
        )
    return sweep


def sweep_layer(sweep: FinishedSweep | None, given: Layer) -> Layer:
    """Return the keys of a sweep's config, with the size, rate and rows that it recommends.

    The size is one that grows where that was certainly faster. `given`: what later layers set.
    Where it has another size, the rate is the one that the sweep found for the size nearest to it.

    Raises ConfigError for a sweep that did not finish or recommends no size, and DataError for a
    damaged config.
    """
    if sweep is None:
        return {}
    summary, origin = sweep.summary, sweep.origin
    layer = {
        key: Setting(setting.value, origin)
        for key, setting in kept_layer(str(Path(sweep.folder) / RESOLVED)).items()
        if key.startswith(_SECTIONS) and not key.startswith(_LEFT_OUT) and setting.value is not None
    }
    if summary.seconds is None:
        raise ConfigError(
            f"{origin}: this sweep did not finish. Run `streamtrain sweep --resume"
            f" {shlex.quote(sweep.folder)}` first."
        )
    chosen = summary.recommended_cell
    if chosen is None:
        reason = summary.recommendation.reason
        raise ConfigError(f"{origin}: this sweep recommends no size. {reason}")
    for key in ("train.epochs", "train.max_time", _SCHEDULE):
        layer.pop(key, None)
    size, growing = _given_size(given), summary.growing
    if _SCHEDULE in given and not is_set(given, _SCHEDULE):  # one size is asked for
        growing = None
    if size is not None:
        layer.pop("train.batch_size", None)
        layer["train.lr"] = Setting(nearest_cell(summary, size).lr, origin)
    elif growing is not None and growing.wins:
        layer.pop("train.batch_size", None)
        layer[_SCHEDULE] = Setting(growing.batch_schedule, origin)
        layer["train.lr"] = Setting(growing.learning_rate, origin)
    else:
        layer["train.batch_size"] = Setting(chosen.batch_size, origin)
        layer["train.lr"] = Setting(chosen.lr, origin)
    # older summaries have no rows of their own for training
    rows = summary.recommendation.rows or summary.train_rows
    layer["train.max_rows"] = Setting(rows, origin)
    return layer


def takes_recommended_size(given: Layer) -> bool:
    """Return whether layers set `train.batch_size` to `auto`, which `--from` replaces.

    Raises ConfigError where the layer that does also sets sizes by rows.
    """
    setting = given.get("train.batch_size")
    if setting is None or setting.value != AUTO:
        return False
    if is_set(given, _SCHEDULE):
        raise ConfigError(
            f"{setting.origin} {AUTO} takes the sizes that the sweep of --from recommends, and"
            f" {given[_SCHEDULE].origin} gives others. Leave out one of them."
        )
    return True


def refuse_moved(sweep: FinishedSweep | None, recommended: Layer, given: Layer) -> None:
    """Raise ConfigError where the local data of a sweep are not in their place any more.

    `recommended`: what `sweep_layer` returns; `given`: what later layers set. A glob is left to
    those who read it.
    """
    path = None if "data.path" in given else recommended.get("data.path")
    if sweep is None or path is None or is_remote(path.value):
        return
    # imports pyarrow, which `config show` can do without
    from streamtrain.storage.foreign.foreign_source import split_database
    from streamtrain.storage.foreign.table_marks import split_version

    database = split_database(path.value)
    place = path.value if database is None else database[0]
    table, version = split_version(place)
    if version is not None and os.path.exists(table):
        return
    if not os.path.exists(place) and not glob.has_magic(place):
        raise ConfigError(
            f"{path.origin}: the sweep read {path.value}, which is not there any more. Name the"
            f" data: streamtrain train DATA --from {shlex.quote(sweep.folder)}"
        )


def changed_data_text(sweep: FinishedSweep, data: DataInfo) -> str:
    """Return what to know where training reads other rows than the sweep read; empty where not."""
    swept = sweep.summary.data
    if data.url != swept.url or swept.fingerprint in (None, data.fingerprint):
        return ""
    return shown(
        f"warning: {data.url} is not what the sweep in {sweep.folder} read: it had"
        f" {plural(swept.num_rows or 0, 'row')} then, and has {data.num_rows or 0:,} now. The size"
        " and the rate may not suit. [streamtrain sweep]"
    )


def _given_size(given: Layer) -> int | None:
    """Return the batch size that later layers set; None where they set none, or a schedule."""
    setting = given.get("train.batch_size")
    if setting is None or is_set(given, _SCHEDULE):
        return None
    with suppress(ConfigError):  # the config names its origin
        return parse_count(setting.value)
    return None


def nearest_cell(summary: "Summary", size: int) -> "CellFigures":
    """Return the trained size of a sweep that is nearest to `size`, by their ratio."""
    from streamtrain.report.analysis import is_trained

    cells = [cell for cell in summary.cells if is_trained(cell.status)] or list(summary.cells)
    return min(cells, key=lambda cell: abs(math.log(cell.batch_size / max(size, 1))))


def taken_text(sweep: FinishedSweep, config: Config, origins: Mapping[str, str]) -> str:
    """Return what training takes from a sweep, and what other settings decide instead."""
    train = config.train
    texts = {
        "data.path": f"data {_from_here(config.data.path or '')}",
        "train.batch_size": f"batch size {train.constant_size:,}",
        _SCHEDULE: f"batch sizes {stages_text(all_stages(train))}",
        "train.lr": f"learning rate {train.rate:g}{_rate_origin(sweep, config, origins)}",
        "train.max_rows": "" if train.max_rows is None else f"{train.max_rows:,} rows",
        "train.average": f"averaged weights {'on' if train.average else 'off'}",
    }
    taken = [text for key, text in texts.items() if origins.get(key) == sweep.origin and text]
    given = sorted({origin for origin in origins.values() if origin != sweep.origin})
    other = f"; given here: {', '.join(given)}" if given else ""
    # names of a run stay on one line
    return shown(f"from {sweep.folder}: {', '.join(taken)}{other}")


def _from_here(path: str) -> str:
    """Return a path below the working folder as relative, another one as it is."""
    return path.removeprefix(f"{os.getcwd()}/")


def _rate_origin(sweep: FinishedSweep, config: Config, origins: Mapping[str, str]) -> str:
    """Return for which size the sweep found the rate, where the size is not the sweep's."""
    own = sweep.origin
    if own in (origins.get("train.batch_size"), origins.get(_SCHEDULE)):
        return ""
    if config.train.batch_schedule is not None or origins.get("train.lr") != own:
        return ""
    cell = nearest_cell(sweep.summary, config.train.constant_size)
    return f" (the sweep's for {cell.batch_size:,})"
