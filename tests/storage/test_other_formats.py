"""A file of another format is refused by its name, with the next move."""

import gzip
import lzma
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamtrain.errors import DataError
from streamtrain.storage.dataset import open_shards


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", "a,y\n1,2\n")


def _sqlite(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a)")
    connection.close()


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("a.zip", _zip, "a zip archive: unpack it"),
        ("a.xlsx", _zip, "a spreadsheet: save the sheet as CSV"),
        ("a.db", _sqlite, "an SQLite database: export the table"),
        ("a.npy", lambda path: np.save(path, np.zeros(3)), "an array of NumPy"),
        (
            "a.gz",
            lambda path: path.write_bytes(gzip.compress(b"a,y\n1,2\n")),
            "compressed by gzip: if it is CSV, name it .csv.gz",
        ),
        (
            "a.lzma",
            lambda path: path.write_bytes(lzma.compress(b"a,y\n1,2\n", lzma.FORMAT_ALONE)),
            "compressed by lzma: if it is CSV, name it .csv.xz",
        ),
        (
            "a.lz4",
            lambda path: path.write_bytes(b"\x04\x22\x4d\x18" + bytes(8)),
            "compressed by lz4: if it is CSV, name it .csv.lz4",
        ),
        ("a.csv.br", lambda path: path.write_bytes(b"12345678"), "compressed by brotli"),
        ("a.csv.Z", lambda path: path.write_bytes(b"\x1f\x9d\x90a,y"), "decompress it"),
        ("a.tar.gz", lambda path: tarfile.open(path, "w:gz").close(), "a tar archive: unpack it"),
    ],
    ids=["zip", "xlsx", "sqlite", "numpy", "gzip", "lzma", "lz4", "brotli", "compress", "tar"],
)
def test_a_file_of_another_format_is_named(tmp_path, name, write, words) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError) as refused:
        open_shards(str(tmp_path / name))
    assert f"{name}: " in str(refused.value)
    assert words in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_another_file_is_not_parquet(tmp_path) -> None:
    (tmp_path / "a.bin").write_bytes(b"12345678")
    with pytest.raises(DataError, match=r"a\.bin: not a Parquet file, or cut short \(8 bytes\)"):
        open_shards(str(tmp_path / "a.bin"))


def test_a_parquet_file_without_its_end_is_not_taken_for_another(tmp_path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": range(1000), "y": range(1000)}), path)
    path.write_bytes(path.read_bytes()[:2000])
    said = (
        r"a\.parquet: a Parquet file that is cut short \(2,000 bytes\)\. Copy or write it again\.$"
    )
    with pytest.raises(DataError, match=said):
        open_shards(str(path))


def test_the_cures_of_lzma_and_tar_work_or_say_what_is_next(tmp_path) -> None:
    lines = b"a,y\n1,2\n3,5\n"
    (tmp_path / "a.csv.xz").write_bytes(lzma.compress(lines, lzma.FORMAT_ALONE))
    assert open_shards(str(tmp_path / "a.csv.xz")).num_rows == 2
    (tmp_path / "rows.txt").write_bytes(lines)
    with tarfile.open(tmp_path / "b.csv.gz", "w:gz") as archive:
        archive.add(tmp_path / "rows.txt", "rows.csv")
    with pytest.raises(DataError, match=r"b\.csv\.gz: is a tar archive\. Unpack it"):
        open_shards(str(tmp_path / "b.csv.gz"))
