"""Chains: the order of their slices, and a broken chain among intact ones."""

from itertools import islice

import pytest

from streamtrain.config import make_config
from streamtrain.errors import DataError, StreamTrainError
from streamtrain.plan.plan import make_plan
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.readers import Forward
from streamtrain.stream.chains import Chains
from streamtrain.stream.open_source import open_source


def test_a_broken_chain_stops_no_other_one(write_data, monkeypatch):
    """A later window may meet the damage first; the windows before it are still built."""
    config = make_config({"order": {"span_rows": 40, "window_rows": 80}})
    source = open_source(open_shards(str(write_data([[400], [400]]))), config, holdout=0)
    plan = make_plan(
        source.spans, source.holdout, seed=0, trial=0, epoch=0, window_rows=source.window_rows
    )
    chains = Chains(source)
    first, second = islice(plan.windows(), 2)
    for window in (first, second):
        chains.expect(window)
    broken, whole = (source.spans.unit_of(int(number)) for number in first.spans[:2])
    assert broken != whole  # two chains take turns
    slices = {
        unit: [
            [int(n) for n in window.spans if source.spans.unit_of(int(n)) == unit]
            for window in (first, second)
        ]
        for unit in (broken, whole)
    }
    for number in slices[broken][0]:
        chains.read(0, number)

    original_read = Forward.read
    damaged = source.spans[slices[broken][1][0]]

    def read(self, start, stop):
        if (self._shard.url, start) == (source.dataset.shards[damaged.shard].url, damaged.start):
            raise DataError("damaged")
        return original_read(self, start, stop)

    monkeypatch.setattr(Forward, "read", read)
    with pytest.raises(DataError, match="damaged"):
        chains.read(0, slices[broken][1][0])
    with pytest.raises(StreamTrainError, match="stopped"):
        chains.read(0, slices[broken][1][1])
    for number in slices[whole][0] + slices[whole][1]:
        columns = chains.read(0, number)
        assert columns is not None
        assert len(columns[0]) == source.spans[number].num_rows
    chains.stop()
    with pytest.raises(StreamTrainError, match="stopped"):
        chains.read(0, slices[broken][1][1])
    chains.close()
