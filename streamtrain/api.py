"""The Python door: what the command line does, as functions.

`sweep` and `train` take the flags of the command line as keywords; `run_sweep` and `run_train` take
a whole Config.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamtrain.base.interrupt import Interrupt
from streamtrain.base.redact import redact_options, redact_url
from streamtrain.cluster.runner import choose_runner
from streamtrain.config import SWEEP_FLAGS, TRAIN_FLAGS, Config, flag_values, make_config, set_key
from streamtrain.records import Emit
from streamtrain.report.dry_run import plan_run, plan_text
from streamtrain.report.write import write_report
from streamtrain.run.directory import (
    CHECKPOINTS,
    RunDirectory,
    choose_out,
    default_out,
    environment,
)
from streamtrain.run.predict import evaluate, predict
from streamtrain.run.sweep import sweep as sweep_records
from streamtrain.run.train import train as train_records
from streamtrain.training.checkpoint import list_checkpoints
from streamtrain.training.model import Network
from streamtrain.training.model_io import load_model, save_model
from streamtrain.types import Json

__all__ = [
    "CHECKPOINTS",
    "SweepResult",
    "TrainResult",
    "choose_out",
    "default_out",
    "evaluate",
    "list_checkpoints",
    "load_model",
    "plan_run",
    "plan_text",
    "predict",
    "run_sweep",
    "run_train",
    "sweep",
    "train",
]


#: A sweep that is asked to stop finishes its block when that takes less; `train` finishes its step,
#: however long it takes.
SWEEP_GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """Where the run is, and its `summary.json` as a dict.

    `already_complete`: the run had come to its end before, and was only read.
    """

    out: Path
    summary: Json
    already_complete: bool = False

    @property
    def batch_size(self) -> int | None:
        """The recommended minibatch size; None when nothing can be recommended."""
        return self.summary["recommendation"]["batch_size"]

    def __repr__(self) -> str:
        """What a notebook shows: where it lies and the answer, not the whole summary."""
        return f"<SweepResult {self.out}: {self.summary['sentence']}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """Where the run is, its summary, and the trained model with normalisation folded in.

    `already_complete` as of a sweep.
    """

    out: Path
    summary: Json
    model: Network
    already_complete: bool = False


def run_sweep(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    command: str = "",
    on_record: Emit | None = None,
    client: Any = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> SweepResult:
    """Run a sweep into `out` (new or empty): records, summary, report.

    `on_record` sees every Record as it is logged.

    `resume`: an interrupted run that lies in `out` goes on, and a finished one is only read.
    `client`: a `distributed.Client` whose workers train; `on_note` hears what happens to them.
    """
    with RunDirectory(out, resume=resume, on_record=on_record) as run:
        run.check_config("sweep", config)
        if run.finished:
            return SweepResult(out=out, summary=run.summary(), already_complete=True)
        saving = run.saving(config, Interrupt(grace_seconds=SWEEP_GRACE_SECONDS, tell=on_note))
        with choose_runner("sweep", config.cluster, out, client=client, notify=on_note) as runner:
            sweep_records(
                config, run.log, {"command": command, "env": environment()}, saving, runner
            )
    return SweepResult(out=out, summary=write_report(run.records, out))


def run_train(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    command: str = "",
    on_record: Emit | None = None,
    client: Any = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> TrainResult:
    """Train one model into `out` (new or empty): records, model, summary, report.

    `best/` has the model at its smallest held-out loss.

    `resume`, `client` and `on_note` are those of `run_sweep`.
    """
    with RunDirectory(out, resume=resume, on_record=on_record) as run:
        run.check_config("train", config)
        if run.finished:
            return TrainResult(
                out=out, summary=run.summary(), model=load_model(out), already_complete=True
            )
        with choose_runner("train", config.cluster, out, client=client, notify=on_note) as runner:
            trained = train_records(
                config,
                run.log,
                {"command": command, "env": environment()},
                run.saving(config, Interrupt(tell=on_note)),
                runner,
            )
    if trained.best is not None:
        (out / "best").mkdir(exist_ok=True)
        save_model(trained.best, out / "best")
    save_model(trained.last, out)
    return TrainResult(out=out, summary=write_report(run.records, out), model=trained.last.eval())


def sweep(
    path: str | os.PathLike,
    *,
    out: str | os.PathLike | None = None,
    resume: str | os.PathLike = "auto",
    client: Any = None,
    **flags: Any,
) -> SweepResult:
    """Compare minibatch sizes on a data set: `sweep("data/", batch_sizes=[64, 1024], trials=3,
    out="runs/a")`.

    Flags are those of `streamtrain sweep`, with underscores; an interrupted run goes on
    (`resume="never"` refuses it); the workers of `client`, a `distributed.Client`, do the training.
    Raises ConfigError, DataError, ResourceError.
    """
    config = _config(path, flags, SWEEP_FLAGS)
    folder, goes_on = choose_out("sweep", config, out, resume)
    return run_sweep(
        config, folder, resume=goes_on, command=_command("sweep", path, out, flags), client=client
    )


def train(
    path: str | os.PathLike,
    *,
    out: str | os.PathLike | None = None,
    resume: str | os.PathLike = "auto",
    client: Any = None,
    **flags: Any,
) -> Network:
    """Train a model on a data set: a torch module from raw features (rows, features) to predictions
    (rows, 1).

    Flags are those of `streamtrain train`, with underscores; an interrupted run goes on
    (`resume="never"` refuses it); the workers of `client`, a `distributed.Client`, do the training.
    Raises ConfigError, DataError, ResourceError.
    """
    config = _config(path, flags, TRAIN_FLAGS)
    folder, goes_on = choose_out("train", config, out, resume)
    return run_train(
        config, folder, resume=goes_on, command=_command("train", path, out, flags), client=client
    ).model


def _command(
    verb: str, path: str | os.PathLike, out: str | os.PathLike | None, flags: dict[str, Any]
) -> str:
    """The call as it was written, for the report; what could be secret is not in it."""
    given = {**flags, **({} if out is None else {"out": out})}
    words = [f"{name}={_word(name, value)}" for name, value in given.items()]
    return f"streamtrain.{verb}({', '.join([_word('path', path), *words])})"


def _word(name: str, value: Any) -> str:
    if name == "storage_options":
        return repr(redact_options(value))
    return repr(redact_url(os.fspath(value)) if isinstance(value, str | os.PathLike) else value)


def _config(path: str | os.PathLike, flags: dict[str, Any], table: dict[str, str]) -> Config:
    values = flag_values(flags, table)
    set_key(values, "data.path", os.fspath(path))
    return make_config(values)
