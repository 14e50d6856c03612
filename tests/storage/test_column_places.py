"""A pandas index is no feature and no target; columns sorted by name have no default target."""

import json
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from streamtrain.errors import DataError
from streamtrain.storage.column_places import mark_index
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.write.ingest import ingest
from streamtrain.types import Column

from .warehouse import rows_of


def pandas_table(index: list, *names: str) -> pa.Table:
    """A table as `DataFrame.to_parquet` writes it: the index last, named in the metadata."""
    table = pa.table({name: [float(i), i + 1.0] for i, name in enumerate(names)})
    return table.replace_schema_metadata({"pandas": json.dumps({"index_columns": index})})


def write(path: Path, index: list, *names: str) -> str:
    pq.write_table(pandas_table(index, *names), path)
    return str(path)


@pytest.mark.parametrize("read", ["open", "ingest", "ingest feather"])
@pytest.mark.parametrize("index", [["id"], ["__index_level_0__"], ["id", "__index_level_1__"]])
def test_an_index_is_left_out_with_one_warning(read, index, tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", index, "x", "y", *index)
    if read == "ingest feather":
        path = str(tmp_path / "t.feather")
        with pa.OSFile(path, "wb") as file:
            table = pandas_table(index, "x", "y", *index)
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        opened = open_shards(path) if read == "open" else ingest(path, tmp_path / "out")
    assert opened.columns == ("x", "y")
    (warning,) = said
    assert str(warning.message).startswith(f"{path}: left out {', '.join(index)}: the index of")
    if read != "open":
        assert rows_of(tmp_path / "out") == {"x": [0, 1], "y": [1, 2]}


@pytest.mark.parametrize(
    ("features", "target", "columns", "warned"),
    [
        (["x"], None, ("x", "y"), True),
        (["x", "id"], None, ("x", "id", "y"), False),
        (["id"], "y", ("id", "y"), False),
        (["x"], "y", ("x", "y"), False),
        (None, "id", ("x", "y", "id"), False),
        (None, "y", ("x", "y"), True),
    ],
)
def test_an_index_that_is_named_is_used(features, target, columns, warned, tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", ["id"], "x", "y", "id")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert open_shards(path, features=features, target=target).columns == columns
    assert len(said) == warned


@pytest.mark.parametrize(
    "index", [[], [{"kind": "range", "name": None, "start": 0, "stop": 2, "step": 1}], ["gone"]]
)
def test_a_table_without_an_index_column_is_read_as_before(index, tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", index, "x", "id", "y")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_shards(path).columns == ("x", "id", "y")


def test_a_table_of_nothing_but_its_index_keeps_it(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", ["a", "b"], "a", "b")
    assert open_shards(path).columns == ("a", "b")


@pytest.mark.parametrize(
    "document",
    [b"", b"[", b"[]", b"{}", b'{"index_columns": 3}', b"\xff", b"[" * 100_000, b'"x"'],
    ids=lambda document: repr(document[:20]),
)
def test_damaged_metadata_names_no_index(document: bytes) -> None:
    columns = (Column(name="x", stored_type="double", decoded_type="float64"),)
    assert mark_index(columns, {b"pandas": document}) == columns


def group(path: Path, **attributes) -> str:
    made = zarr.create_group(str(path), attributes=attributes)
    for name in ("b", "a", "y", "c"):
        made.create_array(name, shape=(4,), chunks=(4,), dtype="float32")[:] = np.arange(4)
    return str(path)


def test_a_group_in_order_of_names_has_no_default_target(tmp_path: Path) -> None:
    path = group(tmp_path / "g.zarr")
    for read in (open_shards, lambda path: ingest(path, tmp_path / "out")):
        with pytest.raises(DataError, match=r"g\.zarr: .*Name one with --target: a, b, c, y\.$"):
            read(path)
    assert open_shards(path, target="b").columns == ("a", "c", "y", "b")
    assert ingest(path, tmp_path / "out", target="b").columns == ("a", "c", "y", "b")
    assert open_shards(str(tmp_path / "out")).columns == ("a", "c", "y", "b")
    named = group(tmp_path / "named.zarr", columns=["c", "b", "y", "a"])
    assert open_shards(named).columns == ("c", "b", "y", "a")
