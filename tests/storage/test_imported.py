"""The door: whatever `open_tables` reads is opened as shards, imported once."""

import logging
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from streamtrain.errors import DataError, ResourceError, StoreError
from streamtrain.storage import imported
from streamtrain.storage.dataset import find_shards, open_shards
from streamtrain.storage.readers import Readers
from streamtrain.types import Dataset, Reading, Storage


@pytest.fixture(autouse=True)
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STREAMTRAIN_TABLES", str(tmp_path / "tables"))
    return tmp_path / "tables"


def _rows(dataset: Dataset) -> list[list[float]]:
    readers = Readers(dataset)
    return np.stack(readers.read(0, 0, dataset.num_rows), axis=1).tolist()


def test_a_table_is_imported_once_and_a_changed_one_again(
    tmp_path: Path, tables: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="streamtrain")
    path = tmp_path / "t.csv"
    path.write_text("a,b,y\n1,2,3\n4,5,6\n")
    first, second = open_shards(str(path)), open_shards(str(path))
    assert (first.url, first.columns, first.integrity) == (str(path), ("a", "b", "y"), "verified")
    assert _rows(first) == _rows(second) == [[1, 2, 3], [4, 5, 6]]
    assert first.fingerprint == second.fingerprint
    said = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"read t\.csv: 2 rows in [\d.]+ \w+; kept in .*", said[0])
    assert said[1].startswith("using the rows of t.csv kept in ")
    # the same length, extremes and date of change but one
    path.write_text("a,b,y\n1,2,3\n4,5,7\n")
    os.utime(path, ns=(0, 1))
    changed = open_shards(str(path))
    assert _rows(changed) == [[1, 2, 3], [4, 5, 7]]
    assert changed.fingerprint != first.fingerprint
    assert len(list(tables.iterdir())) == 2
    assert {path.stat().st_mode & 0o777 for path in (tables, *tables.iterdir())} == {0o700}


def test_what_is_noticed_in_several_files_is_said_once(tmp_path: Path) -> None:
    for count, (name, word) in enumerate(zip("abcd", "xxxz", strict=True), 1):
        rows = "".join(f"{i},{i % 7}\n" for i in range(20 + count))
        (tmp_path / f"{name}.csv").write_text(f"p,y\n{rows}" + f"{word},1\n" * count)
    a, d = tmp_path / "a.csv", tmp_path / "d.csv"
    with pytest.warns(UserWarning, match="read as null") as said:
        open_shards(str(tmp_path / "?.csv"))
    assert [str(warning.message) for warning in said] == [
        f"{a} (and 2 more files): column 'p': 'x' read as null in 1 row, first in row 21.",
        f"{d}: column 'p': 'z' read as null in 4 rows, first in row 24.",
    ]


def test_a_file_without_the_header_of_the_first_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("word,p,y\nu,1,2\nv,3,4\n")
    (tmp_path / "b.csv").write_text("w,5,6\nu,7,8\n")
    said = r"b\.csv: its columns are c0, c1, c2, and those of .*a\.csv are word, p, y\."
    with pytest.raises(DataError, match=said):
        open_shards(str(tmp_path / "*.csv"))


def test_the_fingerprint_is_of_the_contents_and_no_footer_hides_a_change(tmp_path: Path) -> None:
    """A value between the extremes changes neither the statistics nor the size of a shard."""
    fingerprints = set()
    for number, middle in enumerate((2, 3)):
        (tmp_path / str(number)).mkdir()
        path = tmp_path / str(number) / "t.csv"
        path.write_text(f"a,y\n0,1\n{middle},1.5\n9,2\n")
        fingerprints.add(open_shards(str(path)).fingerprint)
    assert len(fingerprints) == 2


def test_features_and_target_are_chosen_from_one_import(tmp_path: Path, tables: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("y,name,a,b\n1,x,2,3\n4,z,5,6\n")
    with pytest.warns(
        UserWarning,
        match=r"not numbers: name \(string\)\. To use a column, write its values as numbers",
    ):
        assert open_shards(str(path)).columns == ("y", "a", "b")
    with pytest.warns(UserWarning, match="left out"):
        assert open_shards(str(path), target="y").columns == ("a", "b", "y")
    chosen = open_shards(str(path), features=["b"], target="a")
    assert _rows(chosen) == [[3, 2], [6, 5]]
    with pytest.raises(DataError, match=r"t\.csv.*column 'name' has type string"):
        open_shards(str(path), features=["name"], target="a")
    assert len(list(tables.iterdir())) == 1


def test_a_target_that_is_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,label\n1,2,x\n4,5,z\n")
    with pytest.raises(DataError, match="last column, 'label', has type string: it cannot be the"):
        open_shards(str(tmp_path / "t.csv"))


def test_a_column_with_a_wrong_value_is_left_out_unless_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found in a later block, so that the table is read again without the column."""
    monkeypatch.setattr("streamtrain.storage.write.text_table._SAMPLE_BYTES", 64)
    path = tmp_path / "t.csv"
    path.write_text("id,b,x,y\n" + "1,2,0,3\n" * 30 + "12345678901234567890,2,0,4\n1,12b,0,5\n")
    with pytest.warns(UserWarning, match="left out") as warned:
        dataset = open_shards(str(path))
    assert (dataset.columns, dataset.num_rows) == (("x", "y"), 32)
    said = str(warned[-1].message)
    assert "id (the integer 12345678901234567890 is beyond ±2^53" in said
    assert "b ('12b' in row 31 is not a number)" in said
    with pytest.raises(DataError, match=r"column 'b' .*'12b' in row 31 is not a number"):
        open_shards(str(path), features=["b"])


def test_every_path_that_means_tables_is_imported(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / "1.csv").write_text("a,y\n1,2\n")
    (folder / "2.csv").write_text("y,a\n4,3\n")
    (tmp_path / "list.txt").write_text("many/1.csv\n# a remark\nmany/2.csv\n")
    (tmp_path / "fields.txt").write_text("a,y\n1,2\n3,4\n")
    feather.write_feather(pa.table({"a": [1.0, 3.0], "y": [2.0, 4.0]}), str(tmp_path / "t.feather"))
    for path in (
        folder,
        folder / "*.csv",
        tmp_path / "list.txt",
        tmp_path / "fields.txt",
        tmp_path / "t.feather",
    ):
        dataset = open_shards(str(path))
        assert dataset.url == str(path)
        assert _rows(dataset) == [[1, 2], [3, 4]]


def test_shards_pass_by_the_door(tmp_path: Path, tables: Path) -> None:
    """Also one whose name ends like that of a table, and ones that have tables beside them."""
    pq.write_table(pa.table({"a": [1.0], "y": [2.0]}), tmp_path / "t.parquet")
    (tmp_path / "t.parquet").rename(tmp_path / "t.data")
    assert open_shards(str(tmp_path / "t.data")).num_rows == 1
    (tmp_path / "mixed").mkdir()
    (tmp_path / "t.data").rename(tmp_path / "mixed" / "t.parquet")
    (tmp_path / "mixed" / "t.csv").write_text("a,y\n1,2\n3,4\n")
    assert open_shards(str(tmp_path / "mixed")).num_rows == 1
    (tmp_path / "list.txt").write_text("mixed/t.parquet\n")
    assert open_shards(str(tmp_path / "list.txt")).num_rows == 1
    assert not tables.exists()


def test_a_part_of_an_import_is_never_used(tmp_path: Path, tables: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,y\n1,2\n")
    open_shards(str(path))
    (kept,) = tables.iterdir()
    shard = kept / "rows" / "shard-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-9])
    assert _rows(open_shards(str(path))) == [[1, 2]]
    (kept / "table.json").write_text("{")
    assert _rows(open_shards(str(path))) == [[1, 2]]
    (kept / "table.json").unlink()
    assert _rows(open_shards(str(path))) == [[1, 2]]


def test_a_failed_import_leaves_nothing(tmp_path: Path, tables: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\nx,z\n")
    with pytest.raises(DataError, match=r"t\.csv: no numeric column"):
        find_shards(tmp_path / "t.csv")
    assert list(tables.iterdir()) == []


def test_the_tables_that_were_not_used_for_longest_are_removed(
    tmp_path: Path, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        (tmp_path / f"{number}.csv").write_text(f"a,y\n1,{number}\n")
        open_shards(str(tmp_path / f"{number}.csv"))
    for note in tables.glob("*/table.json"):
        number = int(note.parent.name[0])
        age = 0 if number == 2 else 100_000 * (5 - number)
        os.utime(note, (note.stat().st_atime, note.stat().st_mtime - age))
    monkeypatch.setattr(imported, "LIMIT_BYTES", 1)
    open_shards(str(tmp_path / "3.csv"))  # what adds nothing removes nothing
    assert sorted(folder.name[0] for folder in tables.iterdir()) == ["0", "1", "2", "3"]
    (tmp_path / "4.csv").write_text("a,y\n1,4\n")
    open_shards(str(tmp_path / "4.csv"))
    assert sorted(folder.name[0] for folder in tables.iterdir()) == ["2", "3", "4"]


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STREAMTRAIN_TABLES", str(tmp_path / "file" / "tables"))
    (tmp_path / "t.csv").write_text("a,y\n1,2\n")
    with pytest.raises(ResourceError, match=r"cannot be written .* Set STREAMTRAIN_TABLES"):
        open_shards(str(tmp_path / "t.csv"))


def test_without_a_home_folder_the_variable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STREAMTRAIN_TABLES")
    monkeypatch.setattr(imported, "user_cache", lambda: None)
    (tmp_path / "t.csv").write_text("a,y\n1,2\n")
    with pytest.raises(ResourceError, match=r"no folder to keep .* Set STREAMTRAIN_TABLES"):
        open_shards(str(tmp_path / "t.csv"))


def test_a_null_is_named_by_the_users_file_and_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\n1,2\n,4\n")
    dataset = open_shards(str(tmp_path / "t.csv"))
    assert dataset.place(0, 1) == (str(tmp_path / "t.csv"), 1)


def test_a_delta_table_is_its_live_rows_and_a_new_version_is_imported_again(tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    root = tmp_path / "t"
    deltalake.write_deltalake(root, pa.table({"x": [1.0, 2.0], "y": [3.0, 4.0]}))
    first = open_shards(str(root))
    assert (first.url, _rows(first)) == (str(root), [[1, 3], [2, 4]])
    deltalake.DeltaTable(root).delete("x = 1")
    assert _rows(open_shards(str(root))) == [[2, 4]]
    assert _rows(open_shards(f"{root}@v0")) == [[1, 3], [2, 4]]


def test_a_query_of_a_database_is_opened_and_another_query_is_another_table(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect(tmp_path / "shop.db") as connection:
        connection.execute("CREATE TABLE sales AS SELECT i AS x, i * 10 AS y FROM range(3) r(i)")
    source = f"duckdb:{tmp_path / 'shop.db'}"
    assert _rows(open_shards(f"{source}?table=sales")) == [[0, 0], [1, 10], [2, 20]]
    assert _rows(open_shards(f"{source}?query=SELECT x, -y FROM sales WHERE x = 1")) == [[1, -10]]


class _Files(BaseHTTPRequestHandler):
    """Serves `content` by ranges, with `marks` as further headers, and notes the requests."""

    requests: ClassVar[list[str]]
    marks: ClassVar[dict[str, str]]
    content: ClassVar[bytes]

    def do_GET(self) -> None:
        self.requests.append(self.command)
        first, last = map(int, re.findall(r"\d+", self.headers.get("Range", "bytes=0-99")))
        part = self.content[first : last + 1]
        self.send_response(200 if self.command == "HEAD" else 206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.content)}")
        for name, value in self.marks.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.mark.parametrize(
    ("marks", "changed"),
    [
        ({"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"},
         {"Last-Modified": "Wed, 21 Oct 2015 07:29:00 GMT"}),
        ({"ETag": '"1"'}, {"ETag": '"2"'}),
        ({}, {}),
    ],
    ids=["date", "tag", "nothing"],
)  # fmt: skip
def test_a_table_on_a_web_server_is_imported_once_if_the_server_tells_changes(
    marks: dict[str, str], changed: dict[str, str], tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore")
    for name, value in (("requests", []), ("marks", marks), ("content", b"a,y\n1,2\n")):
        monkeypatch.setattr(_Files, name, value, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/t.csv"
        try:
            assert _rows(open_shards(url)) == [[1, 2]]
            _Files.requests.clear()
            open_shards(url)
            assert ("GET" in _Files.requests) == (not marks)
            imports = len(list(tables.iterdir()))
            monkeypatch.setattr(_Files, "content", b"a,y\n1,3\n")
            monkeypatch.setattr(_Files, "marks", changed)
            assert _rows(open_shards(url)) == [[1, 3]]
            open_shards(f"{url}?year=2020")  # which may be another table
            assert len(list(tables.iterdir())) == imports + 2
        finally:
            server.shutdown()
            thread.join()


class _WholeFiles(BaseHTTPRequestHandler):
    """Answers each request for a range with the whole file, as the server of Python does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "8")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"a,y\n1,2\n")

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_web_server_without_ranges_is_refused_with_the_next_move(name: str) -> None:
    pytest.importorskip("obstore")
    with ThreadingHTTPServer(("127.0.0.1", 0), _WholeFiles) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/{name}"
        try:
            with pytest.raises(StoreError) as refused:
                open_shards(url)
        finally:
            server.shutdown()
            thread.join()
    assert f"{url}: the server sends whole files only" in str(refused.value)
    assert "Download the file" in str(refused.value)


@pytest.mark.parametrize("choice", ["footer", "pages"])
def test_an_import_of_shards_leaves_bad_ones_out_under_quarantine(
    choice: str, tmp_path: Path
) -> None:
    """A bad footer is found when a shard is opened, bad pages when they are read."""
    storage = Storage(reading=Reading(datetime="parts"))
    (tmp_path / "data").mkdir()
    for number in range(3):
        day = pa.array([number], pa.date32())
        rows = pa.table({"day": day, "x": [2.0 * number], "y": [number + 0.5]})
        path = tmp_path / "data" / f"{number}.parquet"
        pq.write_table(rows, path, compression="none", use_dictionary=False)
    bad = tmp_path / "data" / "1.parquet"
    content = bytearray(bad.read_bytes())
    if choice == "footer":
        content[-5:] = b"\xff" * 5
    else:
        content[4:60] = b"\xff" * 56
    bad.write_bytes(content)
    for _ in range(2):  # the second time from the cache
        dataset = open_shards(str(tmp_path / "data"), on_bad_shard="quarantine", storage=storage)
        assert [row[-2:] for row in _rows(dataset)] == [[0.0, 0.5], [4.0, 2.5]]
        assert [url for url, _ in dataset.left_out] == [str(bad)]
        with pytest.raises(DataError, match=r"1\.parquet"):
            open_shards(str(tmp_path / "data"), storage=storage)
    for number in (0, 2):
        (tmp_path / "data" / f"{number}.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"0\.parquet"):
        open_shards(str(tmp_path / "data"), on_bad_shard="quarantine", storage=storage)


def test_all_columns_that_are_refused_late_cost_one_more_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamtrain.storage.write.text_table._SAMPLE_BYTES", 64)
    readings = []
    plain = imported.write_dataset
    monkeypatch.setattr(
        imported, "write_dataset", lambda *a, **b: readings.append(a) or plain(*a, **b)
    )
    path = tmp_path / "t.csv"
    rows = "1,2,0,5,3\n" * 30 + "1x,2,0,5,3\n1,2y,0,5,4\n1,2,9z,5,5\n"
    path.write_text("a,b,c,d,y\n" + rows)
    with pytest.warns(UserWarning, match="left out") as said:
        assert open_shards(str(path)).columns == ("d", "y")
    assert len(readings) == 2
    text = str(said[-1].message)
    for name, value, row in (("a", "1x", 30), ("b", "2y", 31), ("c", "9z", 32)):
        assert f"{name} ({value!r} in row {row} is not a number)" in text


def test_an_integer_that_float64_rounds_refuses_its_column_alone(tmp_path: Path) -> None:
    table = pa.table({"id": [2**60 + 1, 2], "a": [1.0, 2.0], "y": [3.0, 4.0]})
    feather.write_feather(table, str(tmp_path / "t.feather"))
    with pytest.warns(UserWarning, match=r"left out.*id \(the integer 1,152.* is beyond"):
        assert open_shards(str(tmp_path / "t.feather")).columns == ("a", "y")
