"""The laws of the null policy (DESIGN.md §8), on real files.

Rows are identified by the ids in their first two columns, which are never bad.
"""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import DTypeLike

import streamtrain
from streamtrain.errors import ConfigError, DataError
from streamtrain.plan.order import hash_array
from streamtrain.stream.window import RECEIPT_KEY
from streamtrain.types import Receipt
from tests.stream.conftest import id_rows, row_ids

SMALL = {"window_rows": 90, "span_rows": 40, "memory": "64MiB"}
LAYOUT = [[7, 93, 1], [1], [200, 3], [64]]
TOTAL = 369
BAD = (np.nan, np.inf, -np.inf)

bad_cells = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(2, 4), st.sampled_from(BAD)), max_size=60
)


def spoil(total: int, cells, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Return rows with ids, and bad values at (row modulo total, column)."""
    rows = id_rows(total).astype(dtype)
    for row, column, value in cells:
        rows[row % total, column] = value
    return rows


def usual_cells(
    seed: int = 0, total: int = TOTAL, count: int = 60, columns: tuple[int, int] = (2, 5)
):
    random = np.random.default_rng(seed)
    rows = random.integers(0, total, count).tolist()
    low, high = columns
    bad_columns = random.integers(low, high, count).tolist()
    return list(zip(rows, bad_columns, itertools.cycle(BAD), strict=False))


def minibatches(stream) -> list[np.ndarray]:
    return [torch.cat([x, y], dim=1).numpy() for x, y in stream]


def rebuilt(rows: np.ndarray, dropped: int) -> Receipt:
    """Return the receipt, computed from the delivered values alone."""
    ids = row_ids(rows)
    return Receipt(
        count=len(ids),
        digest=int(hash_array(ids, int(RECEIPT_KEY)).sum(dtype=np.uint64)),
        dropped=dropped,
    )


def held_out_ids(stream) -> set[int]:
    source = stream._source
    return {
        int(source.spans.first_id[span] + row)
        for span, rows in source.holdout.positions.items()
        for row in rows
    }


@given(
    layout=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=5), min_size=1, max_size=3),
    cells=bad_cells,
    batch_size=st.integers(1, 130),
    window_rows=st.integers(8, 200),
    span_rows=st.integers(1, 80),
    holdout=st.floats(0, 0.5),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_drop_delivers_exactly_the_good_rows(
    write_data, layout, cells, batch_size, window_rows, span_rows, holdout
):
    total = sum(map(sum, layout))
    rows = spoil(total, cells)
    stream = streamtrain.open_stream(
        write_data(layout, rows=rows),
        on_null="drop",
        batch_size=batch_size,
        window_rows=window_rows,
        span_rows=span_rows,
        holdout=holdout,
    )
    bad, held = set(np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist()), held_out_ids(stream)
    if len(bad | held) == total:
        if total > len(held):
            with pytest.raises(DataError, match="every row has a bad value"):
                minibatches(stream)
        return
    for _ in range(2):
        delivered = minibatches(stream)
        assert len(delivered) <= len(stream)
        assert all(len(batch) == batch_size for batch in delivered[:-1])
        together = np.concatenate(delivered)
        assert np.array_equal(
            together[np.argsort(row_ids(together))], rows[sorted(set(range(total)) - bad - held)]
        )
        assert stream.receipt() == rebuilt(together, dropped=len(bad))
        assert stream.receipt().count + stream.receipt().dropped + len(held - bad) == total


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 1}, {"batch_size": 300}, {"readers": 1}, {"readers": 4}, {"memory": "1GiB"}],
    ids=lambda change: "-".join(map(str, *change.items())),
)
def test_the_order_of_what_is_left_does_not_change(write_data, change):
    folder = write_data(LAYOUT, rows=spoil(TOTAL, usual_cells()))
    usual = {"batch_size": 32, "readers": 2, "on_null": "drop", "holdout": 0.1, **SMALL}
    expected, changed = (
        np.concatenate(minibatches(streamtrain.open_stream(folder, **flags)))
        for flags in (usual, {**usual, **change})
    )
    assert np.array_equal(expected, changed)


@pytest.mark.parametrize("policy", ["drop", "impute"])
@pytest.mark.parametrize("stored", ["float32", "float64"])
def test_both_formats_give_the_same_sequence(write_data, policy, stored):
    layout = [[64, 64, 10], [64, 64]]
    rows = spoil(266, usual_cells(total=266, columns=(2, 4)))
    folders = [
        write_data(layout, format=format, stored=stored, rows=rows)
        for format in ("parquet", "zarr")
    ]
    from_parquet, from_zarr = (
        np.concatenate(minibatches(streamtrain.open_stream(folder, on_null=policy, **SMALL)))
        for folder in folders
    )
    assert np.array_equal(from_parquet, from_zarr)


def test_a_dropped_row_moves_no_other_window(write_data):
    clean = streamtrain.open_stream(write_data(LAYOUT), **SMALL)
    before = np.split(np.concatenate(minibatches(clean)), clean._position.plan.window_starts[1:-1])
    victim = int(row_ids(before[1])[0])
    stream = streamtrain.open_stream(
        write_data(LAYOUT, rows=spoil(TOTAL, [(victim, 3, np.nan)])), on_null="drop", **SMALL
    )
    after = np.concatenate(minibatches(stream))
    first, last = len(before[0]), sum(map(len, before[2:]))
    assert np.array_equal(after[:first], before[0])
    assert np.array_equal(after[-last:], np.concatenate(before[2:]))
    assert set(row_ids(after[first:-last])) == set(row_ids(before[1])) - {victim}


@pytest.mark.parametrize("layout", [LAYOUT, [[270], [99]]], ids=["uneven", "chains"])
@pytest.mark.parametrize("resumed_size", [32, 5, 200], ids=str)
@pytest.mark.parametrize("stop_after", [1, 2, 3, 7], ids=str)
def test_resume_anywhere_with_dropped_rows(write_data, layout, resumed_size, stop_after):
    folder = write_data(layout, rows=spoil(TOTAL, usual_cells()))
    flags = {"on_null": "drop", "holdout": 0.1, **SMALL}
    unbroken = streamtrain.open_stream(folder, batch_size=32, **flags)
    whole = np.concatenate(minibatches(unbroken))
    stream = streamtrain.open_stream(folder, batch_size=32, **flags)
    delivered = []
    for x, y in itertools.islice(stream, stop_after):
        delivered.append(torch.cat([x, y], dim=1).numpy())
        receipt = stream.receipt()
        assert receipt == rebuilt(np.concatenate(delivered), dropped=receipt.dropped)
    other = streamtrain.open_stream(folder, batch_size=resumed_size, **flags)
    other.load_state_dict(stream.state_dict())
    assert other.receipt() == stream.receipt()
    assert np.array_equal(np.concatenate(minibatches(other)), whole[32 * stop_after :])
    assert (
        other.receipt() == unbroken.receipt() == rebuilt(whole, dropped=unbroken.receipt().dropped)
    )


def test_windows_without_a_good_row(write_data):
    cells = [(row, 2, np.nan) for row in range(40, 280)]
    stream = streamtrain.open_stream(
        write_data([[40] * 8], rows=spoil(320, cells)), on_null="drop", batch_size=7, **SMALL
    )
    delivered = minibatches(stream)
    assert [len(batch) for batch in delivered] == [7] * 11 + [3]
    assert stream.receipt() == rebuilt(np.concatenate(delivered), dropped=240)


@given(
    cells=st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(2, 3), st.sampled_from(BAD)), max_size=60
    ),
    holdout=st.floats(0, 0.4),
)
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_impute_equals_numpy(write_data, cells, holdout):
    rows = spoil(TOTAL, cells)
    stream = streamtrain.open_stream(
        write_data(LAYOUT, rows=rows), on_null="impute", holdout=holdout, **SMALL
    )
    training = np.setdiff1d(np.arange(TOTAL), sorted(held_out_ids(stream)))
    bad = ~np.isfinite(rows)
    expected = rows.copy()
    for column in (2, 3):
        expected[bad[:, column], column] = (
            rows[training, column][~bad[training, column]].astype(np.float64).mean()
        )
    delivered = np.concatenate(minibatches(stream))
    # atol: a mean of 0 is one only up to rounding
    np.testing.assert_allclose(
        delivered[np.argsort(row_ids(delivered))], expected[training], rtol=1e-6, atol=1e-12
    )
    assert len(delivered) == stream.num_rows
    assert stream.receipt() == rebuilt(delivered, dropped=0)
    assert stream.nulls()["columns"] == {
        f"c{c}": int(bad[training, c].sum()) for c in (2, 3) if bad[training, c].any()
    }


def test_imputed_values_are_kept_in_the_state(write_data):
    folder = write_data(LAYOUT, rows=spoil(TOTAL, [(5, 2, np.nan)]))
    stream = streamtrain.open_stream(folder, on_null="impute", **SMALL)
    state = stream.state_dict()
    state["imputed"][2] = 1234.0
    other = streamtrain.open_stream(folder, on_null="impute", **SMALL)
    other.load_state_dict(state)
    assert 1234.0 in np.concatenate(minibatches(other))[:, 2]
    with pytest.raises(ConfigError, match="on_null was 'impute', is 'drop'"):
        streamtrain.open_stream(folder, on_null="drop", **SMALL).load_state_dict(state)


def test_dropped_rows_are_counted_at_their_first_bad_column_and_by_shard(write_data):
    cells = [(0, 2, np.nan), (0, 3, np.nan), (1, 4, np.inf), (50, 3, np.nan), (51, 3, np.nan)]
    folder = write_data([[40], [40]], rows=spoil(80, cells))
    stream = streamtrain.open_stream(folder, on_null="drop", **SMALL)
    minibatches(stream)
    assert stream.nulls() == {
        "total": 4,
        "columns": {"c2": 1, "c3": 2, "c4": 1},
        "shards": {str(folder / "part-0000.parquet"): 2, str(folder / "part-0001.parquet"): 2},
    }


@pytest.mark.parametrize("policy", ["drop", "impute"])
def test_too_large_for_float32_is_bad(write_data, policy):
    rows = spoil(80, [(7, 2, 1e39)], dtype=np.float64)
    stream = streamtrain.open_stream(
        write_data([[80]], stored="float64", rows=rows), on_null=policy, **SMALL
    )
    assert np.isfinite(np.concatenate(minibatches(stream))).all()
    assert stream.nulls()["columns"] == {"c2": 1}


@pytest.mark.parametrize(
    ("policy", "cell", "message"),
    [
        pytest.param(
            "error",
            (57, 2, np.nan),
            r"part-0000\.parquet: column 'c2', row 57: the value is null or NaN .*--on-null",
            id="null",
        ),
        pytest.param(
            "error", (57, 3, -np.inf), r"column 'c3', row 57: the value is infinite", id="infinite"
        ),
        pytest.param(
            "error", (57, 3, 1e39), r"the value is 1e\+39, too large for float32", id="too-large"
        ),
        pytest.param(
            "error",
            (57, 4, np.nan),
            r"column 'c4', row 57: .*\. Clean the column, or use --on-null drop\.$",
            id="target",
        ),
        pytest.param(
            "impute",
            (57, 4, np.nan),
            r"column 'c4', row 57: .*never imputed: clean the column",
            id="impute-target",
        ),
    ],
)
def test_what_is_refused_is_named_in_one_line(write_data, policy, cell, message):
    folder = write_data([[80]], stored="float64", rows=spoil(80, [cell], dtype=np.float64))
    with pytest.raises(DataError, match=message) as caught:
        minibatches(streamtrain.open_stream(folder, on_null=policy, **SMALL))
    assert "\n" not in str(caught.value)


def test_where_every_value_is_too_large_the_column_wants_another_scale(write_data):
    rows = spoil(80, [(row, 3, 1e39) for row in range(80)], dtype=np.float64)
    with pytest.raises(DataError, match=r"\(80 such in rows 0 to 79\)\. Rescale the column"):
        minibatches(
            streamtrain.open_stream(write_data([[80]], stored="float64", rows=rows), **SMALL)
        )


def test_a_feature_without_a_value_cannot_be_imputed(write_data):
    rows = spoil(80, [(row, 3, np.nan) for row in range(80)])
    with pytest.raises(DataError, match="column 'c3' has no value to impute from"):
        streamtrain.open_stream(write_data([[80]], rows=rows), on_null="impute", **SMALL)


def test_columns_of_many_types_are_dealt_together(tmp_path):
    """Decoders give read-only views for some types and copies for others; all are accepted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "a": pa.array(np.arange(80), pa.int64()),
        "b": np.arange(80.0),
        "c": pa.array(np.arange(80) % 2 == 0),
        "d": pa.array([None, *range(79)], pa.float32()),
        "y": np.arange(80, dtype=np.float32),
    }
    pq.write_table(pa.table(columns), tmp_path / "mixed.parquet")
    rows = np.concatenate(minibatches(streamtrain.open_stream(tmp_path, on_null="drop", **SMALL)))
    assert sorted(rows[:, 0]) == list(range(1, 80))
