"""Delta tables that deltalake writes: only live rows, at the version that is named."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.errors import DataError
from streamtrain.storage.foreign.delta_table import open_delta
from streamtrain.storage.foreign.foreign_source import find_foreign

from .warehouse import columns_of, deletion_vector, edit_log, ingested

deltalake = pytest.importorskip("deltalake")


def written(root: Path, *tables: pa.Table, **options) -> Path:
    for table in tables:
        deltalake.write_deltalake(root, table, mode="append", **options)
    return root


def live(root: Path | str) -> list[float]:
    """The values of x of all live rows, sorted, as our reader gives them."""
    source = find_foreign(str(root))
    assert source
    return sorted(x for batch in open_delta(source).batches(["x"]) for x in batch["x"].to_pylist())


operations = st.lists(
    st.tuples(st.sampled_from(["append", "delete", "update", "overwrite"]), st.integers(0, 9)),
    min_size=1,
    max_size=6,
)


@given(operations=operations)
@settings(max_examples=15)
def test_each_version_has_the_rows_that_were_live_then(operations, tmp_path_factory) -> None:
    root = tmp_path_factory.mktemp("law") / "t"
    rows = [0.0, 1.0, 2.0, 3.0]
    written(root, columns_of(rows))
    history = {0: rows}
    for kind, number in operations:
        if kind == "append":
            rows = [*rows, float(number), number + 0.5]
            written(root, columns_of([float(number), number + 0.5]))
        elif kind == "overwrite":
            rows = [float(number)]
            deltalake.write_deltalake(root, columns_of(rows), mode="overwrite")
        else:
            table = deltalake.DeltaTable(root)
            if kind == "delete":
                table.delete(f"x < {number} and x > 0")
                rows = [x for x in rows if not 0 < x < number]
            else:
                table.update({"x": "x + 20"}, predicate=f"x = {number}")
                rows = [x + 20 if x == number else x for x in rows]
        history[deltalake.DeltaTable(root).version()] = rows
    for version, expected in history.items():
        assert live(f"{root}@v{version}") == sorted(expected)
    assert live(root) == sorted(rows)


def test_partitions_that_are_in_the_log_only_become_columns(tmp_path: Path) -> None:
    table = columns_of([1, 2, 3], day=pa.array([7, 8, 7], pa.int32()), where=["a", "b", "a"])
    root = written(tmp_path / "t", table, partition_by=["day", "where"])
    with pytest.warns(UserWarning, match=r"left out, since they are not numbers: where"):
        assert ingested(root, tmp_path / "out") == {
            "x": [1, 2, 3],
            "day": [7, 8, 7],
            "y": [10, 20, 30],
        }


def test_a_column_that_was_added_later_is_null_before(tmp_path: Path) -> None:
    root = written(tmp_path / "t", columns_of([1]))
    written(root, columns_of([2], z=[0.5]), schema_mode="merge")
    rows = ingested(root, tmp_path / "out", target="y")
    assert rows["z"][1] == 0.5
    assert rows["z"][0] != rows["z"][0]
    assert ingested(f"{root}@v0", tmp_path / "first") == {"x": [1], "y": [10]}


def test_rows_of_a_deletion_vector_are_not_read(tmp_path: Path) -> None:
    root = written(tmp_path / "t", columns_of([0, 1, 2, 3, 4, 5]))

    def mark(action) -> None:
        if "add" in action:
            action["add"]["deletionVector"] = deletion_vector([1, 4])
        if "protocol" in action:
            features = {"readerFeatures": ["deletionVectors"]}
            features |= {"writerFeatures": ["deletionVectors"]}
            action["protocol"] = {"minReaderVersion": 3, "minWriterVersion": 7, **features}

    edit_log(root, 0, mark)
    assert ingested(root, tmp_path / "out") == {"x": [0, 2, 3, 5], "y": [0, 20, 30, 50]}


def test_columns_that_are_mapped_to_other_names_are_found(tmp_path: Path) -> None:
    root = written(tmp_path / "t", columns_of([1, 2]))

    def rename(action) -> None:
        if "protocol" in action:
            action["protocol"] = {"minReaderVersion": 2, "minWriterVersion": 5}
        if "metaData" in action:
            schema = action["metaData"]["schemaString"]
            for number, (old, new) in enumerate((("x", "speed"), ("y", "power")), start=1):
                mapped = f'"name":"{new}"'
                physical = f'{{"delta.columnMapping.physicalName":"{old}"'
                physical += f',"delta.columnMapping.id":{number}}}'
                before, _, after = schema.partition(f'"name":"{old}"')
                schema = (
                    before + mapped + after.replace('"metadata":{}', f'"metadata":{physical}', 1)
                )
            action["metaData"]["schemaString"] = schema
            action["metaData"]["configuration"] = {
                "delta.columnMapping.mode": "name",
                "delta.columnMapping.maxColumnId": "2",
            }

    edit_log(root, 0, rename)
    assert ingested(root, tmp_path / "out") == {"speed": [1, 2], "power": [10, 20]}


def test_a_checkpoint_stands_for_the_log_before_it(tmp_path: Path) -> None:
    root = written(tmp_path / "t", *(columns_of([float(i)]) for i in range(4)))
    table = deltalake.DeltaTable(root)
    table.delete("x = 2")
    table.create_checkpoint()
    for version in range(4):
        (root / "_delta_log" / f"{version:020}.json").unlink()
    assert live(root) == [0, 1, 3]


def test_the_order_of_rows_is_the_same_each_time(tmp_path: Path) -> None:
    root = written(tmp_path / "t", *(columns_of([float(i)]) for i in range(12)))
    source = find_foreign(str(root))
    assert source
    orders = {str([batch.to_pydict() for batch in open_delta(source).batches(["x"])])
              for _ in range(5)}  # fmt: skip
    assert len(orders) == 1


def test_a_reader_feature_that_the_library_lacks_is_refused(tmp_path: Path) -> None:
    root = written(tmp_path / "t", columns_of([1]))
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7}
    protocol |= {"readerFeatures": ["timeMachine"], "writerFeatures": ["timeMachine"]}
    edit_log(root, 0, lambda action: "protocol" in action and action.update(protocol=protocol))
    with pytest.raises(DataError, match=r"^.*t: cannot be read as Delta: .*timeMachine"):
        ingested(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_version_that_is_not_there_and_a_lost_file_are_refused_in_one_line(
    tmp_path: Path,
) -> None:
    root = written(tmp_path / "t", columns_of([1]))
    with pytest.raises(DataError, match=r"t@v5: the newest version is 0. Name one of 0 to 0."):
        ingested(f"{root}@v5", tmp_path / "out")
    next(root.glob("*.parquet")).unlink()
    with pytest.raises(DataError, match=r"^.*t: cannot be read as Delta: .*not found") as refused:
        ingested(root, tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [("c-1", "c-2"), ("foo", "bar")], ids=["names too", "ids only"])
def test_columns_mapped_by_id_are_read_or_refused(tmp_path: Path, names) -> None:
    """Deltalake finds them by their names in the files, and would give nulls for other names."""
    fields = [
        pa.field(name, pa.float64(), metadata={"PARQUET:field_id": str(number)})
        for number, name in enumerate(names, start=1)
    ]
    root = written(tmp_path / "t", columns_of([1.0]))
    (file,) = root.glob("*.parquet")
    pq.write_table(pa.table([[1.0, 2.0], [3.0, 4.0]], schema=pa.schema(fields)), file)

    def by_id(action) -> None:
        if "protocol" in action:
            action["protocol"] = {"minReaderVersion": 2, "minWriterVersion": 5}
        if "add" in action:
            action["add"]["size"] = file.stat().st_size
            action["add"].pop("stats", None)
        if "metaData" in action:
            mapped = [
                {
                    "name": name,
                    "type": "double",
                    "nullable": True,
                    "metadata": {
                        "delta.columnMapping.id": number,
                        "delta.columnMapping.physicalName": f"c-{number}",
                    },
                }
                for number, name in enumerate("xy", start=1)
            ]
            action["metaData"]["schemaString"] = json.dumps({"type": "struct", "fields": mapped})
            action["metaData"]["configuration"] = {
                "delta.columnMapping.mode": "id",
                "delta.columnMapping.maxColumnId": "2",
            }

    edit_log(root, 0, by_id)
    if names[0] == "c-1":
        assert ingested(root, tmp_path / "out") == {"x": [1, 2], "y": [3, 4]}
    else:
        with pytest.raises(DataError, match=r"t: column 'foo' of .*column mapping by id"):
            ingested(root, tmp_path / "out")


def test_the_files_of_a_change_data_feed_are_no_rows(tmp_path: Path) -> None:
    feed = {"delta.enableChangeDataFeed": "true"}
    root = written(tmp_path / "t", columns_of([1, 2, 3]), configuration=feed)
    deltalake.DeltaTable(root).update({"x": "x * 10"}, predicate="x = 3")
    assert (root / "_change_data").is_dir()
    assert live(root) == [1, 2, 30]
