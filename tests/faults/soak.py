"""A stream that runs for many epochs over a reader that fails and dawdles; what a child of
`test_soak.py` runs.

`python -m tests.faults.soak FORMAT ROWS EPOCHS FOLDER` prints one JSON line an epoch: the receipt,
resident bytes, descriptors, threads, and how many failures were injected so far.
"""

import json
import os
import random
import sys
import threading
import time
from pathlib import Path

import psutil
import torch

import streamtrain
from data_gen import generate
from streamtrain.storage.parquet.parquet_reader import ParquetForward, ParquetReader
from streamtrain.storage.zarr.zarr_reader import ZarrReader


def make_unreliable(cls: type, chance: random.Random, failures: list[int]) -> None:
    """Every fifth read of a class fails, but never the second attempt of one; every fourth is
    slow.
    """
    whole, failed, lock = cls.read, set(), threading.Lock()

    def read(self, *args):
        thread = threading.get_ident()
        with lock:
            fails = thread not in failed and chance.random() < 0.2
            slow = chance.random() < 0.25
            (failed.add if fails else failed.discard)(thread)
            failures[0] += fails
        if slow:
            time.sleep(0.001)
        if fails:
            raise OSError(5, "Input/output error")
        return whole(self, *args)

    cls.read = read


def main(format: str, rows: int, epochs: int, folder: Path) -> None:
    torch.set_num_threads(1)
    generate(folder / "data", rows=rows, span_rows=rows // 10, format=format)
    failures, chance = [0], random.Random(0)
    # Zarr's forward reader reads by the other
    for cls in (ParquetReader, ParquetForward) if format == "parquet" else (ZarrReader,):
        make_unreliable(cls, chance, failures)
    flags = {"batch_size": 256, "span_rows": rows // 10, "memory": "256MiB", "readers": 2}
    stream = streamtrain.open_stream(folder / "data", window_rows=rows // 4, **flags)
    # less than a span: read in slices
    chained = streamtrain.open_stream(folder / "data", window_rows=rows // 12, **flags)
    process = psutil.Process()
    for epoch in range(epochs):
        each = chained if epoch % 4 == 1 else stream
        count = sum(len(x) for x, _ in each)
        print(
            json.dumps(
                {
                    "count": count,
                    "receipt": each.receipt().to_json(),
                    "rss_bytes": process.memory_info().rss,
                    "files": len(os.listdir("/proc/self/fd")),
                    "threads": threading.active_count(),
                    "failures": failures[0],
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
