"""Files as public corpora of odd and corrupt Parquet and Zarr have them: right values or one typed
error with the file's name, by every door.

`strange_parquet.py` and `strange_zarr.py` say what each file is.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.strange import CORPORA

ROOT = Path(__file__).parents[2]


def look(format: str, folder: Path, *words: str) -> None:
    command = [sys.executable, "-m", "tests.faults.strange", format, str(folder), *words]
    child = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=1800
    )
    told = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0, (
        f"{told[-1:]}: the process ended with {child.returncode}: {child.stderr[-3000:]}"
    )
    done = {line[0]: line[1] for line in told if len(line) == 2}
    assert list(done) == list(CORPORA[format])
    assert {name: faults for name, faults in done.items() if faults} == {}


@pytest.mark.parametrize("format", list(CORPORA))
def test_strange_files_are_read_right_or_refused_in_one_line(format: str, tmp_path: Path) -> None:
    assert len(CORPORA[format]) > 200
    look(format, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("format", list(CORPORA))
def test_strange_files_by_every_door(format: str, tmp_path: Path) -> None:
    look(format, tmp_path, "all")
