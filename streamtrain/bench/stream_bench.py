"""`streamtrain bench stream`: delivery of minibatches compared with raw decode and other loops.

All sides take turns in one process: a warm-up round, then A B C D A B C D …, so that a drift of the
machine affects all of them alike. Each side reads the same rows every time, so they come from the
page cache as far as they fit there.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import psutil

from streamtrain.base.budget import peak_rss_bytes, reset_peak_rss, rss_bytes
from streamtrain.base.units import format_bytes
from streamtrain.bench.baselines import (
    GROUPS_AT_ONCE,
    Groups,
    decode,
    expert_loop,
    gather_loop,
    load_tensor,
    tuned_loop,
)
from streamtrain.bench.bench_verdict import (
    REFERENCE_THREADS,
    bottleneck,
    figure,
    require_positive,
    summarize,
)
from streamtrain.config import Config
from streamtrain.stream.torch_stream import Stream
from streamtrain.types import Json

#: Rows that a side reads per repeat by default, if the data set has them.
ROWS = 20_000_000

REPEATS = 5

Side = Callable[[], float]
Name = TypeVar("Name", bound=Hashable)


class Delivery:
    """Our side, measured twice: epochs of one open stream, and the first epoch of new streams.

    A new stream touches its memory pages for the first time, which costs time once: a long run does
    not notice it, a short one does.
    """

    def __init__(self, config: Config, path: str, max_rows: int):
        self.config, self.path, self.max_rows = config, path, max_rows
        self.stream = Stream(path, config)
        self.first_minibatch_seconds: list[float] = []
        self.peak_rss_bytes: list[int] = []
        self.parts: Counter[str] = Counter()

    def next_epoch(self) -> float:
        """Return rows/s of the next epoch, from the first `next` to the last minibatch.

        Filling the pipeline counts.
        """
        self.parts.subtract(self.stream.stats())
        rows, first_seconds, seconds = self._pass(self.stream)
        self.parts.update(self.stream.stats() | {"fill_seconds": first_seconds})
        self.stream.set_epoch(self.stream.epoch + 1)
        return rows / seconds

    def first_epoch(self) -> float:
        """Return rows/s of a new stream's first epoch.

        The time to open the stream does not count here, but in `first_minibatch_seconds`.
        """
        reset_peak_rss()
        rss_before, started = rss_bytes(), time.perf_counter()
        stream = Stream(self.path, self.config)
        opening_seconds = time.perf_counter() - started
        rows, first_seconds, seconds = self._pass(stream)
        self.first_minibatch_seconds.append(opening_seconds + first_seconds)
        self.peak_rss_bytes.append(max(0, peak_rss_bytes() - rss_before))
        return rows / seconds

    def _pass(self, stream: Stream) -> tuple[int, float, float]:
        """Return the rows delivered, the seconds to the first minibatch, and all seconds."""
        minibatches = iter(stream)
        started = time.perf_counter()
        try:
            rows = len(next(minibatches)[0])
            first = time.perf_counter()
            rows += drain(minibatches, self.max_rows - rows)
            return rows, first - started, time.perf_counter() - started
        finally:
            minibatches.close()


def measure_stream(config: Config, *, rows: int | None = None, repeats: int = REPEATS) -> Json:
    """Measure delivery from `config.data.path` at `config.train.batch_size`.

    Every side takes at most `rows` rows per repeat. Rates are in rows per second. A side that does
    not fit in memory, or whose ratio is not a fair comparison, is null, and `reasons` says why.

    Raises ConfigError for fewer than one row or repeat, and whatever opening a Stream raises.
    """
    require_positive("--repeats", repeats)
    if rows is not None:
        require_positive("--rows", rows)
    assert config.data.path is not None
    ours = Delivery(config, config.data.path, rows or ROWS)
    budget, dataset = ours.stream.budget, ours.stream.dataset
    max_rows = ours.max_rows = min(ours.max_rows, ours.stream.num_rows)
    groups = Groups(dataset)
    reasons = memory_reasons(groups, max_rows, budget.readers)
    ours.stream.warm_up()  # the memory and time of the compiler do not belong to the stream
    # first of all sides: once another has used memory, the peak would not be ours alone
    ours.first_epoch()
    ours.first_minibatch_seconds.clear()
    ours.next_epoch()
    ours.parts.clear()
    others = other_sides(groups, config, max_rows, budget.readers, skip=reasons)
    sides = {"streamtrain": ours.next_epoch, "first_epoch": ours.first_epoch, **others}
    samples = take_turns(sides, repeats, warm=list(others))
    document: Json = {
        "data": dataset.url,
        "format": dataset.shards[0].format,
        "data_rows": dataset.num_rows,
        "rows": max_rows,
        "batch_size": config.train.constant_size,
        "readers": budget.readers,
        "repeats": repeats,
        "decode_through": groups.read_through,
    }
    document |= summarize(samples, reasons)
    first_minibatch = figure(ours.first_minibatch_seconds)
    document["intervals"]["first_minibatch_seconds"] = first_minibatch
    document |= {
        "first_minibatch_seconds": first_minibatch["value"],
        "peak_rss_bytes": max(ours.peak_rss_bytes),
        "projected_bytes": budget.projected_bytes,
        "memory_budget_bytes": budget.limit_bytes,
        "bottleneck": bottleneck(ours.parts),
        "parts": {name: value / repeats for name, value in ours.parts.items()},
    }
    return document


def other_sides(
    groups: Groups, config: Config, max_rows: int, threads: int, *, skip: Mapping[str, str]
) -> dict[str, Side]:
    """Return the other sides by name; each is one pass that returns its rows per second."""
    size, seed = config.train.constant_size, config.order.seed
    sides: dict[str, Side] = {"decode": partial(rate, partial(decode, groups, max_rows, threads))}
    if threads != REFERENCE_THREADS:
        reference = partial(decode, groups, max_rows, REFERENCE_THREADS)
        sides["decode_2_threads"] = partial(rate, reference)
    expert = partial(expert_loop, groups, size, seed=seed)
    tuned = partial(tuned_loop, groups, size, seed=seed, threads=threads)
    sides["expert_loop"] = partial(loop_rate, expert, max_rows)
    sides["tuned_loop"] = partial(loop_rate, tuned, max_rows)
    if "in_ram_gather" not in skip:
        data = load_tensor(groups, max_rows, threads)
        gather = partial(gather_loop, data, size, seed=seed)
        sides["in_ram_gather"] = partial(loop_rate, gather, max_rows)
    return {name: side for name, side in sides.items() if name not in skip}


def take_turns(
    sides: Mapping[Name, Side], repeats: int, *, warm: Sequence[Name]
) -> dict[Name, list[float]]:
    """Run all sides in turn, `repeats` times, and return their results by name.

    The sides named in `warm` run once before, and that result is discarded.
    """
    for name in warm:
        sides[name]()
    samples: dict[Name, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            samples[name].append(side())
    return samples


def rate(work: Callable[[], int]) -> float:
    """Return the rows per second of `work`, which returns the rows that it processed."""
    started = time.perf_counter()
    rows = work()
    return rows / (time.perf_counter() - started)


def loop_rate(loop: Callable[[], Generator[Any, None, None]], max_rows: int) -> float:
    """Return the rows per second of a loop over minibatches; closing it is not timed."""
    minibatches = loop()
    try:
        return rate(lambda: drain(minibatches, max_rows))
    finally:
        minibatches.close()


def drain(minibatches: Iterator[Any], max_rows: int) -> int:
    """Take minibatches until `max_rows` rows have come, or the end: the consumer of every side.

    Returns the number of rows taken.
    """
    rows = 0
    if max_rows > 0:
        for x, _ in minibatches:
            rows += len(x)
            if rows >= max_rows:
                break
    return rows


def memory_reasons(groups: Groups, max_rows: int, threads: int) -> dict[str, str]:
    """Return the sides that would need more than half of the available memory, and why.

    Unlike a stream, they have no memory limit of their own.
    """
    available = psutil.virtual_memory().available
    row_bytes = (4 if groups.dataset.decoded_type == "float32" else 8) * len(groups.dataset.columns)
    largest = sorted((group.num_rows for group in groups.items), reverse=True)
    decode_bytes = 3 * sum(largest[:threads]) * row_bytes
    loop_bytes = 4 * sum(largest[:GROUPS_AT_ONCE]) * row_bytes
    gather_bytes = max_rows * (row_bytes + 8) + decode_bytes
    smaller_groups = "streamtrain ingest cuts smaller row groups"
    needs = {
        "decode": (decode_bytes, smaller_groups),
        "expert_loop": (loop_bytes, smaller_groups),
        "tuned_loop": (loop_bytes + decode_bytes, smaller_groups),
        "in_ram_gather": (gather_bytes, "lower --rows"),
    }
    return {
        name: (
            f"it would need {format_bytes(needed)}, more than half of the"
            f" {format_bytes(available)} that are available: {remedy}"
        )
        for name, (needed, remedy) in needs.items()
        if needed > available / 2
    }
