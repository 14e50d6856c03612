"""Choose the folder of a run, and open it in the same step: no other process gets it in between."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from itertools import count
from pathlib import Path

from streamtrain.base.redact import Secrets, redact_url
from streamtrain.base.untrusted import parse_json
from streamtrain.config import Config
from streamtrain.errors import ConfigError, ResourceError, RunInUse
from streamtrain.run.directory import EVENTS, RunDirectory, is_interrupted
from streamtrain.storage.foreign.foreign_source import absolute_source
from streamtrain.training.fingerprint import config_fingerprint, differences

#: The folder, in the current one, of runs without `--out`.
_RUNS = Path("runs")

#: The most bytes that are read of the first line of a log.
_MOST_FIRST_LINE = 1 << 26


def open_run(
    verb: str, config: Config, out: str | os.PathLike[str] | None, resume: str | os.PathLike[str]
) -> RunDirectory:
    """Return the open folder of a run: a new one, or that of an interrupted run.

    `resume`: `never`; `auto`, which resumes the run in `out` or, without `out`, the newest
    interrupted run of this config in `runs/`; or the folder of a run. Without `out`, runs that
    another process has open are passed over. Raises as `RunDirectory` does.
    """
    secrets = config.data.secrets
    if resume in ("auto", "never"):
        if out:
            return RunDirectory(Path(out), resume=resume == "auto", secrets=secrets)
        for folder in _interrupted_runs(verb, config) if resume == "auto" else ():
            with suppress(RunInUse):
                return RunDirectory(folder, resume=True, secrets=secrets)
        return _new_run(verb, secrets)
    folder = Path(resume)
    if out and Path(out).absolute() != folder.absolute():
        raise ConfigError(
            f"--resume {folder} continues in that folder, but --out is {out}. Give one of them."
        )
    if not (folder / EVENTS).is_file():
        raise ConfigError(
            f"--resume {folder}: there is no run ({EVENTS} is missing). Name a run's folder, auto"
            " or never."
        )
    return RunDirectory(folder, resume=True, secrets=secrets)


@contextmanager
def new_folder(verb: str) -> Iterator[Path]:
    """Make a new folder `runs/<verb>-<date>-<n>`; remove it at the end if nothing is in it."""
    for folder in _free_names(verb):
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:  # another process has just made it
            pass
        except OSError as error:
            raise ResourceError(
                f"{folder}: cannot be written ({error.strerror}). Choose another --out."
            ) from None
    try:
        yield folder
    finally:
        with suppress(OSError):
            folder.rmdir()
            _RUNS.rmdir()


def _new_run(verb: str, secrets: Secrets) -> RunDirectory:
    for folder in _free_names(verb):
        with suppress(ConfigError):  # another process has just taken the name
            return RunDirectory(folder, secrets=secrets)
    raise AssertionError("names do not end")


def _free_names(verb: str) -> Iterator[Path]:
    """Yield each of `runs/<verb>-<date>-<n>`, n = 1, 2, …, that does not exist."""
    names = (_RUNS / f"{verb}-{date.today().isoformat()}-{number}" for number in count(1))
    return (name for name in names if not os.path.lexists(name))


def _interrupted_runs(verb: str, config: Config) -> list[Path]:
    """Return the interrupted runs `runs/<verb>-…` with this config and data path, newest first."""
    wanted = {
        **config_fingerprint(config),
        "data.path": _place(config.data.path and redact_url(config.data.path)),
    }
    found: list[tuple[float, Path]] = []
    for out in filter(is_interrupted, _RUNS.glob(f"{verb}-*")):
        # A log that cannot be read as one of ours, or is removed meanwhile, is passed over.
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            with open(out / EVENTS, "rb") as file:
                logged = parse_json(file.readline(_MOST_FIRST_LINE))["config"]
                changed_at = os.fstat(file.fileno()).st_mtime
            fingerprint = {
                **config_fingerprint(logged),
                "data.path": _place(logged["data"]["path"]),
            }
            if not differences(fingerprint, wanted):
                found.append((changed_at, out))
    return [out for _, out in sorted(found, reverse=True)]


def _place(path: str | None) -> str | None:
    """Return a path of data as absolute: the file that a run keeps has it so."""
    return path and absolute_source(path)
