"""Measurements end to end: real files, the real stream, and weights with a known answer."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_gen import generate
from streamtrain.config import make_config
from streamtrain.run.measure import (
    TrainedModel,
    _read_pool,
    measure,
    measure_at_target,
    measure_costs,
)
from streamtrain.run.prepare import Prepared, prepare
from streamtrain.science.cells import Cell
from streamtrain.storage.readers import Readers
from streamtrain.stream.fetch import FetchStats
from streamtrain.training.model_measures import SHUFFLE_ROWS, measure_at_weights
from streamtrain.training.probes import probe_model
from tests.oracles.gaussian import gaussian_noise_scales

TRUE = np.array([1.0, -2.0, 0.5, 1.5])  # of data_gen/linear.py, with intercept 3
ALL = ("noise", "curvature", "sharpness", "shuffle")


def prepared_on(
    path: Path,
    *,
    hidden: tuple[int, ...] = (),
    holdout: int = 0,
    window_rows: int = 65_536,
    **train,
) -> Prepared:
    return prepare(
        make_config(
            {
                "data": {"path": str(path), "holdout": holdout},
                "model": {"hidden": list(hidden)},
                "train": train,
                "order": {"window_rows": window_rows, "span_rows": 512},
            }
        ),
        learners=2,
        rates=1,
    )


def true_parameters(prepared: Prepared) -> np.ndarray:
    """Return the generating linear function in model units: float64 (5,)."""
    mean, scale = prepared.standard.mean, prepared.standard.scale
    return np.append(TRUE / scale[:4], 3 - mean[4] + TRUE @ mean[:4]) * scale[4]


def test_noise_scale_of_a_linear_model_is_the_closed_form(tmp_path):
    generate(tmp_path / "d", kind="linear", rows=70_000, noise=0.5, span_rows=512)
    prepared = prepared_on(tmp_path / "d", optimizer="sgd")
    error = np.array([0.3, -0.2, 0.4, 0.1, 0.0])
    model = TrainedModel(
        batch_size=64, lr=0.1, parameters=(true_parameters(prepared) + error).astype(np.float32)
    )
    found = measure(prepared, [model], ("noise", "curvature"))
    noise, curvature = found["noise_scale"], found["curvature"]
    simple, weighted = gaussian_noise_scales(
        np.ones(5), error, 0.25 * 7.5 * prepared.standard.scale[4] ** 2
    )
    assert noise["lo"] <= simple <= noise["hi"]
    assert noise["value"] == pytest.approx(simple, rel=0.1)
    assert noise["weighted"]["lo"] <= weighted <= noise["weighted"]["hi"]
    assert "preconditioned" not in noise
    assert found["sqrt_m_slope"]["lo"] < -0.5 < found["sqrt_m_slope"]["hi"]
    assert curvature["value"] == pytest.approx(1.0, abs=0.1)
    assert curvature["rayleigh"]["value"] <= curvature["value"]
    assert curvature["stability_line"] == pytest.approx(3.8 / 0.1)
    assert curvature["share_of_stability_line"] == pytest.approx(1 / 38, rel=0.1)
    nesterov = measure(
        prepared_on(tmp_path / "d", optimizer="sgd", nesterov=True), [model], ("curvature",)
    )["curvature"]
    assert nesterov["stability_line"] == pytest.approx(3.8 / 2.8 / 0.1)
    assert (
        measure(
            prepared_on(tmp_path / "d", optimizer="sgd", schedule="cosine"), [model], ("curvature",)
        )["curvature"]["share_of_stability_line"]
        is None
    )


@pytest.mark.filterwarnings("ignore:The rows are not in random order")
@pytest.mark.parametrize("window_rows", [512, 16_384], ids=["a span a window", "shuffled well"])
def test_deff_of_shards_with_a_shift_of_known_variance(window_rows, tmp_path):
    """At the true function the residual is noise plus shift.

    One gradient of five, that of the bias, has all of the shift.
    """
    generate(
        tmp_path / "d", kind="linear", rows=16_384, noise=0.3, cluster_shift=0.6, span_rows=512
    )
    prepared = prepared_on(tmp_path / "d", window_rows=window_rows)
    model = TrainedModel(
        batch_size=256, lr=0.1, parameters=true_parameters(prepared).astype(np.float32)
    )
    shuffle = measure(prepared, [model], ["shuffle"])["shuffle"]
    if window_rows == 512:
        rho = 0.36 / 0.45 / 5
        assert shuffle["deff"]["lo"] <= 1 + 255 * rho <= shuffle["deff"]["hi"]
        assert shuffle["is_bad"]
        assert shuffle["rho"]["n"] == 16  # of the epoch's 32 windows
    else:
        assert shuffle["deff"]["value"] == pytest.approx(1, abs=0.4)
        assert not shuffle["is_bad"]


@pytest.mark.filterwarnings("ignore:The rows are not in random order")
def test_deff_of_a_sorted_file(tmp_path):
    dataset = generate(tmp_path / "d", kind="friedman2", rows=16_384, span_rows=512)
    readers = Readers(dataset)
    shards = [readers.read(i, 0, shard.num_rows) for i, shard in enumerate(dataset.shards)]
    rows = np.concatenate([np.stack(columns, axis=1) for columns in shards])
    rows = rows[np.argsort(rows[:, 4])]
    pq.write_table(
        pa.table(dict(zip(dataset.columns, rows.T, strict=True))),
        tmp_path / "sorted.parquet",
        row_group_size=1024,
    )
    prepared = prepared_on(tmp_path / "sorted.parquet", window_rows=1024)
    model = TrainedModel(batch_size=256, lr=0.1, parameters=np.zeros(5, np.float32))
    shuffle = measure(prepared, [model], ["shuffle"])["shuffle"]
    x = (rows.astype(float) - prepared.standard.mean) * prepared.standard.scale
    gradients = np.column_stack([-x[:, :4] * x[:, 4:], -x[:, 4]]).reshape(16, 1024, 5)
    within = gradients.var(axis=1, ddof=1).sum(axis=1).mean()
    between = gradients.mean(axis=1).var(axis=0, ddof=1).sum() - within / 1024
    assert shuffle["deff"]["value"] == pytest.approx(
        1 + 255 * between / (between + within), rel=0.1
    )
    assert shuffle["is_bad"]


def test_everything_of_two_networks_is_json_and_says_its_cost_first(tmp_path, monkeypatch):
    for name, rows in {
        "SHARPNESS_ROWS": 128,
        "CURVATURE_ROWS": 512,
        "RAYLEIGH_ROWS": 256,
        "HESSIAN_ROWS": 256,
    }.items():
        monkeypatch.setattr(f"streamtrain.training.model_measures.{name}", rows)
    generate(tmp_path / "d", rows=12_000, span_rows=512)
    prepared = prepared_on(
        tmp_path / "d", hidden=(6,), holdout=2000, optimizer="adam", loss="huber"
    )
    learner = prepared.learner(32, (0.01,), 0)
    for block in prepared.blocks(0, FetchStats()):
        list(learner.consume(block.rows, ends_epoch=True))
        break
    trained = TrainedModel(batch_size=32, lr=0.01, parameters=learner.engine.parameters()[0])
    other = TrainedModel(batch_size=512, lr=0.02, parameters=trained.parameters * np.float32(0.9))
    broken = TrainedModel(batch_size=8, lr=9.0, parameters=trained.parameters * np.float32(np.nan))
    costs = measure_costs(prepared, [trained, other], ALL)
    assert [cost["measure"] for cost in costs] == list(ALL)
    assert all(cost["seconds"] > 0 and cost["row_gradients"] > 0 for cost in costs)
    assert (
        measure_costs(prepared, [trained], ["shuffle"])[0]["row_gradients"]
        == costs[3]["row_gradients"]
    )
    found = measure(prepared, [broken, trained, other], ALL, reference=512)
    json.dumps(found, allow_nan=False)
    assert set(found) == {"noise_scale", "sqrt_m_slope", "curvature", "sharpness", "shuffle"}
    for name in ("noise_scale", "sqrt_m_slope", "curvature", "sharpness"):
        assert {"value", "lo", "hi", "n", "kind"} <= set(found[name])
    assert found["noise_scale"]["batch_size"] == 512
    assert found["noise_scale"]["preconditioned"]["n"] == 16
    assert (
        set(found["curvature"]["by_batch_size"])
        == set(found["sharpness"]["by_batch_size"])
        == {"32", "512"}
    )
    assert found["curvature"]["preconditioned"]["value"] > 0
    assert found["sharpness"]["invariance_audit"]["adaptive"]["ratio"] == pytest.approx(1)
    assert found["sharpness"]["parametric_line"]["large_batch_size"] == 512
    assert found["sharpness"]["generalization_gap"]["n"] == 2000
    assert found["sharpness"]["full"]["0.001"]["value"] > 0
    assert measure(prepared, [broken], ALL) == {} == measure(prepared, [trained], ())


def test_at_equal_loss_each_size_is_trained_to_where_it_reached_the_target(tmp_path, monkeypatch):
    monkeypatch.setattr("streamtrain.training.model_measures.SHARPNESS_ROWS", 128)
    generate(tmp_path / "d", rows=12_000, span_rows=512)
    prepared = prepared_on(tmp_path / "d", hidden=(6,), holdout=2000, optimizer="sgd")
    cells = [
        Cell(
            batch_size=size,
            lr=0.1,
            status=status,
            curves={},
            steps_to_target={0: steps, 1: steps + 0.5},
            epoch_rows=10_000,
        )
        for size, status, steps in (
            (256, "reached", 20.0),
            (16, "reached", 30.2),
            (64, "not_reached", 9.0),
        )
    ]
    found = measure_at_target(prepared, cells, 0.3)
    assert list(found["by_batch_size"]) == ["16", "256"]
    assert found["trials"] == 2
    assert found["target_loss"] == 0.3
    learner = prepared.learner(16, (0.1,), 0, stop_row=31 * 16)
    for block in prepared.blocks(0, FetchStats()):
        list(learner.consume(block.rows, ends_epoch=False))
        break
    rows = next(prepared.blocks(0, FetchStats())).rows[:128]
    alone = measure_at_weights(
        probe_model(prepared.model), learner.engine.parameters()[0].astype(float), rows
    )
    for name, expected in alone.items():
        estimate = found["by_batch_size"]["16"][name]
        assert estimate["n"] == 2, name
        assert estimate["lo"] <= expected * (1 + 1e-9), name
        assert expected <= estimate["hi"] * (1 + 1e-9), name
    for name, ratio in found["largest_over_smallest"].items():
        assert ratio["value"] == pytest.approx(
            found["by_batch_size"]["256"][name]["value"]
            / found["by_batch_size"]["16"][name]["value"]
        )
    json.dumps(found, allow_nan=False)
    assert measure_at_target(prepared, cells[:1], 0.3) is None
    assert measure_at_target(prepared, [], 0.3) is None


def test_too_few_rows_are_said_and_not_measured(tmp_path):
    generate(tmp_path / "d", rows=150, span_rows=50)
    prepared = prepared_on(tmp_path / "d", holdout=20)
    model = TrainedModel(batch_size=8, lr=0.1, parameters=np.zeros(5, np.float32))
    found = measure(prepared, [model], ("noise", "curvature", "shuffle"))
    assert found["noise_scale"]["value"] is None
    assert "too few rows" in found["noise_scale"]["kind"]
    assert found["sqrt_m_slope"]["value"] is None
    assert found["curvature"]["value"] > 0
    assert found["shuffle"]["deff"]["value"] > 0
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("scale", [1e10, 1e37, np.inf, np.nan], ids=str)
def test_a_model_that_diverged_is_left_out_whether_its_weights_are_finite_or_not(tmp_path, scale):
    """Gradients at weights of 1e37 overflow float64, which must not end a sweep."""
    generate(tmp_path / "d", kind="linear", rows=20_000, noise=0.5, span_rows=512)
    prepared = prepared_on(tmp_path / "d", hidden=(8, 8))
    weights = prepared.learner(64, (0.1,), 0).engine.parameters()[0]
    good = TrainedModel(batch_size=1024, lr=0.1, parameters=weights)
    bad = TrainedModel(batch_size=64, lr=0.1, parameters=weights * np.float32(scale))
    assert measure(prepared, [bad], ALL) == {}
    found = measure(prepared, [bad, good], ("noise", "curvature"), reference=64)
    assert found["noise_scale"]["batch_size"] == 1024
    assert list(found["curvature"]["by_batch_size"]) == ["1024"]
    json.dumps(found, allow_nan=False)


def test_no_minibatch_of_the_pool_lies_in_two_windows(tmp_path):
    """A window of 1,000 rows gives three minibatches of 256 rows.

    A fourth one would end in the next window.
    """
    generate(tmp_path / "d", kind="linear", rows=20_000, span_rows=500)
    pool, windows, all_read = _read_pool(prepared_on(tmp_path / "d", window_rows=1000), 0)
    assert len(pool) == len(windows) == 16 * 768
    assert not all_read
    assert (np.ptp(windows.reshape(-1, SHUFFLE_ROWS), axis=1) == 0).all()


def test_the_pool_has_at_most_its_rows(tmp_path, monkeypatch):
    """A third of 1,000 rows is one minibatch and a part of one."""
    monkeypatch.setattr("streamtrain.run.measure.POOL_ROWS", 1000)
    generate(tmp_path / "d", kind="linear", rows=6_000, span_rows=500)
    pool, windows, all_read = _read_pool(prepared_on(tmp_path / "d", window_rows=2000), 0)
    assert len(pool) == len(np.unique(windows)) * SHUFFLE_ROWS <= 1000
    assert all_read
