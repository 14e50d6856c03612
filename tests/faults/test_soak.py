"""Many epochs with reads that fail and are slow: every receipt is right, and nothing grows."""

import json
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest

from streamtrain.plan.order import hash_array
from streamtrain.stream.window import RECEIPT_KEY
from streamtrain.types import Format
from tests.faults.soak import soak
from tests.forked import run_forked

FORMATS: list[Format] = ["parquet", "zarr"]


def check(
    forked: ForkServerContext,
    format: Format,
    rows: int,
    epochs: int,
    folder: Path,
    most_growth_bytes: int,
) -> None:
    child = run_forked(forked, folder, soak, format, rows, epochs, folder, timeout=60 + 5 * epochs)
    assert child.code == 0, child.err[-3000:]
    reports = [json.loads(line) for line in child.out.splitlines()]
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
def test_fifty_epochs_over_an_unreliable_reader(forked, format: Format, tmp_path: Path) -> None:
    check(forked, format, 4000, 50, tmp_path, most_growth_bytes=8 << 20)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_thousand_epochs_over_an_unreliable_reader(
    forked, format: Format, tmp_path: Path
) -> None:
    check(forked, format, 100_000, 1000, tmp_path, most_growth_bytes=16 << 20)
