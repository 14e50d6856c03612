"""The directory of a run: its log, checkpoints and documents.

A directory is made once and never over other files; an interrupted run is resumed in its own.
"""

import fcntl
import hashlib
import json
import os
import warnings
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import yaml

from streamtrain.base.atomic_files import (
    refuse_link,
    remove_temporaries,
    sync_folder,
    write_atomically,
    write_whole,
)
from streamtrain.base.interrupt import Interrupt
from streamtrain.base.redact import NO_SECRETS, Secrets
from streamtrain.base.untrusted import parse_json
from streamtrain.base.utf8_names import refuse_other_encodings
from streamtrain.base.writing import naming_path
from streamtrain.config import RESOLVED, Config
from streamtrain.errors import ConfigError, DataError, ResourceError, RunInUse
from streamtrain.records import (
    MAX_LOG_BYTES,
    Emit,
    Evaluation,
    NewerLog,
    QuarantineChanged,
    Record,
    RunEnded,
    RunStarted,
    parse_record,
    started_record,
    to_json,
)
from streamtrain.records.texts import map_texts
from streamtrain.run.environment import environment
from streamtrain.storage.foreign.foreign_source import absolute_source
from streamtrain.training.checkpoint import Mark, list_checkpoints
from streamtrain.training.checkpointing import Checkpointer, refusing_damage
from streamtrain.training.fingerprint import check_unchanged, config_fingerprint
from streamtrain.types import Json

#: The parts of `environment` that the exact bits of a run depend on, besides its fingerprint.
_EXACT = ("python", "cpu", "streamtrain", "torch", "numpy", "numba")

EVENTS = "events.jsonl"
CHECKPOINTS = "checkpoints"

#: Subfolders of a run.
_FOLDERS = (CHECKPOINTS, "best", "charts", "tensorboard")

#: How the first line of every log starts.
_FIRST_BYTES = b'{"event": "run"'

#: Bytes at the end of a log that are searched for its last record; an `end` record is far shorter.
_TAIL_BYTES = 65_536

_CONFIG_HEADER = (
    "# The whole configuration of this run. To repeat it: `streamtrain sweep -c` or `train -c` this"
    " file.\n"
)


class RunDirectory:
    """The log of one run and the files beside it; `training.checkpointing.Events` by its methods.

    Use it as a context manager: `with RunDirectory(out) as run: run.log(record)`. One thread
    writes, and one process at a time: the log is locked. When `log` returns, a record has been
    passed to the operating system; after `mark` it is on the disk.

    A new folder is made and locked at once, so that of two runs started together only one gets it.
    If no record was logged when the run ends, the folder is removed: a run that is refused leaves
    nothing behind.

    `resume`: the folder may hold an interrupted run. It is continued by `Checkpointer.begin`, or
    started again if it has no checkpoint yet. `on_record` receives every record when it is logged,
    and the records of an interrupted run when it is resumed. `secrets` are hidden in all of them.

    Raises ConfigError when the folder has anything else in it, because nothing is ever overwritten;
    RunInUse when another process has the run open; DataError when an interrupted run has lost its
    checkpoints; ResourceError when the folder cannot be written.
    """

    def __init__(
        self,
        out: Path,
        *,
        resume: bool = False,
        on_record: Emit | None = None,
        secrets: Secrets = NO_SECRETS,
    ):
        refuse_other_encodings(out)
        self.out = out
        self.records: list[Record] = []
        self.on_record = on_record
        self._secrets = secrets
        self._made: list[Path] = []
        self._file: int | None = None
        self._num_bytes = 0
        self._hash = hashlib.sha256()
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            if not resume:
                remedy = (
                    "resume it with --resume auto" if is_interrupted(out) else "remove the folder"
                )
                raise ConfigError(
                    f"{out} is not empty, and nothing is overwritten. Choose another --out, or"
                    f" {remedy}."
                )
            self._reopen()
        else:
            self._claim()

    @property
    def finished(self) -> bool:
        """Whether the run in this directory is complete and has its report."""
        return (
            bool(self.records)
            and isinstance(self.records[-1], RunEnded)
            and (self.out / "summary.json").exists()
        )

    def check_config(self, verb: str, config: Config) -> None:
        """Check that a run in this directory had this verb and config.

        Raises ConfigError with each difference. A new directory passes.
        """
        if not self.records:
            return
        header = started_record(self.records[0])
        check_unchanged(
            self.out,
            {"verb": header.verb, **config_fingerprint(header.config)},
            {"verb": verb, **config_fingerprint(config)},
        )

    def saving(self, config: Config, interrupt: Interrupt) -> Checkpointer:
        """Return the checkpointer of this run."""
        versions = environment()
        return Checkpointer(
            self.out / CHECKPOINTS,
            self,
            versions={name: versions[name] for name in _EXACT if name in versions},
            keep=config.checkpoint.keep,
            every_seconds=config.checkpoint.every_seconds,
            same_data=config.checkpoint.same_data,
            interrupt=interrupt,
        )

    def log(self, record: Record) -> None:
        """Append one line to `events.jsonl`.

        The first record, `run`, also writes the config, env and data files, and empties a log that
        has no checkpoint.
        """
        record = map_texts(record, self._secrets.hide)
        if isinstance(record, RunStarted):
            self._start()
        self.records.append(record)
        line = json.dumps(record.to_json(), allow_nan=False).encode() + b"\n"
        self._num_bytes += len(line)
        self._hash.update(line)
        with naming_path(self.out, "Free some space, then continue with --resume auto."):
            write_whole(self._log_file, line)
            if isinstance(record, RunStarted):
                config = yaml.safe_dump(_with_absolute_paths(record.config), sort_keys=False)
                write_atomically(self.out / RESOLVED, (_CONFIG_HEADER + config).encode())
                self._write_json("env.json", record.env)
                self._write_json("data.json", to_json(record.data))
            if isinstance(record, QuarantineChanged):
                self._write_json("quarantine.json", record.to_json())
        if self.on_record is not None:
            self.on_record(record)

    def mark(self) -> Mark:
        """See `Events.mark`."""
        os.fsync(self._log_file)
        return Mark(bytes=self._num_bytes, sha256=self._hash.hexdigest())

    def check(self, mark: Mark) -> None:
        """See `Events.check`."""
        if hashlib.sha256(self._read(mark.bytes)).hexdigest() != mark.sha256:
            raise DataError(
                f"{self.out / EVENTS}: its first {mark.bytes:,} bytes are not those that were"
                " logged"
            )

    def rewind(self, mark: Mark) -> list[Record]:
        """See `Events.rewind`."""
        kept = self._read(mark.bytes)
        os.ftruncate(self._log_file, len(kept))
        os.lseek(self._log_file, 0, os.SEEK_END)
        os.fsync(self._log_file)
        self._num_bytes = len(kept)
        self._hash = hashlib.sha256(kept)
        with refusing_damage():
            self.records[:] = (parse_record(parse_json(line)) for line in kept.splitlines())
        self._remove_temporaries()
        (self.out / "summary.json").unlink(missing_ok=True)  # an interim report; see `finished`
        if self.on_record is not None:
            with refusing_damage():
                for record in self.records:
                    self.on_record(record)
        return list(self.records)

    @property
    def _log_file(self) -> int:
        """The file descriptor of the log, which is open from the first record on."""
        if self._file is None:
            raise RuntimeError(f"{self.out / EVENTS} is not open")
        return self._file

    def _claim(self) -> None:
        """Make the folder with an empty log, and lock it."""
        self._made = [folder for folder in (self.out, *self.out.parents) if not folder.exists()]
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            try:
                self._open(os.O_CREAT | os.O_EXCL)
            except (FileExistsError, FileNotFoundError):
                # another run has just made the log, or was refused and has removed the folder
                raise self._in_use() from None
            sync_folder(self.out)
        except OSError as error:
            self._remove_empty()
            self._close()
            raise ResourceError(
                f"{self.out}: cannot be written ({error.strerror}). Choose another --out."
            ) from None

    def _start(self) -> None:
        """Start with an empty log, also over one without a checkpoint."""
        self.records.clear()
        self._num_bytes = 0
        self._hash = hashlib.sha256()
        if os.fstat(self._log_file).st_size:
            warnings.warn(
                f"{self.out} was interrupted before its first checkpoint; it starts again.",
                stacklevel=4,
            )
            os.ftruncate(self._log_file, 0)
            os.lseek(self._log_file, 0, os.SEEK_SET)
        self._remove_temporaries()

    def _write_json(self, name: str, document: Json) -> None:
        write_atomically(self.out / name, json.dumps(document, indent=2).encode() + b"\n")

    def _remove_temporaries(self) -> None:
        """Remove the files that a killed process was writing."""
        for name in ("", *_FOLDERS):
            remove_temporaries(self.out / name, within=self.out)

    def _reopen(self) -> None:
        """Open the log of an earlier run, and read the records up to the first damaged line."""
        if not (self.out / EVENTS).is_file():
            raise ConfigError(
                f"{self.out} is not empty and holds no run ({EVENTS} is missing). Choose another"
                " --out."
            )
        for name in _FOLDERS:
            refuse_link(self.out / name)
        self._open(0)
        if (num_bytes := os.fstat(self._log_file).st_size) > MAX_LOG_BYTES:
            self._close()
            raise DataError(
                f"{self.out / EVENTS}: it has {num_bytes:,} bytes; the limit is {MAX_LOG_BYTES:,}."
                " It is not what streamtrain wrote. Restore it, or choose another --out."
            )
        content = self._read(num_bytes)
        for line in content.splitlines(keepends=True):
            try:
                record = parse_record(parse_json(line))
            except NewerLog as error:
                self._close()
                raise DataError(f"{self.out / EVENTS}: {error}.") from None
            except (ValueError, TypeError, AttributeError):
                continue
            if line.endswith(b"\n") and (self.records or isinstance(record, RunStarted)):
                self.records.append(record)
        # The first line may have been cut short by a kill, but even then it starts like ours.
        if not self.records and content[: len(_FIRST_BYTES)] != _FIRST_BYTES[: len(content)]:
            self._close()
            raise ConfigError(
                f"{self.out} is not empty, and its {EVENTS} is not the log of a run. Choose another"
                " --out."
            )
        checkpoints = list_checkpoints(self.out / CHECKPOINTS)
        if not self.finished and self._has_trained() and not checkpoints:
            self._close()
            raise DataError(
                f"{self.out}: its checkpoints are missing, so it cannot be resumed. Restore"
                f" {CHECKPOINTS}/, or start again with another --out."
            )

    def _has_trained(self) -> bool:
        return any(isinstance(record, Evaluation) and record.rows for record in self.records)

    def _open(self, flags: int) -> None:
        """Open the log and lock it, so that no other process writes to this run."""
        refuse_link(self.out / EVENTS)
        flags |= os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(self.out / EVENTS, flags, 0o666)
        self._file = file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._close()
            raise self._in_use() from None
        except OSError:  # a file system without locks
            pass
        if not self._is_in_place(file):  # a refused run removed it between the two calls
            self._close()
            raise self._in_use()

    def _is_in_place(self, file: int) -> bool:
        try:
            return os.path.samestat(os.stat(self.out / EVENTS), os.fstat(file))
        except FileNotFoundError:
            return False

    def _in_use(self) -> RunInUse:
        return RunInUse(
            f"{self.out}: another process is using this run. Wait until it ends, or choose"
            " another --out."
        )

    def _read(self, num_bytes: int) -> bytes:
        """Return the first bytes of the log, or fewer where it is shorter."""
        parts, offset = [], 0
        while offset < num_bytes:
            part = os.pread(self._log_file, num_bytes - offset, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _remove_empty(self) -> None:
        """Remove the empty log, and the folders that were made for it, while the log is locked."""
        with suppress(OSError):
            if self._file is not None:
                os.unlink(self.out / EVENTS)
            for folder in self._made:
                os.rmdir(folder)

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None and not os.fstat(self._file).st_size:
            self._remove_empty()
        elif self._file is not None and kind is None:
            os.fsync(self._file)
        self._close()


def is_interrupted(out: Path) -> bool:
    """Whether there is a log that lacks its last record, or the report is missing.

    The report alone does not decide it, since an interrupted run may have a partial one.
    """
    try:
        if not (out / EVENTS).is_file():
            return False
        with open(out / EVENTS, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            last_line = file.read().rstrip(b"\n").rpartition(b"\n")[2]
    except OSError:
        return False
    return b'"event": "end"' not in last_line or not (out / "summary.json").exists()


def _with_absolute_paths(config: Json) -> Json:
    """Return a config whose data are found from any folder, for those who start from its file."""
    data = config.get("data") or {}
    paths = {key: absolute_source(data[key]) for key in ("path", "eval_data") if data.get(key)}
    return {**config, "data": {**data, **paths}}
