"""Integers that float32 rounds are named once."""

import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain import open_stream
from streamtrain.stream.rounding import first_rounded

SECONDS = 1_600_000_001 + np.arange(1000)


def write(path: Path, **columns: np.ndarray) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=100)
    return str(path)


@pytest.mark.parametrize("stored", ["i8", "u4", "f8"])
@pytest.mark.parametrize("window_rows", [None, 16], ids=["whole", "slices"])
def test_a_stream_says_which_column_is_rounded(tmp_path: Path, stored, window_rows) -> None:
    path = write(tmp_path / "a.parquet", t=SECONDS.astype(stored), y=np.arange(1000.0))
    stream = open_stream(path, batch_size=100, window_rows=window_rows)
    with pytest.warns(UserWarning, match="column 't': the integer 1,600,000,0") as caught:
        rows = [x for x, _ in stream]
    assert len(caught) == 1
    assert "float32 holds every integer only up to 16,777,216" in str(caught[0].message)
    delivered = np.sort(np.concatenate([x.numpy()[:, 0] for x in rows]))
    assert np.array_equal(delivered, SECONDS.astype("f4"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(stream)) == 10, "the second epoch says nothing"


def test_nothing_is_said_of_values_that_float32_holds(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet",
        held=SECONDS // 128 * 128,
        small=np.arange(1000) + 16_776_000,
        measured=SECONDS + 0.5,
        large=np.float64(1e30) * np.arange(1000),
        y=np.arange(1000.0),
    )
    assert len(list(open_stream(path, batch_size=100))) == 10


@given(st.lists(st.integers(-(2**54), 2**54) | st.floats(), max_size=30))
def test_what_is_found_is_rounded(values: list[float]) -> None:
    column = np.array(values, dtype=np.float64)
    found = first_rounded(column)
    large = [v for v in column.tolist() if np.isfinite(v) and abs(v) > 2**24]
    whole = all(v == int(v) and abs(v) <= 2**53 for v in large)
    rounded = [v for v in large if whole and float(np.float32(v)) != v]
    if found is None:
        assert not rounded
    else:
        assert whole
        assert found == (rounded[0], float(np.float32(rounded[0])))
