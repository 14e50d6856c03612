"""A run's directory: made once, never over another run; records are appended as they come."""

import json
import os
import platform
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TextIO

import yaml

from streamtrain.errors import ConfigError, ResourceError
from streamtrain.files import write_atomically
from streamtrain.types import Record

_LIBRARIES = ("streamtrain", "torch", "numpy", "numba", "dask", "pyarrow", "zarr", "zarrs")


class RunDirectory:
    """Use as a context: `with RunDirectory(out) as run: run.log(record)`. One thread writes.

    Raises ConfigError when the folder has something in it: nothing is ever overwritten.
    """

    def __init__(self, out: Path):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"{out} is not empty, and nothing is overwritten. Choose another --out, or remove it.")
        self.out = out
        self.records: list[Record] = []
        self._events: TextIO | None = None

    def log(self, record: Record) -> None:
        """Append one line to `events.jsonl`. The first one, `run`, makes the folder and its config, env and data files.

        So a run that is refused before its first record leaves nothing behind.
        """
        if self._events is None:
            self._events = self._create()
        self.records.append(record)
        self._events.write(json.dumps(record, allow_nan=False) + "\n")
        if record["event"] == "run":
            self._events.flush()
            schema = "# The whole configuration of this run: `streamtrain sweep -c` or `train -c` this file to repeat it.\n"
            write_atomically(self.out / "config.resolved.yaml", (schema + yaml.safe_dump(record["config"], sort_keys=False)).encode())
            for name in ("env", "data"):
                write_atomically(self.out / f"{name}.json", json.dumps(record[name], indent=2).encode() + b"\n")

    def _create(self) -> TextIO:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            return open(self.out / "events.jsonl", "x", encoding="utf-8")
        except OSError as error:
            raise ResourceError(f"{self.out}: cannot be written ({error.strerror}). Choose another --out.") from None

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._events is not None:
            self._events.close()


def default_out(verb: str) -> Path:
    """`runs/<verb>-<date>-<n>`: the first that does not exist."""
    number = 1
    while (out := Path("runs") / f"{verb}-{date.today().isoformat()}-{number}").exists():
        number += 1
    return out


def environment() -> Record:
    """Machine and versions, for the report."""
    libraries = {}
    for name in _LIBRARIES:
        try:
            libraries[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(), "system": f"{platform.system()} {platform.release()}", "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "byte_order": sys.byteorder, **libraries,
    }  # fmt: skip


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
