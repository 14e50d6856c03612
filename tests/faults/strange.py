"""Opens unusual files by every entry point, in a process with limited memory (test_strange.py).

Prints a line [name] before each case, and [name, faults] after it. A crash ends the process by a
signal, a hang by faulthandler; the case is then the last name printed. `every_entry`: also
`ingest`, `open_stream`, and commands such as `train`, and every file instead of every second one.
"""

import contextlib
import faulthandler
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import streamtrain.api  # noqa: F401 - imported before memory is limited
from streamtrain.errors import DataError, ResourceError
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.inspect import inspect
from streamtrain.storage.verify import verify
from tests.faults import strange_parquet, strange_zarr
from tests.faults.fuzz import HANG_SECONDS, ingested, limit_memory, values_of

CORPORA = {"parquet": strange_parquet.CASES, "zarr": strange_zarr.CASES}
SPARE_BYTES = 1 << 30


def check_reading(path: Path, expected: strange_parquet.Expected) -> list[str]:
    """Return the faults of opening, reading, `inspect` and `verify` for one file."""
    faults: list[str] = []
    if got := attempt(faults, "read", path, lambda: values_of(path)):
        faults += compare("read", got[0], expected)
    attempt(
        faults,
        "inspect",
        path,
        lambda: json.dumps(inspect(open_shards(str(path))), allow_nan=False),
    )
    is_valid = not isinstance(expected, str)
    for result in attempt(faults, "verify", path, lambda: verify(path, threads=1)):
        json.dumps(result.to_json(), allow_nan=False)
        elsewhere = any(Path(finding.url) != path for finding in result.findings)
        if elsewhere or (is_valid and result.findings):
            faults.append(f"verify: {result.findings}")
    return [fault for fault in faults if is_valid or not fault.startswith("refused")]


def check_commands(path: Path, expected: strange_parquet.Expected, folder: Path) -> list[str]:
    """Return the faults of `open_stream`, `ingest` and the commands for one file.

    Only typed errors with the name of the file are allowed.
    """
    from streamtrain.cli.main import run
    from streamtrain.stream.torch_stream import open_stream

    faults: list[str] = []

    def command(*words: str) -> None:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = run(words)
        named = path.name in said.getvalue() or words[0] == "verify"
        if code not in (0, 3, 4) or (code and not named) or "Traceback" in said.getvalue():
            faults.append(f"{words[0]} ended with {code}: {said.getvalue()[-500:]}")

    def stream() -> np.ndarray:
        minibatches = open_stream(str(path), batch_size=4, memory="64MiB", readers=1)
        rows = np.concatenate([np.concatenate([x, y], axis=1) for x, y in minibatches])
        return rows[np.argsort(rows[:, -1])]

    if got := attempt(faults, "open_stream", path, stream):
        faults += compare("open_stream", got[0], expected)
    if got := attempt(faults, "ingest", path, lambda: ingested(folder)):
        faults += compare("ingest", got[0], expected)
    command("inspect", str(path), "--json")
    command("verify", str(path))
    command(
        "train",
        str(path),
        "--batch-size",
        "4",
        "--hidden",
        "4",
        "--holdout",
        "0.2",
        "--memory",
        "64MiB",
        "-q",
        "-o",
        str(folder / "run"),
    )
    return [fault for fault in faults if not fault.startswith("refused")]


def attempt(faults: list[str], entry: str, path: Path, call: Callable) -> list:
    """Return [the result of the call], or [] when it raises; add the error to `faults`.

    An error that is allowed, typed and with the name of the file, is added as "refused by …".
    """
    try:
        return [call()]
    except (DataError, ResourceError) as error:
        lines = str(error).splitlines()
        named = str(path.parent) in str(error)
        typed = named and all(line.isprintable() for line in lines)
        faults.append(
            f"refused by {entry}: {error}"
            if typed
            else f"{entry}: no file name, or not printable: {error!r}"
        )
    except Exception as error:  # an untyped error is what this test looks for
        faults.append(f"{entry}: {type(error).__name__}: {error}")
    return []


def compare(entry: str, got: np.ndarray, expected: strange_parquet.Expected) -> list[str]:
    """Return the fault of values that are not the expected ones, or that should be refused."""
    if isinstance(expected, str) and expected == strange_parquet.REFUSED:
        return [f"{entry}: not refused: {got[:, 0].tolist()[:20]}"]
    if isinstance(expected, str):
        return []
    wanted = np.stack([expected, np.arange(len(expected))], axis=1).astype(got.dtype)
    equal = got.shape == wanted.shape and np.array_equal(got, wanted, equal_nan=True)
    return [] if equal else [f"{entry}: other values: {got[:, 0].tolist()[:20]}"]


def names_of(format: str, *, every_entry: bool) -> list[str]:
    """Return the names of the files to open: every second one where not by every entry."""
    return list(CORPORA[format])[:: 1 if every_entry else 2]


def open_all(format: str, folder: Path, every_entry: bool) -> None:
    """Open the files of a corpus; print a line before each and one with its faults after it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    (folder / "first").mkdir()
    CORPORA[format]["type_float32"][0](folder / "first" / f"x.{format}")
    values_of(folder / "first" / f"x.{format}")  # memory that libraries keep is not counted
    limit_memory(SPARE_BYTES)
    for name in names_of(format, every_entry=every_entry):
        make, expected = CORPORA[format][name]
        print(json.dumps([name]), flush=True)
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        case_folder = folder / str(abs(hash(name)))
        (case_folder / "data").mkdir(parents=True)
        path = case_folder / "data" / f"x.{format}"
        make(path)
        faults = check_reading(path, expected)
        if every_entry:
            faults += check_commands(path, expected, case_folder)
        print(json.dumps([name, faults]), flush=True)
        faulthandler.cancel_dump_traceback_later()
