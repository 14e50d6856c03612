"""Counts of delivered rows are added, saved in checkpoints, and sent between processes."""

import json
import pickle
from collections import Counter

import numpy as np
import pytest

from streamtrain.stream.block import Block
from streamtrain.stream.delivered_rows import DeliveredRows
from streamtrain.stream.fetch import FetchStats
from streamtrain.types import Receipt


def make_block(ids: list[int]) -> Block:
    return Block(
        epoch=0,
        index=0,
        rows=np.zeros((len(ids), 5), dtype=np.float32),
        receipt=Receipt(count=len(ids), digest=sum(ids), dropped=1),
        ends_epoch=False,
        dropped=(),
        nulls=Counter({(0, 2): 3, (1, 0): 1}),
    )


def test_counts_are_added_saved_and_sent():
    delivered, other = DeliveredRows(), DeliveredRows()
    delivered.add_block(make_block([4, 5]))
    other.add_block(make_block([10]))
    other.stats.add(wait_seconds=0.5, blocks=1)
    delivered.stats.add(blocks=2)
    delivered.add(other)
    assert delivered.receipt == Receipt(count=3, digest=19, dropped=2)
    assert delivered.nulls == {(0, 2): 6, (1, 0): 2}
    assert delivered.stats.to_json() == FetchStats(wait_seconds=0.5, blocks=3).to_json()
    document = delivered.to_json()
    for copy in (
        DeliveredRows.from_json({**json.loads(json.dumps(document)), "more": 1}),
        pickle.loads(pickle.dumps(delivered)),
    ):
        assert copy.to_json() == document
        copy.stats.add(blocks=1)
        assert copy.stats.blocks == 4


def test_what_is_damaged_is_refused():
    document = DeliveredRows().to_json()
    with pytest.raises(KeyError):
        DeliveredRows.from_json({name: document[name] for name in ("receipt", "nulls")})
    with pytest.raises(ValueError, match="16 hex digits"):
        DeliveredRows.from_json({**document, "receipt": {"count": 1, "digest": "?"}})
    with pytest.raises(TypeError):
        DeliveredRows.from_json({**document, "stats": {"jokes": 1}})
