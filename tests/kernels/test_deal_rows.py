"""The kernels equal plain Python, and dealing does not depend on how rows are cut into calls."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.kernels.deal_rows import deal_rows, permute_rows
from streamtrain.plan.order import GOLDEN, mix64
from tests.kernels.plain import fisher_yates

KEYS = st.integers(0, 2**64 - 1)


def bucket_of(key: int, position: int, num_buckets: int) -> int:
    return (mix64((key + position * GOLDEN) % 2**64) >> 32) * num_buckets >> 32


def table(num_rows: int, words: int) -> np.ndarray:
    return np.arange(num_rows * words, dtype=np.uint32).reshape(num_rows, words)


@given(
    num_rows=st.integers(0, 300),
    words=st.integers(1, 7),
    key=KEYS,
    num_buckets=st.sampled_from([1, 2, 64]),
    cut=st.floats(0, 1),
)
@settings(deadline=None)
def test_dealing_equals_lists_of_python_however_it_is_cut(num_rows, words, key, num_buckets, cut):
    rows, out = table(num_rows, words), np.zeros((num_rows, words), dtype=np.uint32)
    expected: list[list] = [[] for _ in range(num_buckets)]
    for position, row in enumerate(rows.tolist()):
        expected[bucket_of(key, position, num_buckets)].append(row)
    starts = deal_rows(rows, np.uint64(key), 0, num_buckets, out)
    dealt = [out[a:b].tolist() for a, b in itertools.pairwise(starts)]
    assert dealt == expected
    middle = int(cut * num_rows)
    first, second = np.zeros_like(rows[:middle]), np.zeros_like(rows[middle:])
    ends = deal_rows(rows[:middle], np.uint64(key), 0, num_buckets, first)
    more = deal_rows(rows[middle:], np.uint64(key), middle, num_buckets, second)
    assert [
        [*first[ends[b] : ends[b + 1]].tolist(), *second[more[b] : more[b + 1]].tolist()]
        for b in range(num_buckets)
    ] == expected


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5), words=st.integers(1, 7), key=KEYS
)
@settings(deadline=None)
def test_permuting_equals_fisher_yates_of_each_bucket(sizes, words, key):
    starts = np.concatenate([[0], np.cumsum(sizes)])
    rows = table(int(starts[-1]), words)
    keys = [mix64(key ^ bucket) for bucket in range(len(sizes))]
    expected = [
        fisher_yates(rows[a:b].tolist(), key)
        for a, b, key in zip(starts, starts[1:], keys, strict=False)
    ]
    permute_rows(rows, starts, np.array(keys, dtype=np.uint64))
    assert rows.tolist() == [row for bucket in expected for row in bucket]


@pytest.mark.parametrize("num_buckets", [2, 64], ids=str)
def test_sizes_of_buckets_are_multinomial(num_buckets):
    """Over many keys, the size of a bucket has the mean and the variance of a binomial."""
    num_rows, draws = 1000, 2000
    rows = table(num_rows, 1)
    out = np.empty_like(rows)
    sizes = np.array(
        [
            np.diff(deal_rows(rows, np.uint64(mix64(draw)), 0, num_buckets, out))
            for draw in range(draws)
        ]
    )
    share = 1 / num_buckets
    variance = num_rows * share * (1 - share)
    counted = draws * (num_buckets - 1)
    statistic = ((sizes - num_rows * share) ** 2).sum() / (num_rows * share)
    assert abs(statistic / counted - 1) < 5 * (2 / counted) ** 0.5
    assert np.abs(sizes.mean(axis=0) - num_rows * share).max() < 5 * (variance / draws) ** 0.5
