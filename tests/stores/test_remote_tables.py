"""Tables of a warehouse in an object store: found by listing, read by their libraries."""

import pytest

from streamtrain.errors import DataError
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.foreign.foreign_source import source_version
from streamtrain.storage.remote.filesystem import list_files
from streamtrain.storage.write.ingest import ingest
from tests.storage.warehouse import BARE, columns_of, rows_of


@pytest.mark.parametrize("table", BARE)
def test_a_table_is_found_by_its_files_and_by_the_names_of_partitions(table, bucket, tmp_path):
    root = bucket.put(BARE[table](tmp_path / "t"), "lake/t")
    inside = next(name for name in list_files(root, bucket.storage) if name.endswith(".parquet"))
    paths = [bucket.url, f"{bucket.url}/*/*", f"{root}/*/*.parquet"]
    if table == "Hudi":  # the others are read by their libraries
        paths.append(root)
    if table != "Iceberg":  # its `data` folder is too common a name to ask about
        paths += [f"{root}/day=1", f"{root}/{inside}"]
    for path in paths:
        with pytest.raises(DataError, match=f"{table} table.* holds? removed|{table} table.*Spark"):
            open_shards(path, storage=bucket.storage)


def test_a_file_that_an_engine_named_is_looked_up_in_its_table(bucket, tmp_path):
    root = BARE["Delta"](tmp_path / "t")
    name = "part-00000-7f320c82-9ef6-4aaf-80fa-2436a9ce1a36-c000.snappy.parquet"
    (root / "day=1" / "live.parquet").rename(root / name)
    bucket.put(root, "t")
    with pytest.raises(DataError, match=f"lies in the Delta table {bucket.url}/t"):
        open_shards(f"{bucket.url}/t/{name}", storage=bucket.storage)


def test_a_delta_table_in_a_store_is_read_at_any_version(bucket, tmp_path):
    deltalake = pytest.importorskip("deltalake")
    for x in (1.0, 2.0):
        deltalake.write_deltalake(tmp_path / "t", columns_of([x]), mode="append")
    root = bucket.put(tmp_path / "t", "t")
    options = {"storage_options": bucket.options}
    ingest(root, tmp_path / "new", **options)
    ingest(f"{root}@v0", tmp_path / "old", **options)
    assert rows_of(tmp_path / "new") == {"x": [1, 2], "y": [10, 20]}
    assert rows_of(tmp_path / "old") == {"x": [1], "y": [10]}
    before = source_version(root, bucket.storage)
    deltalake.DeltaTable(tmp_path / "t").delete("x = 1")
    bucket.put(tmp_path / "t", "t")
    assert source_version(root, bucket.storage) != before
    with pytest.raises(DataError, match="no such file"):
        ingest(f"{bucket.url}/gone@v0", tmp_path / "gone", **options)


def test_an_iceberg_table_in_a_store_is_read(bucket, tmp_path):
    pytest.importorskip("pyiceberg")
    from tests.storage.iceberg_catalog import OneTable, end_threads

    catalog = OneTable(
        "files",
        **{
            "s3.endpoint": bucket.options["endpoint_url"],
            "s3.access-key-id": bucket.options["key"],
            "s3.secret-access-key": bucket.options["secret"],
            "s3.region": bucket.options["region"],
        },
    )
    root = f"{bucket.url}/t"
    try:
        table = catalog.create(root, columns_of([1, 2]))
        before = source_version(root, bucket.storage)
        table.delete("x = 1")
        assert source_version(root, bucket.storage) != before
        ingest(root, tmp_path / "out", storage_options=bucket.options)
    finally:
        end_threads()
    assert rows_of(tmp_path / "out") == {"x": [2], "y": [20]}
