"""What delivery is measured against: raw decode, an expert's hand-written loop, the same tuned, and
a gather from memory.

Each is what a person who knows the libraries writes without ours: plain pyarrow, NumPy and torch.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import numpy as np
import pyarrow.parquet as pq
import torch

from streamtrain.storage.readers import Readers
from streamtrain.storage.remote.urls import is_remote
from streamtrain.types import Dataset, Shard

#: Row groups that the loops hold and shuffle together.
GROUPS_AT_ONCE = 8

Minibatch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A row group or chunk: number `number` of shard `shard`, rows `[start, stop)` of it."""

    shard: int
    number: int
    start: int
    stop: int

    @property
    def num_rows(self) -> int:
        return self.stop - self.start


class Groups:
    """The row groups or chunks of a data set that hold rows, in order, and how a script reads one.

    Thread-safe.

    Parquet through pyarrow with memory-mapped files (the faster of its two ways here), Zarr and
    what lies in object stores through the storage readers.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self.items = [
            Group(
                shard=number,
                number=i,
                start=int(shard.boundaries[i]),
                stop=int(shard.boundaries[i + 1]),
            )
            for number, shard in enumerate(dataset.shards)
            for i in range(len(shard.boundaries) - 1)
            if shard.boundaries[i] < shard.boundaries[i + 1]
        ]
        self._readers = Readers(dataset)
        self._footers: dict[int, pq.FileMetaData] = {}

    @property
    def read_through(self) -> str:
        """The library that reads, for people."""
        return "pyarrow" if all(map(_is_local_parquet, self.dataset.shards)) else "storage readers"

    def read(self, group: Group, *, use_threads: bool = False) -> tuple[np.ndarray, ...]:
        """The columns, decoded, in their stored types, target last.

        `use_threads`: pyarrow decodes them side by side.
        """
        shard = self.dataset.shards[group.shard]
        if not _is_local_parquet(shard):
            return self._readers.read(group.shard, group.start, group.stop)
        with pq.ParquetFile(
            shard.url, metadata=self._footers.get(group.shard), memory_map=True
        ) as file:
            self._footers.setdefault(group.shard, file.metadata)
            table = file.read_row_group(
                group.number, columns=list(self.dataset.columns), use_threads=use_threads
            )
            return tuple(table.column(name).to_numpy() for name in self.dataset.columns)

    def first(self, num_rows: int) -> list[Group]:
        """As many as are needed for `num_rows` rows."""
        before = accumulate((group.num_rows for group in self.items), initial=0)
        return [group for group, done in zip(self.items, before, strict=False) if done < num_rows]

    def read_into(self, rows: np.ndarray, group: Group, place: int) -> None:
        """Put a group's rows at `rows[place:]`; what does not fit is left out."""
        part = rows[place : place + group.num_rows]
        for i, column in enumerate(self.read(group)):
            part[:, i] = column[: len(part)]

    def load(self, chosen: Sequence[Group], num_rows: int, pool: ThreadPoolExecutor) -> np.ndarray:
        """The first `num_rows` rows of `chosen`: float32 (rows, columns)."""
        rows = np.empty((num_rows, len(self.dataset.columns)), dtype=np.float32)
        places = accumulate((group.num_rows for group in chosen), initial=0)
        # the first error is raised here
        for _ in pool.map(partial(self.read_into, rows), chosen, places):
            pass
        return rows


def _is_local_parquet(shard: Shard) -> bool:
    return shard.format == "parquet" and not is_remote(shard.url)


def decode(groups: Groups, num_rows: int, threads: int) -> int:
    """Decode whole groups of at least `num_rows` rows to NumPy columns, one group a thread; returns
    how many rows that was.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="bench-decode") as pool:
        return sum(pool.map(lambda group: len(groups.read(group)[0]), groups.first(num_rows)))


def expert_loop(groups: Groups, batch_size: int, *, seed: int) -> Iterator[Minibatch]:
    """An epoch by the loop that experts write by hand: random row groups, eight at a time, one
    NumPy permutation, slices.

    pyarrow decodes a row group's columns on its own threads. Each row comes exactly once; the last
    minibatch of every eight groups may be short.
    """
    rng = np.random.default_rng(seed)
    for chosen in _eights(groups, rng):
        parts = [groups.read(group, use_threads=True) for group in chosen]
        rows = np.stack([np.concatenate(column) for column in zip(*parts, strict=True)], axis=1)
        yield from _minibatches(
            rows[rng.permutation(len(rows))].astype(np.float32, copy=False), batch_size
        )


def tuned_loop(groups: Groups, batch_size: int, *, seed: int, threads: int) -> Iterator[Minibatch]:
    """The same epoch, tuned as far as NumPy goes: row groups are read side by side into one array,
    and `take` gathers the rows.

    `take` copies a row as one piece: twice as fast as an index. Reading the next eight groups ahead
    on a thread was no faster.
    """
    rng = np.random.default_rng(seed)
    with ThreadPoolExecutor(threads, thread_name_prefix="bench-loop") as pool:
        for chosen in _eights(groups, rng):
            rows = groups.load(chosen, sum(group.num_rows for group in chosen), pool)
            yield from _minibatches(rows.take(rng.permutation(len(rows)), axis=0), batch_size)


def _eights(groups: Groups, rng: np.random.Generator) -> Iterator[list[Group]]:
    order = [groups.items[i] for i in rng.permutation(len(groups.items))]
    return (order[first : first + GROUPS_AT_ONCE] for first in range(0, len(order), GROUPS_AT_ONCE))


def _minibatches(rows: np.ndarray, batch_size: int) -> Iterator[Minibatch]:
    tensor = torch.from_numpy(rows)
    return zip(tensor[:, :-1].split(batch_size), tensor[:, -1:].split(batch_size), strict=True)


def load_tensor(groups: Groups, num_rows: int, threads: int) -> torch.Tensor:
    """The first `num_rows` rows in memory: float32 (rows, columns)."""
    with ThreadPoolExecutor(threads, thread_name_prefix="bench-load") as pool:
        return torch.from_numpy(groups.load(groups.first(num_rows), num_rows, pool))


def gather_loop(rows: torch.Tensor, batch_size: int, *, seed: int) -> Iterator[Minibatch]:
    """An epoch over rows in memory: one permutation of all of them, then a gather a minibatch
    (`index_select`, the fastest of three).
    """
    permutation = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    for index in permutation.split(batch_size):
        part = rows.index_select(0, index)
        yield part[:, :-1], part[:, -1:]
