"""Opening a data set: columns are bound by name, and each fault is one clear DataError.

Faults of shards are found before any row is read.
"""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from data_gen import generate
from streamtrain.errors import ConfigError, DataError
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.parquet.parquet_footer import read_metadata
from streamtrain.types import Format
from tests.faults.strange_parquet import CASES

from .layouts import numbers, write_parquet, write_zarr


def test_columns_default_to_the_first_shards_order_and_the_last_is_the_target(
    tmp_path: Path,
) -> None:
    write_parquet(tmp_path / "a.parquet", numbers())
    pq.write_table(
        pa.table({"y": [1.0], "extra": ["text"], "b": [2.0], "a": [3.0]}), tmp_path / "b.parquet"
    )
    dataset = open_shards(str(tmp_path))
    assert dataset.columns == ("a", "b", "y")
    assert dataset.target == "y"
    assert open_shards(str(tmp_path), features=["b"], target="a").columns == ("b", "a")
    assert open_shards(str(tmp_path), target="a").features == ("b", "y")
    assert dataset.integrity == "unverified"
    assert dataset.truth is None


def test_fingerprint_follows_the_bytes_and_not_the_folder(tmp_path: Path) -> None:
    for folder in ("one", "two", "three"):
        write_parquet(tmp_path / folder / "a.parquet", numbers() + (folder == "three"))
    one, two, three = (
        open_shards(str(tmp_path / folder)).fingerprint for folder in ("one", "two", "three")
    )
    assert one == two != three


def test_a_thousand_small_shards_open_and_shards_without_rows_are_left_out(tmp_path: Path) -> None:
    for i in range(200):
        write_parquet(tmp_path / f"{i:03}.parquet", numbers(i % 2))
    dataset = open_shards(str(tmp_path))
    assert dataset.num_rows == len(dataset.shards) == 100


@pytest.mark.parametrize(
    ("choice", "error", "words"),
    [
        pytest.param(
            {"target": "yy"},
            DataError,
            ["no column 'yy'", "Did you mean y?", "a, b, y"],
            id="missing target",
        ),
        pytest.param(
            {"features": ["a", "q"]}, DataError, ["no column 'q'", "a, b, y"], id="missing feature"
        ),
        pytest.param(
            {"features": ["a", "y"]},
            ConfigError,
            ["'y' is the target and also a feature"],
            id="target among features",
        ),
        pytest.param({"features": ["a", "a"]}, ConfigError, ["'a'", "twice"], id="feature twice"),
        pytest.param({"features": []}, DataError, ["at least one feature"], id="no feature"),
    ],
)
def test_columns_that_cannot_be_bound_are_refused(
    choice: dict, error: type[Exception], words: list[str], tmp_path: Path
) -> None:
    path = write_parquet(tmp_path / "a.parquet", numbers())
    if choice.get("features") == []:
        pq.write_table(pa.table({"y": [1.0]}), path)
    with pytest.raises(error) as caught:
        open_shards(str(path), **choice)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        pytest.param(pa.array(["x"]), "string", id="text"),
        pytest.param(pa.array([[1.0]]), "list", id="nested list"),
        pytest.param(pa.array([{"p": 1.0}]), "struct", id="struct"),
        pytest.param(pa.array([0], pa.timestamp("s")), "timestamp", id="timestamp"),
        pytest.param(pa.nulls(1), "null", id="only nulls"),
    ],
)
def test_types_that_are_no_numbers_are_left_out_and_refused_by_name(
    column: pa.Array, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"good": [1.0], "bad": column, "y": [1.0]}), path)
    with pytest.warns(UserWarning, match=f"left out, since they are not numbers: bad .{words}"):
        assert open_shards(str(path)).columns == ("good", "y")
    assert open_shards(str(path), features=["good"]).columns == ("good", "y")
    with pytest.raises(
        DataError, match=f"a.parquet: column 'bad' has type {words}.*Choose among good, y"
    ):
        open_shards(str(path), features=["bad"])
    pq.write_table(pa.table({"good": [1.0], "bad": column}), path)
    with pytest.raises(DataError, match=r"last column, 'bad', has type .*--target"):
        open_shards(str(path))


def test_a_column_that_occurs_twice_is_refused_when_it_is_bound(tmp_path: Path) -> None:
    pq.write_table(pa.table([[1.0], [2.0], [3.0]], names=["a", "a", "y"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"'a' is not one column: 2 have this name\. Rename them"):
        open_shards(str(tmp_path), features=["a"])


def _text(path: Path) -> None:
    path.write_text("a,b,y\n1,2,3\n")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _garbage_footer(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-200] + b"\xff" * 192 + data[-8:])


def _long_footer(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8] + b"\xff\xff\xff\x7fPAR1")


def _encrypted(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4] + b"PARE")


@pytest.mark.parametrize(
    "spoil",
    [_text, _empty, _cut, _garbage_footer, _long_footer, _encrypted],
    ids=lambda spoil: spoil.__name__[1:],
)
def test_a_file_that_is_not_whole_parquet_is_refused_in_one_line(spoil, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "bad.parquet", numbers())
    spoil(path)
    with pytest.raises(DataError) as caught:
        open_shards(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize("name", ["an_encrypted_chunk", "a_plain_footer_of_encrypted_columns"])
def test_encrypted_columns_are_no_damage(name, tmp_path: Path) -> None:
    CASES[name][0](tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"columns .* are encrypted\. Decrypt it first\.$"):
        read_metadata(open_shards(str(tmp_path)).shards[0])


def test_any_damage_to_the_footer_is_a_data_error_or_still_reads(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "bad.parquet", numbers())
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[-int(generator.integers(1, 600))] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        with contextlib.suppress(DataError):
            open_shards(str(path))


def test_all_bad_shards_are_listed_at_once(tmp_path: Path) -> None:
    for i in range(20):
        path = write_parquet(tmp_path / f"{i:02}.parquet", numbers())
        if i % 5 == 3:
            _cut(path)
    with pytest.raises(DataError) as caught:
        open_shards(str(tmp_path))
    assert all(f"{i:02}.parquet" in str(caught.value) for i in (3, 8, 13, 18))
    assert "4 problems" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda p: None, "no such file or folder", id="absent"),
        pytest.param(lambda p: p.mkdir(), "contains no shards", id="empty folder"),
        pytest.param(lambda p: write_parquet(p / "a.parquet", numbers(0)), "no rows", id="no rows"),
        pytest.param(
            lambda p: (
                write_parquet(p / "a.parquet", numbers()),
                write_zarr(p / "a.zarr", numbers()),
            ),
            "both",
            id="both formats",
        ),
    ],
)
def test_paths_that_mean_nothing_are_refused(make, words: str, tmp_path: Path) -> None:
    make(tmp_path / "data")
    with pytest.raises(DataError, match=words):
        open_shards(str(tmp_path / "data"))


def _no_chunks(path: Path) -> None:
    shutil.rmtree(path / "c")


def _short_chunk(path: Path) -> None:
    chunk = path / "c" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:100])


def _larger_shape(path: Path) -> None:
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text.replace("1000,", f"{2**60},"))


def _unknown_codec(path: Path) -> None:
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text.replace('"bytes"', '"pickle"'))


def _no_metadata(path: Path) -> None:
    (path / "zarr.json").rename(path / ".zarray")


def _bad_names(path: Path) -> None:
    zarr.open_array(str(path)).attrs["columns"] = ["a", "b"]


def _not_json(path: Path) -> None:
    (path / "zarr.json").write_text("[1")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(_no_chunks, "none of its 4 chunks exists", id="no chunks"),
        pytest.param(_short_chunk, "100 bytes instead of 3,600", id="short chunk"),
        pytest.param(
            _larger_shape,
            "takes 3,843,071,682,022,824 chunks, of which",
            id="shape larger than the data",
        ),
        pytest.param(_unknown_codec, "pickle", id="unknown codec"),
        pytest.param(_no_metadata, "metadata cannot be used", id="zarr v2"),
        pytest.param(_bad_names, "must name its 3 columns", id="too few names"),
        pytest.param(_not_json, "metadata cannot be used", id="metadata not json"),
    ],
)
def test_zarr_faults_are_refused_before_reading(spoil, words: str, tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", numbers(), compressors=None, chunks=(300, 3))
    spoil(path)
    with pytest.raises(DataError, match=words):
        open_shards(str(path))


def test_columns_that_a_zarr_group_names_have_one_length(tmp_path: Path) -> None:
    group = zarr.create_group(str(tmp_path / "g.zarr"), attributes={"columns": ["a", "y"]})
    for name, rows in (("a", 10), ("y", 11)):
        group.create_array(name, shape=(rows,), dtype="float32")[:] = 1
    with pytest.raises(
        DataError, match="'a' has type float32: it has 10 values, and the columns 11"
    ):
        open_shards(str(tmp_path / "g.zarr"))


@pytest.mark.parametrize("format", ["parquet", "zarr"])
def test_a_manifest_vouches_for_its_shards_until_one_changes(
    format: Format, tmp_path: Path
) -> None:
    made = generate(tmp_path / "data", rows=1000, span_rows=20, format=format)
    assert made.integrity == "verified"
    assert len(made.shards) == 4
    assert made.truth is not None
    shards = [Path(shard.url) for shard in made.shards]
    kept = tmp_path / "kept"

    def refusal() -> str:
        with pytest.raises(DataError) as caught:
            open_shards(str(tmp_path / "data"))
        return str(caught.value)

    shutil.move(shards[1], kept)
    assert "but missing" in refusal()
    assert shards[1].name in refusal()
    (shutil.copy if format == "parquet" else shutil.copytree)(shards[0], shards[1])
    assert "not the shard" in refusal()
    assert shards[1].name in refusal()
    (Path.unlink if format == "parquet" else shutil.rmtree)(shards[1])
    shutil.move(kept, shards[1])
    (shutil.copy if format == "parquet" else shutil.copytree)(
        shards[0], tmp_path / "data" / f"extra.{format}"
    )
    assert "not listed" in refusal()
    assert "extra" in refusal()
    (tmp_path / "data" / "_manifest.json").unlink()
    assert open_shards(str(tmp_path / "data")).integrity == "unverified"
