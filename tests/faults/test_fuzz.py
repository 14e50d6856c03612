"""Damaged data in child processes with limited memory: no crash, no hang, no untyped error.

Where a hash or a checksum covers the data, no wrong values either. The corpora are in `fuzz.py`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.fuzz import CORPORA

ROOT = Path(__file__).parents[2]

#: Corpora without hash or checksum: they may give other values, and `verify` and the report call
#: them unverified.
UNVOUCHED = {"foreign_parquet", "plain_parquet", "foreign_footer", "foreign_zarr", "zarr_metadata"}


def fuzz(
    corpora: list[str], seed: int, cases: int, folder: Path, timeout: float
) -> dict[str, dict[str, int]]:
    command = [
        sys.executable,
        "-m",
        "tests.faults.fuzz",
        ",".join(corpora),
        str(seed),
        str(cases),
        str(folder),
    ]
    child = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=timeout
    )
    assert child.returncode == 0, (
        f"{corpora} {seed}: the process ended with {child.returncode}: {child.stderr[-3000:]}"
    )
    found = json.loads(child.stdout)
    assert list(found) == corpora
    for corpus, outcomes in found.items():
        wrong = {
            outcome
            for outcome in outcomes
            if outcome not in {"refused", "equal"} | ({"other"} if corpus in UNVOUCHED else set())
        }
        assert not wrong, f"{corpus} {seed}: {outcomes}"
        assert outcomes["refused"] >= sum(outcomes.values()) // 8
    return found


@pytest.mark.parametrize("part", range(2))
def test_damaged_data_is_refused_or_read_right(part: int, tmp_path: Path) -> None:
    for outcomes in fuzz(list(CORPORA)[part::2], 0, 60, tmp_path, timeout=300).values():
        assert sum(outcomes.values()) >= 40


def test_a_footer_cut_at_every_offset_is_refused(tmp_path: Path) -> None:
    (outcomes,) = fuzz(["footer_cuts"], 0, 10**6, tmp_path, timeout=300).values()
    assert list(outcomes) == ["refused"]
    assert outcomes["refused"] > 250


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize(
    "corpus",
    [
        corpus
        for corpus in CORPORA
        if corpus not in ("footer_cuts", "row_counts", "row_counts_plain")
    ],
)
def test_much_damaged_data_is_refused_or_read_right(corpus: str, seed: int, tmp_path: Path) -> None:
    (outcomes,) = fuzz([corpus], seed, 3000, tmp_path, timeout=3600).values()
    assert sum(outcomes.values()) == 3000
