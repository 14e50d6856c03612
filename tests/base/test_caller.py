"""Warnings name the line of the program that opened the data, from whatever depth they come."""

import warnings

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamtrain as st


@pytest.mark.parametrize(
    "opened",
    [
        lambda path: st.open_stream(path),
        lambda path: st.Regressor(max_rows=64, hidden=(4,), device="cpu").fit(path),
    ],
    ids=["a stream", "an estimator"],
)
def test_a_warning_names_the_line_outside_the_package(opened, tmp_path, request):
    if request.node.callspec.id == "an estimator":
        pytest.importorskip("sklearn")  # of the extra [sklearn]; a plain wheel is tested without
    numbers = [float(row % 7) for row in range(100)]
    table = pa.table({"town": ["Ulm"] * 100, "a": numbers, "y": numbers})
    pq.write_table(table, tmp_path / "in.parquet")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        opened(str(tmp_path / "in.parquet"))
    (about_town,) = [warning for warning in found if "town" in str(warning.message)]
    assert about_town.filename == __file__
