"""The Python API: what the command line does, as functions.

`sweep` and `train` take the options of the command line as keywords; `run_sweep` and `run_train`
take a whole Config and an open folder.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from streamtrain.base.atomic_files import make_folder
from streamtrain.base.interrupt import Interrupt
from streamtrain.base.redact import hiding_in_errors, redact_options, redact_url
from streamtrain.base.writing import naming_path
from streamtrain.cluster.choice import choose_runner
from streamtrain.config import SWEEP_FLAGS, TRAIN_FLAGS, Config, flag_values, make_config, set_key
from streamtrain.report.dry_run import plan_run, plan_text
from streamtrain.report.render import Drawing
from streamtrain.report.run_files import kept_summary, naming_damage
from streamtrain.report.write import write_report
from streamtrain.run.directory import CHECKPOINTS, RunDirectory
from streamtrain.run.environment import environment
from streamtrain.run.open_run import open_run
from streamtrain.run.train import train as train_records
from streamtrain.training.checkpoint import list_checkpoints
from streamtrain.training.fitted_model import FittedModel, save_model
from streamtrain.training.usual_torch import usual_torch
from streamtrain.types import Json

if TYPE_CHECKING:
    from streamtrain.training.network import Network

__all__ = [
    "CHECKPOINTS",
    "SweepResult",
    "TrainResult",
    "list_checkpoints",
    "naming_damage",
    "open_run",
    "plan_run",
    "plan_text",
    "run_sweep",
    "run_train",
    "sweep",
    "train",
]


PathOrUrl = str | os.PathLike[str]

#: A number, or text such as `"64Ki"` and `"10M"`.
Count = int | float | str

Activation = Literal["relu", "tanh", "silu", "gelu", "identity"]

#: When a sweep is asked to stop, it finishes its block if that takes fewer seconds than this;
#: `train` always finishes its step.
SWEEP_GRACE_SECONDS = 5.0

#: What to do when the models or the report of a run cannot be written.
_ADVICE = "Free space there, then continue with --resume auto: nothing is trained again."


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """The folder of a sweep, and its `summary.json` as a dict.

    `already_complete`: the run had ended before, and was only read.
    """

    out: Path
    summary: Json
    already_complete: bool = False

    @property
    def batch_size(self) -> int | None:
        """The recommended minibatch size; None when nothing can be recommended."""
        return self.summary["recommendation"]["batch_size"]

    def __repr__(self) -> str:
        """Show the folder and the answer in notebooks, rather than the whole summary."""
        return f"<SweepResult {self.out}: {self.summary['sentence']}>"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The folder of a run, its summary, and the trained model, which takes raw features.

    `trained`: the model as training or reading gave it. `already_complete`: the run had ended
    before, and was only read.
    """

    out: Path
    summary: Json
    trained: "FittedModel | Network"
    already_complete: bool = False

    @cached_property
    def model(self) -> "Network":
        """The model as a torch module, which is made when it is first asked for."""
        return self.trained.network() if isinstance(self.trained, FittedModel) else self.trained


def _ignore_note(note: str) -> None:
    pass


@usual_torch()
def run_sweep(
    run: RunDirectory,
    config: Config,
    *,
    report: bool = True,
    command: str = "",
    client: Any = None,
    on_note: Callable[[str], None] = _ignore_note,
    drawing: Drawing | None = None,
    began: float | None = None,
) -> SweepResult:
    """Run a sweep into an open folder, or only read it if the sweep had ended: records and report.

    Args:
        run: The folder of the run.
        config: The configuration of the run.
        report: Also write report.html and charts, which `streamtrain report` can do later.
        command: The call or command line that started the run, for the report.
        client: A `distributed.Client` whose workers do the training.
        on_note: Receives human-readable messages, such as the loss of a worker.
        drawing: See `write_report`.
        began: When the seconds of a budget began, by `time.perf_counter`; None: with this call.

    Raises ConfigError, DataError or ResourceError.
    """
    began = time.perf_counter() if began is None else began
    out, secrets = run.out, config.data.secrets
    with hiding_in_errors(secrets):
        run.check_config("sweep", config)
        if run.finished:
            return SweepResult(out=out, summary=kept_summary(out), already_complete=True)
        # imports torch before the run starts, so that it does not count towards the peak of memory
        from streamtrain.run.sweep import sweep as sweep_records

        saving = run.saving(config, Interrupt(grace_seconds=SWEEP_GRACE_SECONDS, notify=on_note))
        metadata = {"command": command, "folder": str(out), "env": environment()}
        with choose_runner("sweep", config, out, client=client, notify=on_note) as runner:
            sweep_records(config, run.log, metadata, saving, runner, began=began)
        with naming_path(out, _ADVICE):
            summary = write_report(run.records, out, pictures=report, drawing=drawing)
        return SweepResult(out=out, summary=summary)


@usual_torch()
def run_train(
    run: RunDirectory,
    config: Config,
    *,
    report: bool = True,
    command: str = "",
    client: Any = None,
    on_note: Callable[[str], None] = _ignore_note,
    drawing: Drawing | None = None,
) -> TrainResult:
    """Train one model into an open folder: records, model, report.

    `best/` has the model at its smallest held-out loss. The arguments and errors are as in
    `run_sweep`.
    """
    out, secrets = run.out, config.data.secrets
    with hiding_in_errors(secrets):
        run.check_config("train", config)
        if run.finished:
            from streamtrain.training.model_io import load_model

            model = load_model(out, model=config.model.factory)
            return TrainResult(
                out=out, summary=kept_summary(out), trained=model, already_complete=True
            )
        metadata = {"command": command, "folder": str(out), "env": environment()}
        with choose_runner("train", config, out, client=client, notify=on_note) as runner:
            saving = run.saving(config, Interrupt(notify=on_note))
            trained = train_records(config, run.log, metadata, saving, runner)
        with naming_path(out, _ADVICE):
            if trained.best is not None:
                save_model(trained.best, make_folder(out / "best", within=out), within=out)
            save_model(trained.last, out)
            summary = write_report(run.records, out, pictures=report, drawing=drawing)
        return TrainResult(out=out, summary=summary, trained=trained.last)


def sweep(
    path: PathOrUrl,
    *,
    out: PathOrUrl | None = None,
    resume: PathOrUrl = "auto",
    client: Any = None,
    report: bool = True,
    batch_sizes: Count | Sequence[Count] | None = None,
    budget: float | int | str | None = None,
    goal: str | None = None,
    within: float | str | None = None,
    lr_grid: int | float | str | Sequence[float] | None = None,
    trials: int | None = None,
    target_loss: float | str | Sequence[float] | None = None,
    target_rmse: float | None = None,
    halving: bool | None = None,
    lr_rule: str | Sequence[str] | None = None,
    measure: str | Sequence[str] | None = None,
    confirm: bool | None = None,
    grow: bool | None = None,
    rerun: bool | None = None,
    extend_grid: bool | None = None,
    target: str | None = None,
    features: str | Sequence[str] | None = None,
    holdout: Count | None = None,
    holdout_seed: int | str | None = None,
    eval_data: str | None = None,
    on_null: Literal["error", "drop", "impute"] | None = None,
    on_bad_shard: Literal["error", "quarantine"] | None = None,
    transform: str | None = None,
    standardize: bool | None = None,
    storage_options: dict[str, str | bool] | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    na_values: str | Sequence[str] | None = None,
    header: bool | None = None,
    encoding: str | None = None,
    datetime: Literal["epoch", "parts"] | None = None,
    seed: int | str | None = None,
    span_rows: Count | None = None,
    window_rows: Count | None = None,
    memory: int | str | None = None,
    readers: int | None = None,
    hidden: int | str | Sequence[int] | None = None,
    activation: Activation | None = None,
    model: str | None = None,
    loss: Literal["mse", "huber"] | None = None,
    optimizer: Literal["adam", "adamw", "sgd"] | None = None,
    lr: float | None = None,
    average: bool | str | None = None,
    engine: Literal["auto", "fused", "torch"] | None = None,
    device: str | None = None,
    epochs: float | None = None,
    max_rows: Count | None = None,
    max_time: float | str | None = None,
    scheduler: str | None = None,
    scheduler_file: str | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    max_failures: int | None = None,
    min_workers: int | None = None,
) -> SweepResult:
    """Compare minibatch sizes on a data set: `sweep("data/", batch_sizes=[64, 1024], trials=3)`.

    `path` is a file, a folder or a glob: Parquet or Zarr shards, CSV, JSON lines, Arrow. `out` is
    the folder of the run; None chooses a new one in `runs/`. `resume="auto"` continues an
    interrupted run, `"never"` refuses to, and the folder of an existing run continues that run. The
    workers of `client`, a `distributed.Client`, do the training. `report=False` leaves out the page
    and the charts, which `streamtrain report` makes later. Every other keyword is the option of
    `streamtrain sweep` with the same name, and None means its default (docs/flags.md). Values may
    be written as on the command line.

    Raises ConfigError, DataError or ResourceError.
    """
    flags = _given(locals(), SWEEP_FLAGS)
    config = _config(path, flags, SWEEP_FLAGS)
    command = _command("sweep", path, out, flags)
    with open_run("sweep", config, out, resume) as run:
        return run_sweep(run, config, report=report, command=command, client=client)


def train(
    path: PathOrUrl,
    *,
    out: PathOrUrl | None = None,
    resume: PathOrUrl = "auto",
    client: Any = None,
    report: bool = True,
    batch_size: Count | None = None,
    batch_schedule: str | Sequence[Any] | None = None,
    early_stop: int | None = None,
    sync: Literal["auto", "rounds", "allreduce"] | None = None,
    target: str | None = None,
    features: str | Sequence[str] | None = None,
    holdout: Count | None = None,
    holdout_seed: int | str | None = None,
    eval_data: str | None = None,
    on_null: Literal["error", "drop", "impute"] | None = None,
    on_bad_shard: Literal["error", "quarantine"] | None = None,
    transform: str | None = None,
    standardize: bool | None = None,
    storage_options: dict[str, str | bool] | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    na_values: str | Sequence[str] | None = None,
    header: bool | None = None,
    encoding: str | None = None,
    datetime: Literal["epoch", "parts"] | None = None,
    seed: int | str | None = None,
    span_rows: Count | None = None,
    window_rows: Count | None = None,
    memory: int | str | None = None,
    readers: int | None = None,
    hidden: int | str | Sequence[int] | None = None,
    activation: Activation | None = None,
    model: str | None = None,
    loss: Literal["mse", "huber"] | None = None,
    optimizer: Literal["adam", "adamw", "sgd"] | None = None,
    lr: float | None = None,
    average: bool | str | None = None,
    engine: Literal["auto", "fused", "torch"] | None = None,
    device: str | None = None,
    epochs: float | None = None,
    max_rows: Count | None = None,
    max_time: float | str | None = None,
    scheduler: str | None = None,
    scheduler_file: str | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    max_failures: int | None = None,
    min_workers: int | None = None,
) -> "Network":
    """Train a model on a data set, and return a torch module.

    The module maps raw features (rows, features) to predictions (rows, 1). `path`, `out`, `resume`,
    `client` and `report` are as in `sweep`; every other keyword is the option of `streamtrain
    train` with the same name, and None means its default (docs/flags.md).

    Raises ConfigError, DataError or ResourceError.
    """
    flags = _given(locals(), TRAIN_FLAGS)
    config = _config(path, flags, TRAIN_FLAGS)
    command = _command("train", path, out, flags)
    with open_run("train", config, out, resume) as run:
        return run_train(run, config, report=report, command=command, client=client).model


def _given(arguments: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of a call that are flags and are set, in the order of the signature."""
    return {name: value for name, value in arguments.items() if name in table and value is not None}


def _command(verb: str, path: PathOrUrl, out: PathOrUrl | None, flags: Mapping[str, Any]) -> str:
    """Return the call as Python text, for the report; values that may be secret are hidden."""
    arguments = dict(flags)
    if out is not None:
        arguments["out"] = out
    words = [_literal("path", path)]
    words += [f"{name}={_literal(name, value)}" for name, value in arguments.items()]
    return f"streamtrain.{verb}({', '.join(words)})"


def _literal(name: str, value: Any) -> str:
    if name == "storage_options":
        return repr(redact_options(value))
    if isinstance(value, str | os.PathLike):
        return repr(redact_url(os.fspath(value)))
    return repr(value)


def _config(path: PathOrUrl, flags: Mapping[str, Any], table: Mapping[str, str]) -> Config:
    values = flag_values(flags, table)
    set_key(values, "data.path", os.fspath(path))
    return make_config(values)
