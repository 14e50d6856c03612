"""Small machines: few descriptors, thousands of tiny shards, little memory, decompression bombs.

Each works, or the error names the limit.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from data_gen import generate
from tests.faults.run_output import left_over, timeless_records, weights
from tests.faults.small_machine import Job, few_descriptors, no_descriptor, read_all, spare
from tests.forked import run_forked

ROOT = Path(__file__).parents[2]


@pytest.fixture
def child(forked: ForkServerContext, tmp_path_factory) -> Callable[..., list[dict]]:
    """`child(job, …)` returns the result of each job, all in one process."""

    def call(*jobs: Job) -> list[dict]:
        ended = run_forked(forked, tmp_path_factory.mktemp("said"), read_all, list(jobs))
        assert ended.code == 0, f"ended with {ended.code}: {ended.err[-3000:]}"
        return [json.loads(line) for line in ended.out.splitlines()]

    return call


@pytest.mark.parametrize("shards", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_many_tiny_shards_need_few_descriptors(child, tmp_path: Path, shards: int) -> None:
    for number in range(shards):
        pq.write_table(
            pa.table({"a": np.full(3, number, np.float32), "y": np.ones(3, np.float32)}),
            tmp_path / f"{number:04}.parquet",
        )
    works, named = child(
        (few_descriptors, tmp_path, {"window_rows": shards}),
        (no_descriptor, tmp_path, {}),
    )
    assert works["rows"] == 3 * shards
    assert named["code"] in (3, 4)
    assert "Too many open files" in named["error"]


def train(
    data: Path, out: Path, *words: str, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess:
    command = [*prefix, sys.executable, "-m", "streamtrain", "train", str(data), *words]
    command += ["-o", str(out), "--memory", "256MiB", "-q"]
    return subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_a_whole_run_with_64_descriptors_and_no_shared_memory(tmp_path: Path) -> None:
    generate(tmp_path / "data", rows=8_000, span_rows=1)  # 500 shards
    prefix = (
        "prlimit",
        "--nofile=64",
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs -o size=4k none /dev/shm && exec "$@"',
        "sh",
    )
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    done = train(tmp_path / "data", tmp_path / "out", "--holdout", "100", prefix=prefix)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_disk_that_fills_up_costs_no_row(tmp_path: Path) -> None:
    """A real disk has room for two checkpoints of 0.8 MB; with more room the run resumes."""
    generate(tmp_path / "data", rows=40_000, span_rows=4000)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)],
        check=False,
        capture_output=True,
    ).returncode:
        pytest.skip("mounting is not allowed here")
    words = (
        "--hidden=256,256",
        "--holdout=1000",
        "--batch-size=64",
        "--epochs=6",
        "--window-rows=8000",
    )
    try:
        full = train(tmp_path / "data", disk / "out", *words)
        assert full.returncode == 4
        assert "No space left on device" in full.stderr
        assert "Traceback" not in full.stderr
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert train(tmp_path / "data", disk / "out", *words).returncode == 0
        assert train(tmp_path / "data", tmp_path / "whole", *words).returncode == 0
        assert timeless_records(disk / "out") == timeless_records(tmp_path / "whole")
        assert weights(disk / "out") == weights(tmp_path / "whole")
        assert left_over(disk / "out") == []
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_bombs(child, tmp_path: Path) -> None:
    rows = 6_000_000  # 72 MB decoded, in one row group
    values = pa.array(np.full(rows, 1.5, np.float32))
    pq.write_table(
        pa.table({"a": values, "b": values, "y": values}),
        tmp_path / "bomb.parquet",
        row_group_size=rows,
    )
    options = {"chunks": (5_000_000, 3), "dtype": "float32", "config": {"write_empty_chunks": True}}
    chunk = zarr.create_array(tmp_path / "bomb.zarr", shape=(1000, 3), **options)
    chunk[:] = 0
    noise = np.random.default_rng(0).normal(size=(3, 2_000_000)).astype(np.float32)
    pq.write_table(
        pa.table(list(noise), names=["a", "b", "y"]),
        tmp_path / "large.parquet",
        row_group_size=2_000_000,
    )
    assert (tmp_path / "bomb.parquet").stat().st_size < 1 << 20
    assert (
        sum(file.stat().st_size for file in (tmp_path / "bomb.zarr").rglob("*") if file.is_file())
        < 1 << 20
    )
    sliced, refused, out = child(
        (
            partial(spare, 600),
            tmp_path / "bomb.parquet",
            {"memory": "128MiB", "window_rows": 500_000},
        ),
        (partial(spare, 600), tmp_path / "bomb.zarr", {"memory": "128MiB"}),
        # it fits the --memory that was promised, but the machine has less
        (
            partial(spare, 30),
            tmp_path / "large.parquet",
            {"memory": "8GiB", "window_rows": 2_000_000},
        ),
    )
    assert sliced["rows"] == rows  # read in slices
    assert refused["code"] == 4
    assert "Raise --memory" in refused["error"]
    assert out["code"] == 4  # never a crash
