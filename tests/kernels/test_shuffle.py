"""The shuffle kernels equal a plain implementation, and every permutation is equally likely."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import types

from streamtrain import open_stream
from streamtrain.kernels import shuffle as kernels
from streamtrain.kernels.permute import permute, permute_width
from streamtrain.kernels.shuffle import TILE_ROWS, count_buckets, deal
from streamtrain.plan.order import GOLDEN, hash_array, mix64
from tests.chance import pvalue_of_equal
from tests.kernels.plain import fisher_yates

RECEIPT_KEY = np.uint64(99)
THOROUGH = os.environ.get("STREAMTRAIN_HYPOTHESIS") == "thorough"


def shuffle(spans, skips, key, num_buckets, mean=None, scale=None):
    """Run the kernels as stream/window.py does; return (block, rows dealt, digest, finite).

    Columns are read-only, as those of a reader are: writable ones are other types for the compiler,
    each a compilation of seconds.
    """
    width = len(spans[0])
    mask, key = np.uint64(num_buckets - 1), np.uint64(key)
    positions = np.concatenate([[0], np.cumsum([(len(span[0]) + 7) // 8 * 8 for span in spans])])
    counts = np.zeros(num_buckets, dtype=np.int64)
    for span, skip, position in zip(spans, skips, positions, strict=False):
        count_buckets(key, int(position), len(span[0]), skip, mask, counts)
    starts = np.cumsum(counts) - counts
    cursors = starts.copy()
    block = np.full((int(counts.sum()), width), np.nan, dtype=np.float32)
    dealt = digest = first_id = 0
    finite = True
    for span, skip, position in zip(spans, skips, positions, strict=False):
        span_dealt, span_digest, span_finite = deal(
            tuple(map(_read_only, span)),
            skip,
            int(position),
            first_id,
            key,
            mask,
            cursors,
            block,
            np.zeros(width) if mean is None else mean,
            np.ones(width) if scale is None else scale,
            RECEIPT_KEY,
        )
        dealt += span_dealt
        digest += int(span_digest)
        finite = finite and span_finite
        first_id += len(span[0])
    assert np.array_equal(cursors, starts + counts)
    rows = permute(block, starts, cursors, key)
    return block[:rows], dealt, digest % 2**64, finite


def _read_only(column):
    view = column.view()
    view.flags.writeable = False
    return view


def oracle(spans, skips, key, num_buckets):
    """Shuffle with Python lists as buckets, and Fisher-Yates with Lemire's bounded integers."""
    buckets = [[] for _ in range(num_buckets)]
    position = 0
    for span, skip in zip(spans, skips, strict=True):
        skipped = set(skip.tolist())
        for row in range(len(span[0])):
            bits = mix64((key + (position + row) // 8 * GOLDEN) % 2**64)
            if row not in skipped:
                buckets[bits >> (8 * (row % 8)) & (num_buckets - 1)].append(
                    [column[row] for column in span]
                )
        position += (len(span[0]) + 7) // 8 * 8
    for number, bucket in enumerate(buckets):
        fisher_yates(bucket, mix64(key ^ ((number + 1) * GOLDEN % 2**64)))
    return np.array([row for bucket in buckets for row in bucket], dtype=np.float32)


@given(
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    # each width of up to 7 is a compilation of seconds, unless it is not unrolled (conftest.py)
    width=st.integers(2, 60) if THOROUGH else st.sampled_from([2, 5, 8, 11, 30]),
    num_buckets=st.sampled_from([1, 2, 16, 256]),
    key=st.integers(0, 2**64 - 1),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_equals_the_oracle(sizes, width, num_buckets, key, data):
    random = np.random.default_rng(key % 1000)
    spans = [
        [random.standard_normal(size).astype(np.float32) for _ in range(width)] for size in sizes
    ]
    skips = [
        np.array(
            sorted(data.draw(st.sets(st.integers(0, size - 1), max_size=size // 2))), dtype=np.int64
        )
        for size in sizes
    ]
    block, dealt, digest, finite = shuffle(spans, skips, key, num_buckets)
    assert np.array_equal(block, oracle(spans, skips, key, num_buckets))
    assert finite
    kept = np.ones(sum(sizes), dtype=bool)
    starts = np.cumsum([0, *sizes])
    for start, skip in zip(starts, skips, strict=False):
        kept[start + skip] = False
    assert dealt == kept.sum()
    assert digest == int(hash_array(np.flatnonzero(kept), int(RECEIPT_KEY)).sum(dtype=np.uint64))


@pytest.mark.parametrize(
    "width",
    # 5 is in every other test; the ends of the range are here, since a width compiles for 1.7 s
    [2, *(pytest.param(width, marks=pytest.mark.slow) for width in (3, 4, 6)), 7],
)
def test_every_unrolled_width_equals_the_oracle(width, monkeypatch):
    """An example of each, as `test_equals_the_oracle` draws them in nightly runs only."""
    for module in ("shuffle", "permute"):
        monkeypatch.setattr(f"streamtrain.kernels.{module}.UNROLLED", frozenset({width}))
    random = np.random.default_rng(width)
    spans = [
        [random.standard_normal(size).astype(np.float32) for _ in range(width)]
        for size in (TILE_ROWS + 9, 70, 1)
    ]
    skips = [np.array(rows, dtype=np.int64) for rows in ([0, 8, TILE_ROWS], [69], [])]
    block, dealt, _, finite = shuffle(spans, skips, 2**63 + width, 16)
    assert np.array_equal(block, oracle(spans, skips, 2**63 + width, 16))
    assert dealt == len(block) == TILE_ROWS + 9 + 70 + 1 - 4
    assert finite
    widths = {len(kinds[-1]) for kinds in permute_width.signatures if kinds[-1] != types.int64}
    assert width in widths


#: Every case compiles a kernel; each pair of a width, a type and a stride is among the quick ones.
KINDS = [
    pytest.param(
        width,
        stored,
        strided,
        id=f"{width}-{stored.__name__}-{'strided' if strided else 'contiguous'}",
        marks=[pytest.mark.slow] if (width == 23) ^ (stored == np.float64) ^ strided else [],
    )
    for width in (5, 23)
    for stored in (np.float32, np.float64)
    for strided in (False, True)
]


@pytest.mark.parametrize(
    "rows", [TILE_ROWS - 1, TILE_ROWS, TILE_ROWS + 1, 3 * TILE_ROWS + 5], ids=str
)
@pytest.mark.parametrize(("width", "stored", "strided"), KINDS)
def test_tiles_strides_and_types(rows, width, stored, strided):
    ids = np.arange(rows, dtype=stored)
    table = np.stack([ids, *(ids * (c % 3 - 1) + c for c in range(1, width))], axis=1)
    span = list(table.T) if strided else [np.ascontiguousarray(column) for column in table.T]
    block, dealt, _, _ = shuffle([span], [np.array([0, rows - 1])], key=5, num_buckets=8)
    assert dealt == rows - 2
    order = block[:, 0].astype(np.int64)
    assert np.array_equal(np.sort(order), np.arange(1, rows - 1))
    assert np.array_equal(block, table[order].astype(np.float32))


def test_the_number_of_columns_is_no_part_of_a_type():
    random = np.random.default_rng(0)
    nothing = np.empty(0, np.int64)
    compiled = []
    for width in (8, 1500):
        columns = [random.standard_normal(40).astype(np.float32) for _ in range(width)]
        block, *_ = shuffle([columns], [nothing], key=1, num_buckets=2)
        assert np.array_equal(block, oracle([columns], [nothing], 1, 2))
        compiled.append((len(kernels.deal_columns.signatures), len(permute_width.signatures)))
    assert compiled[0] == compiled[1]


def test_a_table_of_many_columns_streams(tmp_path):
    rows = np.arange(1200 * 30, dtype=np.float32).reshape(30, 1200)
    table = pa.table({f"c{number}": column for number, column in enumerate(rows.T)})
    pq.write_table(table, tmp_path / "wide.parquet")
    batches = [torch.cat(xy, dim=1) for xy in open_stream(tmp_path / "wide.parquet", batch_size=8)]
    delivered = torch.cat(batches).numpy()
    assert np.array_equal(delivered[np.argsort(delivered[:, 0])], rows)


def test_standardises_in_float64_before_the_cast():
    values = 1e9 + np.arange(100, dtype=np.float64)
    block, *_ = shuffle(
        [[values, values]],
        [np.empty(0, np.int64)],
        key=1,
        num_buckets=1,
        mean=np.array([1e9, 0.0]),
        scale=np.array([1.0, 1.0]),
    )
    assert np.array_equal(np.sort(block[:, 0]), np.arange(100))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300], ids=str)
def test_tells_of_values_that_are_not_finite(value):
    columns = [np.zeros(5000), np.zeros(5000)]
    columns[1][4321] = value
    nothing = np.empty(0, np.int64)
    assert not shuffle([columns], [nothing], key=3, num_buckets=4)[3]
    assert shuffle([columns], [np.array([4321])], key=3, num_buckets=4)[3], (
        "a skipped row does not count"
    )


@pytest.mark.parametrize("num_buckets", [1, 4], ids=["one-bucket", "four-buckets"])
def test_every_permutation_is_equally_likely(num_buckets):
    rows, draws = 4, 12_000
    column = np.arange(rows, dtype=np.float32)
    seen: dict[bytes, int] = {}
    for seed in range(draws):
        block, *_ = shuffle(
            [[column, column]], [np.empty(0, np.int64)], key=mix64(seed), num_buckets=num_buckets
        )
        order = block[:, 0].astype(np.int8).tobytes()
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 24
    assert pvalue_of_equal([*seen.values()]) > 1e-4
