"""The default window: the whole table where memory allows it, and a constant otherwise."""

import itertools

import numpy as np
import pytest

import streamtrain
from streamtrain.config import make_config
from streamtrain.errors import ConfigError
from streamtrain.plan import plan
from streamtrain.plan.plan import default_window_rows, whole_window_rows
from streamtrain.storage.dataset import open_shards
from streamtrain.stream.open_source import open_source

from .conftest import row_ids
from .test_torch_stream import deliver

LAYOUT = [[40] * 20, [40] * 5]
ROWS = 1000


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    """Let a window have 200 rows of 5 columns by default."""
    monkeypatch.setattr(plan, "WINDOW_VALUES", 1000)


def opened(folder, **sections):
    return open_source(open_shards(str(folder)), make_config(sections), holdout=100)


def test_a_table_is_whole_up_to_a_size():
    assert whole_window_rows(200, 5) is None, "it fits a default window"
    assert whole_window_rows(201, 5) == 201
    largest = plan.WHOLE_VALUES // 5
    assert [whole_window_rows(rows, 5) for rows in (largest, largest + 1)] == [largest, None]


@pytest.mark.parametrize("layout", [LAYOUT, [[ROWS]]], ids=["spans", "a row group"])
def test_a_table_that_fits_is_one_window(write_data, layout):
    source = opened(write_data(layout), order={"span_rows": 40})
    assert source.window_rows == ROWS
    assert len(source.spans) == sum(map(len, layout)), "no slices"


def test_every_place_is_in_every_part_of_an_epoch(write_data):
    """Rows of each of 25 spans come in each tenth; in windows of 200 rows five of them would."""
    folder = write_data(LAYOUT)
    for window_rows, most, fewest in ((None, 25, 20), (200, 12, 1)):
        stream = streamtrain.open_stream(folder, span_rows=40, window_rows=window_rows)
        spans = row_ids(deliver(stream)) // 40
        counts = [len({*tenth.tolist()}) for tenth in np.split(spans, 10)]
        assert fewest <= min(counts) <= max(counts) <= most


def test_little_memory_and_an_option_of_the_user_win(write_data):
    folder = write_data(LAYOUT)
    assert opened(folder, order={"window_rows": 300}).window_rows == 300
    assert opened(folder, fetch={"memory": "64MiB"}).window_rows == default_window_rows(5) == 200
    assert opened(folder, fetch={"memory": "512MiB"}).window_rows == ROWS


def test_a_larger_table_has_the_window_of_before(write_data, monkeypatch):
    monkeypatch.setattr(plan, "WHOLE_VALUES", 5 * ROWS - 1)
    assert opened(write_data(LAYOUT)).window_rows == 200


@pytest.mark.parametrize("was_whole", [False, True], ids=["older", "less memory now"])
def test_a_state_of_the_other_default_is_resumed(write_data, monkeypatch, was_whole):
    folder, flags = write_data(LAYOUT), {"batch_size": 32, "span_rows": 40, "holdout": 100}
    whole_values = {True: plan.WHOLE_VALUES, False: 0}

    def open_as(whole, **other):
        monkeypatch.setattr(plan, "WHOLE_VALUES", whole_values[whole])
        return streamtrain.open_stream(folder, **flags, **other)

    stream = open_as(was_whole)
    rows = deliver(open_as(was_whole))
    for _ in itertools.islice(stream, 9):
        pass
    state = stream.state_dict()
    other = open_as(not was_whole)
    other.load_state_dict(state)
    assert np.array_equal(deliver(other), rows[9 * 32 :])
    assert other.receipt().count == ROWS - 100
    with pytest.raises(ConfigError, match="window_rows was"):
        open_as(not was_whole, window_rows=500).load_state_dict(state)
