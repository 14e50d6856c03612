"""Unusual and corrupt Parquet and Zarr files, like those of public corpora.

Every entry point returns the correct values, or raises one typed error with the name of the file.
The files are defined in `strange_parquet.py` and `strange_zarr.py`.
"""

import json
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from tests.faults.strange import CORPORA, names_of, open_all
from tests.forked import run_forked


def check_all(forked: ForkServerContext, format: str, folder: Path, *, every_entry: bool) -> None:
    """Run `open_all` in a child process; fail for any fault it prints."""
    child = run_forked(forked, folder, open_all, format, folder, every_entry, timeout=1800)
    printed = [json.loads(line) for line in child.out.splitlines()]
    assert child.code == 0, (
        f"{printed[-1:]}: the process ended with {child.code}: {child.err[-3000:]}"
    )
    results = {line[0]: line[1] for line in printed if len(line) == 2}
    assert list(results) == names_of(format, every_entry=every_entry)
    assert {name: faults for name, faults in results.items() if faults} == {}


@pytest.mark.parametrize("format", list(CORPORA))
def test_strange_files_are_read_right_or_refused_in_one_line(
    forked, format: str, tmp_path: Path
) -> None:
    assert len(CORPORA[format]) > 200
    check_all(forked, format, tmp_path, every_entry=False)


@pytest.mark.slow
@pytest.mark.parametrize("format", list(CORPORA))
def test_strange_files_by_every_door(forked, format: str, tmp_path: Path) -> None:
    check_all(forked, format, tmp_path, every_entry=True)
