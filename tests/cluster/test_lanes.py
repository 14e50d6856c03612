"""Properties of lanes: every row once, equal parts while they last, any number of workers."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.cluster.allreduce.lanes import lanes_of, take_rows, take_rows_until
from streamtrain.plan.holdout import draw_holdout
from streamtrain.plan.order import deal_lanes, read_sequence
from streamtrain.plan.plan import make_lanes, make_plan
from streamtrain.plan.spans import cut_spans
from streamtrain.types import Shard

lane_rows = st.lists(st.integers(0, 200), min_size=1, max_size=9).map(np.array)


@given(num_rows=lane_rows, share=st.integers(1, 30))
def test_minibatches_take_every_row_once_and_equal_shares_while_they_last(num_rows, share):
    batch_size, left, taken = share * len(num_rows), num_rows.copy(), []
    while left.sum():
        take = take_rows(left, batch_size)
        assert (take >= 0).all()
        assert (take <= left).all()
        assert take.sum() == min(batch_size, left.sum())
        if (left >= share).all():
            assert (take == share).all()
        assert (take >= np.minimum(left, share)).all()
        left = left - take
        taken.append(take)
        assert (take_rows_until(num_rows, batch_size, len(taken)) == np.sum(taken, axis=0)).all()
    assert (sum(taken, np.zeros_like(num_rows)) == num_rows).all()


def test_missing_rows_are_filled_in_lane_order():
    assert take_rows(np.array([10, 10, 1, 10]), 12).tolist() == [5, 3, 1, 3]
    assert take_rows(np.array([4, 10, 0, 0]), 12).tolist() == [4, 8, 0, 0]
    assert take_rows(np.array([0, 2, 0, 1]), 12).tolist() == [0, 2, 0, 1]


@given(lanes=st.integers(1, 16), data=st.data())
def test_every_lane_has_one_owner(lanes, data):
    workers = data.draw(st.integers(1, lanes))
    owned = [lane for rank in range(workers) for lane in lanes_of(rank, workers, lanes)]
    assert sorted(owned) == list(range(lanes))
    assert max(len(lanes_of(rank, workers, lanes)) for rank in range(workers)) == -(
        -lanes // workers
    )


def _spans(sizes, window_rows):
    shards = [
        Shard(
            url="x",
            format="parquet",
            num_rows=sum(groups),
            num_bytes=0,
            boundaries=np.cumsum([0, *groups]),
            columns=(),
            source="",
        )
        for groups in sizes
    ]
    return cut_spans(shards, span_rows=50, window_rows=window_rows)


layouts = st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=10), min_size=1, max_size=4)


@given(
    sizes=layouts,
    window_rows=st.integers(8, 500),
    lanes=st.integers(1, 9),
    key=st.integers(0, 2**64 - 1),
)
@settings(max_examples=60)
def test_lanes_hold_every_span_once_and_chains_in_order(sizes, window_rows, lanes, key):
    spans = _spans(sizes, window_rows)
    dealt = deal_lanes(spans, key, lanes)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(len(spans)))
    for sequence in dealt:
        position = {span: index for index, span in enumerate(sequence.tolist())}
        for unit in range(spans.num_units):
            unit_spans = range(*spans.unit_range(unit))
            members = [position[span] for span in unit_spans if span in position]
            assert members == sorted(members)
            assert len(members) in (0, len(unit_spans))  # a chain is in one lane
    assert deal_lanes(spans, key, 1)[0].tolist() == read_sequence(spans, key).tolist()


@given(sizes=layouts, lanes=st.integers(1, 9), held=st.integers(0, 20), epoch=st.integers(0, 3))
@settings(max_examples=60)
def test_plans_of_lanes_are_parts_of_the_epoch(sizes, lanes, held, epoch):
    spans = _spans(sizes, 100)
    holdout = draw_holdout(spans, min(held, int(spans.num_rows.sum())), 0)
    plans = make_lanes(spans, holdout, seed=3, trial=1, epoch=epoch, window_rows=100, lanes=lanes)
    whole = make_plan(spans, holdout, seed=3, trial=1, epoch=epoch, window_rows=100)
    assert sum(plan.num_rows for plan in plans) == whole.num_rows
    windows = [window for plan in plans for window in plan.windows()]
    keys = {window.key for window in windows}
    assert len(keys) == len(windows)
    assert (
        keys == {window.key for window in whole.windows()}
        if lanes == 1
        else keys.isdisjoint(window.key for window in whole.windows())
    )
    assert all(plan.window(len(plan) - 1).ends_epoch for plan in plans if len(plan))


@pytest.mark.parametrize("lanes", [2, 8])
def test_a_lane_draws_its_spans_from_the_whole_data_set(lanes):
    spans = _spans([[50] * 400], 400)
    for sequence in deal_lanes(spans, 11, lanes):
        assert abs(sequence.mean() - 199.5) < 5 * 400 / np.sqrt(12 * len(sequence))


def test_other_folders_import_only_the_entry_of_allreduce():
    package = Path(__file__).parents[2] / "streamtrain"
    allreduce = package / "cluster/allreduce"
    imported = {
        module
        for path in package.rglob("*.py")
        if allreduce not in path.parents
        for module in re.findall(r"streamtrain\.cluster\.allreduce\.(\w+)", path.read_text())
    }
    assert imported == {"allreduce_pass"}
