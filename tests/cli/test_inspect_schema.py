"""`inspect --json` keeps its schema, which is that of the types."""

import json
from importlib.resources import files

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamtrain.cli.inspect_schema import inspect_schema
from streamtrain.run import row_order

SCHEMA = files("streamtrain.cli").joinpath("inspect.schema.json")


def test_the_schema_in_the_package_is_that_of_the_types():
    """After a change:
    `python -m streamtrain.cli.inspect_schema > streamtrain/cli/inspect.schema.json`.
    """
    schema = inspect_schema()
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == schema
    jsonschema.Draft202012Validator.check_schema(schema)
    objects = [schema, *schema["$defs"].values()]
    assert all("description" in value for one in objects for value in one["properties"].values())


TABLE = pa.table(
    {
        "name": ["a", None] * 1000,
        "at": pa.array(np.arange(2000), pa.timestamp("ns")),
        "x": np.linspace(0, 1, 2000),
        "y": [float("nan"), 1.0, 2.0, 1.0] * 500,
    }
)
SOURCES = {
    "t.parquet": lambda path: pq.write_table(TABLE, path, row_group_size=100),
    "t.csv": lambda path: path.write_text("id,a,b\nx,1,2\ny,,3\nz,4,4\nx,2,5\ny,3,1\n"),
    "last.csv": lambda path: path.write_text("a,b,id\n1,2,x\n3,3,y\n"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_written_keeps_the_schema(name, command, tmp_path):
    SOURCES[name](tmp_path / name)
    said = command("inspect", name, "--json")
    document = json.loads(said.out)
    jsonschema.validate(document, inspect_schema())
    assert said.code == (3 if document["problem"] else 0)
    assert bool(document["problem"]) == (name == "last.csv")
    assert list(document) == list(inspect_schema()["properties"])


def test_generated_and_shuffled_data_too(command, tmp_path):
    assert command("generate", "d", "--rows", "3000").code == 0
    assert command("ingest", "d", "s").code == 0
    for path in ("d", "s"):
        jsonschema.validate(json.loads(command("inspect", path, "--json").out), inspect_schema())


def test_rows_in_order_are_said_with_the_cure(command, tmp_path, monkeypatch):
    pq.write_table(TABLE.select(["x", "y"]), tmp_path / "t.parquet", row_group_size=100)
    assert "\norder" not in command("inspect", "t.parquet").out
    plain = row_order.row_order
    monkeypatch.setattr(row_order, "_SPAN_ROWS", 100)
    monkeypatch.setattr(row_order, "row_order", lambda dataset: plain(dataset, window_rows=200))
    said = command("inspect", "t.parquet")
    assert "order        not random\n" in said.out
    assert "- The rows are not in random order" in said.out
    assert "`streamtrain ingest` shuffles them." in said.out
    document = json.loads(command("inspect", "t.parquet", "--json").out)
    assert document["order"]["column"] == "x"
    jsonschema.validate(document, inspect_schema())


def test_every_column_that_is_left_out_has_a_reason(command, tmp_path):
    table = pa.table({"x": [0.5, 1.0], "w": [1.0, 2.0], "name": ["a", "b"], "y": [1.0, 3.0]})
    pq.write_table(table, tmp_path / "t.parquet")
    said = json.loads(command("inspect", "t.parquet", "--features", "x", "--json").out)
    assert {column["name"]: column["reason"] for column in said["left_out"]} == {
        "w": "not named by --features",
        "name": "only numbers can be decoded: write its values as numbers, such as 0 and 1 for no"
        " and yes",
    }
