"""A trained model on a data set: against NumPy, over spans and shards, nulls, a single column."""

import errno
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv

from streamtrain.errors import ConfigError, DataError
from streamtrain.run import predict as scoring
from streamtrain.storage.moments import Moments
from streamtrain.storage.write.predictions import PredictionWriter
from streamtrain.training.fitted_model import save_model
from streamtrain.training.model import Shape
from streamtrain.training.network import Network
from streamtrain.types import Standardization

ROWS = 5000


def model(folder, features=("a", "b"), *, fill=None):
    """Save and return a linear model with random weights."""
    draw = np.random.default_rng(0)
    shape = Shape(widths=(len(features), 1), activation="identity")
    network = Network(
        shape, Standardization.identity(len(features) + 1), tuple(features), "y", fill=fill
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.from_numpy(draw.normal(size=parameter.shape)).float())
    folder.mkdir()
    save_model(network, folder)
    return network


def table(draw, rows=ROWS):
    a, b = draw.normal(size=(2, rows)).astype(np.float32)
    return pa.table(
        {
            "y": (a - 2 * b + draw.normal(size=rows)).astype(np.float32),
            "b": b,
            "a": a,
            "note": ["x"] * rows,
        }
    )


@pytest.fixture
def shards(tmp_path):
    """Two shards with small row groups, whose columns are not in the model's order."""
    draw, folder = np.random.default_rng(1), tmp_path / "data"
    folder.mkdir()
    tables = [table(draw), table(draw, 1234)]
    for number, shard in enumerate(tables):
        pq.write_table(shard, folder / f"{number}.parquet", row_group_size=777)
    return folder, pa.concat_tables(tables)


def test_predictions_are_the_models_with_every_row_id_once(tmp_path, shards):
    folder, whole = shards
    network = model(tmp_path / "m")
    assert scoring.predict(tmp_path / "m", str(folder), tmp_path / "p.parquet") == {
        "rows": ROWS + 1234,
        "dropped": 0,
    }
    written = pq.read_table(tmp_path / "p.parquet")
    assert written["row_id"].to_pylist() == list(range(ROWS + 1234))
    x = np.stack([whole["a"].to_numpy(), whole["b"].to_numpy()], axis=1)
    with torch.inference_mode():
        np.testing.assert_allclose(
            written["prediction"].to_numpy(), network(torch.from_numpy(x))[:, 0].numpy(), rtol=1e-6
        )


def test_a_csv_file_has_the_same_predictions(tmp_path, shards):
    model(tmp_path / "m")
    for name in ("p.parquet", "p.csv"):
        scoring.predict(tmp_path / "m", str(shards[0]), tmp_path / name)
    written = csv.read_csv(tmp_path / "p.csv")
    assert written["row_id"].equals(pq.read_table(tmp_path / "p.parquet")["row_id"])
    assert (
        written["prediction"]
        .cast("float32")
        .equals(pq.read_table(tmp_path / "p.parquet")["prediction"])
    )


def test_a_name_of_another_format_is_refused(tmp_path, shards):
    model(tmp_path / "m")
    with pytest.raises(ConfigError, match=r"Parquet or CSV. Name the file p\.parquet or p\.csv\."):
        scoring.predict(tmp_path / "m", str(shards[0]), tmp_path / "p.json")
    assert not (tmp_path / "p.json").exists()


def test_an_evaluation_is_numpys(tmp_path, shards):
    folder, whole = shards
    model(tmp_path / "m")
    scoring.predict(tmp_path / "m", str(folder), tmp_path / "p.parquet")
    prediction, y = (
        pq.read_table(tmp_path / "p.parquet")["prediction"].to_numpy().astype(float),
        whole["y"].to_numpy().astype(float),
    )
    found = scoring.evaluate(tmp_path / "m", str(folder))
    json.dumps(found, allow_nan=False)
    assert found["rmse"] == pytest.approx(math.sqrt(((prediction - y) ** 2).mean()))
    assert found["mae"] == pytest.approx(np.abs(prediction - y).mean())
    assert found["loss"] == pytest.approx(((prediction - y) ** 2).mean() / y.var())
    assert found["r2"] == 1 - found["loss"]
    assert found["target_sd"] == pytest.approx(y.std())
    assert found["rows"] == len(y)


def test_a_target_far_from_zero_keeps_its_digits(tmp_path):
    """float32 has steps of 64 at 1e9, so predictions are made, compared and written in float64."""
    x = np.random.default_rng(2).normal(size=500)
    pq.write_table(pa.table({"x": x, "y": 1e9 + x}), tmp_path / "far.parquet")
    standard = Standardization(mean=np.array([0.0, 1e9]), scale=np.array([1.0, 1.0]))
    network = Network(Shape(widths=(1, 1), activation="identity"), standard, ("x",), "y")
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), (1.0, 0.0), strict=True):
            parameter.fill_(value)
    (tmp_path / "m").mkdir()
    save_model(network, tmp_path / "m")
    assert network.is_coarse
    assert scoring.evaluate(tmp_path / "m", str(tmp_path / "far.parquet"))["rmse"] < 1e-5
    scoring.predict(tmp_path / "m", str(tmp_path / "far.parquet"), tmp_path / "p.parquet")
    np.testing.assert_allclose(
        pq.read_table(tmp_path / "p.parquet")["prediction"].to_numpy() - 1e9, x, atol=1e-5
    )


def test_rows_with_bad_values_are_refused_or_left_out(tmp_path, shards):
    folder, _ = shards
    a, y = np.arange(9, dtype=np.float32), np.ones(9, dtype=np.float32)
    a[3], y[5] = np.nan, np.inf
    pq.write_table(pa.table({"a": a, "b": np.zeros_like(y), "y": y}), folder.parent / "bad.parquet")
    bad = str(folder.parent / "bad.parquet")
    model(tmp_path / "m")
    with pytest.raises(DataError, match=r"bad\.parquet: column 'a' .* in row 3"):
        scoring.predict(tmp_path / "m", bad, tmp_path / "p.parquet")
    assert not (tmp_path / "p.parquet").exists()
    # `predict` does not read the target.
    assert scoring.predict(tmp_path / "m", bad, tmp_path / "p.parquet", on_null="drop") == {
        "rows": 8,
        "dropped": 1,
    }
    assert pq.read_table(tmp_path / "p.parquet")["row_id"].to_pylist() == [0, 1, 2, 4, 5, 6, 7, 8]
    found = scoring.evaluate(tmp_path / "m", bad, on_null="drop")
    # There is no loss, because the target is constant and has no variance to compare with.
    assert (found["rows"], found["dropped"], found["loss"]) == (7, 2, None)
    model(tmp_path / "filled", fill=np.zeros(2))
    assert scoring.evaluate(tmp_path / "filled", bad, on_null="drop")["dropped"] == 1
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        scoring.predict(tmp_path / "m", bad, tmp_path / "p.parquet")


def test_a_model_of_one_feature_reads_its_own_column(tmp_path):
    model(tmp_path / "m", features=("b",))
    draw = np.random.default_rng(3)
    pq.write_table(
        pa.table({"b": draw.normal(size=50), "a": draw.normal(size=50), "text": ["x"] * 50}),
        tmp_path / "d.parquet",
    )
    scoring.predict(tmp_path / "m", str(tmp_path / "d.parquet"), tmp_path / "p.parquet")
    network = scoring.load_model(tmp_path / "m")
    b = torch.from_numpy(pq.read_table(tmp_path / "d.parquet")["b"].to_numpy().copy())[:, None]
    with torch.inference_mode():
        np.testing.assert_allclose(
            pq.read_table(tmp_path / "p.parquet")["prediction"].to_numpy(),
            network(b)[:, 0].numpy(),
            rtol=1e-6,
        )


@given(st.lists(st.lists(st.floats(-1e3, 1e3), max_size=9), min_size=1, max_size=9))
def test_moments_in_parts_are_those_of_the_whole(parts):
    moments, whole = (
        sum((Moments.of(np.array(part)) for part in parts), Moments()),
        np.array([value for part in parts for value in part]),
    )
    assert moments.count == whole.size
    if whole.size:
        assert moments.mean == pytest.approx(whole.mean(), abs=1e-9)
        assert moments.variance == pytest.approx(whole.var(), abs=1e-6)


@pytest.mark.parametrize("fails", ["close", "write"])
def test_predictions_that_cannot_be_written_leave_nothing(tmp_path, monkeypatch, fails):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(OSError, match="No space left"),
        PredictionWriter(tmp_path / "p.parquet") as writer,
    ):
        monkeypatch.setattr(writer._writer, "close" if fails == "close" else "write_table", full)
        writer.write(np.arange(3), np.zeros(3, dtype=np.float32))
    assert list(tmp_path.iterdir()) == []
