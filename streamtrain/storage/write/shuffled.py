"""An exact, keyed shuffle of a whole data set in bounded memory.

Rows are dealt to 64 random buckets, each of these to 64 of its own, and so on, until a bucket has
at most `LEAF_ROWS` rows, which Fisher-Yates permutes. Buckets are drawn independently for each row,
so their sizes are multinomial and every permutation is equally likely (Sandelius 1962). Which
buckets are files and which are in memory depends on the limit, and the order does not: it is a
function of the seed and the number of rows.
"""

import os
import tempfile
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from streamtrain.base.budget import RUNTIME_BYTES, default_limit_bytes
from streamtrain.base.units import format_bytes
from streamtrain.errors import ResourceError
from streamtrain.kernels.deal_rows import deal_rows, permute_rows
from streamtrain.plan.order import INGEST, hash_array, make_key
from streamtrain.storage.remote.urls import is_remote
from streamtrain.storage.write.spill import Spill
from streamtrain.storage.write.tables import Piece
from streamtrain.storage.write.writer import Layout, run_ahead

#: Buckets of one deal: as many files are open, and as many places in memory are written at once.
NUM_BUCKETS = 64

#: Rows that are permuted without being dealt; rows of five float32 columns then fit the cache.
LEAF_ROWS = 32_768

#: Rows are dealt in blocks of this many bytes, of which a file gets 1/64 per write.
_BLOCK_BYTES = 8 << 20

#: Copies of a block, or of a span, in memory: decoded, joined, as rows, dealt, and being encoded.
_COPIES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffleMemory:
    """How much is shuffled at a time. The order does not depend on it.

    `block_rows`: rows dealt at a time. `bucket_rows`: the most rows permuted in memory; a larger
    bucket is dealt to files, and one of `LEAF_ROWS` never is. `workers`: buckets permuted at the
    same time. `refusal`: why a larger table than `bucket_rows` cannot be shuffled, if it cannot.
    """

    block_rows: int
    bucket_rows: int
    workers: int = 1
    refusal: str | None = None


def shuffle_memory(limit_bytes: int, layout: Layout, *, workers: int = 1) -> ShuffleMemory:
    """Return what fits into `limit_bytes` beside the spans that are read and written.

    Of each bucket being permuted there are two copies, and one of the bucket being written.
    """
    row_bytes = len(layout.columns) * np.dtype(layout.decoded_type).itemsize
    block_rows = max(1, _BLOCK_BYTES // row_bytes)
    least_rows = max(block_rows, LEAF_ROWS)
    fixed_bytes = RUNTIME_BYTES + _COPIES * (_BLOCK_BYTES + layout.span_rows * row_bytes)
    bucket_rows = (limit_bytes - fixed_bytes) // (row_bytes * (2 * workers + 1))
    refusal = None
    if bucket_rows < least_rows:
        needed_bytes = fixed_bytes + (2 * workers + 1) * least_rows * row_bytes
        refusal = (
            f"shuffling rows of {row_bytes:,} bytes in spans of {layout.span_rows:,} needs"
            f" {format_bytes(needed_bytes)}; the budget is {format_bytes(limit_bytes)}. Raise"
            " --memory, lower --span-rows, or use --no-shuffle."
        )
    return ShuffleMemory(
        block_rows=block_rows,
        bucket_rows=max(bucket_rows, least_rows),
        workers=workers,
        refusal=refusal,
    )


def shuffled(
    pieces: Iterator[Piece], layout: Layout, out: str, *, seed: int, memory: int | None = None
) -> Generator[Piece, None, None]:
    """Yield the rows of `pieces` in random order, in pieces of at most a span of `layout`.

    `memory`: limit in bytes, a quarter of what is available by default. Rows beyond it are kept in
    files without names beside `out`, or in the folder for temporary files if `out` is remote.
    Closing the generator removes them and ends its threads.

    Raises ResourceError when memory or disk do not suffice, and whatever `pieces` raises.
    """
    folder = tempfile.gettempdir() if is_remote(out) else os.path.dirname(os.path.abspath(out))
    plan = shuffle_memory(memory or default_limit_bytes(), layout)
    blocks = _blocks(pieces, plan.block_rows)
    with closing(shuffled_rows(blocks, make_key(seed, INGEST), plan, folder)) as buckets:
        for rows in buckets:
            values = rows.view(layout.decoded_type)
            for start in range(0, len(values), layout.span_rows):
                yield tuple(np.ascontiguousarray(values[start : start + layout.span_rows].T))
            del rows, values  # before the next bucket is permuted


def _blocks(pieces: Iterator[Piece], block_rows: int) -> Iterator[np.ndarray]:
    """Yield the rows of pieces as uint32 (rows, words), at least `block_rows` at a time."""
    held: list[Piece] = []
    num_rows = 0
    for piece in pieces:
        held.append(piece)
        num_rows += len(piece[0])
        if num_rows >= block_rows:
            yield _as_rows(held)
            held, num_rows = [], 0
    if num_rows:
        yield _as_rows(held)


def _as_rows(pieces: list[Piece]) -> np.ndarray:
    num_rows, width = sum(len(piece[0]) for piece in pieces), len(pieces[0])
    rows = np.empty((num_rows, width), dtype=pieces[0][0].dtype)
    start = 0
    for piece in pieces:
        end = start + len(piece[0])
        for number, column in enumerate(piece):
            rows[start:end, number] = column
        start = end
    return rows.view(np.uint32)


def shuffled_rows(
    blocks: Iterator[np.ndarray], key: int, memory: ShuffleMemory, folder: str
) -> Generator[np.ndarray, None, None]:
    """Yield the rows of `blocks`, uint32 (rows, words), in the order of `key`, in large arrays."""
    held: list[np.ndarray] = []
    num_rows = 0
    for block in blocks:
        held.append(block)
        num_rows += len(block)
        if num_rows > memory.bucket_rows:
            break
    else:
        if held:
            yield permuted(_join(held), key)
        return
    if memory.refusal:
        raise ResourceError(memory.refusal)
    words = held[0].shape[1]
    with Spill(folder, words, NUM_BUCKETS, key) as spill:
        _spill_all(spill, chain(_drain(held), blocks))
        keys = child_keys(key)
        with ThreadPoolExecutor(memory.workers, thread_name_prefix="shuffle") as pool:
            calls, number = [], 0
            while number < NUM_BUCKETS:
                calls.clear()
                while number < NUM_BUCKETS and spill.num_rows[number] <= memory.bucket_rows:
                    calls.append(partial(_take, spill, number, int(keys[number])))
                    number += 1
                yield from run_ahead(pool, calls, memory.workers)
                if number < NUM_BUCKETS:
                    rows = spill.take_blocks(number, memory.block_rows)
                    yield from shuffled_rows(rows, int(keys[number]), memory, folder)
                    number += 1


def _spill_all(spill: Spill, blocks: Iterator[np.ndarray]) -> None:
    """Deal all blocks, each while the next one is read."""
    with ThreadPoolExecutor(1, thread_name_prefix="spill") as pool:
        last: Future[None] | None = None
        for block in blocks:
            if last is not None:
                last.result()
            last = pool.submit(spill.add, block)
            del block
        if last is not None:
            last.result()


def _take(spill: Spill, bucket: int, key: int) -> np.ndarray:
    return permuted(spill.take(bucket), key)


def _drain(arrays: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the arrays, and keep none."""
    arrays.reverse()
    while arrays:
        yield arrays.pop()


def _join(arrays: list[np.ndarray]) -> np.ndarray:
    joined = np.empty((sum(map(len, arrays)), arrays[0].shape[1]), dtype=np.uint32)
    start = 0
    for array in _drain(arrays):
        joined[start : start + len(array)] = array
        start += len(array)
    return joined


def child_keys(key: int) -> np.ndarray:
    """Return the keys of the buckets of a deal: uint64 (NUM_BUCKETS,)."""
    return hash_array(np.arange(NUM_BUCKETS), make_key(key, INGEST))


def permuted(rows: np.ndarray, key: int) -> np.ndarray:
    """Permute rows in place by `key`, and return them; rows are uint32 (rows, words)."""
    if len(rows) > LEAF_ROWS:
        _permute(rows, np.empty_like(rows), key)
    else:
        _permute(rows, rows[:0], key)
    return rows


def _permute(rows: np.ndarray, spare: np.ndarray, key: int) -> None:
    """Permute `rows` in place; `spare` has as many, unless they are a leaf."""
    if len(rows) <= LEAF_ROWS:
        permute_rows(rows, np.array([0, len(rows)]), np.array([key], dtype=np.uint64))
        return
    starts = deal_rows(rows, np.uint64(key), 0, NUM_BUCKETS, spare)
    keys = child_keys(key)
    if np.diff(starts).max() <= LEAF_ROWS:
        permute_rows(spare, starts, keys)
    else:
        for first, end, child in zip(starts, starts[1:], keys.tolist(), strict=False):
            _permute(spare[first:end], rows[first:end], child)
    rows[:] = spare
