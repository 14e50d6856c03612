"""What a child of `test_strange.py` runs: strange files through every door, under a memory limit.

`python -m tests.faults.strange parquet|zarr FOLDER [all]` prints a line [name] before each case,
and [name, faults] after it. A crash ends the process by signal, a hang by faulthandler; the last
name printed is the case. `all`: also `ingest`, `open_stream` and `train` as commands.
"""

import contextlib
import faulthandler
import io
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from streamtrain.errors import DataError, ResourceError
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.inspect import inspect
from streamtrain.storage.verify import verify
from tests.faults import strange_parquet, strange_zarr
from tests.faults.fuzz import HANG_SECONDS, ingested, limit_memory, values_of

CORPORA = {"parquet": strange_parquet.CASES, "zarr": strange_zarr.CASES}
SPARE_BYTES = 1 << 30


def look(path: Path, expected: strange_parquet.Expected) -> list[str]:
    """What is wrong with what opening, reading, `inspect` and `verify` make of one file."""
    faults: list[str] = []
    if got := attempt(faults, "read", path, lambda: values_of(path)):
        faults += judge("read", got[0], expected)
    attempt(
        faults,
        "inspect",
        path,
        lambda: json.dumps(inspect(open_shards(str(path))), allow_nan=False),
    )
    whole = not isinstance(expected, str)
    for found in attempt(faults, "verify", path, lambda: verify(path, threads=1)):
        json.dumps(found.to_json(), allow_nan=False)
        if any(Path(finding.url) != path for finding in found.findings) or (
            whole and found.findings
        ):
            faults.append(f"verify: {found.findings}")
    return [fault for fault in faults if whole or not fault.startswith("refused")]


def look_again(path: Path, expected: strange_parquet.Expected, folder: Path) -> list[str]:
    """The same of the commands, one after the other as a person would type them: only typed errors,
    with the file's name.
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
        rows = np.concatenate(
            [
                np.concatenate([x, y], axis=1)
                for x, y in open_stream(str(path), batch_size=4, memory="64MiB", readers=1)
            ]
        )
        return rows[np.argsort(rows[:, -1])]

    if got := attempt(faults, "open_stream", path, stream):
        faults += judge("open_stream", got[0], expected)
    if got := attempt(faults, "ingest", path, lambda: ingested(folder)):
        faults += judge("ingest", got[0], expected)
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


def attempt(faults: list[str], door: str, path: Path, call: Callable) -> list:
    """[its result], or nothing where it is refused; anything but a typed error with the file's name
    is a fault.
    """
    try:
        return [call()]
    except (DataError, ResourceError) as error:
        lines = str(error).splitlines()
        named = str(path.parent) in str(error)
        typed = named and all(line.isprintable() for line in lines)
        faults.append(
            f"refused by {door}: {error}"
            if typed
            else f"{door}: no name, or no line for a terminal: {error!r}"
        )
    except Exception as error:  # what this is about
        faults.append(f"{door}: {type(error).__name__}: {error}")
    return []


def judge(door: str, got: np.ndarray, expected: strange_parquet.Expected) -> list[str]:
    if isinstance(expected, str):
        return (
            [f"{door}: not refused: {got[:, 0].tolist()[:20]}"]
            if expected == strange_parquet.REFUSED
            else []
        )
    wanted = np.stack([expected, np.arange(len(expected))], axis=1).astype(got.dtype)
    equal = got.shape == wanted.shape and np.array_equal(got, wanted, equal_nan=True)
    return [] if equal else [f"{door}: other values: {got[:, 0].tolist()[:20]}"]


def main(format: str, folder: Path, every_door: bool) -> None:
    (folder / "first").mkdir()
    CORPORA[format]["type_float32"][0](folder / "first" / f"x.{format}")
    values_of(folder / "first" / f"x.{format}")  # what libraries keep is not counted
    limit_memory(SPARE_BYTES)
    for name, (make, expected) in CORPORA[format].items():
        print(json.dumps([name]), flush=True)
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        place = folder / str(abs(hash(name)))
        (place / "data").mkdir(parents=True)
        path = place / "data" / f"x.{format}"
        make(path)
        faults = look(path, expected)
        if every_door:
            faults += look_again(path, expected, place)
        print(json.dumps([name, faults]), flush=True)
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if "all" in sys.argv:
        import torch  # before memory is limited

        import streamtrain.api  # noqa: F401

        torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]), "all" in sys.argv)
