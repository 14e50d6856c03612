"""The Python door: what the command line does, as functions.

`sweep` and `train` take the flags of the command line as keywords; `run_sweep` and `run_train` take a whole Config.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamtrain.config import SWEEP_FLAGS, TRAIN_FLAGS, Config, flag_values, make_config, set_key
from streamtrain.dryrun import plan_run, plan_text
from streamtrain.learners.model import Network
from streamtrain.learners.saved import load_model, save_model
from streamtrain.report.write import write_report
from streamtrain.rundir import RunDirectory, default_out, environment
from streamtrain.scoring import evaluate, predict
from streamtrain.sweep import sweep as sweep_records
from streamtrain.train import train as train_records
from streamtrain.types import Emit, Record

__all__ = [
    "SweepResult", "TrainResult", "default_out", "evaluate", "load_model", "plan_run", "plan_text", "predict", "run_sweep", "run_train", "sweep",
    "train",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """Where the run is, and its `summary.json` as a dict."""

    out: Path
    summary: Record

    @property
    def batch_size(self) -> int | None:
        """The recommended minibatch size; None when nothing can be recommended."""
        return self.summary["recommendation"]["batch_size"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """Where the run is, its summary, and the trained model with normalisation folded in."""

    out: Path
    summary: Record
    model: Network


def run_sweep(config: Config, out: Path, *, command: str = "", on_record: Emit | None = None) -> SweepResult:
    """Run a sweep into `out` (new or empty): records, summary, report. `on_record` sees every Record as it is logged."""
    with RunDirectory(out) as run:
        sweep_records(config, _both(run.log, on_record), {"command": command, "env": environment()})
    return SweepResult(out=out, summary=write_report(run.records, out))


def run_train(config: Config, out: Path, *, command: str = "", on_record: Emit | None = None) -> TrainResult:
    """Train one model into `out` (new or empty): records, model, summary, report."""
    with RunDirectory(out) as run:
        model = train_records(config, _both(run.log, on_record), {"command": command, "env": environment()})
    save_model(model, out)
    return TrainResult(out=out, summary=write_report(run.records, out), model=model.eval())


def sweep(path: str | os.PathLike, *, out: str | os.PathLike | None = None, **flags: Any) -> SweepResult:
    """Compare minibatch sizes on a data set: `sweep("data/", batch_sizes=[64, 1024], trials=3, out="runs/a")`.

    Flags are those of `streamtrain sweep`, with underscores. Raises ConfigError, DataError, ResourceError.
    """
    return run_sweep(_config(path, flags, SWEEP_FLAGS), Path(out) if out else default_out("sweep"), command=f"streamtrain.sweep({str(path)!r})")


def train(path: str | os.PathLike, *, out: str | os.PathLike | None = None, **flags: Any) -> Network:
    """Train a model on a data set: a torch module from raw features (rows, features) to predictions (rows, 1).

    Flags are those of `streamtrain train`, with underscores. Raises ConfigError, DataError, ResourceError.
    """
    return run_train(_config(path, flags, TRAIN_FLAGS), Path(out) if out else default_out("train"), command=f"streamtrain.train({str(path)!r})").model


def _config(path: str | os.PathLike, flags: dict[str, Any], table: dict[str, str]) -> Config:
    values = flag_values(flags, table)
    set_key(values, "data.path", os.fspath(path))
    return make_config(values)


def _both(log: Emit, on_record: Emit | None) -> Emit:
    def emit(record: Record) -> None:
        log(record)
        if on_record is not None:
            on_record(record)

    return emit
