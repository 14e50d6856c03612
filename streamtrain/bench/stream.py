"""`streamtrain bench stream`: our delivery of minibatches beside raw decode, an expert's loop and a gather in memory.

All sides take turns in one process: a warm-up round, then A B C D A B C D …, so that a drift of the machine meets all alike. Each
side reads the same rows every time, so they come from the page cache as far as it holds them.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psutil

from streamtrain.bench.baselines import GROUPS_AT_ONCE, Groups, decode, expert_loop, gather_loop, load_tensor, tuned_loop
from streamtrain.bench.verdict import REFERENCE_THREADS, bottleneck, summarize
from streamtrain.budget import peak_rss_bytes, reset_peak_rss, rss_bytes
from streamtrain.config import Config
from streamtrain.errors import ConfigError
from streamtrain.science.interval import measure
from streamtrain.stream.shuffle import shuffle_once
from streamtrain.stream.tensors import Stream
from streamtrain.types import Record, Span
from streamtrain.units import format_bytes

#: Rows a side reads a repeat, when nothing is said and the data set has them.
ROWS = 20_000_000

REPEATS = 5


@dataclass(slots=True)
class Delivery:
    """Our side: every pass opens the stream anew, so that opening and the first minibatch are measured as often as the rest."""

    config: Config
    path: str
    max_rows: int
    first_minibatch_seconds: list[float] = field(default_factory=list)
    peak_rss_bytes: list[int] = field(default_factory=list)
    stats: dict[str, float] = field(default_factory=dict)

    def __call__(self) -> float:
        """Rows a second of one pass, from the first `next` to the last minibatch; filling the pipeline counts, opening does not."""
        reset_peak_rss()
        before = rss_bytes()
        began = time.perf_counter()
        stream = Stream(self.path, self.config)
        opened = time.perf_counter()
        minibatches: Generator[Any, None, None] = iter(stream)
        try:
            rows = len(next(minibatches)[0])
            first = time.perf_counter()
            rows += drain(minibatches, self.max_rows - rows)
            ended = time.perf_counter()
        finally:
            minibatches.close()
        self.first_minibatch_seconds.append(first - began)
        self.peak_rss_bytes.append(max(0, peak_rss_bytes() - before))
        for name, amount in (stream.stats() | {"fill_seconds": first - opened}).items():
            self.stats[name] = self.stats.get(name, 0) + amount
        return rows / (ended - opened)

    def forget(self) -> None:
        """Drop what the warm-up measured; its peak stays, since no other side had grown the process by then."""
        self.first_minibatch_seconds.clear()
        self.stats.clear()


def measure_stream(config: Config, *, rows: int | None = None, repeats: int = REPEATS) -> Record:
    """Measure delivery from `config.data.path` at `config.train.batch_size`; every side takes at most `rows` rows a repeat.

    Rates are rows a second. A side that does not fit in memory, or whose ratio says nothing, is null, and `reasons` says why.
    Raises ConfigError for fewer than one row or repeat, and what opening a Stream raises.
    """
    if repeats < 1 or (rows is not None and rows < 1):
        flag, value = ("--repeats", repeats) if repeats < 1 else ("--rows", rows)
        raise ConfigError(f"{flag} is {value}; it takes at least 1.")
    assert config.data.path is not None
    stream = Stream(config.data.path, config)
    budget, dataset = stream.budget, stream.dataset
    max_rows = min(rows or ROWS, stream.num_rows)
    groups = Groups(dataset)
    ours = Delivery(config, config.data.path, max_rows)
    reasons = memory_reasons(groups, max_rows, budget.readers)
    warm_up(stream)
    ours()  # before any other side has used memory: this pass's peak is ours alone
    ours.forget()
    sides = {"streamtrain": ours} | other_sides(groups, config, max_rows, budget.readers, skip=reasons)
    samples = take_turns(sides, repeats, warm=[name for name in sides if name != "streamtrain"])
    document: Record = {
        "data": dataset.url, "format": dataset.shards[0].format, "data_rows": dataset.num_rows, "rows": max_rows,
        "batch_size": config.train.batch_size, "readers": budget.readers, "repeats": repeats, "decode_through": groups.read_through,
    }
    document |= summarize(samples, reasons)
    document |= {
        "first_minibatch_seconds": measure(ours.first_minibatch_seconds)["value"],
        "peak_rss_bytes": max(ours.peak_rss_bytes), "projected_bytes": budget.projected_bytes, "memory_budget_bytes": budget.limit_bytes,
        "bottleneck": bottleneck(ours.stats), "parts": {name: value / repeats for name, value in ours.stats.items()},
    }
    return document


def warm_up(stream: Stream) -> None:
    """Compile the kernels on a few rows, so that the compiler's memory and seconds are not counted as the stream's."""
    span = stream._source.spans[0]
    few = min(span.num_rows, 16)
    shuffle_once(stream._source, Span(shard=span.shard, start=span.start, stop=span.start + few, first_id=span.first_id))


def other_sides(
    groups: Groups, config: Config, max_rows: int, threads: int, *, skip: Mapping[str, str]
) -> dict[str, Callable[[], float]]:
    """Name → one pass, which returns its rows a second."""
    size, seed = config.train.batch_size, config.order.seed
    sides: dict[str, Callable[[], float]] = {"decode": lambda: rate(lambda: decode(groups, max_rows, threads))}
    if threads != REFERENCE_THREADS:
        sides["decode_2_threads"] = lambda: rate(lambda: decode(groups, max_rows, REFERENCE_THREADS))
    sides["expert_loop"] = partial(loop_rate, partial(expert_loop, groups, size, seed=seed), max_rows)
    sides["tuned_loop"] = partial(loop_rate, partial(tuned_loop, groups, size, seed=seed, threads=threads), max_rows)
    if "in_ram_gather" not in skip:
        data = load_tensor(groups, max_rows, threads)
        sides["in_ram_gather"] = partial(loop_rate, partial(gather_loop, data, size, seed=seed), max_rows)
    return {name: side for name, side in sides.items() if name not in skip}


def take_turns(sides: Mapping[str, Callable[[], float]], repeats: int, *, warm: Sequence[str]) -> dict[str, list[float]]:
    """Run `warm` once for nothing, then all sides in turn, `repeats` times; returns what they returned."""
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
    """Take minibatches until `max_rows` rows have come, or the end: every side's consumer. Returns the rows that came."""
    rows = 0
    if max_rows > 0:
        for x, _ in minibatches:
            rows += len(x)
            if rows >= max_rows:
                break
    return rows


def memory_reasons(groups: Groups, max_rows: int, threads: int) -> dict[str, str]:
    """The sides that would need more than half of the memory that is available, and why. They have no `--memory` to keep to."""
    available = psutil.virtual_memory().available
    row_bytes = (4 if groups.dataset.decoded_type == "float32" else 8) * len(groups.dataset.columns)
    largest = sorted((group.num_rows for group in groups.items), reverse=True)
    decoded, loop = 3 * sum(largest[:threads]) * row_bytes, 4 * sum(largest[:GROUPS_AT_ONCE]) * row_bytes
    cut = "streamtrain ingest cuts smaller row groups"
    needs = {
        "decode": (decoded, cut), "expert_loop": (loop, cut), "tuned_loop": (loop + decoded, cut),
        "in_ram_gather": (max_rows * (row_bytes + 8) + decoded, "lower --rows"),
    }  # fmt: skip
    return {
        name: f"it would need {format_bytes(needed)} and {format_bytes(available)} are available, of which it may take half: {remedy}"
        for name, (needed, remedy) in needs.items() if needed > available / 2
    }
