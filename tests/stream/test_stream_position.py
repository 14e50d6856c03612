"""A Stream has one position, and only its newest iterator moves it."""

import gc
import itertools
import json
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import streamtrain
from streamtrain.errors import ConfigError
from streamtrain.stream import stream_position
from streamtrain.types import Receipt
from tests.stream.conftest import id_rows, row_ids
from tests.stream.test_torch_stream import SMALL, deliver, rebuilt

LAYOUT = [[7, 93, 1], [30], [40, 40, 29]]
ROWS = sum(map(sum, LAYOUT))
EPOCHS = 4


def ids_of(minibatch) -> list[int]:
    x, _ = minibatch
    return row_ids(x.numpy()).tolist()


def take(iterator, num_minibatches: int) -> list[int]:
    return [i for batch in itertools.islice(iterator, num_minibatches) for i in ids_of(batch)]


def receipt_of(ids: list[int]) -> Receipt:
    """Return the receipt of rows, from NumPy alone."""
    return rebuilt(id_rows(ROWS)[ids]) if ids else Receipt()


class Model:
    """What an iterator must deliver: the rest of an epoch, from a row on."""

    def __init__(self, epoch: int, row: int):
        self.epoch, self.start, self.row = epoch, row, row
        self.touched = self.finished = False
        self.state = "live"


class StreamMachine(RuleBasedStateMachine):
    """Any calls on one Stream, against lists of row ids."""

    def __init__(self, folder, orders: list[list[int]], flags: dict) -> None:
        super().__init__()
        self.folder, self.orders, self.flags = folder, orders, flags
        self.iterators: list[tuple[Iterator, Model]] = []
        self.states: list[tuple[str, Model]] = []
        self.newest = Model(0, 0)

    @initialize(batch_size=st.sampled_from([1, 20, 45, 64, 150, 500]), drop_last=st.booleans())
    def open(self, batch_size, drop_last):
        self.batch_size, self.drop_last = batch_size, drop_last
        self.stream = streamtrain.open_stream(
            self.folder, batch_size=batch_size, drop_last=drop_last, **self.flags
        )

    def rest(self, model: Model) -> list[int]:
        """Return the ids of the minibatch that comes next, empty at the end of the epoch."""
        ids = self.orders[model.epoch][model.row : model.row + self.batch_size]
        return [] if self.drop_last and len(ids) < self.batch_size else ids

    def go_to(self, model: Model) -> None:
        if self.newest.state == "live":
            self.newest.state = "superseded"
        self.newest = model

    @precondition(lambda self: self.newest.epoch + 1 < EPOCHS)
    @rule()
    def iterate(self):
        before = self.newest
        iterator = iter(self.stream)
        if before.touched or before.finished:
            over = before.finished or not self.rest(before)
            self.go_to(Model(before.epoch + over, 0))
        else:
            self.go_to(Model(before.epoch, before.start))
        self.iterators.append((iterator, self.newest))

    @precondition(lambda self: self.iterators)
    @rule(data=st.data())
    def advance(self, data):
        iterator, model = data.draw(st.sampled_from(self.iterators))
        if model.state == "superseded":
            model.state = "ended"
            with pytest.raises(ConfigError, match="a Stream has one position"):
                next(iterator)
        elif model.state == "ended" or not self.rest(model):
            model.finished |= model.state == "live"
            model.state = "ended"
            with pytest.raises(StopIteration):
                next(iterator)
        else:
            expected = self.rest(model)
            assert ids_of(next(iterator)) == expected
            model.row, model.touched = model.row + len(expected), True

    @precondition(lambda self: self.iterators)
    @rule(data=st.data(), collect=st.booleans())
    def close(self, data, collect):
        """Close an iterator, or leave that to the garbage collector."""
        number = data.draw(st.integers(0, len(self.iterators) - 1))
        iterator, model = self.iterators.pop(number)
        model.state = "ended"
        if not collect:
            iterator.close()

    @precondition(lambda self: self.newest.epoch + 1 < EPOCHS)
    @rule()
    def save(self):
        newest = self.newest
        saved = Model(newest.epoch + 1, 0) if newest.finished else Model(newest.epoch, newest.row)
        self.states.append((json.dumps(self.stream.state_dict()), saved))

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def load(self, data):
        text, saved = data.draw(st.sampled_from(self.states))
        self.stream.load_state_dict(json.loads(text))
        self.go_to(Model(saved.epoch, saved.row))

    @rule(change=st.sampled_from([{"row": -1}, {"window": 99}, {"receipt": {}}, {"order": {}}]))
    def fail_to_load(self, change):
        with pytest.raises(ConfigError):
            self.stream.load_state_dict({**self.stream.state_dict(), **change})

    @rule(epoch=st.integers(0, EPOCHS - 1))
    def set_epoch(self, epoch):
        self.stream.set_epoch(epoch)
        if self.newest.touched or self.newest.finished or epoch != self.newest.epoch:
            self.go_to(Model(epoch, 0))

    @invariant()
    def the_receipt_and_the_state_are_those_of_the_newest_iterator(self):
        newest = self.newest
        delivered = receipt_of(self.orders[newest.epoch][: newest.row])
        assert self.stream.epoch == newest.epoch
        assert (self.stream.receipt().count, self.stream.receipt().digest) == (
            delivered.count,
            delivered.digest,
        )
        state = self.stream.state_dict()
        assert state["epoch"] == newest.epoch + newest.finished
        assert state["receipt"]["count"] == (0 if newest.finished else delivered.count)

    def teardown(self):
        for iterator, _ in self.iterators:
            iterator.close()


@pytest.mark.parametrize("bad_rows", [0, 9], ids=["whole", "dropped"])
def test_any_calls_in_any_order(write_data, bad_rows):
    rows = id_rows(ROWS)
    bad = np.random.default_rng(1).choice(ROWS, bad_rows, replace=False)
    rows[bad, 2] = np.nan
    folder, flags = write_data(LAYOUT, rows=rows), {**SMALL, "on_null": "drop"}
    whole = streamtrain.open_stream(folder, **flags)
    orders = [row_ids(deliver(whole)).tolist() for _ in range(EPOCHS)]
    assert all(sorted(order) == sorted(set(range(ROWS)) - set(bad)) for order in orders)
    run_state_machine_as_test(
        lambda: StreamMachine(folder, orders, flags),
        settings=settings(
            max_examples=settings().max_examples // 2, stateful_step_count=30, deadline=None
        ),
    )


def test_two_iterators_in_turn_are_refused(write_data):
    stream = streamtrain.open_stream(write_data(LAYOUT), batch_size=20, **SMALL)
    with pytest.raises(ConfigError, match="Open another Stream"):
        list(zip(stream, stream, strict=True))
    whole = take(stream, 1000)
    assert sorted(whole) == list(range(ROWS))


def test_a_glance_in_mid_epoch_starts_the_epoch_again(write_data):
    """The state is then that of the glance, so that a resumed Stream delivers what it left."""
    folder = write_data(LAYOUT)
    stream = streamtrain.open_stream(folder, batch_size=20, **SMALL)
    loop = iter(stream)
    take(loop, 7)  # in a later window than the first
    glance = ids_of(next(iter(stream)))
    resumed = streamtrain.open_stream(folder, batch_size=20, **SMALL)
    resumed.load_state_dict(stream.state_dict())
    assert sorted(glance + take(resumed, 1000)) == list(range(ROWS))
    assert stream.receipt() == receipt_of(glance)
    with pytest.raises(ConfigError):
        next(loop)


def test_superseded_iterators_read_no_further(write_data):
    """Their threads and what they read ahead would be in no budget."""
    stream = streamtrain.open_stream(write_data([[40] * 50]), batch_size=20, **SMALL)
    threads = threading.active_count()
    iterators = []
    for _ in range(4):
        iterators.append(iter(stream))
        next(iterators[-1])
        reading = threading.active_count() - threads
        assert 0 < reading <= 2 * stream.budget.readers
    stream.set_epoch(1)
    assert threading.active_count() == threads


def test_the_next_epoch_follows_the_last_minibatch(write_data):
    """A loop over `len(stream)` minibatches never sees StopIteration; Lightning's is one."""
    stream = streamtrain.open_stream(write_data(LAYOUT), batch_size=32, drop_last=True, **SMALL)
    epochs = []
    for _ in range(3):
        iterator = iter(stream)
        epochs.append([ids_of(next(iterator)) for _ in range(len(stream))])
    assert stream.epoch == 2
    again = streamtrain.open_stream(stream.dataset.url, batch_size=32, drop_last=True, **SMALL)
    assert epochs == [[ids_of(batch) for batch in again] for _ in range(3)]


def test_a_loaded_position_waits_for_the_first_minibatch(write_data):
    """Loaders of other libraries make iterators that they never use."""
    folder = write_data(LAYOUT)
    stream = streamtrain.open_stream(folder, batch_size=20, **SMALL)
    delivered = take(stream, 7)
    other = streamtrain.open_stream(folder, batch_size=20, **SMALL)
    other.load_state_dict(stream.state_dict())
    iter(other)
    iter(other)
    other.set_epoch(0)
    assert sorted(delivered + take(other, 1000)) == list(range(ROWS))


def test_a_state_that_is_refused_changes_nothing(write_data, monkeypatch):
    """Also one of another default window, for which the Stream is opened again."""
    folder = write_data(LAYOUT)
    flags = {"batch_size": 20, "span_rows": 40}
    monkeypatch.setattr("streamtrain.plan.plan.WINDOW_VALUES", 500)
    with monkeypatch.context() as patch:
        patch.setattr("streamtrain.plan.plan.WHOLE_VALUES", 0)
        state = streamtrain.open_stream(folder, **flags).state_dict()
    stream = streamtrain.open_stream(folder, **flags)
    assert state["order"]["window_rows"] != stream.state_dict()["order"]["window_rows"]
    iterator = iter(stream)
    delivered = take(iterator, 3)
    for change in ({"epoch": -1}, {"receipt": None}, {"window": 99}):
        with pytest.raises(ConfigError):
            stream.load_state_dict({**state, **change})
    assert sorted(delivered + take(iterator, 1000)) == list(range(ROWS))


def test_an_iterator_on_another_thread_ends_with_an_error(write_data):
    """Whatever the threads do, an epoch that ends without an error has every row once."""
    stream = streamtrain.open_stream(write_data([[40] * 20]), batch_size=33, **SMALL)
    start, ended, refused = threading.Barrier(3), [], []

    def iterate():
        start.wait()
        for _ in range(6):
            ids: list[int] = []
            try:
                for batch in stream:
                    ids += ids_of(batch)
            except ConfigError:
                refused.append(len(ids))
            else:
                ended.append(sorted(ids))

    threads = [threading.Thread(target=iterate) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended, "the last one has no other to end it"
    assert all(ids == list(range(800)) for ids in ended)
    assert len(ended) + len(refused) == 18


def test_a_state_is_of_one_moment(write_data, monkeypatch):
    """Another thread may take a step while this one saves: here it does, in mid-receipt."""
    folder = write_data(LAYOUT)
    stream = streamtrain.open_stream(folder, batch_size=7, **SMALL)
    iterator = iter(stream)
    delivered = take(iterator, 2)
    window_ids = stream_position.window_ids

    def take_a_step_first(*arguments):
        next(iterator)
        return window_ids(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stream_position, "window_ids", take_a_step_first)
        state = stream.state_dict()
    assert state["receipt"] == receipt_of(delivered).to_json()
    assert state["row"] == len(delivered)
    stream.load_state_dict(state)
    assert sorted(delivered + take(stream, 1000)) == list(range(ROWS))


def test_an_iterator_collected_late_moves_nothing(write_data):
    stream = streamtrain.open_stream(write_data(LAYOUT), batch_size=20, **SMALL)
    holder = [iter(stream)]
    holder.append(holder)  # a cycle, so that only the collector ends it
    take(holder[0], 3)
    loop = iter(stream)
    delivered = take(loop, 4)
    del holder
    gc.collect()
    assert stream.receipt() == receipt_of(delivered)
    assert sorted(delivered + take(loop, 1000)) == list(range(ROWS))
