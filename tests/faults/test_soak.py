"""Many epochs with reads that fail and are slow: every receipt is right, and nothing grows."""

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
    arguments = [format, str(rows), str(epochs), str(folder)]
    command = [sys.executable, "-m", "tests.faults.soak", *arguments]
    child = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60 + 5 * epochs
    )
    assert child.returncode == 0, child.stderr[-3000:]
    reports = [json.loads(line) for line in child.stdout.splitlines()]
    assert len(reports) == epochs
    digest = int(hash_array(np.arange(rows), int(RECEIPT_KEY)).sum(dtype=np.uint64))
    for report in reports:
        assert report["count"] == rows
        assert report["receipt"] == {
            "count": rows,
            "digest": f"{digest:016x}",
            "dropped": 0,
            "quarantined": 0,
        }
    settled, late = reports[epochs // 3 : epochs // 2], reports[-epochs // 5 :]
    for name in ("files", "threads"):
        assert max(report[name] for report in late) <= max(report[name] for report in settled)
    settled_bytes, late_bytes = (
        np.median([report["rss_bytes"] for report in part]) for part in (settled, late)
    )
    growth = late_bytes - settled_bytes
    assert growth < most_growth_bytes, f"{growth:,.0f} bytes"
    assert reports[-1]["failures"] > epochs


@pytest.mark.parametrize("format", ["parquet", pytest.param("zarr", marks=pytest.mark.slow)])
def test_thirty_epochs_over_an_unreliable_reader(format: str, tmp_path: Path) -> None:
    soak(format, 4000, 30, tmp_path, most_growth_bytes=8 << 20)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_thousand_epochs_over_an_unreliable_reader(format: str, tmp_path: Path) -> None:
    soak(format, 100_000, 1000, tmp_path, most_growth_bytes=16 << 20)
