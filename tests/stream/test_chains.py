"""Chains: whose turn it is, and what one that breaks means to the others."""

from itertools import islice

import pytest

from streamtrain.errors import DataError, StreamTrainError
from streamtrain.plan.plan import make_plan
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.readers import Forward
from streamtrain.stream.chains import Chains
from streamtrain.stream.open_source import open_source


def test_a_broken_chain_stops_no_other_one(write_data, monkeypatch):
    """A later window may meet the damage first: the windows before it, which do not, are built all
    the same.
    """
    source, window_rows = open_source(
        open_shards(str(write_data([[400], [400]]))),
        seed=0,
        span_rows=40,
        window_rows=80,
        holdout=0,
        eval_rows=0,
    )
    plan = make_plan(
        source.spans, source.holdout, seed=0, trial=0, epoch=0, window_rows=window_rows
    )
    chains = Chains(source)
    first, second = islice(plan.windows(), 2)
    for window in (first, second):
        chains.expect(window)
    broken, whole = (source.spans.unit_of(int(number)) for number in first.spans[:2])
    assert broken != whole  # two chains take turns
    mine = {
        unit: [
            [int(n) for n in window.spans if source.spans.unit_of(int(n)) == unit]
            for window in (first, second)
        ]
        for unit in (broken, whole)
    }
    for number in mine[broken][0]:
        chains.read(0, number)

    genuine = Forward.read
    damaged = source.spans[mine[broken][1][0]]

    def read(self, start, stop):
        if (self._shard.url, start) == (source.dataset.shards[damaged.shard].url, damaged.start):
            raise DataError("damaged")
        return genuine(self, start, stop)

    monkeypatch.setattr(Forward, "read", read)
    with pytest.raises(DataError, match="damaged"):
        chains.read(0, mine[broken][1][0])
    with pytest.raises(StreamTrainError, match="stopped"):
        chains.read(0, mine[broken][1][1])
    for number in mine[whole][0] + mine[whole][1]:
        assert len(chains.read(0, number)[0]) == source.spans[number].num_rows
    chains.stop()
    with pytest.raises(StreamTrainError, match="stopped"):
        chains.read(0, mine[broken][1][1])
    chains.close()
