"""Runs of a whole config in a given folder, as the command line does them."""

from pathlib import Path
from typing import Any

from streamtrain import api
from streamtrain.config import Config
from streamtrain.records import Emit
from streamtrain.run.directory import RunDirectory


def run_sweep(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    on_record: Emit | None = None,
    **options: Any,
) -> api.SweepResult:
    """Run a sweep into the folder `out`; `options`: see `api.run_sweep`."""
    secrets = config.data.secrets
    with RunDirectory(out, resume=resume, on_record=on_record, secrets=secrets) as run:
        return api.run_sweep(run, config, **options)


def run_train(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    on_record: Emit | None = None,
    **options: Any,
) -> api.TrainResult:
    """Train one model into the folder `out`; `options`: see `api.run_train`."""
    secrets = config.data.secrets
    with RunDirectory(out, resume=resume, on_record=on_record, secrets=secrets) as run:
        return api.run_train(run, config, **options)
