"""Fifty epochs with reads that fail and dawdle: every receipt right, and nothing grows."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from streamtrain.plan.order import hash_array
from streamtrain.stream.window import RECEIPT_KEY

ROOT = Path(__file__).parents[2]
FORMATS = ["parquet", "zarr"]


def soak(format: str, rows: int, epochs: int, folder: Path, most_growth_bytes: int) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.faults.soak",
        format,
        str(rows),
        str(epochs),
        str(folder),
    ]
    child = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60 + 5 * epochs
    )
    assert child.returncode == 0, child.stderr[-3000:]
    told = [json.loads(line) for line in child.stdout.splitlines()]
    assert len(told) == epochs
    digest = int(hash_array(np.arange(rows), int(RECEIPT_KEY)).sum(dtype=np.uint64))
    for epoch in told:
        assert epoch["count"] == rows
        assert epoch["receipt"] == {
            "count": rows,
            "digest": f"{digest:016x}",
            "dropped": 0,
            "quarantined": 0,
        }
    settled, late = told[epochs // 3 : epochs // 2], told[-epochs // 5 :]
    assert max(each["files"] for each in late) <= max(each["files"] for each in settled)
    assert max(each["threads"] for each in late) <= max(each["threads"] for each in settled)
    growth = np.median([each["rss_bytes"] for each in late]) - np.median(
        [each["rss_bytes"] for each in settled]
    )
    assert growth < most_growth_bytes, f"{growth:,.0f} bytes"
    assert told[-1]["failures"] > epochs


@pytest.mark.parametrize("format", FORMATS)
def test_fifty_epochs_over_an_unreliable_reader(format: str, tmp_path: Path) -> None:
    soak(format, 4000, 50, tmp_path, most_growth_bytes=8 << 20)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_thousand_epochs_over_an_unreliable_reader(format: str, tmp_path: Path) -> None:
    soak(format, 100_000, 1000, tmp_path, most_growth_bytes=16 << 20)
