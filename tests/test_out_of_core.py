"""Data larger than memory, in separate processes: the limit holds, and every row is used."""

import json
import subprocess
import sys

import pytest

from data_gen import generate


def train(data, out, *flags: str, prefix: tuple[str, ...] = ()) -> dict[str, dict]:
    """Run `streamtrain train` and return its records by event."""
    command = [*prefix, sys.executable, "-m", "streamtrain", "train", data, *flags]
    command += ["--out", out, "--progress", "none", "--no-report"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {
        record["event"]: record
        for record in map(json.loads, (out / "events.jsonl").read_text().splitlines())
    }


@pytest.mark.parametrize("times", [4, pytest.param(10, marks=pytest.mark.slow)])
def test_data_of_several_times_the_memory(tmp_path, times):
    """The run may use 64 MiB; a row has 20 bytes."""
    rows = times * 3_400_000
    generate(tmp_path / "data", kind="linear", rows=rows, span_rows=65_536)
    flags = (
        "--memory=64MiB --window-rows=262144 --span-rows=65536 --batch-size=65536 --hidden="
        " --holdout=65536"
    )
    records = train(tmp_path / "data", tmp_path / "run", *flags.split())
    end, one_pass = records["end"], records["pass"]
    assert end["projected_bytes"] <= 64 * 2**20
    assert end["peak_rss_bytes"] <= end["projected_bytes"]
    assert one_pass["receipt"]["count"] == rows - 65_536


@pytest.mark.slow
def test_200_million_rows_under_prlimit(tmp_path):
    """4 GB of rows with a data segment of at most 2 GB.

    `pytest -m slow tests/test_out_of_core.py`, about two minutes, 4 GB of disk.
    """
    generate(tmp_path / "data", kind="friedman2", rows=200_000_000)
    records = train(
        tmp_path / "data",
        tmp_path / "run",
        "--memory=512MiB",
        "--batch-size=4096",
        prefix=("prlimit", "--data=2147483648"),
    )
    assert records["end"]["peak_rss_bytes"] <= records["end"]["projected_bytes"] <= 512 * 2**20
    assert records["pass"]["receipt"]["count"] == 200_000_000 - 131_072


@pytest.mark.slow
@pytest.mark.parametrize("format", ["parquet", "zarr"])
def test_open_chains_are_in_the_projection(tmp_path, format):
    """With windows of 32 Ki rows, eight row groups or chunks of 512 Ki rows are open at a time."""
    generate(tmp_path / "data", kind="linear", rows=2**22, span_rows=2**19, format=format)
    flags = (
        "--memory=1GiB --window-rows=32768 --batch-size=65536 --hidden= --holdout=4096 --epochs=2"
    )
    records = train(tmp_path / "data", tmp_path / "run", *flags.split())
    assert records["end"]["peak_rss_bytes"] <= records["end"]["projected_bytes"]
    assert records["pass"]["receipt"]["count"] == 2 * (2**22 - 4096)
