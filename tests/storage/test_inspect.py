"""`inspect`: footers only, JSON-ready, and advice that names the remedy."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from data_gen import generate
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.inspect import inspect
from streamtrain.storage.readers import Readers

from .layouts import LAYOUTS, numbers, write_parquet


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_described_as_strict_json(layout: str, tmp_path: Path) -> None:
    case = LAYOUTS[layout](tmp_path)
    document = inspect(open_shards(str(case.path)))
    json.dumps(document, allow_nan=False)
    assert document["num_rows"] == len(case.expected)
    assert document["decoded_bytes"] == case.expected.size * np.dtype(case.decoded_type).itemsize
    for i, column in enumerate(document["columns"]):
        values = case.expected[:, i].astype("float64")
        assert column["nulls"] in (None, np.isnan(values).sum())
        assert column["min"] is None or column["min"] == np.nanmin(values)
        assert column["max"] is None or column["max"] == np.nanmax(values)


def test_advice_names_what_slows_or_endangers_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(
        tmp_path / "data" / "a.parquet",
        numbers(1000, "float64"),
        row_group_size=64,
        compression="zstd",
    )
    for i in range(5):
        write_parquet(tmp_path / "data" / f"b{i}.parquet", numbers(10, "float64"))
    dataset = open_shards(str(tmp_path / "data"))
    advice = inspect(dataset, window_rows=50)["advice"]
    of_large = ("float64", "dictionary-encoded")  # not said of a few kilobytes
    assert not any(word in sentence for sentence in advice for word in of_large)
    monkeypatch.setattr("streamtrain.storage.inspect._MUCH_BYTES", 1000)
    advice = " ".join(inspect(dataset, window_rows=50)["advice"])
    assert all(word in advice for word in of_large)
    expected = [
        "decoding will be the bottleneck; `streamtrain ingest` would make it about",
        "more than the window of 50",
        "ZSTD",
        "dictionary",
        "float64",
        "unverified",
    ]
    assert [words for words in [*expected, "largest shard"] if words not in advice] == []
    pq.write_table(
        pa.table({"a": pa.array([1.0, None]), "c": [1.0, 1.0], "y": [1.0, 2.0]}),
        tmp_path / "n.parquet",
    )
    advice = " ".join(inspect(open_shards(str(tmp_path / "n.parquet")))["advice"])
    assert "Null or NaN values in a (1)" in advice
    assert "--on-null impute puts the mean of the feature in their place." in advice
    assert "Constant: a, c; a" in advice
    assert "is constant" not in advice
    pq.write_table(pa.table({"a": [1.0, None, 3], "y": [1.0, 2.0, None]}), tmp_path / "t.parquet")
    advice = " ".join(inspect(open_shards(str(tmp_path / "t.parquet")))["advice"])
    assert "a (1), y (1): training refuses them; --on-null drop" in advice
    assert "impute" not in advice  # it would end at the target
    many = {f"c{i}": [1.0, 1.0] for i in range(20)} | {"a": [1.0, 2.0], "y": [1.0, 2.0]}
    pq.write_table(pa.table(many), tmp_path / "m.parquet")
    advice = " ".join(inspect(open_shards(str(tmp_path / "m.parquet")))["advice"])
    assert "Constant: c0, c1, c2, c3, c4, c5, c6, c7 and 12 more; a constant" in advice
    pq.write_table(pa.table({"a": [1.0, 2.0], "y": [7.0, 7.0]}), tmp_path / "y.parquet")
    document = inspect(open_shards(str(tmp_path / "y.parquet")))
    assert "the target, 'y', is 7 in all 2 rows" in document["problem"]
    assert "Constant:" not in " ".join(document["advice"])


def test_our_own_data_needs_no_advice(tmp_path: Path) -> None:
    dataset = generate(tmp_path / "data", rows=20_000)
    document = inspect(dataset)
    assert document["advice"] == []
    assert document["integrity"] == "verified"
    assert document["truth"]["best_loss"] == pytest.approx(0.01 / 1.01)


NOTHING = {
    "constant target": ({"a": [1.0, 2, 3], "y": [5.0, 5, 5]}, "'y', is 5 in all 3 rows"),
    "constant but for nulls": ({"a": [1.0, 2, 3], "y": [5.0, None, 5]}, "'y', is 5 in all 2 rows"),
    "no target": (
        {"a": [1.0, 2, 3], "y": [None, None, None]},
        "'y', has no value in any of",
    ),
    "one target": ({"a": [1.0, 2, 3], "y": [None, 1.0, None]}, "1 row with a target"),
    "one row": ({"a": [1.0], "y": [5.0]}, "1 row with a target"),
    "few rows": (
        {"a": [1.0, 2, 3, 4], "y": [1.0, 2, 3, 5]},
        "4 rows: a fifth is held out, which takes 5 rows.* --holdout 0",
    ),
    "constant features": ({"a": [1.0, 1, 1], "b": [2.0, 2, 2], "y": [1.0, 2, 3]}, "a = 1, b = 2"),
    "empty feature": ({"a": [None, None], "b": [1.0, 2], "y": [1.0, 2]}, "in a. .*--features b"),
}


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("name", NOTHING)
def test_where_nothing_can_be_learned_no_sweep_is_proposed(tmp_path, name, statistics):
    columns, words = NOTHING[name]
    schema = pa.schema([(column, pa.float64()) for column in columns])
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns, schema=schema), path, write_statistics=statistics)
    problem = inspect(open_shards(str(path)))["problem"]
    assert re.search(words, problem), problem
    assert "\n" not in problem
    group = zarr.create_group(tmp_path / "t.zarr", attributes={"columns": list(columns)})
    for column, values in columns.items():
        group.create_array(column, data=np.array(values, dtype="f8"))
    assert re.search(words, inspect(open_shards(str(tmp_path / "t.zarr")))["problem"])


@pytest.mark.parametrize("statistics", [True, False])
def test_a_small_table_is_read_only_where_its_footers_lack_statistics(
    tmp_path, monkeypatch, statistics
):
    table = pa.table({"a": [1.0, 4.0, 2.0], "y": [1.0, None, 2.0]})
    pq.write_table(table, tmp_path / "t.parquet", write_statistics=statistics)
    genuine, reads = Readers.read, []

    def read(self, *where):
        reads.append(where)
        return genuine(self, *where)

    monkeypatch.setattr(Readers, "read", read)
    monkeypatch.setattr("streamtrain.storage.inspect.sample", lambda _dataset: {})
    columns = inspect(open_shards(str(tmp_path / "t.parquet")))["columns"]
    found = [(column["nulls"], column["min"], column["max"]) for column in columns]
    assert found == [(0, 1.0, 4.0), (1, 1.0, 2.0)]
    assert reads == ([] if statistics else [(0, 0, 3)])


def test_the_features_that_are_left_are_quoted_for_a_shell(tmp_path):
    schema = pa.schema([(name, pa.float64()) for name in ("b", "a c", "y")])
    for others, cure in (([1.0, 2], "--features 'a c'"), ([None, None], "other --features")):
        table = pa.table([[None, None], others, [1.0, 2]], schema=schema)
        pq.write_table(table, tmp_path / "t.parquet")
        problem = inspect(open_shards(str(tmp_path / "t.parquet")))["problem"]
        assert problem.endswith(f"Leave them out: {cure}."), problem


def test_a_table_that_says_something_is_no_problem(tmp_path):
    columns = {"a": [1.0] * 5, "b": [None, 1.0, 2.0, 3.0, 4.0], "y": [1.0, None, 2.0, 1.0, 3.0]}
    table = pa.table(columns)
    pq.write_table(table, tmp_path / "t.parquet")
    assert inspect(open_shards(str(tmp_path / "t.parquet")))["problem"] == ""
