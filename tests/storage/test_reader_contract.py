"""The reader contract: any range of any shard, read from any thread, equals the rows written."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from streamtrain.storage.dataset import open_shards
from streamtrain.storage.readers import Readers
from streamtrain.types import Dataset

from .layouts import LAYOUTS, Case


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_keeps_the_reader_contract(layout: str, tmp_path: Path) -> None:
    case = LAYOUTS[layout](tmp_path)
    check_reader(open_shards(str(case.path)), case)


def check_reader(dataset: Dataset, case: Case) -> None:
    """Check row groups, unaligned ranges and empty ranges, from four threads at once."""
    assert dataset.decoded_type == case.decoded_type
    assert dataset.num_rows == len(case.expected)
    assert (
        dataset.first_ids.tolist()
        == np.cumsum([0, *(shard.num_rows for shard in dataset.shards[:-1])]).tolist()
    )
    readers, ranges = Readers(dataset), _ranges(dataset)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda rows: readers.read(*rows), ranges))
    for (shard, start, stop), columns in zip(ranges, results, strict=True):
        assert len(columns) == len(dataset.columns)
        first = int(dataset.first_ids[shard])
        for i, column in enumerate(columns):
            assert column.dtype == dataset.decoded_type
            assert column.ndim == 1
            np.testing.assert_array_equal(column, case.expected[first + start : first + stop, i])


def _ranges(dataset: Dataset) -> list[tuple[int, int, int]]:
    """Return (shard, start, stop) of the ranges to read."""
    generator = np.random.default_rng(0)
    ranges = []
    for number, shard in enumerate(dataset.shards):
        edges = shard.boundaries.tolist()
        assert edges[0] == 0
        assert edges[-1] == shard.num_rows
        assert edges == sorted(edges)
        unaligned = np.sort(generator.integers(0, shard.num_rows + 1, size=(8, 2)), axis=1).tolist()
        natural = list(itertools.pairwise(edges))[:40]
        ends = [
            (0, shard.num_rows),
            (0, 1),
            (shard.num_rows - 1, shard.num_rows),
            (0, 0),
            (shard.num_rows, shard.num_rows),
        ]
        ranges += [(number, start, stop) for start, stop in [*natural, *unaligned, *ends]]
    return ranges
