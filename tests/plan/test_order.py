"""Properties of keys, permutations, spans, windows and the hold-out."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.plan.holdout import SPREAD_SPANS, draw_holdout, holdout_rows
from streamtrain.plan.order import (
    OPEN_CHAINS,
    cut_windows,
    make_key,
    permutation,
    read_sequence,
    sample,
)
from streamtrain.plan.spans import cut_spans
from streamtrain.types import Shard
from tests.chance import pvalue_of_equal


def shard(*boundaries: int) -> Shard:
    return Shard(
        url="x",
        format="parquet",
        num_rows=boundaries[-1],
        num_bytes=0,
        boundaries=np.array(boundaries),
        columns=(),
        source="",
    )


shards = st.lists(
    st.lists(st.integers(1, 300), min_size=1, max_size=12), min_size=1, max_size=5
).map(lambda layouts: [shard(0, *np.cumsum(sizes).tolist()) for sizes in layouts])


def test_keys_of_neighbouring_seeds_trials_and_epochs_differ():
    keys = [
        make_key(seed, trial, epoch, level)
        for seed in range(5)
        for trial in range(5)
        for epoch in range(5)
        for level in range(5)
    ]
    assert len(set(keys)) == len(keys)


@given(n=st.integers(0, 500), key=st.integers(0, 2**64 - 1))
def test_permutation_is_a_bijection(n, key):
    assert np.array_equal(np.sort(permutation(n, key)), np.arange(n))


@given(n=st.integers(1, 5000), key=st.integers(0, 2**64 - 1), data=st.data())
@settings(deadline=None)
def test_sample_is_distinct_ascending_and_in_range(n, key, data):
    k = data.draw(st.integers(0, n))
    drawn = sample(n, k, key)
    assert len(drawn) == k
    assert (np.diff(drawn) > 0).all()
    assert not k or (drawn[0] >= 0 and drawn[-1] < n)


def test_sample_is_uniform():
    counts = np.zeros(20)
    for key in range(4000):
        counts[sample(20, 5, make_key(key))] += 1
    assert pvalue_of_equal(counts) > 1e-4


@given(shards=shards, span_rows=st.integers(1, 400), window_rows=st.integers(8, 900))
def test_spans_cover_every_row_once_along_boundaries(shards, span_rows, window_rows):
    spans = cut_spans(shards, span_rows=span_rows, window_rows=window_rows)
    first = 0
    for number, cut_shard in enumerate(shards):
        boundaries = cut_shard.boundaries
        shard_spans = [spans[i] for i in range(len(spans)) if spans.shard[i] == number]
        assert [span.start for span in shard_spans] == [0, *(s.stop for s in shard_spans[:-1])]
        assert shard_spans[-1].stop == cut_shard.num_rows
        for span in shard_spans:
            assert span.first_id == first + span.start
            assert span.num_rows <= max(window_rows, 1)
            on_edges = span.start in boundaries and span.stop in boundaries
            next_boundary = boundaries[np.searchsorted(boundaries, span.start, "right")]
            assert on_edges or next_boundary - 1 >= span.start
        first += cut_shard.num_rows
    assert spans.unit_starts[-1] == len(spans)


@pytest.mark.parametrize(
    ("sizes", "span_rows", "edges"),
    [
        ((100, 100, 100), 250, [0, 200, 300]),
        ((262_144, 262_144), 262_144, [0, 262_144, 524_288]),
        ((1,) * 10, 4, [0, 4, 8, 10]),
        ((300, 1, 1), 100, [0, 300, 302]),
    ],
    ids=["joined", "as-stored", "single-rows", "large-then-small"],
)
def test_small_neighbours_join(sizes, span_rows, edges):
    spans = cut_spans(
        [shard(0, *np.cumsum(sizes).tolist())], span_rows=span_rows, window_rows=10**6
    )
    assert [0, *spans.stop.tolist()] == edges


@given(shards=shards, window_rows=st.integers(8, 200), key=st.integers(0, 2**32))
def test_slices_of_a_chain_stay_in_order_and_eight_are_open(shards, window_rows, key):
    spans = cut_spans(shards, span_rows=50, window_rows=window_rows)
    sequence = read_sequence(spans, key)
    assert np.array_equal(np.sort(sequence), np.arange(len(spans)))
    read_at = np.empty(len(spans), dtype=int)
    read_at[sequence] = np.arange(len(spans))
    open_during = []
    for unit in range(spans.num_units):
        first, end = spans.unit_range(unit)
        assert (np.diff(read_at[first:end]) > 0).all()
        open_during.append((read_at[first], read_at[end - 1]))
    for read in range(len(spans)):
        assert sum(first <= read <= last for first, last in open_during) <= OPEN_CHAINS


def test_chains_take_turns():
    """Of ten row groups of ten slices, eight are open from the start.

    A window of eight slices has one slice of each.
    """
    spans = cut_spans([shard(*range(0, 10_001, 1000))], span_rows=50, window_rows=800)
    assert (spans.num_units, len(spans)) == (10, 100)
    units = [spans.unit_of(number) for number in read_sequence(spans, key=3).tolist()]
    for turn in range(10):
        assert len(set(units[turn * OPEN_CHAINS : (turn + 1) * OPEN_CHAINS])) == OPEN_CHAINS
    assert len(set(units[80:82])) == 2


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=60), window_rows=st.integers(50, 200)
)
def test_windows_are_full_but_not_over(sizes, window_rows):
    offsets = cut_windows(np.array(sizes), window_rows)
    assert offsets[0] == 0
    assert offsets[-1] == len(sizes)
    for first, last in itertools.pairwise(offsets):
        assert last > first
        assert sum(sizes[first:last]) <= window_rows
        assert last == len(sizes) or sum(sizes[first : last + 1]) > window_rows


@given(shards=shards, seed=st.integers(0, 100), share=st.floats(0, 1))
@settings(deadline=None)
def test_holdout_counts_are_exact_and_in_proportion(shards, seed, share):
    spans = cut_spans(shards, span_rows=100, window_rows=1000)
    rows = int(share * spans.num_rows.sum())
    holdout = draw_holdout(spans, rows, seed)
    chosen = holdout.spread
    assert len(set(chosen.tolist())) == len(chosen) >= min(len(spans), SPREAD_SPANS)
    assert holdout.num_rows == rows
    for span, positions in holdout.positions.items():
        size = spans[span].num_rows
        assert abs(len(positions) - rows * size / spans.num_rows[chosen].sum()) < 1 + 1e-9
        assert (np.diff(positions) > 0).all()
        assert positions[-1] < size


def test_held_out_rows_lie_elsewhere_in_every_span_and_for_every_seed():
    spans = cut_spans([shard(*range(0, 6401, 100))], span_rows=100, window_rows=1000)
    drawn = [
        tuple(positions.tolist())
        for seed in range(3)
        for positions in draw_holdout(spans, 640, seed).positions.values()
    ]
    assert len(drawn) == len(set(drawn)) == 3 * 64
    # every position is drawn in some span
    assert np.bincount(np.concatenate(drawn), minlength=100).min() > 0


def test_shares_of_the_holdout_are_exact_however_many_rows_there_are(monkeypatch):
    """The product of two row counts of a large data set exceeds int64."""
    monkeypatch.setattr("streamtrain.plan.holdout.sample", lambda size, share, key: range(share))
    rows = 2 * 10**9
    spans = cut_spans([shard(*range(0, 10**10 + 1, 10**8))], span_rows=10**8, window_rows=10**8)
    shares = [len(positions) for positions in draw_holdout(spans, rows, seed=0).positions.values()]
    assert sum(shares) == rows
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(None, 200), (0, 0), (150, 150), (0.1, 100)],
    ids=["default", "none", "rows", "fraction"],
)
def test_holdout_rows(asked, expected):
    assert holdout_rows(1000, asked=asked, eval_rows=131_072) == expected
