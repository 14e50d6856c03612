"""Iceberg tables that pyiceberg writes: only live rows, at the snapshot that is named."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from streamtrain.errors import ConfigError, DataError
from streamtrain.storage.foreign.foreign_source import ForeignSource, find_foreign
from streamtrain.storage.foreign.iceberg_table import open_iceberg

from .warehouse import columns_of, ingested

pytest.importorskip("pyiceberg")

from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    write_manifest,
)
from pyiceberg.table import Table
from pyiceberg.typedef import Record
from pyiceberg.types import DoubleType

from .iceberg_catalog import OneTable, end_threads


@pytest.fixture(autouse=True)
def no_pool() -> Iterator[None]:
    yield
    end_threads()


def create(root: Path, table: pa.Table) -> Table:
    return OneTable("files").create(f"file://{root}", table)


def live(root: Path | str) -> list[float]:
    """The values of x of all live rows, sorted, as our reader gives them."""
    source = find_foreign(str(root))
    assert source
    return sorted(
        x for batch in open_iceberg(source).batches(["x"]) for x in batch["x"].to_pylist()
    )


def snapshot(table: Table) -> int:
    current = table.current_snapshot()
    assert current
    return current.snapshot_id


def test_each_snapshot_has_the_rows_that_were_live_then(tmp_path: Path) -> None:
    root = tmp_path / "t"
    table = create(root, columns_of([0, 1, 2, 3]))
    expected = {snapshot(table): [0, 1, 2, 3]}
    table.append(columns_of([4, 5]))
    expected[snapshot(table)] = [0, 1, 2, 3, 4, 5]
    table.delete("x = 2 or x = 5")
    expected[snapshot(table)] = [0, 1, 3, 4]
    table.overwrite(columns_of([9]), overwrite_filter="x <= 1")
    expected[snapshot(table)] = [3, 4, 9]
    assert len(expected) == 4
    for version, rows in expected.items():
        assert live(f"{root}@{version}") == rows
    assert live(root) == [3, 4, 9]
    assert live(table.metadata_location.removeprefix("file://")) == [3, 4, 9]


def test_columns_keep_their_values_when_they_are_renamed_moved_or_added(tmp_path: Path) -> None:
    root = tmp_path / "t"
    table = create(root, columns_of([1], where=["a"]))
    first = snapshot(table)
    with table.update_schema() as change:
        change.rename_column("x", "speed")
        change.add_column("z", DoubleType())
        change.move_first("z")
    table.append(pa.table({"z": [0.5], "speed": [2.0], "where": ["b"], "y": [20.0]}))
    with pytest.warns(UserWarning, match=r"left out, since they are not numbers: where"):
        rows = ingested(root, tmp_path / "out")
    assert list(rows) == ["z", "speed", "y"]
    assert rows["speed"] == [1, 2]
    assert rows["z"][0] != rows["z"][0]
    assert rows["z"][1] == 0.5
    with pytest.warns(UserWarning, match=r"where"):
        assert ingested(f"{root}@{first}", tmp_path / "first") == {"x": [1], "y": [10]}


def test_partitions_are_columns(tmp_path: Path) -> None:
    root = tmp_path / "t"
    table = create(root, columns_of([0], day=pa.array([6], pa.int32())))
    with table.update_spec() as change:
        change.add_identity("day")
    table.append(columns_of([1, 2, 3], day=pa.array([7, 8, 7], pa.int32())))
    table.delete("day = 8")
    assert len(list(root.glob("data/day=*"))) == 2
    assert ingested(root, tmp_path / "out") == {
        "x": [0, 1, 3],
        "day": [6, 7, 7],
        "y": [0, 10, 30],
    }


def test_the_hint_says_which_metadata_is_newest_and_two_without_a_hint_are_refused(
    tmp_path: Path,
) -> None:
    root = tmp_path / "t"
    create(root, columns_of([1])).append(columns_of([2]))
    names = sorted(path.name for path in (root / "metadata").glob("*.metadata.json"))
    assert live(root) == [1, 2]
    (root / "metadata" / "version-hint.text").write_text(names[1].removesuffix(".metadata.json"))
    assert live(root) == [1]
    (root / "metadata" / "version-hint.text").write_text("1")
    assert live(root) == [1]
    (root / "metadata" / "version-hint.text").unlink()
    copy = root / "metadata" / f"{names[-1][:5]}-0.metadata.json"
    copy.write_bytes((root / "metadata" / names[-1]).read_bytes())
    with pytest.raises(DataError, match=r"both claim to be its newest metadata.*Name that file"):
        live(root)
    assert live(copy) == [1, 2]


def test_a_snapshot_that_is_not_there_is_refused(tmp_path: Path) -> None:
    table = create(tmp_path / "t", columns_of([1]))
    with pytest.raises(DataError, match=rf"no snapshot 77; the newest are {snapshot(table)}. Name"):
        ingested(f"{tmp_path}/t@77", tmp_path / "out")


def test_a_lost_data_file_and_damaged_metadata_are_refused_in_one_line(tmp_path: Path) -> None:
    table = create(tmp_path / "t", columns_of([1]))
    next((tmp_path / "t" / "data").iterdir()).unlink()
    metadata = Path(table.metadata_location.removeprefix("file://"))
    for _ in range(2):
        with pytest.raises(DataError, match=r"^.*/t: cannot be read as Iceberg: ") as refused:
            ingested(tmp_path / "t", tmp_path / "out")
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "out").exists()
        metadata.write_text("{}")


def test_equality_deletes_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = create(tmp_path / "t", columns_of([1, 2]))
    deletes = tmp_path / "t" / "metadata" / "deletes.avro"
    file = DataFile.from_args(
        content=DataFileContent.EQUALITY_DELETES,
        file_path=f"{tmp_path}/t/data/deletes.parquet",
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=1,
        file_size_in_bytes=1,
        equality_ids=[1],
    )
    file.spec_id = 0
    with write_manifest(
        2, table.spec(), table.schema(), table.io.new_output(f"file://{deletes}"), 1, "null"
    ) as writer:
        writer.content = lambda: ManifestContent.DELETES
        entry = {"status": ManifestEntryStatus.ADDED, "snapshot_id": 1, "data_file": file}
        writer.add_entry(ManifestEntry.from_args(**entry, sequence_number=9))
    listed = writer.to_manifest_file()
    listed.sequence_number = listed.min_sequence_number = 9
    current = table.current_snapshot()
    assert current
    manifests = [*current.manifests(table.io), listed]
    monkeypatch.setattr(type(current), "manifests", lambda *_: manifests)
    with pytest.raises(DataError, match=r"equality deletes, which pyiceberg does not apply"):
        ingested(tmp_path / "t", tmp_path / "out")


def test_one_file_is_decoded_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = create(tmp_path / "t", columns_of([1]))
    for x in (2, 3, 4):
        table.append(columns_of([x]))
    decoded: list[int] = []
    read = ArrowScan.to_record_batches

    def counted(self, tasks):
        decoded.append(len(list(tasks)))
        return read(self, tasks)

    monkeypatch.setattr(ArrowScan, "to_record_batches", counted)
    assert live(tmp_path / "t") == [1, 2, 3, 4]
    assert decoded == [1] * 4


def test_a_store_of_which_pyiceberg_is_not_told_is_refused() -> None:
    source = ForeignSource(
        kind="Iceberg", name="az://c/t", url="az://c/t/metadata/v1.metadata.json"
    )
    with pytest.raises(ConfigError, match=r"az://: Iceberg tables are read from"):
        open_iceberg(source)
