"""The cost of verifying checksums while reading: the same work with and without them.

    python tests/benchmarks/checksums.py [--rows 4M] [--repeats 7] [--batch-size 1024]

All sides take turns in one process. There are three in both formats, each an epoch: `decode` (spans
to columns), `stream` (shuffled blocks, which are discarded) and `train` (one learner of the default
shape, fused engine, on all cores). Without checksums, those in Parquet's page headers are ignored,
and the Zarr arrays are copied without their crc32c. A cost is the ratio of seconds with to seconds
without, less one, and its 95 % interval over the pairs; it is given for the clock, and for the
processor time of all threads, which other programs on the machine affect less. The last column
needs no quiet machine: it is the fastest time of the checksums of all bytes alone, over the fastest
processor time of the side without them.
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
from streamtrain.run.prepare import Prepared, prepare
from streamtrain.run.warm_up import warm_up
from streamtrain.science.intervals import Estimate, paired_ratio
from streamtrain.storage.parquet import fast_pages
from streamtrain.stream.block import Block
from streamtrain.stream.fetch import FetchStats
from streamtrain.training.compute_pool import ComputePool
from streamtrain.training.fused_engine import one_blas_thread
from streamtrain.types import Format


def decode(prepared: Prepared, batch_size: int) -> None:
    source = prepared.source
    for number in range(len(source.spans)):
        span = source.spans[number]
        source.readers.read(span.shard, span.start, span.stop)


def stream(prepared: Prepared, batch_size: int) -> None:
    for _ in one_epoch(prepared):
        pass


def one_epoch(prepared: Prepared) -> Iterator[Block]:
    with closing(prepared.blocks(0, FetchStats())) as blocks:
        for block in blocks:
            yield block
            if block.ends_epoch:
                return


def train(prepared: Prepared, batch_size: int) -> None:
    with one_blas_thread(), ComputePool(default_readers()) as cores:
        engine = prepared.learner(batch_size, (1e-6,), 0).engine
        engine.cores = cores
        for block in one_epoch(prepared):
            engine.advance(block.rows, 0, len(block.rows))


def without_crc32c(source: Path, out: Path) -> Path:
    """Copy Zarr shards with the same chunks, without checksums and manifest."""
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


def checksum_seconds(format: Format, num_bytes: int) -> float:
    """Return the fastest of ten times for the checksums of `num_bytes` bytes.

    They are computed in pieces of the size of a page, or of a chunk of five columns.
    """
    piece_bytes = 80_000 if format == "parquet" else 5_242_880
    piece = np.random.default_rng(0).integers(0, 256, piece_bytes, dtype=np.uint8)
    check = isal_zlib.crc32 if format == "parquet" else google_crc32c.value
    num_pieces = max(1, num_bytes // len(piece))
    return min(seconds(lambda: [check(piece) for _ in range(num_pieces)])[1] for _ in range(10))


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of the clock and the processor time of all threads."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=parse_count, default=4_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=1024)
    options = parser.parse_args()
    off = partial(patch.object, fast_pages, "read_page_headers", _headers_without_crc)
    with tempfile.TemporaryDirectory() as folder:
        data: dict[Format, Path] = {
            "parquet": Path(folder, "parquet"),
            "zarr": Path(folder, "zarr"),
        }
        for format, path in data.items():
            generate(path, kind="friedman2", rows=options.rows, format=format)
        bare = data | {"zarr": without_crc32c(data["zarr"], Path(folder, "bare"))}
        print(
            f"{options.rows:,} rows of 5 columns, minibatches of {options.batch_size:,},"
            f" {default_readers()} readers, {options.repeats} repeats\n"
        )
        print(
            "| side | format | cost by the clock | cost in processor time | s with | s without |"
            " checksums alone |\n|---|---|---|---|---|---|---|"
        )
        for format in data:
            alone = checksum_seconds(format, options.rows * 20)
            pair = [_prepared(path[format], options.batch_size) for path in (data, bare)]
            for side in (decode, stream, train):
                # (clock, processor) seconds of each repeat, with and without checksums
                timings: tuple[list, list] = [], []
                for repeat in range(options.repeats + 1):  # the first warms up
                    for number in (0, 1) if repeat % 2 else (1, 0):
                        with ExitStack() as stack:
                            if number and format == "parquet":
                                stack.enter_context(off())
                            work = partial(side, pair[number], options.batch_size)
                            timings[number].append(seconds(work))
                with_clock, with_processor = zip(*timings[0][1:], strict=True)
                without_clock, without_processor = zip(*timings[1][1:], strict=True)
                cells = [
                    side.__name__,
                    format,
                    _cost(paired_ratio(with_clock, without_clock)),
                    _cost(paired_ratio(with_processor, without_processor)),
                    f"{min(with_clock):.2f}",
                    f"{min(without_clock):.2f}",
                    f"{alone / min(without_processor):.1%}",
                ]
                print(f"| {' | '.join(cells)} |", flush=True)


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


def _cost(ratio: Estimate) -> str:
    assert ratio.value is not None
    if ratio.lo is None or ratio.hi is None:
        return f"{ratio.value - 1:+.1%}"
    return f"{ratio.value - 1:+.1%} ({ratio.lo - 1:+.1%} to {ratio.hi - 1:+.1%})"


if __name__ == "__main__":
    main()
