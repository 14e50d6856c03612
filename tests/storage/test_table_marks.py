"""A table of a warehouse is never read as a plain folder: its files hold removed rows, too.

No library is needed to find that out.
"""

import os
import re
from pathlib import Path

import pytest

from streamtrain.errors import DataError
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.foreign.table_marks import refuse_listed_tables
from streamtrain.storage.locate import locate
from streamtrain.storage.write.ingest import ingest

from .layouts import numbers, write_parquet, write_zarr
from .warehouse import BARE, bare_delta, write_bare


def partition(root: Path) -> Path:
    return next(path for path in sorted(root.iterdir()) if path.name in ("day=1", "data"))


@pytest.mark.parametrize("table", BARE)
@pytest.mark.parametrize("verb", [open_shards, lambda path: ingest(path, f"{path}/../out")])
def test_a_path_in_a_table_around_it_or_into_it_is_refused_in_one_line(
    table: str, verb, tmp_path: Path
) -> None:
    root = BARE[table](tmp_path / "lake" / "t")
    write_bare(tmp_path / "lake" / "other" / "a.parquet")
    (tmp_path / "link").symlink_to(partition(root))
    (tmp_path / "b.parquet").symlink_to(next(partition(root).iterdir()))
    (tmp_path / "list.txt").write_text(str(next(partition(root).iterdir())))
    next_move = "Spark" if table == "Hudi" else f"Run streamtrain ingest {root} OUT"
    for path in (
        partition(root),
        next(partition(root).iterdir()),
        tmp_path / "lake",
        tmp_path / "lake" / "*" / "*" / "*.parquet",
        tmp_path / "lake" / "*",
        tmp_path / "link",
        tmp_path / "b.parquet",
        tmp_path / "list.txt",
    ):
        with pytest.raises(DataError) as refused:
            verb(str(path))
        message = str(refused.value)
        assert re.match(rf"{re.escape(str(path))}: .* the {table} table ", message)
        assert next_move in message
        assert "\n" not in message


def test_hudi_is_refused_by_name(tmp_path: Path) -> None:
    root = BARE["Hudi"](tmp_path / "t")
    words = r"a Hudi table, a format that is not read: .* with Spark"
    for path in (root, f"{root}@v3"):
        with pytest.raises(DataError, match=words):
            open_shards(str(path))
    with pytest.raises(DataError, match=words):
        ingest(root, tmp_path / "out")


def test_folders_beside_a_table_and_folders_of_like_names_are_read(tmp_path: Path) -> None:
    bare_delta(tmp_path / "t")
    here = tmp_path / "here"
    write_parquet(here / "data" / "a.parquet", numbers())
    (here / "metadata").mkdir()
    (here / "metadata" / "columns.metadata.json").write_text("{}")
    (here / "_delta_log").write_text("a file")
    write_parquet(tmp_path / "t_copy" / "a.parquet", numbers())
    write_zarr(tmp_path / "z" / "a.zarr", numbers())
    for folder in ("here", "t_copy", "z", "t_*", "here/data/*.parquet"):
        assert len(locate(str(tmp_path / folder))) == 1


def test_a_hidden_folder_is_no_part_of_the_data_set_nor_is_a_table_in_it(tmp_path: Path) -> None:
    bare_delta(tmp_path / "data" / "_old" / "t")
    write_bare(tmp_path / "data" / "a.parquet")
    assert locate(str(tmp_path / "data")) == [str(tmp_path / "data" / "a.parquet")]


LISTINGS = {
    "Delta": ["t/_delta_log/00000000000000000000.json", "t/day=1/a.parquet"],
    "Iceberg": ["t/metadata/00002-ab.metadata.json", "t/data/a.parquet"],
    "Hudi": ["t/.hoodie/hoodie.properties", "t/a.parquet"],
}


@pytest.mark.parametrize("table", LISTINGS)
def test_a_listing_of_an_object_store_shows_a_table_by_its_files(table: str) -> None:
    files = [*LISTINGS[table], "b.parquet"]
    inside = f"s3://lake/{files[1]}"
    with pytest.raises(DataError, match=rf"s3://lake: reaches into the {table} table s3://lake/t"):
        refuse_listed_tables("s3://lake", "s3://lake", files, [inside])
    refuse_listed_tables("s3://lake", "s3://lake", files, ["s3://lake/b.parquet"])
    below = [os.path.relpath(file, "t") for file in LISTINGS[table]]
    with pytest.raises(DataError, match=rf"^s3://lake/t: an? {table} table"):
        refuse_listed_tables("s3://lake/t", "s3://lake/t", below, [])
