"""Many epochs of a stream whose reader fails and is slow, in a process of its own (test_soak.py).

A line has the receipt, resident bytes, descriptors, threads, and the number of failures so far.
"""

import json
import os
import random
import threading
import time
from pathlib import Path

import psutil
import torch

import streamtrain
from data_gen import generate
from streamtrain.storage.parquet.parquet_reader import ParquetForward, ParquetReader
from streamtrain.storage.zarr.zarr_reader import ZarrReader
from streamtrain.types import Format


def make_unreliable(cls: type, chance: random.Random, failures: list[int]) -> None:
    """Make a fifth of a class's reads fail, but never a second attempt, and a fourth slow."""
    original_read, lock = cls.read, threading.Lock()
    failed: set[int] = set()  # threads whose last read failed

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
        return original_read(self, *args)

    cls.read = read


def soak(format: Format, rows: int, epochs: int, folder: Path) -> None:
    """Print one JSON line per epoch."""
    torch.set_num_threads(1)
    generate(folder / "data", rows=rows, span_rows=rows // 10, format=format)
    failures, chance = [0], random.Random(0)
    # the forward reader of Zarr reads through ZarrReader
    for cls in (ParquetReader, ParquetForward) if format == "parquet" else (ZarrReader,):
        make_unreliable(cls, chance, failures)
    flags = {"batch_size": 256, "span_rows": rows // 10, "memory": "256MiB", "readers": 2}
    stream = streamtrain.open_stream(folder / "data", window_rows=rows // 4, **flags)
    # windows smaller than a span, which is then read in slices
    chained = streamtrain.open_stream(folder / "data", window_rows=rows // 12, **flags)
    process = psutil.Process()
    for epoch in range(epochs):
        current = chained if epoch % 4 == 1 else stream
        count = sum(len(x) for x, _ in current)
        print(
            json.dumps(
                {
                    "count": count,
                    "receipt": current.receipt().to_json(),
                    "rss_bytes": process.memory_info().rss,
                    "files": len(os.listdir("/proc/self/fd")),
                    "threads": threading.active_count(),
                    "failures": failures[0],
                }
            ),
            flush=True,
        )
