"""Tables that other libraries write: what they hold is delivered, and what is not is named."""

import math
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.storage.dataset import open_shards
from streamtrain.storage.readers import Readers
from streamtrain.types import Reading, Storage

#: Name of a column → its values, of which those that are None are null.
Columns = dict[str, list[Any]]

NAMES = ("count", "share", "open", "name", "at", "y")
ROW = st.fixed_dictionaries(
    {
        "count": st.integers(-(2**53), 2**53) | st.none(),
        "share": st.floats(-1e6, 1e6) | st.none(),
        "open": st.booleans(),
        "name": st.sampled_from(["Zürich", 'a "quoted", word', "two\nlines", "12 Main St", "NA"]),
        "at": st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)),
        "y": st.floats(-1e6, 1e6),
    }
)
ROWS = st.lists(ROW, min_size=3, max_size=12)


def pandas_frame(columns: Columns) -> Any:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(columns)
    return frame.astype({"count": "Int64", "share": "float64"})


def pandas_json(columns: Columns, path: Path, *, lines: bool) -> None:
    frame = pandas_frame(columns)
    frame.to_json(path, orient="records", lines=lines, double_precision=15, date_format="iso")


def polars_frame(columns: Columns) -> Any:
    polars = pytest.importorskip("polars")
    types = {"count": polars.Int64, "share": polars.Float64}
    return polars.DataFrame(columns, schema_overrides=types)


def duckdb_copy(columns: Columns, path: Path, options: str) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE t (count BIGINT, share DOUBLE, open BOOL, name TEXT,"
            ' "at" TIMESTAMP, y DOUBLE)'
        )
        rows = list(zip(*columns.values(), strict=True))
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", rows)
        connection.execute(f"COPY t TO '{path}' ({options})")


def xarray_zarr(columns: Columns, path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    arrays = {
        name: ("row", np.array([math.nan if v is None else v for v in values], dtype=float))
        for name, values in columns.items()
        if name not in ("name", "at", "count")
    }
    xarray.Dataset(arrays).to_zarr(path, zarr_format=2)


WRITERS: dict[str, Callable[[Columns, Path], Any]] = {
    "pandas.csv": lambda c, p: pandas_frame(c).to_csv(p, index=False),
    "pandas-index.csv": lambda c, p: pandas_frame(c).to_csv(p),
    "pandas-comma.csv": lambda c, p: pandas_frame(c).to_csv(p, index=False, sep=";", decimal=","),
    "pandas.csv.gz": lambda c, p: pandas_frame(c).to_csv(p, index=False),
    "pandas.parquet": lambda c, p: pandas_frame(c).to_parquet(p),
    "pandas-index.parquet": lambda c, p: pandas_frame(c)[::-1].sort_index().to_parquet(p),
    "pandas.feather": lambda c, p: pandas_frame(c).to_feather(p),
    "pandas.jsonl": lambda c, p: pandas_json(c, p, lines=True),
    "pandas.json": lambda c, p: pandas_json(c, p, lines=False),
    "polars.csv": lambda c, p: polars_frame(c).write_csv(p),
    "polars.tsv": lambda c, p: polars_frame(c).write_csv(p, separator="\t", quote_style="always"),
    "polars.parquet": lambda c, p: polars_frame(c).write_parquet(p),
    "polars-groups.parquet": lambda c, p: polars_frame(c).write_parquet(
        p, compression="lz4", row_group_size=2, statistics="full"
    ),
    "polars.arrow": lambda c, p: polars_frame(c).write_ipc(p),
    "polars-zstd.arrow": lambda c, p: polars_frame(c).write_ipc(p, compression="zstd"),
    "polars.ndjson": lambda c, p: polars_frame(c).write_ndjson(p),
    "polars.json": lambda c, p: polars_frame(c).write_json(p),
    "duckdb.csv": lambda c, p: duckdb_copy(c, p, "FORMAT csv, HEADER"),
    "duckdb.parquet": lambda c, p: duckdb_copy(c, p, "FORMAT parquet"),
    "duckdb-v2.parquet": lambda c, p: duckdb_copy(c, p, "FORMAT parquet, PARQUET_VERSION v2"),
    "duckdb.json": lambda c, p: duckdb_copy(c, p, "FORMAT json, ARRAY true"),
    "xarray.zarr": xarray_zarr,
}


@settings(max_examples=settings().max_examples // 6)
@given(rows=ROWS)
@pytest.mark.parametrize("name", WRITERS)
def test_a_table_of_a_library_is_read(
    name: str, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    columns: Columns = {key: [row[key] for row in rows] for key in NAMES}
    path = tmp_path_factory.mktemp("law") / name
    WRITERS[name](columns, path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reading = Reading(datetime="epoch")
        dataset = open_shards(str(path), target="y", storage=Storage(reading=reading))
    found = np.array(Readers(dataset).read(0, 0, dataset.num_rows), dtype=float)
    said = " ".join(str(warning.message) for warning in caught)
    assert dataset.num_rows == len(rows)
    for column, values in columns.items():
        if column not in dataset.columns:
            assert column in said or name == "xarray.zarr", said
        elif column != "at" or not name.endswith("json"):
            index = dataset.columns.index(column)
            expected = [_number(value) for value in values]
            exact = 1e-12 if name.startswith("pandas.json") else 0
            if column == "at":
                exact = 1e-5
            np.testing.assert_allclose(found[index], expected, rtol=exact, atol=exact)


def _number(value: datetime | float | None) -> float:
    """Return the number that a value is decoded to."""
    if value is None:
        return math.nan
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC).timestamp()
    return float(value)
