"""Damaged data in child processes with limited memory: no crash, no hang, no untyped error.

Where a hash or a checksum covers the data, no wrong values either. The corpora are in `fuzz.py`.
"""

import json
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from tests.faults.fuzz import CORPORA, fuzz
from tests.forked import run_forked

#: Corpora without hash or checksum: they may give other values, and `verify` and the report call
#: them unverified.
UNVOUCHED = {"foreign_parquet", "plain_parquet", "foreign_footer", "foreign_zarr", "zarr_metadata"}


def check(
    forked: ForkServerContext,
    corpora: list[str],
    seed: int,
    cases: int,
    folder: Path,
    timeout: float = 300,
) -> dict[str, dict[str, int]]:
    child = run_forked(forked, folder, fuzz, corpora, seed, cases, folder, timeout=timeout)
    assert child.code == 0, (
        f"{corpora} {seed}: the process ended with {child.code}: {child.err[-3000:]}"
    )
    found = json.loads(child.out)
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
def test_damaged_data_is_refused_or_read_right(forked, part: int, tmp_path: Path) -> None:
    for outcomes in check(forked, list(CORPORA)[part::2], 0, 40, tmp_path).values():
        assert sum(outcomes.values()) >= 27


def test_a_footer_cut_at_every_offset_is_refused(forked, tmp_path: Path) -> None:
    (outcomes,) = check(forked, ["footer_cuts"], 0, 10**6, tmp_path).values()
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
def test_much_damaged_data_is_refused_or_read_right(
    forked, corpus: str, seed: int, tmp_path: Path
) -> None:
    (outcomes,) = check(forked, [corpus], seed, 3000, tmp_path, timeout=3600).values()
    assert sum(outcomes.values()) == 3000
