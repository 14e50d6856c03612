"""Ingest: every source gives the same rows in both formats, with equal spans.

A failure leaves nothing behind.
"""

import errno
import fcntl
import gzip
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv, feather

from streamtrain.errors import ConfigError, DataError, ResourceError
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.readers import Readers
from streamtrain.storage.write.ingest import ingest
from streamtrain.storage.write.staging import RemoteStaging, open_staging
from streamtrain.types import LOCAL, Dataset

from .layouts import write_zarr

pytestmark = pytest.mark.filterwarnings("ignore:left out, since they are not numbers")

ROWS = 1000
TABLE = pa.table(
    {
        "y": np.random.default_rng(0).normal(size=ROWS).astype("float32"),
        "name": ["text"] * ROWS,
        "a": np.random.default_rng(1).normal(size=ROWS).astype("float32"),
        "b": np.arange(ROWS).astype("int16"),
    }
)
EXPECTED = np.stack([TABLE[name].to_numpy() for name in ("a", "b", "y")], axis=1)


def _csv(tmp: Path) -> Path:
    csv.write_csv(TABLE, tmp / "t.csv")
    return tmp / "t.csv"


def _csv_gz(tmp: Path) -> Path:
    with gzip.open(tmp / "t.csv.gz", "wb") as file:
        csv.write_csv(TABLE, file)
    return tmp / "t.csv.gz"


def _csv_folder(tmp: Path) -> Path:
    (tmp / "csv").mkdir()
    csv.write_csv(TABLE.slice(0, 333), tmp / "csv" / "1.csv")
    csv.write_csv(TABLE.slice(333).select(["b", "a", "name", "y"]), tmp / "csv" / "2.csv")
    return tmp / "csv"


def _feather(tmp: Path) -> Path:
    feather.write_feather(TABLE, str(tmp / "t.feather"), chunksize=77)
    return tmp / "t.feather"


def _arrow(tmp: Path) -> Path:
    with (
        pa.OSFile(str(tmp / "t.arrow"), "wb") as file,
        pa.ipc.new_file(file, TABLE.schema) as writer,
    ):
        writer.write_table(TABLE, max_chunksize=300)
    return tmp / "t.arrow"


def _parquet(tmp: Path) -> Path:
    pq.write_table(TABLE, tmp / "t.parquet", row_group_size=450)
    return tmp / "t.parquet"


def _zarr(tmp: Path) -> Path:
    return write_zarr(tmp / "t.zarr", EXPECTED.astype("float32"))


SOURCES = [_csv, _csv_gz, _csv_folder, _feather, _arrow, _parquet, _zarr]


def _rows(dataset: Dataset) -> np.ndarray:
    readers = Readers(dataset)
    return np.concatenate(
        [
            np.stack(readers.read(i, 0, shard.num_rows), axis=1)
            for i, shard in enumerate(dataset.shards)
        ]
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__[1:])
def test_every_source_becomes_the_same_rows_and_spans_in_both_formats(
    source, tmp_path: Path
) -> None:
    path, target = source(tmp_path), None if source is _zarr else "y"
    one = ingest(path, tmp_path / "one", target=target, span_rows=30)
    two = ingest(path, tmp_path / "two", target=target, span_rows=30, format="zarr")
    assert one.columns == two.columns == (("a", "b", "y"))
    assert one.integrity == two.integrity == "verified"
    assert (
        one.decoded_type
        == two.decoded_type
        == ("float64" if "csv" in source.__name__ else "float32")
    )
    assert [shard.boundaries.tolist() for shard in one.shards] == [
        shard.boundaries.tolist() for shard in two.shards
    ]
    assert one.shards[0].boundaries.tolist() == list(range(0, 481, 30))
    assert one.shards[-1].num_rows == ROWS - 960
    assert _rows(one).tobytes() == _rows(two).tobytes()
    np.testing.assert_array_equal(_rows(one).astype("float32"), EXPECTED.astype("float32"))


@pytest.mark.parametrize("span_rows", [1, 7, 999, 1000, 1001], ids=str)
def test_spans_of_any_size_keep_the_rows(span_rows: int, tmp_path: Path) -> None:
    dataset = ingest(_parquet(tmp_path), tmp_path / "out", target="y", span_rows=span_rows)
    sizes = np.concatenate([np.diff(shard.boundaries) for shard in dataset.shards])
    assert (sizes[:-1] == span_rows).all()
    assert sizes.sum() == ROWS
    np.testing.assert_array_equal(_rows(dataset), EXPECTED)


def test_null_becomes_nan_and_is_counted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,y\n1,,3\n,2,4\nNA,1,2.5\n")
    for format in ("parquet", "zarr"):
        dataset = ingest(tmp_path / "t.csv", tmp_path / format, format=format)
        nan = np.nan
        np.testing.assert_array_equal(_rows(dataset), [[1, nan, 3], [nan, 2, 4], [nan, 1, 2.5]])


def test_whole_numbers_that_turn_to_fractions_later_in_a_csv_are_kept(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\n" + "1,2\n" * 100 + "1.5,2\n")
    assert _rows(ingest(tmp_path / "t.csv", tmp_path / "out"))[-1].tolist() == [1.5, 2]


@pytest.mark.parametrize(
    ("text", "choice", "words"),
    [
        pytest.param("a,y\n1,2\n1\n", {}, "t.csv", id="ragged row"),
        pytest.param(
            "a,n,y\n1,x,2\n",
            {"features": ["a", "n"]},
            "column 'n' has type string",
            id="text column named",
        ),
        pytest.param("a,y\n1,2\n", {"target": "z"}, "no column 'z'", id="missing target"),
        pytest.param("a,y\n", {}, "no rows|cannot be the target", id="header only"),
        pytest.param("", {}, "t.csv", id="empty file"),
        pytest.param("n,m\nx,z\n", {}, "cannot be the target", id="only text"),
        pytest.param(
            "a,a,y\n1,1,2\n",
            {"features": ["a"]},
            "'a' is not one column: 2 have this name",
            id="column twice",
        ),
        pytest.param(
            "a,a,y\n1,1,2\n", {}, "the same name: 'a'. Rename", id="column twice, unnamed"
        ),
        pytest.param(
            "2019,2020,2021\n1,1,2\n",
            {},
            "first line has numbers as column names: 2019, 2020, 2021. If it is a row",
            id="years for names",
        ),
    ],
)
def test_a_bad_csv_is_one_error_and_leaves_nothing(
    text: str, choice: dict, words: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        ingest(tmp_path / "t.csv", tmp_path / "out", **choice)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_years_may_be_the_names_of_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("2019,2020,2021\n1,3,5\n")
    assert ingest(tmp_path / "t.csv", tmp_path / "out", target="2020").columns == (
        "2019",
        "2021",
        "2020",
    )


def test_columns_that_are_left_out_are_named(tmp_path: Path) -> None:
    """A column must not disappear silently, and the target must not change."""
    (tmp_path / "t.csv").write_text("a,b,y\n1,x,3\n2,5,4\n")
    with pytest.warns(UserWarning, match=r"left out, since they are not numbers: b \(string\)"):
        assert ingest(tmp_path / "t.csv", tmp_path / "out").columns == ("a", "y")
    (tmp_path / "u.csv").write_text("a,y,label\n1,3,x\n")
    with pytest.raises(DataError, match="the last column, 'label', has type string"):
        ingest(tmp_path / "u.csv", tmp_path / "out2")


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(
        pa.table({"a": [1] * 5000 + [2**60 + 1], "y": [1.0] * 5001}), path, row_group_size=1000
    )
    with pytest.raises(DataError, match=r"t.parquet: column 'a': the integer .* beyond"):
        ingest(path, tmp_path / "out", span_rows=10)
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


@pytest.mark.parametrize(
    ("calls", "number", "said"),
    [
        (0, errno.ENOSPC, "No space left on device. Free space there, or"),
        (1, errno.ENOSPC, "No space left on device. Free space there, or"),
        (5, errno.ENOSPC, "No space left on device. Free space there, or"),
        (0, errno.EACCES, "Permission denied. Check its permissions, or"),
    ],
)
def test_what_cannot_be_written_is_a_resource_error_and_leaves_nothing(
    calls: int, number: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, whole, left = _parquet(tmp_path), pq.ParquetWriter.write_batch, [calls]

    def write(*args: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        whole(*args)

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", write)
    with pytest.raises(ResourceError, match=f"out: cannot be written: {said} choose another"):
        ingest(source, tmp_path / "out", target="y", span_rows=100)
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_arrow_files_whose_lengths_are_at_odds_are_refused(tmp_path: Path) -> None:
    """A dictionary of -1 values ended the process; a schema without columns raised IndexError."""
    table = pa.table(
        {"a": pa.array([0.5, 1.5, 2.5, 0.5, 1.5]).dictionary_encode(), "y": np.zeros(5)}
    )
    path = tmp_path / "t.arrow"
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table)
    content = path.read_bytes()
    three, causes = (3).to_bytes(8, "little"), []
    for place in range(0, len(content) - 8, 8):
        if content[place : place + 8] == three:
            path.write_bytes(
                content[:place] + (-1).to_bytes(8, "little", signed=True) + content[place + 8 :]
            )
            try:
                ingest(path, tmp_path / f"out-{place}")  # not every 3 is a length
            except DataError as error:
                causes.append(str(error))
    assert any(
        "t.arrow: cannot be read" in cause and "Array length is negative" in cause
        for cause in causes
    ), causes
    with pa.ipc.new_file(path, pa.schema([])) as file:
        file.write_table(pa.table({}))
    with pytest.raises(DataError, match=r"t\.arrow: no columns"):
        ingest(path, tmp_path / "out")


def test_what_a_killed_writer_left_is_removed_and_a_living_one_is_let_be(tmp_path: Path) -> None:
    source = _parquet(tmp_path)
    for number in (1, 2, 3):
        (tmp_path / f".out.writing-99999{number}").mkdir()
    for number in (1, 2):
        (tmp_path / f".out.writing-99999{number}" / "shard-00000.parquet").write_bytes(b"half")
    alive = os.open(tmp_path / ".out.writing-999992", os.O_RDONLY)
    fcntl.flock(alive, fcntl.LOCK_EX)
    ingest(source, tmp_path / "out", target="y")
    os.close(alive)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".out.writing-999992",
        "out",
        "t.parquet",
    ]


def test_nothing_is_overwritten_and_an_empty_folder_will_do(tmp_path: Path) -> None:
    source = _parquet(tmp_path)
    (tmp_path / "empty").mkdir()
    ingest(source, tmp_path / "empty", target="y")
    with pytest.raises(ConfigError, match="nothing is ever overwritten"):
        ingest(source, tmp_path / "empty", target="y")
    with pytest.raises(ConfigError, match="choose parquet or zarr"):
        ingest(source, tmp_path / "other", target="y", format="parket")  # type: ignore[arg-type]
    assert open_shards(str(tmp_path / "empty")).num_rows == ROWS


def test_parquet_is_written_for_fast_verified_reading(tmp_path: Path) -> None:
    dataset = ingest(_parquet(tmp_path), tmp_path / "out", target="y", span_rows=100)
    chunk = pq.read_metadata(dataset.shards[0].url).row_group(0).column(0)
    assert (chunk.compression, chunk.has_dictionary_page, chunk.is_stats_set) == (
        "SNAPPY",
        False,
        True,
    )


def test_a_writer_to_a_store_removes_what_killed_ones_left_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    abandoned, held = RemoteStaging("memory://lost/a", LOCAL), RemoteStaging("memory://b", LOCAL)
    (abandoned.folder / "shard-00000.parquet").write_bytes(b"rows")
    os.close(abandoned._folder_lock)  # as the system does when a process is killed
    (tmp_path / "streamtrain-writing-link").symlink_to(held.folder)
    with open_staging("memory://lost/d", LOCAL) as staging:
        assert not abandoned.folder.exists()
        assert held.folder.exists()
        assert staging.folder.exists()
    held.clean_up()
    (tmp_path / "streamtrain-writing-link").unlink()
    assert list(tmp_path.iterdir()) == []


def test_an_array_of_another_length_says_so_and_not_its_type(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    group = zarr.create_group(tmp_path / "g.zarr", zarr_format=3)
    for name, rows in (("a", 5), ("y", 5), ("z", 7)):
        group.create_array(name, shape=(rows,), dtype="f4")[:] = np.arange(rows)
    group.attrs["columns"] = ["a", "y", "z"]
    cause = r"it has 7 values, and the columns 5"
    with pytest.raises(DataError, match=rf"'z', cannot be the target: {cause}\. Name one"):
        ingest(tmp_path / "g.zarr", tmp_path / "out")
    for use in (ingest, lambda source, _, **named: open_shards(str(source), **named)):
        with pytest.raises(DataError, match=rf"'z' has type float32: {cause}"):
            use(tmp_path / "g.zarr", tmp_path / "out", target="y")
    chosen = ingest(tmp_path / "g.zarr", tmp_path / "out", features=["a"], target="y")
    assert chosen.columns == ("a", "y")
