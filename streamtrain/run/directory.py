"""A run's directory: made once, never over another run; records are appended as they come.

An interrupted run goes on in its own.
"""

import fcntl
import hashlib
import json
import os
import platform
import sys
import warnings
from contextlib import suppress
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType

import yaml

from streamtrain.base.atomic_files import (
    remove_temporaries,
    sync_folder,
    write_atomically,
    write_whole,
)
from streamtrain.base.interrupt import Interrupt
from streamtrain.base.redact import redact_url
from streamtrain.config import Config
from streamtrain.errors import ConfigError, DataError, ResourceError
from streamtrain.records import (
    Emit,
    Evaluation,
    QuarantineChanged,
    Record,
    RunEnded,
    RunStarted,
    parse_record,
    started_record,
    to_json,
)
from streamtrain.training.checkpoint import list_checkpoints
from streamtrain.training.checkpointing import Checkpointer
from streamtrain.training.fingerprint import config_fingerprint, differences
from streamtrain.types import Json

_LIBRARIES = ("streamtrain", "torch", "numpy", "numba", "dask", "pyarrow", "zarr", "zarrs")

#: What the bits of a run depend on, beside its fingerprint.
_EXACT = ("python", "cpu", "streamtrain", "torch", "numpy", "numba")

EVENTS = "events.jsonl"
#: What the first line of every log begins with.
_BEGINS = b'{"event": "run"'
#: The last record of a run that ended, `end`, is far shorter.
_LAST_BYTES = 65_536
CHECKPOINTS = "checkpoints"


class RunDirectory:
    """Use as a context: `with RunDirectory(out) as run: run.log(record)`.

    One thread writes, and one process at a time.

    `resume`: the folder may hold an interrupted run, which goes on after `Checkpointer.begin`;
    without a checkpoint it starts again. `on_record` sees every record as it is logged, and those
    of an interrupted run when it goes on. A line of `events.jsonl` is in the system's hands when
    `log` returns, and on the disk after `mark`: see `Events`.

    Raises ConfigError when the folder has something else in it: nothing is ever overwritten.
    DataError when an interrupted run lost its checkpoints.
    """

    def __init__(self, out: Path, *, resume: bool = False, on_record: Emit | None = None):
        self.out, self._on_record = out, on_record
        self.records: list[Record] = []
        self._file: int | None = None
        self._num_bytes, self._hash = 0, hashlib.sha256()
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            if not resume:
                interrupted = (
                    " or go on with it by --resume auto"
                    if _is_interrupted(out)
                    else " or remove it"
                )
                raise ConfigError(
                    f"{out} is not empty, and nothing is overwritten. Choose another"
                    f" --out,{interrupted}."
                )
            self._reopen()

    @property
    def finished(self) -> bool:
        """True when the run that lies here came to its end and has its report."""
        return (
            bool(self.records)
            and isinstance(self.records[-1], RunEnded)
            and (self.out / "summary.json").exists()
        )

    def summary(self) -> Json:
        """The `summary.json` of a finished run."""
        return json.loads((self.out / "summary.json").read_text(encoding="utf-8"))

    def check_config(self, verb: str, config: Config) -> None:
        """Raises ConfigError, with each difference, when an interrupted or finished run lies here
        and had another verb or config.
        """
        if not self.records:
            return
        header = started_record(self.records[0])
        changed = differences(
            {"verb": header.verb, **config_fingerprint(header.config)},
            {"verb": verb, **config_fingerprint(config)},
        )
        if changed:
            raise ConfigError(
                f"{self.out} cannot go on: {'; '.join(changed)}. Give what it was begun with, or"
                " another --out."
            )

    def saving(self, config: Config, interrupt: Interrupt) -> Checkpointer:
        """Its checkpoints."""
        known = environment()
        return Checkpointer(
            self.out / CHECKPOINTS,
            self,
            versions={name: known[name] for name in _EXACT if name in known},
            keep=config.checkpoint.keep,
            every_seconds=config.checkpoint.every_seconds,
            interrupt=interrupt,
        )

    def log(self, record: Record) -> None:
        """Append one line to `events.jsonl`.

        The first one, `run`, makes the folder and its config, env and data files.

        So a run that is refused before its first record leaves nothing behind.
        """
        if isinstance(record, RunStarted) or self._file is None:
            self._create()
        self.records.append(record)
        line = json.dumps(record.to_json(), allow_nan=False).encode() + b"\n"
        self._num_bytes += len(line)
        self._hash.update(line)
        write_whole(self._file, line)
        if isinstance(record, RunStarted):
            schema = (
                "# The whole configuration of this run: `streamtrain sweep -c` or `train -c` this"
                " file to repeat it.\n"
            )
            write_atomically(
                self.out / "config.resolved.yaml",
                (schema + yaml.safe_dump(record.config, sort_keys=False)).encode(),
            )
            for name, document in (("env", record.env), ("data", to_json(record.data))):
                write_atomically(
                    self.out / f"{name}.json", json.dumps(document, indent=2).encode() + b"\n"
                )
        if isinstance(record, QuarantineChanged):
            write_atomically(
                self.out / "quarantine.json",
                json.dumps(record.to_json(), indent=2).encode() + b"\n",
            )
        if self._on_record is not None:
            self._on_record(record)

    def mark(self) -> Json:
        """See `Events.mark`."""
        os.fsync(self._file)
        return {"bytes": self._num_bytes, "sha256": self._hash.hexdigest()}

    def check(self, mark: Json) -> None:
        """See `Events.check`."""
        if hashlib.sha256(self._read(mark["bytes"])).hexdigest() != mark["sha256"]:
            raise DataError(
                f"{self.out / EVENTS}: its first {mark['bytes']:,} bytes are not those that were"
                " logged"
            )

    def rewind(self, mark: Json) -> list[Record]:
        """See `Events.rewind`."""
        kept = self._read(mark["bytes"])
        os.ftruncate(self._file, len(kept))
        os.lseek(self._file, 0, os.SEEK_END)
        os.fsync(self._file)
        self._num_bytes, self._hash = len(kept), hashlib.sha256(kept)
        self.records[:] = (parse_record(json.loads(line)) for line in kept.splitlines())
        self._tidy()
        for record in self.records if self._on_record is not None else ():
            self._on_record(record)
        return list(self.records)

    def _create(self) -> None:
        """An empty log, in a new folder or over that of a run which was interrupted before its
        first checkpoint.
        """
        self.records.clear()
        self._num_bytes, self._hash = 0, hashlib.sha256()
        try:
            if self._file is not None:
                warnings.warn(
                    f"{self.out} was interrupted before its first checkpoint; it starts again.",
                    stacklevel=4,
                )
                os.ftruncate(self._file, 0)
                os.lseek(self._file, 0, os.SEEK_SET)
                self._tidy()
                return
            self.out.mkdir(parents=True, exist_ok=True)
            self._open(os.O_CREAT | os.O_EXCL)
            sync_folder(self.out)
        except OSError as error:
            raise ResourceError(
                f"{self.out}: cannot be written ({error.strerror}). Choose another --out."
            ) from None

    def _tidy(self) -> None:
        """Remove what a killed process was writing."""
        for folder in (self.out, self.out / CHECKPOINTS):
            remove_temporaries(folder)

    def _reopen(self) -> None:
        if not (self.out / EVENTS).is_file():
            raise ConfigError(
                f"{self.out} is not empty and holds no run ({EVENTS} is missing). Choose another"
                " --out."
            )
        self._open(0)
        content = self._read(os.fstat(self._file).st_size)
        for line in content.splitlines(keepends=True):
            with suppress(ValueError, TypeError, AttributeError, DataError):
                record = parse_record(json.loads(line))
                if line.endswith(b"\n") and (self.records or isinstance(record, RunStarted)):
                    self.records.append(record)
        # a first line may be cut short, but begins as ours do
        if not self.records and content[: len(_BEGINS)] != _BEGINS[: len(content)]:
            self._close()
            raise ConfigError(
                f"{self.out} is not empty, and its {EVENTS} is not of a run. Choose another --out."
            )
        if (
            not self.finished
            and not list_checkpoints(self.out / CHECKPOINTS)
            and any(isinstance(record, Evaluation) and record.rows for record in self.records)
        ):
            self._close()
            raise DataError(
                f"{self.out}: its checkpoints are gone, so it cannot go on. Restore {CHECKPOINTS}/,"
                " or start again with another --out."
            )

    def _open(self, flags: int) -> None:
        self._file = os.open(self.out / EVENTS, os.O_RDWR | os.O_CLOEXEC | flags, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._close()
            raise ConfigError(
                f"{self.out}: another process is at work on this run. Wait for its end, or choose"
                " another --out."
            ) from None
        except OSError:  # a file system without locks
            pass

    def _read(self, num_bytes: int) -> bytes:
        """The first bytes of the log, or all there are."""
        parts, at = [], 0
        while at < num_bytes and (part := os.pread(self._file, num_bytes - at, at)):
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None and kind is None:
            os.fsync(self._file)
        self._close()


def default_out(verb: str) -> Path:
    """`runs/<verb>-<date>-<n>`: the first that does not exist."""
    number = 1
    while (out := Path("runs") / f"{verb}-{date.today().isoformat()}-{number}").exists():
        number += 1
    return out


def choose_out(
    verb: str, config: Config, out: str | os.PathLike | None, resume: str | os.PathLike
) -> tuple[Path, bool]:
    """Where a run goes, and whether it may go on with what lies there.

    `resume`: `never`; `auto`, with `out` or with the newest interrupted run of this config below
    `runs/`; or the folder of a run. Raises ConfigError.
    """
    if resume in ("never", "auto"):
        found = find_interrupted(verb, config) if resume == "auto" and not out else None
        return Path(out) if out else found or default_out(verb), resume == "auto"
    folder = Path(resume)
    if out and Path(out).absolute() != folder.absolute():
        raise ConfigError(
            f"--resume {folder} goes on in that folder; --out is {out}. Give one of them."
        )
    if not (folder / EVENTS).is_file():
        raise ConfigError(
            f"--resume {folder}: there is no run ({EVENTS} is missing). Name a run's folder, auto"
            " or never."
        )
    return folder, True


def find_interrupted(verb: str, config: Config) -> Path | None:
    """The newest `runs/<verb>-…` that was interrupted and had this config, data included.

    None when there is none.
    """
    found = [out for out in Path("runs").glob(f"{verb}-*") if _is_interrupted(out)]
    wanted = {
        **config_fingerprint(config),
        "data.path": config.data.path and redact_url(config.data.path),
    }
    for out in sorted(found, key=lambda out: (out / EVENTS).stat().st_mtime, reverse=True):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            with open(out / EVENTS, "rb") as file:
                then = json.loads(file.readline())["config"]
            if not differences(
                {**config_fingerprint(then), "data.path": then["data"]["path"]}, wanted
            ):
                return out
    return None


def _is_interrupted(out: Path) -> bool:
    """Its log has no last record, or its report is missing; an interrupted run may have a partial
    report.
    """
    try:
        with open(out / EVENTS, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
            ended = b'"event": "end"' in file.read().rstrip(b"\n").rpartition(b"\n")[2]
    except OSError:
        return False
    return not ended or not (out / "summary.json").exists()


def environment() -> Json:
    """Machine and versions, for the report."""
    libraries = {}
    for name in _LIBRARIES:
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_name(),
        "cores": (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        ),
        "byte_order": sys.byteorder,
        **libraries,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
