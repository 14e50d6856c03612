"""Flags of text files for every other format: applied, or named in a warning."""

import json
import warnings
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import zarr
from deltalake import write_deltalake

import streamtrain as st
from streamtrain.storage.dataset import open_shards
from streamtrain.storage.notices import warn_of_flags
from streamtrain.storage.readers import Readers
from streamtrain.storage.write.ingest import ingest
from streamtrain.types import LOCAL, Reading

ROWS = {
    "a": np.array([1.5, -999.9, 2.5, 3.5]),
    "f": np.array([1.5, -999.9, 0.5, 7.0], dtype="f4"),
    "n": np.array([1, -999, 2, 3], dtype="i4"),
    "y": np.array([1.0, 2.0, -999.0, 4.0]),
}
NULLED = {
    "a": [1.5, np.nan, 2.5, 3.5],
    "f": [1.5, np.nan, 0.5, 7.0],
    "n": [1, np.nan, 2, 3],
    "y": [1.0, 2.0, np.nan, 4.0],
}
FORMATS = ("csv", "jsonl", "arrow", "delta", "parquet", "zarr")
IN_PLACE = ("parquet", "zarr")
FLAGS = {"delimiter": ",", "decimal": ".", "header": True, "encoding": "utf-8"}


def _written(folder: Path, kind: str) -> Path:
    path, table = folder / f"t.{kind}", pa.table(ROWS)
    if kind == "csv":
        lines = [
            ",".join(ROWS),
            *(",".join(map(str, row)) for row in zip(*ROWS.values(), strict=True)),
        ]
        path.write_text("\n".join(lines) + "\n")
    elif kind == "jsonl":
        rows = [{name: round(row[name], 1) for name in row} for row in table.to_pylist()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "arrow":
        pyarrow.feather.write_feather(table, path)
    elif kind == "delta":
        write_deltalake(path, table)
    elif kind == "parquet":
        pq.write_table(table, path)
    else:
        group = zarr.create_group(path, attributes={"columns": list(ROWS)})
        for name, values in ROWS.items():
            group.create_array(name, data=values)
    return path


def _values(dataset) -> dict[str, list[float]]:
    columns = Readers(dataset).read(0, 0, dataset.num_rows)
    return dict(zip(dataset.columns, columns, strict=True))


def _assert_equal(values, expected) -> None:
    assert list(values) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(
            np.asarray(values[name], "f4"), np.asarray(expected[name], "f4")
        )


@pytest.mark.parametrize("kind", FORMATS)
def test_numbers_of_na_values_are_null_in_every_format_or_the_cure_is_named(tmp_path, kind):
    path = _written(tmp_path, kind)
    reading = Reading(na_values=("-999.9", "-999"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = open_shards(str(path), storage=replace(LOCAL, reading=reading))
    if kind not in IN_PLACE:
        assert not caught
        # float32 next to -999.9, and text that says so, are the number
        _assert_equal(_values(dataset), NULLED)
        return
    _assert_equal(_values(dataset), ROWS)
    (text,) = [str(warning.message) for warning in caught]
    cure = f"streamtrain ingest {path} FOLDER --na-values=-999.9,-999"
    assert text.endswith(cure)
    made = ingest(path, tmp_path / "out", reading=reading)  # the cure
    _assert_equal(_values(made), NULLED)


@pytest.mark.parametrize("kind", FORMATS[1:])
@pytest.mark.parametrize("flag", [*FLAGS, "na_values"])
def test_a_flag_without_meaning_for_the_format_is_named_by_every_door(tmp_path, kind, flag):
    path = _written(tmp_path, kind)
    value = FLAGS.get(flag, "none")
    if (kind, flag) == ("jsonl", "encoding"):
        st.open_stream(str(path), target="y", **{flag: value})
        return
    name = flag.replace("_", "-")
    with pytest.warns(UserWarning, match=rf"{path}: --{name}.* has no effect on "):
        st.open_stream(str(path), target="y", **{flag: value})
    with pytest.warns(UserWarning, match=rf"{path}: --{name}.* has no effect on "):
        st.open_stream(str(path), target="y", **{flag: value})  # an imported one says it again
    reading = Reading(**{flag: (value,) if flag == "na_values" else value})
    with pytest.warns(UserWarning, match=rf"{path}: --{name}.* has no effect on "):
        ingest(path, tmp_path / "out", target="y", reading=reading)


def test_dates_and_booleans_are_no_numbers_of_na_values(tmp_path):
    times = pa.array([0, 3600, 7200], pa.timestamp("s"))
    table = pa.table({"t": times, "b": [True, False, True], "a": [0.0, 1, 2], "y": [5.0, 1, 0]})
    pyarrow.feather.write_feather(table, tmp_path / "t.arrow")
    for datetime, expected in (("epoch", [0, 3600, 7200]), ("parts", [0, 1, 2])):
        reading = Reading(na_values=("0", "1"), datetime=datetime)
        values = _values(
            open_shards(str(tmp_path / "t.arrow"), storage=replace(LOCAL, reading=reading))
        )
        np.testing.assert_array_equal(values["t" if datetime == "epoch" else "t_hour"], expected)
        np.testing.assert_array_equal(values["b"], [1, 0, 1])
        np.testing.assert_array_equal(values["a"], [np.nan, np.nan, 2])


def test_several_flags_are_named_together_and_no_query_of_a_link_is():
    reading = Reading(delimiter=";", decimal=",", na_values=("none", "7"))
    with pytest.warns(UserWarning, match="no effect on") as caught:
        warn_of_flags("https://host/t.parquet?sig=zq9", "Parquet", reading, in_place=True)
    flags, numbers = (str(warning.message) for warning in caught)
    assert flags == (
        "https://host/t.parquet?***: --delimiter, --decimal, --na-values none have no effect on"
        " Parquet, only on text files such as CSV. Leave them out."
    )
    assert "--na-values 7 has no effect" in numbers
    assert "zq9" not in numbers


def test_a_number_beyond_float32_is_not_infinity(tmp_path):
    table = pa.table({"f": pa.array([np.inf, 1, 2], pa.float32()), "y": [1.0, 2, 3]})
    pyarrow.feather.write_feather(table, tmp_path / "t.arrow")
    storage = replace(LOCAL, reading=Reading(na_values=("1e300", "2")))
    values = _values(open_shards(str(tmp_path / "t.arrow"), storage=storage))
    np.testing.assert_array_equal(values["f"], [np.inf, 1, np.nan])


def test_every_type_of_number_has_numbers_that_are_null(tmp_path):
    columns = {
        "half": pa.array(np.array([1, 7], "f2")),
        "decimal": pa.array([Decimal("1.0"), Decimal("7.0")], pa.decimal128(5, 1)),
        "dictionary": pa.array([1.0, 7.0]).dictionary_encode(),
        "unsigned": pa.array([1, 7], pa.uint8()),
        "y": pa.array([1.0, 2.0]),
    }
    pyarrow.feather.write_feather(pa.table(columns), tmp_path / "t.arrow")
    storage = replace(LOCAL, reading=Reading(na_values=("7",)))
    for values in list(_values(open_shards(str(tmp_path / "t.arrow"), storage=storage)).values())[
        :-1
    ]:
        np.testing.assert_array_equal(values, [1, np.nan])
    group = zarr.create_group(
        tmp_path / "t.zarr", zarr_format=2, attributes={"columns": ["a", "y"]}
    )
    for name in "ay":
        group.create_array(name, shape=(2,), chunks=(2,), dtype=">f4")[:] = [1, 7]
    made = ingest(tmp_path / "t.zarr", tmp_path / "out", reading=storage.reading)
    np.testing.assert_array_equal(_values(made)["a"], [1, np.nan])
