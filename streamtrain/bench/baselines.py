"""What delivery is compared with: raw decode, two hand-written loops, and a gather from memory.

Each is what an expert in the libraries writes without streamtrain: plain pyarrow, NumPy and torch.
"""

from collections.abc import Generator, Iterator, Sequence
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

#: Row groups that the loops hold in memory and shuffle together.
GROUPS_AT_ONCE = 8

Minibatch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A row group or chunk: number `number` in shard `shard`, with its rows `[start, stop)`."""

    shard: int
    number: int
    start: int
    stop: int

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return self.stop - self.start


class Groups:
    """The row groups or chunks of a data set, in order, read as a script would read them.

    Thread-safe. Groups without rows are left out. Local Parquet files are read by pyarrow with
    memory mapping, which is the faster of its two ways here; Zarr arrays and files in object stores
    are read by the storage readers.
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
        """The library that reads, for the report."""
        return "pyarrow" if all(map(_is_local_parquet, self.dataset.shards)) else "storage readers"

    def read(self, group: Group, *, use_threads: bool = False) -> tuple[np.ndarray, ...]:
        """Return the decoded columns in their stored types, target last.

        With `use_threads` pyarrow decodes several columns at once.
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
        """Return the first groups, as many as are needed for `num_rows` rows."""
        rows_before = accumulate((group.num_rows for group in self.items), initial=0)
        return [
            group
            for group, before in zip(self.items, rows_before, strict=False)
            if before < num_rows
        ]

    def read_into(self, rows: np.ndarray, group: Group, start: int) -> None:
        """Copy a group's rows to `rows[start:]`; those that do not fit are left out."""
        target = rows[start : start + group.num_rows]
        for i, column in enumerate(self.read(group)):
            target[:, i] = column[: len(target)]

    def load(self, chosen: Sequence[Group], num_rows: int, pool: ThreadPoolExecutor) -> np.ndarray:
        """Return the first `num_rows` rows of the groups `chosen`: float32 (rows, columns)."""
        rows = np.empty((num_rows, len(self.dataset.columns)), dtype=np.float32)
        starts = accumulate((group.num_rows for group in chosen), initial=0)
        # iterated so that an error of a thread is raised here
        for _ in pool.map(partial(self.read_into, rows), chosen, starts):
            pass
        return rows


def _is_local_parquet(shard: Shard) -> bool:
    return shard.format == "parquet" and not is_remote(shard.url)


def decode(groups: Groups, num_rows: int, threads: int) -> int:
    """Decode whole groups of at least `num_rows` rows in all, one group per thread.

    Returns the number of rows decoded to NumPy columns.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="bench-decode") as pool:
        return sum(pool.map(lambda group: len(groups.read(group)[0]), groups.first(num_rows)))


def expert_loop(groups: Groups, batch_size: int, *, seed: int) -> Generator[Minibatch, None, None]:
    """Yield an epoch by the loop that experts write by hand.

    It reads random row groups, eight at a time, permutes their rows with NumPy, and slices them.
    pyarrow decodes the columns of a row group on its own threads. Each row comes exactly once; the
    last minibatch of every eight groups may be short.
    """
    rng = np.random.default_rng(seed)
    for chosen in _random_groups(groups, rng):
        decoded = [groups.read(group, use_threads=True) for group in chosen]
        rows = np.stack([np.concatenate(column) for column in zip(*decoded, strict=True)], axis=1)
        shuffled = rows[rng.permutation(len(rows))].astype(np.float32, copy=False)
        yield from _minibatches(shuffled, batch_size)


def tuned_loop(
    groups: Groups, batch_size: int, *, seed: int, threads: int
) -> Generator[Minibatch, None, None]:
    """Yield the epoch of `expert_loop`, tuned as far as NumPy allows.

    Row groups are read in parallel into one array, and `take` gathers the rows: it copies a row as
    one piece, which is twice as fast as indexing. Reading the next eight groups ahead on a thread
    was no faster.
    """
    rng = np.random.default_rng(seed)
    with ThreadPoolExecutor(threads, thread_name_prefix="bench-loop") as pool:
        for chosen in _random_groups(groups, rng):
            rows = groups.load(chosen, sum(group.num_rows for group in chosen), pool)
            yield from _minibatches(rows.take(rng.permutation(len(rows)), axis=0), batch_size)


def _random_groups(groups: Groups, rng: np.random.Generator) -> Iterator[list[Group]]:
    """Yield all groups in random order, GROUPS_AT_ONCE at a time."""
    order = [groups.items[i] for i in rng.permutation(len(groups.items))]
    return (order[first : first + GROUPS_AT_ONCE] for first in range(0, len(order), GROUPS_AT_ONCE))


def _minibatches(rows: np.ndarray, batch_size: int) -> Iterator[Minibatch]:
    tensor = torch.from_numpy(rows)
    return zip(tensor[:, :-1].split(batch_size), tensor[:, -1:].split(batch_size), strict=True)


def load_tensor(groups: Groups, num_rows: int, threads: int) -> torch.Tensor:
    """Return the first `num_rows` rows, in memory: float32 (rows, columns)."""
    with ThreadPoolExecutor(threads, thread_name_prefix="bench-load") as pool:
        return torch.from_numpy(groups.load(groups.first(num_rows), num_rows, pool))


def gather_loop(
    rows: torch.Tensor, batch_size: int, *, seed: int
) -> Generator[Minibatch, None, None]:
    """Yield an epoch over rows in memory: one permutation of all rows, then a gather per minibatch.

    The gather is `index_select`, the fastest of three that were tried.
    """
    permutation = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    for index in permutation.split(batch_size):
        minibatch = rows.index_select(0, index)
        yield minibatch[:, :-1], minibatch[:, -1:]
