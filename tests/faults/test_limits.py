"""Small machines: few descriptors, thousands of tiny shards, little memory, bombs. Each works, or the limit is named."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

ROOT = Path(__file__).parents[2]

#: Does jobs (limit, path, flags) one after the other: opens a stream, iterates it, prints a line of what came of it.
CHILD = """
import json, os, resource, sys
import torch
from streamtrain.cli.main import explain
from streamtrain.stream.tensors import open_stream
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
    told = json.dumps([(limit, str(path), flags) for limit, path, flags in jobs])
    done = subprocess.run([sys.executable, "-c", CHILD, told], cwd=ROOT, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-3000:]}"
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_two_thousand_tiny_shards_need_few_descriptors(tmp_path: Path) -> None:
    for number in range(2000):
        pq.write_table(pa.table({"a": np.full(3, number, np.float32), "y": np.ones(3, np.float32)}), tmp_path / f"{number:04}.parquet")
    works, named = child(
        (DESCRIPTORS, tmp_path, {"window_rows": 2000}),
        ("held = []\ntry:\n    while True: held.append(os.dup(1))\nexcept OSError: pass", tmp_path, {}),
    )
    assert works["rows"] == 6000
    assert named["code"] in (3, 4) and "Too many open files" in named["error"]


def test_bombs(tmp_path: Path) -> None:
    rows = 6_000_000  # 72 MB decoded, in one row group
    values = pa.array(np.full(rows, 1.5, np.float32))
    pq.write_table(pa.table({"a": values, "b": values, "y": values}), tmp_path / "bomb.parquet", row_group_size=rows)
    options = {"chunks": (5_000_000, 3), "dtype": "float32", "config": {"write_empty_chunks": True}}
    chunk = zarr.create_array(tmp_path / "bomb.zarr", shape=(1000, 3), **options)
    chunk[:] = 0
    noise = np.random.default_rng(0).normal(size=(3, 2_000_000)).astype(np.float32)
    pq.write_table(pa.table(list(noise), names=["a", "b", "y"]), tmp_path / "large.parquet", row_group_size=2_000_000)
    assert (tmp_path / "bomb.parquet").stat().st_size < 1 << 20
    assert sum(file.stat().st_size for file in (tmp_path / "bomb.zarr").rglob("*") if file.is_file()) < 1 << 20
    sliced, refused, out = child(
        ("spare(600)", tmp_path / "bomb.parquet", {"memory": "128MiB", "window_rows": 500_000}),
        ("spare(600)", tmp_path / "bomb.zarr", {"memory": "128MiB"}),
        # the arithmetic says that it fits into what was promised; the machine has less
        ("spare(30)", tmp_path / "large.parquet", {"memory": "8GiB", "window_rows": 2_000_000}),
    )
    assert sliced["rows"] == rows  # read in slices
    assert refused["code"] == 4 and "Raise --memory" in refused["error"]  # a chunk is decoded whole: refused before it is
    assert out["code"] == 4  # never a crash
