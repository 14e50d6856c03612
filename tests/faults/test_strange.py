"""Unusual and corrupt Parquet and Zarr files, like those of public corpora.

Every entry point returns the correct values, or raises one typed error with the name of the file.
The files are defined in `strange_parquet.py` and `strange_zarr.py`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.strange import CORPORA

ROOT = Path(__file__).parents[2]


def check_all(format: str, folder: Path, *words: str) -> None:
    """Run `tests.faults.strange` in a child process; fail for any fault it prints."""
    command = [sys.executable, "-m", "tests.faults.strange", format, str(folder), *words]
    child = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=1800
    )
    printed = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0, (
        f"{printed[-1:]}: the process ended with {child.returncode}: {child.stderr[-3000:]}"
    )
    results = {line[0]: line[1] for line in printed if len(line) == 2}
    assert list(results) == list(CORPORA[format])
    assert {name: faults for name, faults in results.items() if faults} == {}


@pytest.mark.parametrize("format", list(CORPORA))
def test_strange_files_are_read_right_or_refused_in_one_line(format: str, tmp_path: Path) -> None:
    assert len(CORPORA[format]) > 200
    check_all(format, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("format", list(CORPORA))
def test_strange_files_by_every_door(format: str, tmp_path: Path) -> None:
    check_all(format, tmp_path, "all")
