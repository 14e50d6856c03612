"""Packed values and missing ones are those that xarray reads."""

import base64
import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.errors import DataError
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.readers import Readers
from streamtrain.storage.zarr.cf_attributes import read_packing

ROWS = 20


def write_group(path: Path, *, version: Literal[2, 3] = 3, fill: Any = None, **arrays: Any) -> None:
    """Write a group of columns: name → (values, attributes)."""
    group = zarr.create_group(str(path), zarr_format=version)
    for name, (values, attributes) in arrays.items():
        array = group.create_array(
            name, shape=values.shape, chunks=(6,), dtype=values.dtype, fill_value=fill
        )
        array[:] = values
        array.attrs.update(attributes)


def read(path: Path) -> np.ndarray:
    dataset = open_shards(str(path), target="y" if path.name == "g.zarr" else None)
    return np.stack(Readers(dataset).read(0, 0, dataset.num_rows), axis=1)


def float_of_v3(value: float) -> str:
    """Return a missing value of floats as xarray writes it in Zarr v3."""
    return base64.standard_b64encode(struct.pack("<d", value)).decode()


PLAIN = np.arange(1.0, ROWS + 1, dtype="f4")
SHORTS = np.arange(-5, ROWS - 5, dtype="i2")


@pytest.mark.parametrize(
    ("stored", "attributes", "expected"),
    [
        pytest.param(
            SHORTS,
            {"scale_factor": 0.01, "add_offset": 273.15},
            SHORTS * np.float64(0.01) + 273.15,
            id="scale and offset",
        ),
        pytest.param(SHORTS, {"scale_factor": 0.1}, SHORTS * np.float64(0.1), id="scale"),
        pytest.param(SHORTS, {"add_offset": 7}, SHORTS + 7.0, id="offset"),
        pytest.param(SHORTS, {"scale_factor": [0.5]}, SHORTS * 0.5, id="list of one"),
        pytest.param(
            SHORTS,
            {"_FillValue": -5, "missing_value": 3, "scale_factor": 2.5},
            np.where((SHORTS == -5) | (SHORTS == 3), np.nan, SHORTS * 2.5),
            id="missing integers",
        ),
        pytest.param(
            SHORTS, {"_FillValue": 70_000, "missing_value": 0.5}, SHORTS, id="cannot occur"
        ),
        pytest.param(
            PLAIN,
            {"missing_value": [3.0, 4.0]},
            np.where((PLAIN > 2) & (PLAIN < 5), np.nan, PLAIN),
            id="missing floats",
        ),
        pytest.param(
            np.where(PLAIN == 2, np.float32(1e20), PLAIN),
            {"_FillValue": float_of_v3(1e20)},
            np.where(PLAIN == 2, np.nan, PLAIN),
            id="1e20 in float32",
        ),
        pytest.param(PLAIN, {"_FillValue": float_of_v3(np.nan)}, PLAIN, id="NaN"),
        pytest.param(PLAIN, {"_FillValue": "NaN", "units": "K"}, PLAIN, id="NaN as text"),
        pytest.param(
            np.where(SHORTS == 2, np.iinfo("i8").min, SHORTS.astype("i8")),
            {"missing_value": int(np.iinfo("i8").min)},
            np.where(SHORTS == 2, np.nan, SHORTS),
            id="missing beyond 2^53",
        ),
    ],
)  # fmt: skip
def test_values_are_those_of_numpy(tmp_path: Path, stored, attributes, expected) -> None:
    write_group(tmp_path / "g.zarr", a=(stored, attributes), y=(PLAIN, {}))
    np.testing.assert_array_equal(read(tmp_path / "g.zarr")[:, 0], expected)


def test_a_packed_matrix(tmp_path: Path) -> None:
    values = np.arange(1, 11, dtype="i2").reshape(5, 2)
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=(5, 2), chunks=(2, 2), dtype="i2")
    array[:] = values
    array.attrs.update({"scale_factor": 0.1, "_FillValue": 4})
    expected = np.where(values == 4, np.nan, values * 0.1)
    np.testing.assert_array_equal(read(tmp_path / "a.zarr"), expected)


@pytest.mark.parametrize(
    ("of_xarray", "attributes"),
    [
        (False, {}),
        (True, {"_ARRAY_DIMENSIONS": ["row"]}),
        (False, {"_ARRAY_DIMENSIONS": ["row"], "zarr_dtype": "int16"}),
    ],
    ids=["zarr", "xarray", "hdmf-zarr"],
)
def test_the_fill_value_of_v2_is_missing_in_arrays_of_xarray(
    tmp_path: Path, of_xarray: bool, attributes
) -> None:
    stored = np.where(SHORTS == 2, -99, SHORTS).astype("i2")
    write_group(tmp_path / "g.zarr", version=2, fill=-99, a=(stored, attributes), y=(PLAIN, {}))
    expected = np.where(SHORTS == 2, np.nan if of_xarray else -99, SHORTS)
    np.testing.assert_array_equal(read(tmp_path / "g.zarr")[:, 0], expected)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"units": "seconds since 1970-01-01"}, "it holds times"),
        ({"scale_factor": "two"}, "attribute scale_factor is 'two', not a number"),
        ({"scale_factor": [1.0, 2.0]}, "attribute scale_factor has 2 values"),
        ({"missing_value": {"a": 1}}, "not a number"),
        ({"_Unsigned": "true"}, r"_Unsigned \(true\) is not applied"),
        ({"units": "days since\t2000-01-01"}, "it holds times"),
        ({"scale_factor": "0.5"}, "attribute scale_factor is '0.5', not a number"),
        ({"add_offset": 10**400}, "attribute add_offset is 10+, not a number"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_applied_is_refused_by_name(tmp_path: Path, attributes, words) -> None:
    write_group(tmp_path / "g.zarr", a=(SHORTS, attributes), b=(PLAIN, {}), y=(PLAIN, {}))
    with pytest.raises(DataError, match=f"column 'a' has type int16: .*{words}"):
        open_shards(str(tmp_path / "g.zarr"), features=["a"], target="y")
    with pytest.warns(UserWarning, match=f"left out, .*a \\(int16: .*{words}"):
        dataset = open_shards(str(tmp_path / "g.zarr"), target="y")
    assert dataset.columns == ("b", "y")
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=(5, 2), chunks=(5, 2), dtype="i2")
    array[:] = 1
    array.attrs.update(attributes)
    with pytest.raises(DataError, match=words):
        open_shards(str(tmp_path / "a.zarr"))


@pytest.mark.parametrize(
    ("dtype", "attribute", "is_read"),
    [
        ("u1", "false", False),  # OPeNDAP's signed bytes: 240 is -16
        ("u1", "true", True),
        ("i1", "true", False),
        ("i1", "false", True),
        ("f4", "true", True),
    ],
)
def test_integers_of_the_other_sign_are_refused(dtype, attribute, is_read) -> None:
    attributes = {"_Unsigned": attribute}
    if is_read:
        assert read_packing(attributes, np.dtype(dtype), None, 3).missing == ()
    else:
        with pytest.raises(DataError, match=f"_Unsigned \\({attribute}\\) is not applied"):
            read_packing(attributes, np.dtype(dtype), None, 3)


@pytest.mark.parametrize("version", [2, 3])
def test_a_number_as_text_is_no_missing_value(version) -> None:
    with pytest.raises(DataError, match="attribute _FillValue is '3', not a number"):
        read_packing({"_FillValue": "3"}, np.dtype("i2"), None, version)


@settings(deadline=None)
@given(
    dtype=st.sampled_from(["i1", "u2", "i4", "i8", "f2", "f4", "f8"]),
    missing=st.lists(st.integers(-300, 300) | st.floats(-1e30, 1e30), max_size=3),
    scale=st.none() | st.floats(1e-3, 1e3),
    offset=st.none() | st.floats(-1e6, 1e6),
    data=st.data(),
)
def test_the_law_of_packing(dtype, missing, scale, offset, data) -> None:
    limits = (0, 120) if dtype[0] == "u" else (-120, 120)
    stored = np.array(data.draw(st.lists(st.integers(*limits), max_size=20)), dtype=dtype)
    named = {"missing_value": missing, "scale_factor": scale, "add_offset": offset}
    attributes = {name: value for name, value in named.items() if value is not None}
    packing = read_packing(attributes, stored.dtype, None, 3)
    expected = []
    for value in stored.tolist():
        if any(
            value == float(np.float32(each)) if dtype == "f4" else value == each for each in missing
        ):
            expected.append(np.nan)
        else:
            scaled = float(value) if scale is None else float(value) * scale
            expected.append(scaled if offset is None else scaled + offset)
    np.testing.assert_array_equal(packing.decode("a", stored, "float64"), expected)


@pytest.mark.parametrize("version", [2, 3])
def test_what_xarray_writes_is_what_it_reads(tmp_path: Path, version) -> None:
    xarray = pytest.importorskip("xarray")
    values = np.round(np.random.default_rng(0).normal(280, 10, ROWS), 1)
    values[3] = np.nan
    frame = xarray.Dataset(
        {
            "t2m": ("row", values),
            "p": ("row", np.where(PLAIN == 2, np.nan, PLAIN).astype("f4")),
            "n": ("row", np.arange(ROWS) + 5),
            "z": ("row", PLAIN),
        },
        coords={"time": ("row", np.arange(ROWS).astype("M8[D]").astype("M8[ns]"))},
    )
    encoding = {
        "t2m": {"dtype": "i2", "scale_factor": 0.1, "add_offset": 273.15, "_FillValue": -32768},
        "p": {"_FillValue": np.float32(1e20)},
    }
    path = tmp_path / "g.zarr"
    frame.to_zarr(path, zarr_format=version, encoding=encoding, consolidated=False)
    decoded = xarray.open_zarr(path, consolidated=False, chunks=None).load()
    dataset = open_shards(str(path), features=["t2m", "p", "n"], target="z")
    columns = Readers(dataset).read(0, 0, ROWS)
    for name, column in zip(dataset.columns, columns, strict=True):
        np.testing.assert_array_equal(column, decoded[name].values.astype("f8"))
    with pytest.raises(DataError, match="it holds times"):
        open_shards(str(path), features=["time"], target="z")
