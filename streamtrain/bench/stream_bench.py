"""`streamtrain bench stream`: our delivery of minibatches beside raw decode, an expert's loop and a
gather in memory.

All sides take turns in one process: a warm-up round, then A B C D A B C D …, so that a drift of the
machine meets all alike. Each side reads the same rows every time, so they come from the page cache
as far as it holds them.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

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
from streamtrain.bench.bench_verdict import REFERENCE_THREADS, bottleneck, summarize
from streamtrain.config import Config
from streamtrain.errors import ConfigError
from streamtrain.science.intervals import measure
from streamtrain.stream.torch_stream import Stream
from streamtrain.types import Json

#: Rows a side reads a repeat, when nothing is said and the data set has them.
ROWS = 20_000_000

REPEATS = 5


class Delivery:
    """Our side, twice: epoch after epoch of one open stream, and the first epoch of a stream that
    was just opened.

    A new stream pays for pages of memory that were never touched, once: a day's training does not
    feel it, a short run does.
    """

    def __init__(self, config: Config, path: str, max_rows: int):
        self.config, self.path, self.max_rows = config, path, max_rows
        self.stream = Stream(path, config)
        self.first_minibatch_seconds: list[float] = []
        self.peak_rss_bytes: list[int] = []
        self.parts: Counter[str] = Counter()

    def next_epoch(self) -> float:
        """Rows a second of the next epoch, from the first `next` to the last minibatch; filling the
        pipeline counts.
        """
        self.parts.subtract(self.stream.stats())
        rows, first_seconds, seconds = self._pass(self.stream)
        self.parts.update(self.stream.stats() | {"fill_seconds": first_seconds})
        self.stream.set_epoch(self.stream.epoch + 1)
        return rows / seconds

    def first_epoch(self) -> float:
        """Rows a second of a new stream's first epoch; opening it does not count here, but in
        `first_minibatch_seconds`.
        """
        reset_peak_rss()
        before, began = rss_bytes(), time.perf_counter()
        stream = Stream(self.path, self.config)
        opening = time.perf_counter() - began
        rows, first_seconds, seconds = self._pass(stream)
        self.first_minibatch_seconds.append(opening + first_seconds)
        self.peak_rss_bytes.append(max(0, peak_rss_bytes() - before))
        return rows / seconds

    def _pass(self, stream: Stream) -> tuple[int, float, float]:
        """Rows that came, seconds to the first minibatch, seconds in all."""
        minibatches: Generator[Any, None, None] = iter(stream)
        started = time.perf_counter()
        try:
            rows = len(next(minibatches)[0])
            first = time.perf_counter()
            rows += drain(minibatches, self.max_rows - rows)
            return rows, first - started, time.perf_counter() - started
        finally:
            minibatches.close()


def measure_stream(config: Config, *, rows: int | None = None, repeats: int = REPEATS) -> Json:
    """Measure delivery from `config.data.path` at `config.train.batch_size`; every side takes at
    most `rows` rows a repeat.

    Rates are rows a second. A side that does not fit in memory, or whose ratio says nothing, is
    null, and `reasons` says why. Raises ConfigError for fewer than one row or repeat, and what
    opening a Stream raises.
    """
    if repeats < 1 or (rows is not None and rows < 1):
        flag, value = ("--repeats", repeats) if repeats < 1 else ("--rows", rows)
        raise ConfigError(f"{flag} is {value}; it takes at least 1.")
    assert config.data.path is not None
    ours = Delivery(config, config.data.path, rows or ROWS)
    budget, dataset = ours.stream.budget, ours.stream.dataset
    max_rows = ours.max_rows = min(ours.max_rows, ours.stream.num_rows)
    groups = Groups(dataset)
    reasons = memory_reasons(groups, max_rows, budget.readers)
    ours.stream.warm_up()  # the compiler's memory and seconds are not the stream's
    ours.first_epoch()  # before any other side has used memory: this pass's peak is ours alone
    ours.first_minibatch_seconds.clear()
    ours.next_epoch()
    ours.parts.clear()
    sides = {"streamtrain": ours.next_epoch, "first_epoch": ours.first_epoch}
    sides |= other_sides(groups, config, max_rows, budget.readers, skip=reasons)
    samples = take_turns(
        sides, repeats, warm=[name for name in sides if name not in ("streamtrain", "first_epoch")]
    )
    document: Json = {
        "data": dataset.url,
        "format": dataset.shards[0].format,
        "data_rows": dataset.num_rows,
        "rows": max_rows,
        "batch_size": config.train.batch_size,
        "readers": budget.readers,
        "repeats": repeats,
        "decode_through": groups.read_through,
    }
    document |= summarize(samples, reasons)
    document |= {
        "first_minibatch_seconds": measure(ours.first_minibatch_seconds)["value"],
        "peak_rss_bytes": max(ours.peak_rss_bytes),
        "projected_bytes": budget.projected_bytes,
        "memory_budget_bytes": budget.limit_bytes,
        "bottleneck": bottleneck(ours.parts),
        "parts": {name: value / repeats for name, value in ours.parts.items()},
    }
    return document


def other_sides(
    groups: Groups, config: Config, max_rows: int, threads: int, *, skip: Mapping[str, str]
) -> dict[str, Callable[[], float]]:
    """Name → one pass, which returns its rows a second."""
    size, seed = config.train.batch_size, config.order.seed
    sides: dict[str, Callable[[], float]] = {
        "decode": lambda: rate(lambda: decode(groups, max_rows, threads))
    }
    if threads != REFERENCE_THREADS:
        sides["decode_2_threads"] = lambda: rate(
            lambda: decode(groups, max_rows, REFERENCE_THREADS)
        )
    sides["expert_loop"] = partial(
        loop_rate, partial(expert_loop, groups, size, seed=seed), max_rows
    )
    sides["tuned_loop"] = partial(
        loop_rate, partial(tuned_loop, groups, size, seed=seed, threads=threads), max_rows
    )
    if "in_ram_gather" not in skip:
        data = load_tensor(groups, max_rows, threads)
        sides["in_ram_gather"] = partial(
            loop_rate, partial(gather_loop, data, size, seed=seed), max_rows
        )
    return {name: side for name, side in sides.items() if name not in skip}


def take_turns(
    sides: Mapping[str, Callable[[], float]], repeats: int, *, warm: Sequence[str]
) -> dict[str, list[float]]:
    """Run `warm` once for nothing, then all sides in turn, `repeats` times; returns what they
    returned.
    """
    for name in warm:
        sides[name]()
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            samples[name].append(side())
    return samples


def rate(work: Callable[[], int]) -> float:
    """Rows a second of work that returns how many rows it did."""
    started = time.perf_counter()
    rows = work()
    return rows / (time.perf_counter() - started)


def loop_rate(loop: Callable[[], Generator[Any, None, None]], max_rows: int) -> float:
    """Rows a second of a loop over minibatches; what it does to stop is not timed."""
    minibatches = loop()
    try:
        return rate(lambda: drain(minibatches, max_rows))
    finally:
        minibatches.close()


def drain(minibatches: Iterator[Any], max_rows: int) -> int:
    """Take minibatches until `max_rows` rows have come, or the end: every side's consumer.

    Returns the rows that came.
    """
    rows = 0
    if max_rows > 0:
        for x, _ in minibatches:
            rows += len(x)
            if rows >= max_rows:
                break
    return rows


def memory_reasons(groups: Groups, max_rows: int, threads: int) -> dict[str, str]:
    """The sides that would need more than half of the memory that is available, and why.

    They have no `--memory` to keep to.
    """
    available = psutil.virtual_memory().available
    row_bytes = (4 if groups.dataset.decoded_type == "float32" else 8) * len(groups.dataset.columns)
    largest = sorted((group.num_rows for group in groups.items), reverse=True)
    decoded, loop = (
        3 * sum(largest[:threads]) * row_bytes,
        4 * sum(largest[:GROUPS_AT_ONCE]) * row_bytes,
    )
    cut = "streamtrain ingest cuts smaller row groups"
    needs = {
        "decode": (decoded, cut),
        "expert_loop": (loop, cut),
        "tuned_loop": (loop + decoded, cut),
        "in_ram_gather": (max_rows * (row_bytes + 8) + decoded, "lower --rows"),
    }
    return {
        name: (
            f"it would need {format_bytes(needed)} and {format_bytes(available)} are available, of"
            f" which it may take half: {remedy}"
        )
        for name, (needed, remedy) in needs.items()
        if needed > available / 2
    }
