"""Zarr v2, groups that hold more than columns, and chunks that were left out."""

import json
import warnings
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

from streamtrain.errors import DataError
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.readers import Readers
from streamtrain.storage.verify import verify
from streamtrain.storage.write.ingest import ingest

ROWS = 25


def write_v2(path: Path, values: np.ndarray, **options: Any) -> zarr.Array:
    options = {"chunks": (4, *values.shape[1:]), "compressors": None} | options
    array = zarr.create_array(
        str(path), shape=values.shape, dtype=values.dtype, zarr_format=2, **options
    )
    array[...] = values
    return array


def read_all(path: Path, **choice: Any) -> np.ndarray:
    dataset = open_shards(str(path), **choice)
    whole = Readers(dataset).read(0, 0, dataset.num_rows)
    # any range has the same values as the whole
    for part, column in zip(Readers(dataset).read(0, 3, 7), whole, strict=True):
        np.testing.assert_array_equal(part, column[3:7])
    return np.stack(whole, axis=1)


def numbers(dtype: str = "<f4", columns: int = 3) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 100, (ROWS, columns))
    return values.astype(dtype)


COMPRESSORS = {
    "none": None,
    "blosc": numcodecs.Blosc(cname="lz4", shuffle=1),
    "blosc-zstd-bits": numcodecs.Blosc(cname="zstd", shuffle=2),
    "zlib": numcodecs.Zlib(),
    "gzip": numcodecs.GZip(),
    "zstd": numcodecs.Zstd(),
    "lz4": numcodecs.LZ4(),
    "bz2": numcodecs.BZ2(),
}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
def test_v2_arrays_have_the_values_that_were_written(tmp_path, compressor, order) -> None:
    """Every type, with chunks of all columns or of two, which lie in folders of their own."""
    for number, dtype in enumerate(
        ("|b1", "|i1", "<i2", ">u4", "<i8", "<f2", "<f4", ">f4", "<f8", ">f8")
    ):
        path, values = tmp_path / f"{number}.zarr", numbers(dtype)
        nested = (number % 2 == 0) == (order == "C")
        write_v2(
            path,
            values,
            compressors=compressor,
            order=order,
            chunks=(4, 2) if nested else (4, 3),
            chunk_key_encoding={"name": "v2", "separator": "/" if nested else "."},
        )
        np.testing.assert_array_equal(read_all(path), values.astype("f8"))


@pytest.mark.parametrize(
    "codec",
    [
        numcodecs.Delta("<i4"),
        numcodecs.Shuffle(4),
        numcodecs.FixedScaleOffset(offset=-5, scale=1, dtype="<i4", astype="<i2"),
        numcodecs.CRC32(),
        numcodecs.Adler32(),
        numcodecs.Fletcher32(),
    ],
    ids=lambda codec: codec.codec_id,
)
def test_v2_filters_that_are_known_are_undone(tmp_path: Path, codec) -> None:
    write_v2(tmp_path / "a.zarr", numbers("<i4"), filters=[codec], compressors=numcodecs.Zstd())
    np.testing.assert_array_equal(read_all(tmp_path / "a.zarr"), numbers("f8"))


@pytest.mark.parametrize("consolidated", [False, True], ids=["plain", "consolidated"])
def test_v2_group(tmp_path: Path, consolidated: bool) -> None:
    values = numbers()
    group = zarr.create_group(str(tmp_path / "g.zarr"), zarr_format=2)
    for name, column in zip("bac", values.T, strict=True):
        array = group.create_array(name, shape=(ROWS,), chunks=(6,), dtype="f4")
        array[:] = column
    if consolidated:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(str(tmp_path / "g.zarr"))
    np.testing.assert_array_equal(read_all(tmp_path / "g.zarr", target="c"), values[:, [1, 0, 2]])
    group.attrs["columns"] = ["c", "a", "b"]
    np.testing.assert_array_equal(read_all(tmp_path / "g.zarr"), values[:, [2, 1, 0]])


def test_ingest_of_v2_and_a_whole_pass_give_its_rows(tmp_path: Path) -> None:
    write_v2(tmp_path / "a.zarr", numbers(), compressors=numcodecs.Blosc())
    dataset = ingest(tmp_path / "a.zarr", tmp_path / "out", format="zarr")
    np.testing.assert_array_equal(
        np.stack(Readers(dataset).read(0, 0, ROWS), axis=1), numbers("f4")
    )


def test_a_changed_v2_attribute_is_another_array(tmp_path: Path) -> None:
    array = write_v2(tmp_path / "a.zarr", numbers())
    readers = Readers(open_shards(str(tmp_path / "a.zarr")))
    array.attrs["scale_factor"] = 2.0
    with pytest.raises(DataError, match="has changed since it was opened"):
        readers.read(0, 0, ROWS)


def add_others(group: zarr.Group) -> None:
    """Add what xarray and others store beside columns."""
    group.create_array("crs", shape=(), dtype="i4")
    group.create_array("lat", shape=(7,), chunks=(7,), dtype="f4")[:] = 1
    group.create_array("map", shape=(ROWS, 2), chunks=(9, 2), dtype="f4")[:] = 1
    when = group.create_array("when", shape=(ROWS,), chunks=(9,), dtype="i8")
    when[:] = np.arange(1, ROWS + 1)
    when.attrs["units"] = "days since 2000-01-01"
    dates = np.arange(1, ROWS + 1).astype("M8[s]")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr warns of types without a specification
        group.create_array("date", shape=(ROWS,), chunks=(9,), dtype="M8[s]")[:] = dates
        group.create_array("word", shape=(ROWS,), chunks=(9,), dtype="U3")[:] = "abc"


@pytest.mark.parametrize("version", [2, 3])
def test_arrays_that_are_no_columns_harm_no_group(tmp_path: Path, version) -> None:
    path, values = tmp_path / "g.zarr", numbers()
    group = zarr.create_group(str(path), zarr_format=version)
    for name, column in zip("axz", values.T, strict=True):
        group.create_array(name, shape=(ROWS,), chunks=(4,), dtype="f4")[:] = column
    add_others(group)
    with pytest.warns(UserWarning, match="left out, since they are not columns") as caught:
        np.testing.assert_array_equal(read_all(path, target="z"), values)
    (message,) = {str(warning.message) for warning in caught}
    assert "crs (0-D int32: it is not 1-D)" in message
    assert "and 2 more" in message
    assert "xarray makes columns of a grid" in message
    # no warning where columns are named
    chosen = read_all(path, features=["z"], target="a")
    np.testing.assert_array_equal(chosen, values[:, [2, 0]])
    with pytest.raises(DataError, match="2-D float32: it is not 1-D"):
        open_shards(str(path), features=["map"], target="a")
    # a scalar and times are no grid
    del group["map"]
    with pytest.warns(UserWarning, match="left out, since they are not columns") as caught:
        read_all(path, target="z")
    assert "xarray" not in str(caught[0].message)
    for name, words in {
        "lat": "it has 7 values, and the columns 25",
        "when": "it holds times \\(days since 2000-01-01\\)",
        "word": "only numbers can be decoded",
        "date": "only numbers can be decoded",
    }.items():
        with pytest.raises(DataError, match=words):
            open_shards(str(path), features=[name], target="a")
    assert verify(path).findings == ()


def test_a_damaged_array_fails_where_it_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "g.zarr"
    group = zarr.create_group(str(path))
    for name in "abcd":
        array = group.create_array(name, shape=(8,), chunks=(4,), dtype="f4", compressors=None)
        array[:] = np.arange(1, 9)
    chunk = path / "b" / "c" / "1"
    chunk.write_bytes(chunk.read_bytes()[:5])
    (path / "c" / "zarr.json").write_text("{")
    assert read_all(path, features=["a"], target="d").shape == (8, 2)
    with pytest.raises(DataError, match="chunk b/c/1 has 5 bytes instead of 16"):
        open_shards(str(path), features=["a", "b"], target="d")
    with pytest.raises(DataError, match="its metadata cannot be used"):
        open_shards(str(path), features=["c"], target="a")


def group_of_three(path: Path, version: Any = 3) -> Path:
    group = zarr.create_group(str(path), zarr_format=version)
    for name in "aby":
        array = group.create_array(name, shape=(8,), chunks=(4,), dtype="f4")
        array[:] = np.arange(1, 9)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attributes": [1]}, "its metadata cannot be used"),
        (
            {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0]}}},
            r"array 'a' has chunks of the shape \(0,\)",
        ),
    ],
    ids=["attributes", "chunks"],
)
def test_damaged_metadata_of_an_array_harm_only_those_who_choose_it(
    tmp_path: Path, change, words
) -> None:
    path = group_of_three(tmp_path / "g.zarr")
    file = path / "a" / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError, match=f"column 'a' has type float32: .*{words}"):
        open_shards(str(path), features=["a"], target="y")
    group_of_three(path / "c")  # a group below harms nobody either
    assert open_shards(str(path), features=["b"], target="y").num_rows == 8


def test_a_damaged_chunk_is_refused_by_the_name_of_its_array(tmp_path: Path) -> None:
    path = group_of_three(tmp_path / "g.zarr")
    (path / "a" / "c" / "1").write_bytes(b"damaged")
    with pytest.raises(DataError, match="rows 0 to 8 cannot be decoded: array 'a': "):
        read_all(path, features=["a"], target="y")


@pytest.mark.parametrize("version", [2, 3])
def test_a_group_of_groups_names_those_that_can_be_opened(tmp_path: Path, version) -> None:
    zarr.create_group(str(tmp_path / "g.zarr"), zarr_format=version).create_group("sub")
    group_of_three(tmp_path / "g.zarr" / "sub" / "x", version)
    with pytest.raises(DataError, match=r"in groups below it: .*'sub/x'.* Open one of them"):
        open_shards(str(tmp_path / "g.zarr"))


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("compressors", [None, "auto"], ids=["raw", "compressed"])
@pytest.mark.parametrize("fill", [0.0, -1.5])
def test_chunks_that_were_left_out_are_the_fill_value(
    tmp_path: Path, version, compressors, fill: float
) -> None:
    path, values = tmp_path / "a.zarr", numbers()
    values[4:12] = values[20:24] = fill
    array = zarr.create_array(
        str(path),
        shape=values.shape,
        chunks=(4, 3),
        dtype="f4",
        zarr_format=version,
        fill_value=fill,
        compressors=compressors,
    )
    array[:] = values
    with pytest.warns(UserWarning, match="3 chunks are missing and read as the fill value"):
        np.testing.assert_array_equal(read_all(path), values)
    assert verify(path).findings == ()


def test_a_column_of_fill_values_has_no_chunk(tmp_path: Path) -> None:
    group = zarr.create_group(str(tmp_path / "g.zarr"))
    for name, value in (("a", 0), ("y", 2)):
        group.create_array(name, shape=(8,), chunks=(4,), dtype="f4")[:] = value
    with pytest.warns(UserWarning, match="2 chunks are missing"):
        np.testing.assert_array_equal(read_all(tmp_path / "g.zarr", target="y"), [[0, 2]] * 8)


def test_a_chunk_that_is_lost_after_opening_is_refused(tmp_path: Path) -> None:
    path, values = tmp_path / "a.zarr", numbers()
    values[8:12] = 0
    zarr.create_array(str(path), shape=values.shape, chunks=(4, 3), dtype="f4")[:] = values
    with pytest.warns(UserWarning, match="1 chunk is missing"):
        readers = Readers(open_shards(str(path)))
    np.testing.assert_array_equal(np.stack(readers.read(0, 4, 16), axis=1), values[4:16])
    (path / "c" / "1" / "0").unlink()
    with pytest.raises(DataError, match="chunk c/1/0 is missing"):
        readers.read(0, 4, 16)


def test_a_chunk_that_a_manifest_counts_is_never_filled(tmp_path: Path) -> None:
    write_v2(tmp_path / "a.zarr", numbers())
    readers = Readers(ingest(tmp_path / "a.zarr", tmp_path / "out", format="zarr"))
    next((tmp_path / "out").glob("*.zarr/c/0/0")).unlink()
    with pytest.raises(DataError, match=r"has changed|chunk c/0/0 is missing"):
        readers.read(0, 0, ROWS)
    with pytest.raises(DataError):
        open_shards(str(tmp_path / "out"))


def test_without_a_fill_value_a_missing_chunk_is_refused(tmp_path: Path) -> None:
    write_v2(tmp_path / "a.zarr", numbers())
    document = json.loads((tmp_path / "a.zarr" / ".zarray").read_text())
    (tmp_path / "a.zarr" / ".zarray").write_text(json.dumps(document | {"fill_value": None}))
    np.testing.assert_array_equal(read_all(tmp_path / "a.zarr"), numbers())
    (tmp_path / "a.zarr" / "2.0").unlink()
    assert not zarr.open_array(str(tmp_path / "a.zarr"))[8:12].any()
    words = (
        r"chunk 2\.0 is missing, and the fill value is null: .* undefined, though zarr 3 returns"
        r" zeros\. Restore the chunk\..* set \"fill_value\": 0 in \.zarray$"
    )
    with pytest.raises(DataError, match=words):
        open_shards(str(tmp_path / "a.zarr"))
    # the next move that the message names
    (tmp_path / "a.zarr" / ".zarray").write_text(json.dumps(document | {"fill_value": 0}))
    values = numbers()
    values[8:12] = 0
    with pytest.warns(UserWarning, match="1 chunk is missing and read as the fill value"):
        np.testing.assert_array_equal(read_all(tmp_path / "a.zarr"), values)
