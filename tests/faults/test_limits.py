"""Small machines: few descriptors, thousands of tiny shards, little memory, decompression bombs.

Each works, or the error names the limit.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from data_gen import generate
from tests.faults.run_output import left_over, timeless_records, weights

ROOT = Path(__file__).parents[2]

#: Runs jobs (limit, path, flags) one after another: opens a stream, iterates it, and prints a line
#: with the result or the error.
CHILD = """
import json, os, resource, sys
import torch
from streamtrain.cli.main import explain
from streamtrain.stream.torch_stream import open_stream
torch.set_num_threads(1)

def spare(megabytes):
    used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), -1))

for limit, path, flags in json.loads(sys.argv[1]):
    exec(limit)
    try:
        stream = open_stream(path, batch_size=4096, readers=1, **flags)
        rows = sum(len(x) for x, _ in stream)
        print(json.dumps({"rows": rows, "receipt": stream.receipt().to_json()}))
    except Exception as error:
        print(json.dumps(dict(zip(("code", "error"), explain(error)))))
    stream = None
"""
DESCRIPTORS = "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"


def child(*jobs: tuple[str, Path, dict]) -> list[dict]:
    arguments = json.dumps([(limit, str(path), flags) for limit, path, flags in jobs])
    done = subprocess.run(
        [sys.executable, "-c", CHILD, arguments],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-3000:]}"
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("shards", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_many_tiny_shards_need_few_descriptors(tmp_path: Path, shards: int) -> None:
    for number in range(shards):
        pq.write_table(
            pa.table({"a": np.full(3, number, np.float32), "y": np.ones(3, np.float32)}),
            tmp_path / f"{number:04}.parquet",
        )
    works, named = child(
        (DESCRIPTORS, tmp_path, {"window_rows": shards}),
        (
            "held = []\ntry:\n    while True: held.append(os.dup(1))\nexcept OSError: pass",
            tmp_path,
            {},
        ),
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


def test_bombs(tmp_path: Path) -> None:
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
        ("spare(600)", tmp_path / "bomb.parquet", {"memory": "128MiB", "window_rows": 500_000}),
        ("spare(600)", tmp_path / "bomb.zarr", {"memory": "128MiB"}),
        # it fits the --memory that was promised, but the machine has less
        ("spare(30)", tmp_path / "large.parquet", {"memory": "8GiB", "window_rows": 2_000_000}),
    )
    assert sliced["rows"] == rows  # read in slices
    assert refused["code"] == 4
    assert "Raise --memory" in refused["error"]
    assert out["code"] == 4  # never a crash
