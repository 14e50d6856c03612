"""The laws of the stream (DESIGN.md §8), on real files.

Rows are identified by the ids in their delivered values.
"""

import copy
import gc
import itertools
import multiprocessing
import multiprocessing.reduction
import pickle
import time
import weakref

import cloudpickle
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamtrain
from streamtrain.errors import ConfigError, DataError, ResourceError
from streamtrain.plan.order import hash_array
from streamtrain.stream.block import BufferPool
from streamtrain.stream.fetch import TASK_SPANS, TASK_VALUES, share_tasks
from streamtrain.stream.window import RECEIPT_KEY
from streamtrain.types import Receipt
from tests.chance import pvalue_of_equal
from tests.stream.conftest import id_rows, row_ids

LAYOUTS = {
    "even": [[40, 40], [40, 40]],
    "uneven": [[7, 93, 1], [1], [200, 3], [64]],
    "one-row": [[1]],
    "large-group": [[500], [30, 30]],
    "many-large-groups": [[300, 200], [400], [250], [30]],
}
SMALL = {"window_rows": 90, "span_rows": 40, "memory": "64MiB"}


def deliver(stream) -> np.ndarray:
    return np.concatenate([torch.cat([x, y], dim=1).numpy() for x, y in stream])


def rebuilt(rows: np.ndarray) -> Receipt:
    """Return the receipt, computed from the delivered values alone."""
    ids = row_ids(rows)
    return Receipt(
        count=len(ids), digest=int(hash_array(ids, int(RECEIPT_KEY)).sum(dtype=np.uint64))
    )


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000], ids=str)
def test_every_row_exactly_once_each_epoch(write_data, layout, batch_size):
    total = sum(map(sum, layout))
    stream = streamtrain.open_stream(write_data(layout), batch_size=batch_size, **SMALL)
    for _ in range(2):
        batches = list(stream)
        assert len(batches) == len(stream) == -(-total // batch_size)
        assert all(len(x) == batch_size for x, _ in batches[:-1])
        rows = np.concatenate([torch.cat([x, y], dim=1).numpy() for x, y in batches])
        assert np.array_equal(rows[np.argsort(row_ids(rows))], id_rows(total))
        assert stream.receipt() == rebuilt(rows)


@given(
    layout=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=5), min_size=1, max_size=3),
    batch_size=st.integers(1, 130),
    window_rows=st.integers(8, 200),
    span_rows=st.integers(1, 80),
    readers=st.integers(1, 3),
    holdout=st.floats(0, 0.5),
    seed=st.integers(0, 3),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_exactly_once_for_any_plan(
    write_data, layout, batch_size, window_rows, span_rows, readers, holdout, seed
):
    total = sum(map(sum, layout))
    stream = streamtrain.open_stream(
        write_data(layout),
        batch_size=batch_size,
        window_rows=window_rows,
        span_rows=span_rows,
        readers=readers,
        holdout=holdout,
        seed=seed,
    )
    rows = deliver(stream)
    held = total - stream.num_rows
    assert held == round(holdout * total)
    ids = row_ids(rows)
    assert len(set(ids.tolist())) == len(ids) == total - held
    assert stream.receipt() == rebuilt(rows)


@given(
    layout=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=5), min_size=1, max_size=3),
    holdout=st.floats(0, 0.5),
    seeds=st.tuples(st.integers(0, 2**63), st.integers(0, 2**63)),
    holdout_seed=st.integers(0, 2**63),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_holdout_depends_on_its_seed_alone(write_data, layout, holdout, seeds, holdout_seed):
    """Delivered and held-out rows are disjoint and together are all rows, for any two seeds."""
    folder = write_data(layout)
    streams = [
        streamtrain.open_stream(
            folder, holdout=holdout, seed=seed, holdout_seed=holdout_seed, **SMALL
        )
        for seed in seeds
    ]
    held = [held_out_ids(stream) for stream in streams]
    assert held[0] == held[1]
    for stream in streams:
        ids = row_ids(deliver(stream)).tolist()
        assert sorted([*ids, *held[0]]) == list(range(sum(map(sum, layout))))


def test_another_holdout_seed_holds_out_other_rows(write_data):
    folder = write_data([[400, 400]])
    drawn = [
        tuple(held_out_ids(streamtrain.open_stream(folder, holdout=80, holdout_seed=seed)))
        for seed in range(4)
    ]
    assert len(set(drawn)) == 4


def held_out_ids(stream) -> list[int]:
    source = stream._source
    return [
        source.spans[span].first_id + position
        for span, positions in source.holdout.positions.items()
        for position in positions.tolist()
    ]


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 1}, {"batch_size": 300}, {"readers": 1}, {"readers": 4}, {"memory": "1GiB"}],
    ids=lambda change: "-".join(map(str, *change.items())),
)
def test_the_row_sequence_does_not_change(write_data, change):
    folder = write_data(LAYOUTS["uneven"])
    usual = {"batch_size": 32, "readers": 2, **SMALL}
    assert np.array_equal(
        deliver(streamtrain.open_stream(folder, **usual)),
        deliver(streamtrain.open_stream(folder, **{**usual, **change})),
    )


@pytest.mark.parametrize("format", ["parquet", "zarr"])
def test_a_chain_is_decoded_once(write_data, format, monkeypatch):
    """Slices are read one after another, so each row is decoded once per epoch, not per slice."""
    from streamtrain.storage.parquet import parquet_reader as parquet
    from streamtrain.storage.zarr import cf_attributes as zarr

    decoded = []
    for module, name in ((parquet, "decode_arrow"), (zarr, "decode_numpy")):
        original = getattr(module, name)
        monkeypatch.setattr(
            module,
            name,
            lambda column, values, kind, f=original: (
                decoded.append(len(values)) or f(column, values, kind)
            ),
        )
    folder = write_data([[3000], [3000]], format=format)
    stream = streamtrain.open_stream(folder, window_rows=800, span_rows=100)
    assert len(deliver(stream)) == 6000
    assert sum(decoded) == 6000 * 5


@pytest.mark.parametrize("stored", ["float32", "float64"])
def test_parquet_and_zarr_give_the_same_sequence(write_data, stored):
    layout = [[64, 64, 10], [64, 64]]
    from_parquet, from_zarr = (
        deliver(
            streamtrain.open_stream(
                write_data(layout, format=format, stored=stored), **SMALL, holdout=0.1
            )
        )
        for format in ("parquet", "zarr")
    )
    assert np.array_equal(from_parquet, from_zarr)


def test_orders_of_seeds_and_epochs_differ(write_data):
    folder = write_data(LAYOUTS["even"])
    first = streamtrain.open_stream(folder, seed=0, **SMALL)
    orders = [
        deliver(first),
        deliver(first),
        deliver(streamtrain.open_stream(folder, seed=1, **SMALL)),
    ]
    for first_order, second_order in itertools.combinations(orders, 2):
        assert not np.array_equal(first_order, second_order)
    assert np.array_equal(orders[0], deliver(streamtrain.open_stream(folder, seed=0, **SMALL)))


@pytest.mark.parametrize(
    "layout", [LAYOUTS["uneven"], LAYOUTS["many-large-groups"]], ids=["uneven", "chains"]
)
@pytest.mark.parametrize("resumed_size", [32, 5, 100], ids=str)
@pytest.mark.parametrize("stop_after", [1, 2, 3, 7, 10], ids=str)
def test_resume_anywhere(write_data, layout, resumed_size, stop_after):
    folder = write_data(layout)
    whole = deliver(streamtrain.open_stream(folder, batch_size=32, **SMALL))
    stream = streamtrain.open_stream(folder, batch_size=32, **SMALL)
    for _ in itertools.islice(stream, stop_after):
        pass
    state = stream.state_dict()
    assert stream.receipt() == rebuilt(whole[: 32 * stop_after])
    other = streamtrain.open_stream(folder, batch_size=resumed_size, **SMALL)
    other.load_state_dict(state)
    assert other.receipt() == stream.receipt()
    assert np.array_equal(deliver(other), whole[32 * stop_after :])
    assert other.receipt() == rebuilt(whole)


def test_state_after_an_epoch_is_the_next_one(write_data):
    folder = write_data(LAYOUTS["even"])
    stream = streamtrain.open_stream(folder, **SMALL)
    deliver(stream)
    other = streamtrain.open_stream(folder, **SMALL)
    other.load_state_dict(stream.state_dict())
    assert other.epoch == 1
    assert np.array_equal(deliver(stream), deliver(other))


def test_a_state_of_an_epoch_with_more_windows_than_the_first(write_data):
    """Spans of different sizes make another number of windows in another order.

    So the window of a position is checked against the plan of its own epoch.
    """
    flags = {"seed": 14, "batch_size": 8, "window_rows": 100, "span_rows": 10}
    folder = write_data([[7, 93, 1, 1, 66, 3, 64, 40, 40, 80, 12]])
    stream = streamtrain.open_stream(folder, **flags)
    stream.set_epoch(1)
    for _ in itertools.islice(stream, len(stream)):
        pass
    other = streamtrain.open_stream(folder, **flags)
    assert stream.state_dict()["window"] > len(other._position.plan)
    other.load_state_dict(stream.state_dict())
    assert other.receipt() == stream.receipt()
    assert list(other) == []  # its last minibatch was delivered
    with pytest.raises(ConfigError, match="not a position"):
        other.load_state_dict({**stream.state_dict(), "window": stream.state_dict()["window"] + 1})


def test_state_of_another_order_is_refused(write_data):
    folder = write_data(LAYOUTS["even"])
    state = streamtrain.open_stream(folder, seed=0, **SMALL).state_dict()
    with pytest.raises(ConfigError, match="seed was 0, is 1"):
        streamtrain.open_stream(folder, seed=1, **SMALL).load_state_dict(state)


def test_a_state_is_for_the_rows_that_it_held_out(write_data):
    """States once had one seed for the order and the hold-out."""
    folder = write_data(LAYOUTS["even"])
    opened = {"seed": 3, **SMALL}
    stream = streamtrain.open_stream(folder, holdout=20, holdout_seed=3, **opened)
    state = stream.state_dict()
    other = streamtrain.open_stream(folder, holdout=20, **opened)
    older = {**state, "order": {**state["order"]}}
    del older["order"]["holdout_seed"]
    for saved in (state, older):
        stream.load_state_dict(saved)
        with pytest.raises(ConfigError, match="holdout_seed was 3, is 0"):
            other.load_state_dict(saved)
    state = streamtrain.open_stream(folder, **opened).state_dict()
    assert "holdout_seed" not in state["order"], "nothing is held out"
    streamtrain.open_stream(folder, holdout_seed=7, **opened).load_state_dict(state)


def test_state_of_other_cuts_is_refused(write_data):
    """Spans of the same number, cut elsewhere, would give the position another meaning."""
    folder = write_data([[7] * 60])
    state = streamtrain.open_stream(folder, span_rows=105, window_rows=200).state_dict()
    with pytest.raises(ConfigError, match="another order of rows"):
        streamtrain.open_stream(folder, span_rows=112, window_rows=200).load_state_dict(state)


@pytest.mark.parametrize(
    "change", [{"row": 10**9}, {"window": 99}, {"epoch": -1}, {"epoch": "a"}], ids=str
)
def test_a_position_that_is_none_is_refused(write_data, change):
    stream = streamtrain.open_stream(write_data(LAYOUTS["even"]), **SMALL)
    with pytest.raises(ConfigError, match="not a position"):
        stream.load_state_dict({**stream.state_dict(), **change})
    whole = stream.state_dict()
    for name in whole.keys() - {"quarantine"}:
        with pytest.raises(ConfigError, match=f"not a Stream's state: {name} missing"):
            stream.load_state_dict({key: value for key, value in whole.items() if key != name})


def test_a_row_beyond_its_own_window_is_refused(write_data):
    stream = streamtrain.open_stream(write_data([[80], [80], [11]]), window_rows=80, span_rows=80)
    plan = stream._position.plan
    for window in range(len(plan)):
        rows = plan.window(window).num_rows
        stream.load_state_dict({**stream.state_dict(), "window": window, "row": rows})
        with pytest.raises(ConfigError, match=f"row {rows + 1} is not a position"):
            stream.load_state_dict({**stream.state_dict(), "window": window, "row": rows + 1})


def test_more_held_out_rows_than_the_budget_can_list_are_refused(write_data):
    with pytest.raises(
        ResourceError, match=r"800 held-out rows takes 6\.2 KiB; the budget is 4\.0 KiB"
    ):
        streamtrain.open_stream(write_data([[100] * 10]), holdout=800, memory="4KiB")


def test_a_device_that_is_not_there(write_data):
    with pytest.raises(ConfigError, match="cannot be used here"):
        streamtrain.open_stream(write_data(LAYOUTS["even"]), device="cuda:7", **SMALL)


def test_minibatches_of_a_stream_have_one_size(write_data):
    with pytest.raises(ConfigError, match=r"^train.batch_size auto is for `train`.*Give the rows"):
        streamtrain.open_stream(write_data(LAYOUTS["even"]), **SMALL | {"batch_size": "auto"})


def test_set_epoch(write_data):
    folder = write_data(LAYOUTS["even"])
    stream = streamtrain.open_stream(folder, **SMALL)
    deliver(stream)
    second = deliver(stream)
    other = streamtrain.open_stream(folder, **SMALL)
    other.set_epoch(1)
    assert np.array_equal(deliver(other), second)


def test_tensors_belong_to_the_caller(write_data):
    stream = streamtrain.open_stream(write_data([[40] * 20]), batch_size=16, **SMALL)
    kept = [(x, x.clone()) for x, _ in stream]
    assert all(torch.equal(x, copy) for x, copy in kept)


def test_buffers_are_used_again(write_data):
    stream = streamtrain.open_stream(write_data([[40] * 50]), batch_size=16, **SMALL)
    addresses = set()
    for x, y in stream:
        addresses.add(x.untyped_storage().data_ptr())
        del x, y
    assert len(addresses) <= stream.budget.windows + 1


@pytest.mark.parametrize("readers", [1, 3], ids=str)
def test_no_more_windows_are_in_memory_than_the_budget_says(write_data, monkeypatch, readers):
    """Counted are those being built, those ready, and the two that a slow consumer may hold.

    Its variables still refer to the previous one while it asks for the next.
    """
    alive: set[int] = set()
    most_alive = 0
    original_lend = BufferPool.lend

    def lend(self, num_rows):
        nonlocal most_alive
        array = original_lend(self, num_rows)
        alive.add(id(array.base))
        most_alive = max(most_alive, len(alive))
        weakref.finalize(array.base, alive.discard, id(array.base))
        return array

    monkeypatch.setattr(BufferPool, "lend", lend)
    stream = streamtrain.open_stream(
        write_data([[40] * 60]), batch_size=80, window_rows=80, span_rows=40, readers=readers
    )
    for number, _minibatch in enumerate(stream):
        time.sleep(0.02 if number < 8 else 0)
    assert readers < most_alive <= stream.budget.windows == readers + 2


def test_tasks_are_two_a_span_and_one_a_window(write_data, monkeypatch):
    """A window of one span is a single task."""
    monkeypatch.setattr("streamtrain.stream.fetch.TASK_VALUES", 1)
    stream = streamtrain.open_stream(write_data([[40] * 10, [25] * 4]), **SMALL)
    deliver(stream)
    stats = stream.stats()
    spans = [len(window.spans) for window in stream._position.plan.windows()]
    assert {1} < set(spans)
    assert stats["tasks"] == sum(2 * number + 1 if number > 1 else 1 for number in spans)
    assert stats["rows"] == 500
    assert stats["decode_seconds"] > 0


@given(st.lists(st.integers(1, 3 * TASK_VALUES), max_size=300), st.integers(1, 9))
def test_tiny_spans_share_a_task_and_large_ones_do_not(num_rows, num_columns):
    tasks = list(share_tasks(num_rows, num_columns))
    assert [i for spans in tasks for i in spans] == list(range(len(num_rows)))
    for spans in tasks:
        values = sum(num_rows[i] for i in spans) * num_columns
        assert len(spans) == 1 or (values <= TASK_VALUES and len(spans) <= TASK_SPANS)
    assert (
        len(list(share_tasks([1] * 10_000, num_columns)))
        <= 10_000 // TASK_SPANS + 1 + 10_000 * num_columns // TASK_VALUES
    )


def test_each_row_is_equally_likely_everywhere(write_data):
    folder = write_data([[16, 16], [16, 16]])
    counts = np.zeros((64, 8))
    for seed in range(120):
        ids = row_ids(
            deliver(streamtrain.open_stream(folder, seed=seed, window_rows=64, span_rows=16))
        )
        counts[ids, np.arange(64) // 8] += 1
    assert pvalue_of_equal(counts.ravel()) > 1e-4


def test_in_a_dataloader(write_data, monkeypatch):
    # how long a loader waits for its worker when it is collected
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)
    folder = write_data(LAYOUTS["even"])
    loader = torch.utils.data.DataLoader(streamtrain.open_stream(folder, **SMALL), batch_size=None)
    assert sum(len(x) for x, _ in loader) == 160
    loader = torch.utils.data.DataLoader(
        streamtrain.open_stream(folder, **SMALL), batch_size=None, num_workers=1
    )
    with pytest.raises(ConfigError, match="num_workers=0"):
        next(iter(loader))
    gc.collect()


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        pickle.dumps,
        cloudpickle.dumps,
        multiprocessing.reduction.ForkingPickler.dumps,  # of spawned workers
    ],
    ids=["copy", "deepcopy", "pickle", "cloudpickle", "spawn"],
)
def test_it_is_never_copied(write_data, duplicate):
    """Every copy would deliver every row."""
    stream = streamtrain.open_stream(write_data(LAYOUTS["even"]), **SMALL)
    with pytest.raises(ConfigError, match="num_workers=0"):
        duplicate(stream)


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_spawned_workers_are_refused_before_they_start(write_data, start):
    others = set(multiprocessing.active_children())  # Dask's, of earlier tests, may be ending
    stream = streamtrain.open_stream(write_data(LAYOUTS["even"]), **SMALL)
    loader = torch.utils.data.DataLoader(
        stream, batch_size=None, num_workers=1, multiprocessing_context=start
    )
    with pytest.raises(ConfigError, match="num_workers=0"):
        next(iter(loader))
    gc.collect()
    assert set(multiprocessing.active_children()) <= others


def test_drop_last(write_data):
    stream = streamtrain.open_stream(
        write_data(LAYOUTS["even"]), batch_size=50, drop_last=True, **SMALL
    )
    assert [len(x) for x, _ in stream] == [50] * 3
    assert len(stream) == 3
    assert stream.receipt().count == 150


def test_a_value_that_is_not_finite_is_named(write_data):
    import pyarrow.parquet as pq

    folder = write_data([[40, 40]])
    file = folder / "part-0000.parquet"
    table = pq.read_table(file)
    column = table["c2"].to_numpy().copy()
    column[57] = np.nan
    pq.write_table(table.set_column(2, "c2", [column]), file)
    with pytest.raises(DataError, match=r"part-0000\.parquet: column 'c2', row 57"):
        deliver(streamtrain.open_stream(folder, **SMALL))


def test_two_windows_must_fit(write_data):
    with pytest.raises(ResourceError, match=r"the budget is 10.0 KiB"):
        streamtrain.open_stream(write_data([[400] * 5]), memory="10KiB")


def test_an_abandoned_iterator_leaves_no_thread(write_data):
    import threading

    before = threading.active_count()
    stream = streamtrain.open_stream(write_data([[40] * 50]), **SMALL)
    iterator = iter(stream)
    next(iterator)
    iterator.close()
    assert threading.active_count() == before
