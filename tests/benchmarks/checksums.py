"""What it costs to verify while reading: the same work with and without checksums, taking turns in
one process.

    python tests/benchmarks/checksums.py [--rows 4M] [--repeats 7] [--batch-size 1024]

Three sides in both formats, each an epoch: `decode` (spans to columns), `stream` (shuffled blocks
that nobody looks at) and `train` (one learner of the default shape, fused engine, on all cores).
Without: the checksums in Parquet's page headers are passed over, and the Zarr arrays are copied
without their crc32c. A cost is the ratio of seconds with to seconds without, less one, and its 95 %
interval over the pairs: of the clock, and of the processor time of all threads, which other
programs on the machine blur less. The last column needs no quiet machine: the checksums of all the
bytes alone, their fastest time over the fastest processor time of the side without them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from unittest.mock import patch

import google_crc32c
import numpy as np
import zarr
from isal import isal_zlib

from data_gen import generate
from streamtrain.base.budget import default_readers
from streamtrain.base.units import parse_count
from streamtrain.config import make_config
from streamtrain.kernels.page_headers import CRC, read_page_headers
from streamtrain.run.prepare import Prepared, prepare, warm_up
from streamtrain.science.intervals import paired_ratio
from streamtrain.storage.parquet import fast_pages as plain
from streamtrain.stream.block import Block
from streamtrain.stream.fetch import FetchStats
from streamtrain.training.compute_pool import ComputePool
from streamtrain.training.fused_engine import one_blas_thread


def decode(prepared: Prepared, batch_size: int) -> None:
    for span in map(prepared.source.spans.__getitem__, range(len(prepared.source.spans))):
        prepared.source.readers.read(span.shard, span.start, span.stop)


def stream(prepared: Prepared, batch_size: int) -> None:
    for _ in an_epoch(prepared):
        pass


def an_epoch(prepared: Prepared) -> Iterator[Block]:
    with closing(prepared.blocks(0, FetchStats())) as blocks:
        for block in blocks:
            yield block
            if block.ends_epoch:
                return


def train(prepared: Prepared, batch_size: int) -> None:
    with one_blas_thread(True), ComputePool(default_readers()) as team:
        engine = prepared.learner(batch_size, (1e-6,), 0).engine
        engine.cores = team
        for block in an_epoch(prepared):
            engine.advance(block.rows, 0, len(block.rows))


def without_crc32c(source: Path, out: Path) -> Path:
    """A copy of Zarr shards, chunk by chunk the same, without checksums and manifest."""
    for shard in sorted(source.glob("*.zarr")):
        whole = zarr.open_array(shard, mode="r")
        copy = zarr.create_array(
            out / shard.name,
            shape=whole.shape,
            chunks=whole.chunks,
            dtype=whole.dtype,
            compressors=None,
            fill_value=whole.fill_value,
            attributes=dict(whole.attrs),
            config={"write_empty_chunks": True},
        )
        copy[:] = whole[:]
    return out


def checksum_seconds(format: str, num_bytes: int) -> float:
    """The fastest of ten times for the checksums of so many bytes, in pieces of a page or a chunk
    of five columns.
    """
    piece = np.random.default_rng(0).integers(
        0, 256, 80_000 if format == "parquet" else 5_242_880, dtype=np.uint8
    )
    check = isal_zlib.crc32 if format == "parquet" else google_crc32c.value
    return min(
        seconds(lambda: [check(piece) for _ in range(max(1, num_bytes // len(piece)))])[1]
        for _ in range(10)
    )


def seconds(work: Callable[[], None]) -> tuple[float, float]:
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=parse_count, default=4_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=1024)
    asked = parser.parse_args()
    off = partial(patch.object, plain, "read_page_headers", _headers_without_crc)
    with tempfile.TemporaryDirectory() as folder:
        data = {format: Path(folder, format) for format in ("parquet", "zarr")}
        for format, path in data.items():
            generate(path, kind="friedman2", rows=asked.rows, format=format)
        bare = {
            "parquet": data["parquet"],
            "zarr": without_crc32c(data["zarr"], Path(folder, "bare")),
        }
        print(
            f"{asked.rows:,} rows of 5 columns, minibatches of {asked.batch_size:,},"
            f" {default_readers()} readers, {asked.repeats} repeats\n"
        )
        print(
            "| side | format | cost by the clock | cost in processor time | s with | s without |"
            " checksums alone |\n|---|---|---|---|---|---|---|"
        )
        for format in data:
            alone = checksum_seconds(format, asked.rows * 20)
            pair = [_prepared(path[format], asked.batch_size) for path in (data, bare)]
            for side in (decode, stream, train):
                taken: tuple[list, list] = [], []
                for repeat in range(asked.repeats + 1):  # the first warms up
                    for number in (0, 1) if repeat % 2 else (1, 0):
                        with ExitStack() as stack:
                            if number and format == "parquet":
                                stack.enter_context(off())
                            taken[number].append(
                                seconds(partial(side, pair[number], asked.batch_size))
                            )
                clock, processor = (
                    paired_ratio(*([each[i] for each in one[1:]] for one in taken)) for i in (0, 1)
                )
                best = (f"{min(each[0] for each in one[1:]):.2f}" for one in taken)
                print(
                    f"| {side.__name__} | {format} | {_cost(*clock)} | {_cost(*processor)} |"
                    f" {' | '.join(best)} | {alone / min(each[1] for each in taken[1][1:]):.1%} |",
                    flush=True,
                )


def _prepared(path: Path, batch_size: int) -> Prepared:
    config = {
        "data": {"path": str(path), "holdout": 10_000},
        "train": {"batch_size": batch_size, "engine": "fused"},
        "fetch": {"memory": "2GiB"},
    }
    prepared = prepare(make_config(config), learners=1, rates=1)
    warm_up(prepared)
    return prepared


def _headers_without_crc(data: np.ndarray, num_values: int, pages: np.ndarray) -> int:
    count = read_page_headers(data, num_values, pages)
    pages[:, CRC] = -1
    return count


def _cost(ratio: float, low: float | None, high: float | None) -> str:
    return f"{ratio - 1:+.1%}" + (
        f" ({low - 1:+.1%} to {high - 1:+.1%})" if low is not None and high is not None else ""
    )


if __name__ == "__main__":
    main()
