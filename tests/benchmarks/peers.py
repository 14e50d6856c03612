"""Shuffled minibatches by other libraries and by streamtrain, from the same Parquet files.

Run by hand; prints a Markdown table.

    pip install -e '.[peers]'
    streamtrain generate runs/peers-data --rows 20M --span-rows 250000
    python tests/benchmarks/peers.py runs/peers-data

Each measurement is a separate process, sides take turns, and the table gives medians. A peer is
timed from its second minibatch until `--seconds` have passed or its epoch ends, so its start is not
counted. streamtrain is timed over a whole epoch, from opening the data set on. The table names the
peers that are not installed. Every side turns rows into float32 tensors x (batch, features) and y
(batch, 1), and the consumer reads only their length. Each peer is used as its documentation
recommends:

- torch DataLoader, rows: an IterableDataset that shares files among two workers and yields rows;
  default batching (pytorch.org, torch.utils.data, "Iterable-style datasets" and "Multi-process data
  loading").
- torch DataLoader, in memory: a TensorDataset and a BatchSampler over a RandomSampler, automatic
  batching off (torch.utils.data, "Disable automatic batching"). It needs all rows in memory; its
  shuffle is of the whole epoch.
- Hugging Face datasets: load_dataset("parquet", streaming=True), shuffle with a buffer, batches as
  torch tensors ("Stream").
- Ray Data: read_parquet with shuffled files, then iter_torch_batches with a local shuffle buffer
  ("Shuffling data").

Shuffle buffers hold 10,000 rows, or two minibatches if that is more; streamtrain shuffles windows
of two million rows.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    get_worker_info,
)

WORKERS = 2


def files(data: str) -> list[str]:
    return sorted(str(path) for path in Path(data).glob("*.parquet"))


def columns(data: str) -> list[str]:
    return pq.read_schema(files(data)[0]).names


def buffer_rows(batch_size: int) -> int:
    return max(10_000, 2 * batch_size)


def to_xy(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn columns by name, target last, into (batch, features) and (batch, 1)."""
    *x, y = batch.values()
    return torch.stack(x, dim=1), y[:, None]


def streamtrain(data: str, batch_size: int) -> Iterator[Any]:
    import streamtrain as st

    yield from st.open_stream(data, batch_size=batch_size)


class Rows(IterableDataset):
    """Rows of Parquet files, shuffled by a buffer; each worker reads every n-th file."""

    def __init__(self, data: str, buffer: int):
        self.files, self.buffer = files(data), buffer

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        rng = np.random.default_rng(first)
        for path in self.files[first::step]:
            for batch in pq.ParquetFile(path).iter_batches(self.buffer):
                rows = np.stack([column.to_numpy() for column in batch.columns], axis=1)
                for i in rng.permutation(len(rows)):
                    yield rows[i, :-1], rows[i, -1:]


def torch_rows(data: str, batch_size: int) -> Iterator[Any]:
    yield from DataLoader(
        Rows(data, buffer_rows(batch_size)), batch_size=batch_size, num_workers=WORKERS
    )


def torch_in_memory(data: str, batch_size: int) -> Iterator[Any]:
    table = pq.read_table(files(data))
    rows = torch.from_numpy(np.stack([column.to_numpy() for column in table.columns], axis=1))
    dataset = TensorDataset(rows[:, :-1], rows[:, -1:])
    sampler = BatchSampler(RandomSampler(dataset), batch_size=batch_size, drop_last=False)
    yield from DataLoader(dataset, sampler=sampler, batch_size=None)


def hugging_face(data: str, batch_size: int) -> Iterator[Any]:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets  # pyright: ignore[reportMissingImports]  # of the extra `peers`

    with tempfile.TemporaryDirectory() as cache:
        rows = datasets.load_dataset(
            "parquet", data_files=files(data), split="train", streaming=True, cache_dir=cache
        )
        shuffled = rows.shuffle(seed=0, buffer_size=buffer_rows(batch_size)).with_format("torch")
        yield from map(to_xy, shuffled.iter(batch_size=batch_size))


def ray_data(data: str, batch_size: int) -> Iterator[Any]:
    import ray  # pyright: ignore[reportMissingImports]  # of the extra `peers`

    ray.init(
        num_cpus=psutil.cpu_count(),
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.read_parquet(files(data), shuffle="files")
    batches = rows.iter_torch_batches(
        batch_size=batch_size, local_shuffle_buffer_size=buffer_rows(batch_size)
    )
    yield from (to_xy({name: batch[name] for name in columns(data)}) for batch in batches)


#: Name → (package it needs, an epoch of minibatches).
SIDES: dict[str, tuple[str, Callable[[str, int], Iterator[Any]]]] = {
    "streamtrain": ("streamtrain", streamtrain),
    "torch DataLoader, rows of an IterableDataset": ("torch", torch_rows),
    "torch DataLoader, TensorDataset in memory, BatchSampler": ("torch", torch_in_memory),
    "Hugging Face datasets, streaming, shuffle buffer": ("datasets", hugging_face),
    "Ray Data, local shuffle": ("ray", ray_data),
}


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def measure(side: str, data: str, batch_size: int, seconds: float) -> float:
    """Return the rows per second of one side, in this process."""
    loop = SIDES[side][1]
    # loads the compiled kernels, which happens once per process
    if side == "streamtrain":
        next(loop(data, batch_size))
    rows, started, minibatches = 0, time.perf_counter(), loop(data, batch_size)
    if side != "streamtrain":
        next(minibatches)
        started = time.perf_counter()
    for x, _ in minibatches:
        rows += len(x)
        if side != "streamtrain" and time.perf_counter() - started > seconds:
            break
    return rows / (time.perf_counter() - started)


def in_a_process(side: str, options: argparse.Namespace, batch_size: int) -> float | None:
    """Return `measure` in a separate process; None, with a line on stderr, when it fails."""
    words = [
        sys.executable,
        __file__,
        options.data,
        "--seconds",
        str(options.seconds),
        "--batch-sizes",
        str(batch_size),
        "--only",
        side,
    ]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        cause = (done.stderr.strip().splitlines() or ["failed"])[-1]
        print(f"{side}, B = {batch_size}: {cause}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def table(rates: dict[tuple[str, int], list[float]], sizes: list[int]) -> str:
    """Return a Markdown table: median million rows/s, and the ratio of streamtrain to each peer."""
    lines = [
        "| million rows/s | " + " | ".join(f"B = {size:,}" for size in sizes) + " |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    for side, (package, _) in SIDES.items():
        cells = [
            "not installed" if installed(package) is None else _cell(rates, side, size)
            for size in sizes
        ]
        lines.append(f"| {side} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(rates: dict[tuple[str, int], list[float]], side: str, size: int) -> str:
    if not rates.get((side, size)):
        return "failed"
    rate = statistics.median(rates[side, size])
    ours = rates.get(("streamtrain", size))
    text = f"{rate / 1e6:.3g}"
    if ours and side != "streamtrain":
        text += f" ({statistics.median(ours) / rate:.3g} × slower)"
    return text


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
    )
    versions = ", ".join(
        f"{name} {installed(name)}"
        for name in ("streamtrain", "torch", "datasets", "ray", "pyarrow")
        if installed(name)
    )
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{model or platform.machine()}, {psutil.cpu_count()} cores, {memory:.0f} GiB; Python"
        f" {platform.python_version()}, {versions}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Shuffled minibatches by other libraries and by streamtrain."
    )
    parser.add_argument("data", help="a folder of Parquet files")
    parser.add_argument("--batch-sizes", default="100,1000,100000")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="length of each measurement of a peer"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--only", choices=SIDES, help="measure one side in this process and print its rows/s"
    )
    options = parser.parse_args()
    sizes = [int(size) for size in options.batch_sizes.split(",")]
    if options.only:
        print(
            json.dumps(measure(options.only, options.data, sizes[0], options.seconds)), flush=True
        )
        # peers leave workers and prefetching threads behind, which would delay a normal exit
        os._exit(0)
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(options.repeats):
        for size in sizes:
            for side, (package, _) in SIDES.items():
                rate = in_a_process(side, options, size) if installed(package) else None
                measured = rates.setdefault((side, size), [])
                text = "no figure"
                if rate is not None:
                    measured.append(rate)
                    text = f"{rate:,.0f} rows/s"
                print(f"{side}, B = {size:,}: {text}", file=sys.stderr, flush=True)
    rows = sum(pq.read_metadata(path).num_rows for path in files(options.data))
    words = [word for word in sys.argv[1:] if word != options.data]
    command = " ".join(["python tests/benchmarks/peers.py DATA", *words])
    print(f"{table(rates, sizes)}\n")
    print(
        f"{date.today()}; {rows:,} rows in {len(files(options.data))} files; medians of"
        f" {options.repeats}; {machine()}. `{command}`"
    )


if __name__ == "__main__":
    main()
