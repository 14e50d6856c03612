"""The columns that a data set is not bound to, and the values of its first rows."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamtrain.storage.column_table import LeftOut, TextFacts, left_out, others, sample
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.inspect import read_facts
from streamtrain.types import Dataset

from .layouts import LAYOUTS


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_sample_is_of_the_first_rows(layout: str, tmp_path: Path) -> None:
    case = LAYOUTS[layout](tmp_path)
    dataset = open_shards(str(case.path))
    found = sample(dataset)
    assert list(found) == list(dataset.columns)
    for position, name in enumerate(dataset.columns):
        expected = case.expected[: len(found[name]), position].tolist()
        assert found[name] == pytest.approx(expected, nan_ok=True)
        assert len(found[name]) == min(3, len(case.expected))


def test_extremes_of_text_are_over_all_row_groups_and_long_ones_are_cut(tmp_path: Path) -> None:
    towns = ["Ulm", None, "Bonn", "W" + "o" * 60]
    table = pa.table({"town": towns, "x": [1.0] * 4, "y": [1.0] * 4})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    dataset = open_shards(str(tmp_path), features=["x"], target="y")
    [town] = describe_others(dataset)
    assert (town.nulls, town.min, town.max) == (1, "Bonn", "W" + "o" * 22 + "…")


def test_without_statistics_nothing_is_said(tmp_path: Path) -> None:
    table = pa.table({"town": ["Ulm"], "x": [math.nan], "y": [1.0]})
    pq.write_table(table, tmp_path / "a.parquet", write_statistics=False)
    dataset = open_shards(str(tmp_path), features=["x"], target="y")
    [town] = describe_others(dataset)
    assert (town.nulls, town.min, town.max) == (None, None, None)


def describe_others(dataset: Dataset) -> list[LeftOut]:
    columns = others(dataset, dataset.shards[0].columns)
    texts = TextFacts({column.name for column in columns})
    read_facts(dataset, texts)
    return left_out(columns, texts)
