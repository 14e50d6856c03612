"""The shuffle of `ingest`: each permutation is equally likely, whatever memory and workers."""

import os
import signal
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.base.budget import peak_rss_bytes, reset_peak_rss, rss_bytes
from streamtrain.errors import DataError, ResourceError
from streamtrain.plan.order import INGEST, hash_array, make_key
from streamtrain.storage.manifest import read_manifest
from streamtrain.storage.write import shuffled as module
from streamtrain.storage.write.ingest import ingest
from streamtrain.storage.write.shuffled import (
    NUM_BUCKETS,
    ShuffleMemory,
    shuffle_memory,
    shuffled,
    shuffled_rows,
)
from streamtrain.storage.write.tables import Piece
from streamtrain.storage.write.writer import Layout
from tests.chance import pvalue_of_equal
from tests.forked import run_forked
from tests.kernels.test_deal_rows import bucket_of, fisher_yates

LAYOUT = Layout(columns=("a", "y"), decoded_type="float32", format="parquet", span_rows=100)
IN_MEMORY = ShuffleMemory(block_rows=10, bucket_rows=10**9)


@pytest.fixture
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let buckets of more than 16 rows be dealt again."""
    monkeypatch.setattr(module, "LEAF_ROWS", 16)
    return 16


def oracle(rows: list, key: int, leaf_rows: int) -> list:
    if len(rows) <= leaf_rows:
        return fisher_yates(rows, key)
    buckets: list[list] = [[] for _ in range(NUM_BUCKETS)]
    for position, row in enumerate(rows):
        buckets[bucket_of(key, position, NUM_BUCKETS)].append(row)
    keys = hash_array(np.arange(NUM_BUCKETS), make_key(key, INGEST)).tolist()
    dealt = [oracle(bucket, key, leaf_rows) for bucket, key in zip(buckets, keys, strict=True)]
    return [row for bucket in dealt for row in bucket]


def order(num_rows: int, key: int, memory: ShuffleMemory, folder: Path, block_rows: int) -> list:
    rows = np.arange(num_rows, dtype=np.uint32)[:, None]
    blocks = (rows[start : start + block_rows] for start in range(0, num_rows, block_rows))
    arrays = [*shuffled_rows(blocks, key, memory, str(folder))]
    return np.concatenate(arrays)[:, 0].tolist() if arrays else []


@given(
    num_rows=st.integers(0, 2000),
    key=st.integers(0, 2**64 - 1),
    block_rows=st.integers(1, 500),
    bucket_rows=st.integers(16, 2000),
    workers=st.integers(1, 3),
)
@settings(max_examples=12, deadline=None)
def test_the_order_is_the_oracles_for_any_memory_and_workers(
    tmp_path_factory, num_rows, key, block_rows, bucket_rows, workers
):
    memory = ShuffleMemory(block_rows=block_rows, bucket_rows=bucket_rows, workers=workers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LEAF_ROWS", 16)
        found = order(num_rows, key, memory, tmp_path_factory.getbasetemp(), block_rows)
    assert found == oracle([*range(num_rows)], key, 16)


def test_large_tables_are_dealt_twice_with_the_real_constants(tmp_path: Path) -> None:
    num_rows = 64 * module.LEAF_ROWS + 200_000
    in_memory = np.array(order(num_rows, 5, IN_MEMORY, tmp_path, num_rows))
    assert np.array_equal(np.sort(in_memory), np.arange(num_rows))
    on_disk = ShuffleMemory(block_rows=200_000, bucket_rows=300_000)
    assert np.array_equal(order(num_rows, 5, on_disk, tmp_path, 200_000), in_memory)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("leaf_rows", "bucket_rows", "draws"),
    [
        pytest.param(4, 4, 12_000, id="permuted"),
        pytest.param(1, 4, 3000, id="dealt in memory"),
        pytest.param(1, 2, 600, id="dealt on disk"),
    ],
)
def test_every_permutation_is_equally_likely(
    leaf_rows: int, bucket_rows: int, draws: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four rows, permuted, or dealt to two buckets again and again until each is alone."""
    monkeypatch.setattr(module, "LEAF_ROWS", leaf_rows)
    monkeypatch.setattr(module, "NUM_BUCKETS", 2)
    memory = ShuffleMemory(block_rows=2, bucket_rows=bucket_rows)
    seen: dict[tuple, int] = {}
    for seed in range(draws):
        found = tuple(order(4, make_key(seed, INGEST), memory, tmp_path, 2))
        seen[found] = seen.get(found, 0) + 1
    assert len(seen) == 24
    assert pvalue_of_equal([*seen.values()]) > 1e-4


def test_each_row_is_equally_likely_at_each_place(small_leaves: int, tmp_path: Path) -> None:
    num_rows, draws = 40, 2000
    places = np.zeros((num_rows, num_rows), dtype=int)
    for seed in range(draws):
        found = order(num_rows, make_key(seed, INGEST), IN_MEMORY, tmp_path, num_rows)
        places[np.arange(num_rows), found] += 1
    assert num_rows > small_leaves
    # places of a permutation have (n − 1)² degrees of freedom, and this scale makes it chi-square
    statistic = ((places - draws / num_rows) ** 2).sum() / (draws / num_rows) * (1 - 1 / num_rows)
    freedom = (num_rows - 1) ** 2
    assert abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5


def test_neighbours_are_parted(tmp_path: Path) -> None:
    """Rows that follow one another do so again as seldom as in a random order."""
    found = order(500_000, make_key(1, INGEST), IN_MEMORY, tmp_path, 500_000)
    assert (np.diff(found) == 1).sum() < 10  # 1 on average


def pieces_of(columns: Piece, piece_rows: int) -> Iterator[Piece]:
    for start in range(0, len(columns[0]), piece_rows):
        yield tuple(column[start : start + piece_rows] for column in columns)


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_rows_stay_whole_for_any_type_and_pieces(kind, small_leaves: int, tmp_path: Path) -> None:
    layout = Layout(columns=("a", "b", "y"), decoded_type=kind, format="parquet", span_rows=70)
    ids = np.arange(1000, dtype=kind)
    columns = (ids, ids * 3, np.where(ids % 7 == 0, np.nan, -ids))
    for piece_rows in (1, 333, 5000):
        pieces = [*shuffled(pieces_of(columns, piece_rows), layout, str(tmp_path / "out"), seed=2)]
        assert max(len(piece[0]) for piece in pieces) <= 70
        a, b, y = (np.concatenate(column) for column in zip(*pieces, strict=True))
        assert (np.sort(a) == ids).all()
        assert not (a == ids).all()
        np.testing.assert_array_equal(b, a * 3)
        np.testing.assert_array_equal(y, np.where(a % 7 == 0, np.nan, -a))


def test_less_memory_means_smaller_buckets_and_too_little_is_refused(tmp_path: Path) -> None:
    limits = [shuffle_memory(limit, LAYOUT) for limit in (2**28, 2**30, 2**40)]
    assert [plan.bucket_rows for plan in limits] == sorted(plan.bucket_rows for plan in limits)
    assert shuffle_memory(2**30, LAYOUT, workers=4).bucket_rows < limits[1].bucket_rows
    columns = (np.zeros(3 * 2**20, dtype=np.float32),) * 2
    with pytest.raises(ResourceError, match=r"needs .*; the budget is 64.0 MiB. Raise --memory"):
        [*shuffled(pieces_of(columns, 2**20), LAYOUT, str(tmp_path / "o"), seed=0, memory=2**26)]
    few = (np.zeros(100, dtype=np.float32),) * 2  # a block needs no files
    assert [*shuffled(pieces_of(few, 9), LAYOUT, str(tmp_path / "o"), seed=0, memory=2**26)]


def write_source(folder: Path, num_rows: int = 5000) -> Path:
    columns = {"id": np.arange(num_rows, dtype=np.float32), "y": np.ones(num_rows, np.float32)}
    pq.write_table(pa.table(columns), folder / "t.parquet", row_group_size=999)
    return folder / "t.parquet"


def ids_of(folder: Path) -> list[float]:
    files = sorted(folder.glob("*.parquet"))
    return [value for file in files for value in pq.read_table(file)["id"].to_pylist()]


def test_the_manifest_says_that_rows_were_shuffled_and_seeds_differ(tmp_path: Path) -> None:
    source = write_source(tmp_path)
    for name, seed in (("kept", None), ("zero", 0), ("again", 0), ("one", 1)):
        data = ingest(source, tmp_path / name, shuffle_seed=seed, span_rows=300)
        assert data.integrity == "verified"
        assert data.num_rows == 5000
        manifest = read_manifest(str(tmp_path / name))
        assert manifest is not None
        assert manifest.shuffle_seed == seed
    kept, zero, again, one = (ids_of(tmp_path / n) for n in ("kept", "zero", "again", "one"))
    assert zero == again
    assert len({tuple(ids) for ids in (kept, zero, one)}) == 3
    assert sorted(zero) == sorted(one) == kept == [*range(5000)]


def test_a_manifest_without_a_shuffle_is_that_of_before(tmp_path: Path) -> None:
    ingest(write_source(tmp_path), tmp_path / "out")
    assert "shuffle_seed" not in (tmp_path / "out" / "_manifest.json").read_text()


SPILLING = ShuffleMemory(block_rows=500, bucket_rows=500)


@pytest.mark.parametrize("good", [0, 1, 4], ids=str)
def test_an_error_of_the_source_leaves_nothing(
    good: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "shuffle_memory", lambda *args, **named: SPILLING)
    source = write_source(tmp_path)
    whole = pq.ParquetFile.iter_batches

    def batches(self, *args, **named):
        yield from islice(whole(self, 999, **named), good)
        raise DataError("the disk is gone")

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", batches)
    with pytest.raises(DataError, match="the disk is gone"):
        ingest(source, tmp_path / "out", shuffle_seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "shuffle_memory", lambda *args, **named: SPILLING)
    source = write_source(tmp_path)

    class FullDisk:
        def __init__(self, dir: str):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", FullDisk)
    with pytest.raises(ResourceError, match=r"cannot keep the rows .*: No space left .*--no-shuf"):
        ingest(source, tmp_path / "out", shuffle_seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def _ingest_slowly(source: Path, out: Path, block: int) -> None:
    """Shuffle with small buckets, and stop for ever after some of the rows."""
    module.shuffle_memory = lambda *args, **named: SPILLING
    whole, count = module.Spill.add, [0]

    def add(self, rows):
        whole(self, rows)
        count[0] += 1
        if count[0] == block:
            (source.parent / "reached").touch()
            time.sleep(600)

    module.Spill.add = add
    take = module.Spill.take

    def slow_take(self, bucket):
        if bucket == block:
            (source.parent / "reached").touch()
            time.sleep(600)
        return take(self, bucket)

    module.Spill.take = slow_take
    ingest(source, out, shuffle_seed=3, span_rows=100)


@pytest.mark.parametrize("block", [1, 5, 20], ids=["dealing", "last block", "permuting"])
def test_a_killed_shuffle_is_run_again_and_leaves_nothing(
    block: int, tmp_path: Path, forked
) -> None:
    source = write_source(tmp_path)
    process = forked.Process(target=_ingest_slowly, args=(source, tmp_path / "out", block))
    process.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "reached").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    process.close()
    (tmp_path / "reached").unlink()
    ingest(source, tmp_path / "out", shuffle_seed=3, span_rows=100)
    ingest(source, tmp_path / "other", shuffle_seed=3, span_rows=100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out", "t.parquet"]
    assert ids_of(tmp_path / "out") == ids_of(tmp_path / "other")


def _shuffle_much(folder: Path, limit_bytes: int) -> int:
    layout = Layout(
        columns=("a", "b", "c", "d", "y"),
        decoded_type="float32",
        format="parquet",
        span_rows=65_536,
    )
    num_rows = 12_000_000  # 240 MB
    tiny = tuple(np.zeros(9, dtype=np.float32) for _ in layout.columns)
    assert [*shuffled(iter([tiny]), layout, str(folder / "o"), seed=0)]  # load the kernels

    def pieces() -> Iterator[Piece]:
        for start in range(0, num_rows, 65_536):
            ids = np.arange(start, min(start + 65_536, num_rows), dtype=np.float32)
            yield (ids,) * 5

    reset_peak_rss()
    before, total = rss_bytes(), 0
    for piece in shuffled(pieces(), layout, str(folder / "o"), seed=0, memory=limit_bytes):
        total += len(piece[0])
    assert total == num_rows
    return 0 if peak_rss_bytes() - before <= limit_bytes else 1


def test_peak_memory_stays_within_the_limit(tmp_path: Path, forked) -> None:
    ended = run_forked(forked, tmp_path, _shuffle_much, tmp_path, 2**27 + 2**25)
    assert ended.code == 0, ended.err
