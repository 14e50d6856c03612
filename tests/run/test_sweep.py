"""Whole runs in Python on real files, and the results that must be equal between runs."""

import json
import time
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

import streamtrain
from data_gen import generate
from streamtrain.cli.main import run
from streamtrain.config import make_config
from streamtrain.errors import ConfigError
from streamtrain.records import Evaluation, StepsTimed
from streamtrain.report.dry_run import _cost, plan_run
from streamtrain.report.expected_time import Cost
from streamtrain.run.prepare import prepare
from streamtrain.run.timing import timing_seconds
from streamtrain.run.train import fitted_model, train
from streamtrain.storage.write.ingest import ingest
from streamtrain.training.fused_engine import FusedEngine
from streamtrain.training.model_io import predict_rows
from tests.forked import run_forked
from tests.run.whole_runs import run_sweep

ROWS = 6_000
SWEEP = {
    "batch_sizes": [32, 256, 5000],
    "lr_grid": 2,
    "trials": 2,
    "holdout": 1000,
    "window_rows": 2048,
    "hidden": "8,8",
    "memory": "64MiB",
    "rerun": False,
    "extend_grid": False,
    "halving": False,
    "confirm": False,
    "measure": "none",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated") / "data"
    generate(folder, kind="friedman2", rows=ROWS, span_rows=512)
    return folder


def convergence(out) -> list[dict]:
    """Return the records of training, without times."""
    records = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    kept = [
        record
        for record in records
        if record["event"] in ("baseline", "evaluation", "outcome", "pass")
    ]
    return [
        {
            key: value
            for key, value in record.items()
            if not key.endswith("seconds") and key != "stats"
        }
        for record in kept
    ]


def test_rows_in_order_are_found_before_the_first_step_and_a_size_is_recommended(tmp_path):
    """And no more once the rows are shuffled; a window of all rows needs no warning either."""
    random = np.random.default_rng(0)
    x, place = random.standard_normal((2, 20_000))
    place.sort()
    table = pa.table({"x": x, "y": x + place})
    pq.write_table(table, tmp_path / "sorted.parquet", row_group_size=512)
    flags = {**SWEEP, "measure": "shuffle", "batch_sizes": [32, 256], "max_rows": 40_000}
    flags |= {"window_rows": 1024, "span_rows": 512, "memory": "1GiB", "target_loss": 0.9}
    with pytest.warns(UserWarning, match=r"not in random order.* of y .*ingest --shuffle"):
        found = streamtrain.sweep(tmp_path / "sorted.parquet", out=tmp_path / "a", **flags)
    assert found.batch_size in (32, 256)
    page = (tmp_path / "a" / "report.md").read_text()
    assert "rows of a minibatch are similar to one another" in page.partition("\n#")[0]
    ingest(tmp_path / "sorted.parquet", tmp_path / "data", shuffle_seed=0, span_rows=512)
    whole = {name: value for name, value in flags.items() if name != "window_rows"}
    for path, changed in ((tmp_path / "data", flags), (tmp_path / "sorted.parquet", whole)):
        streamtrain.train(
            path,
            max_rows=1000,
            **{
                name: value
                for name, value in changed.items()
                if name in ("holdout", "window_rows", "span_rows", "hidden", "memory")
            },
            out=tmp_path / f"t{len(changed)}",
        )


def test_parquet_zarr_readers_and_memory_give_the_same_losses_bit_for_bit(data, tmp_path):
    ingest(data, tmp_path / "zarr", format="zarr", span_rows=512)
    runs = {
        "a": (data, {}),
        "b": (tmp_path / "zarr", {}),
        "c": (data, {"readers": 1, "memory": "1GiB"}),
    }
    measured = [
        convergence(streamtrain.sweep(path, out=tmp_path / name, **{**SWEEP, **change}).out)
        for name, (path, change) in runs.items()
    ]
    assert measured[0] == measured[1] == measured[2]
    assert len([record for record in measured[0] if record["event"] == "outcome"]) == 3 * 2 * 2


def test_the_report_keeps_the_call_and_a_notebook_shows_the_answer(data, tmp_path):
    result = streamtrain.sweep(
        data,
        out=tmp_path / "s",
        storage_options={"secret": "hunter2-swordfish", "region": "eu"},
        **SWEEP,
    )
    call = result.summary["command"]
    start = f"streamtrain.sweep({str(data)!r}, batch_sizes=[32, 256, 5000], lr_grid=2,"
    assert call.startswith(start)
    assert ", storage_options={'secret': '***', 'region': 'eu'}," in call
    assert ", measure='none'," in call
    assert call.endswith(f", out={str(tmp_path / 's')!r})")
    assert "hunter2-swordfish" not in (result.out / "report.html").read_text()
    assert repr(result) == f"<SweepResult {result.out}: {result.summary['sentence']}>"


def test_three_rows_are_timed_at_a_million_in_few_calls(tmp_path, monkeypatch):
    """A step of 2^20 rows is timed also if the data has three, but not with 350,000 calls."""
    pq.write_table(
        pa.table({"x": [0.0, 1.0, 2.0], "y": [1.0, 3.0, 2.0]}), tmp_path / "three.parquet"
    )
    calls, advance = Counter(), FusedEngine.advance

    def counted(engine, block, start, stop):
        calls[engine.batch_size] += 1
        assert calls[engine.batch_size] < 5_000
        return advance(engine, block, start, stop)

    monkeypatch.setattr(FusedEngine, "advance", counted)
    result = streamtrain.sweep(
        tmp_path / "three.parquet",
        out=tmp_path / "run",
        **{**SWEEP, "batch_sizes": [2**20], "holdout": 0},
    )
    assert calls[2**20]
    assert result.summary["cells"][0]["rows_per_second"]["value"] > 0


def test_each_trial_has_a_timing_repeat_of_its_own(data, tmp_path):
    """Trials that share a repeat share its noise.

    With thirty trials over five repeats, 25 to 30 of 100 sweeps found, conclusively, that one of
    two equal sizes was slower.
    """
    flags = {
        "batch_sizes": [64],
        "lr_grid": [0.01],
        "trials": 7,
        "holdout": 500,
        "hidden": "4",
        "max_rows": 2000,
        "confirm": False,
    }
    out = streamtrain.sweep(data, out=tmp_path / "a", measure="none", **flags).out
    events = Counter(
        json.loads(line)["event"] for line in (out / "events.jsonl").read_text().splitlines()
    )
    assert events["timing"] == events["delivery"] == 7


@pytest.mark.parametrize(
    ("sizes", "timed"),
    [
        ({"batch_schedule": "16@0,64@1000,16@2000,128@9000"}, {16: 5, 64: 5}),
        ({"batch_size": 64}, {64: 5}),
        ({"batch_size": "auto"}, {32: 5}),
    ],
    ids=["schedule", "constant", "auto"],
)
def test_train_times_each_size_that_it_used(data, sizes, timed):
    """One that begins after the last row was not used."""
    config = make_config(
        {"data": {"path": str(data), "holdout": 1000}, "train": {**sizes, "max_rows": 3000}}
    )
    records: list = []
    train(config, records.append, {"command": "", "env": {}})
    steps = [record for record in records if isinstance(record, StepsTimed)]
    assert Counter(record.batch_size for record in steps) == timed
    assert all(record.rows % record.batch_size == 0 for record in steps)


def test_engines_agree(data, tmp_path):
    runs = [
        convergence(streamtrain.sweep(data, out=tmp_path / engine, engine=engine, **SWEEP).out)
        for engine in ("fused", "torch")
    ]
    for fused, torch_record in zip(*runs, strict=True):
        losses = dict.fromkeys(("holdout_loss", "holdout_rmse", "train_loss"), 0)
        assert {**fused, **losses} == {**torch_record, **losses}
        if fused["event"] == "evaluation":
            assert fused["holdout_loss"] == pytest.approx(torch_record["holdout_loss"], rel=1e-3)


def test_a_sweep_and_train_share_rows_and_weights(data, tmp_path):
    """`train` has the losses of the same cell in the first trial of a sweep."""
    common = {
        name: value
        for name, value in SWEEP.items()
        if name in ("holdout", "window_rows", "hidden", "memory")
    }
    swept = convergence(
        streamtrain.sweep(
            data,
            out=tmp_path / "s",
            batch_sizes=[32, 64],
            lr_grid=[0.003],
            trials=1,
            confirm=False,
            measure="none",
            **common,
        ).out
    )
    streamtrain.train(data, out=tmp_path / "t", batch_size=64, lr=0.003, epochs=1, **common)
    trained = convergence(tmp_path / "t")
    assert [r for r in swept if r["event"] == "evaluation" and r["batch_size"] == 64] == [
        r for r in trained if r["event"] == "evaluation"
    ]


def test_epochs_and_budgets(data, tmp_path):
    records = convergence(
        streamtrain.sweep(
            data, out=tmp_path / "a", **{**SWEEP, "trials": 1, "max_rows": 12_000}
        ).out
    )
    last = {record["batch_size"]: record for record in records if record["event"] == "outcome"}
    # An epoch of 5,000 rows is 156 steps of 32 rows and a short one. There are two epochs and then
    # 2,000 more rows.
    assert last[32]["rows"] == 12_000
    assert last[32]["steps"] == 2 * 157 + 62
    assert last[5000]["steps"] == 2
    (one_pass,) = [record for record in records if record["event"] == "pass"]
    assert one_pass["receipt"]["count"] == one_pass["rows_read"]


def test_the_model_predicts_in_raw_units(data, tmp_path):
    model = streamtrain.train(
        data, out=tmp_path / "t", batch_size=64, epochs=8, holdout=1000, hidden="16,16"
    )
    import pyarrow.parquet as pq

    table = pq.read_table(data)
    x = torch.from_numpy(
        np.stack([table[name].to_numpy() for name in ("x0", "x1", "x2", "x3")], axis=1)
    )
    y = table["y"].to_numpy()
    again = streamtrain.load_model(tmp_path / "t")
    with torch.no_grad():
        assert torch.equal(model(x), again(x))
        error = float(np.mean((model(x)[:, 0].numpy() - y) ** 2) / np.var(y))
    summary = json.loads((tmp_path / "t" / "summary.json").read_text())
    assert error == pytest.approx(summary["cells"][0]["holdout_loss"]["value"], rel=0.2)
    assert error < 0.1


def test_no_holdout_scores_baselines_on_training_rows(data, tmp_path):
    import pyarrow.parquet as pq

    summary = streamtrain.sweep(
        data, out=tmp_path / "a", **{**SWEEP, "holdout": 0, "trials": 1}
    ).summary
    table = pq.read_table(data)
    x = np.stack(
        [table[name].to_numpy().astype(np.float64) for name in ("x0", "x1", "x2", "x3")]
        + [np.ones(ROWS)],
        axis=1,
    )
    y = table["y"].to_numpy().astype(np.float64)
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    assert summary["best_linear_loss"]["scored_on"] == "training"
    assert summary["best_linear_loss"]["rmse"] == pytest.approx(
        np.sqrt(np.mean(residual**2)), rel=1e-9
    )
    assert summary["best_constant_loss"]["value"] == pytest.approx(1.0)
    assert summary["recommendation"]["batch_size"] is None
    assert all(cell["holdout_loss"]["value"] is None for cell in summary["cells"])


@pytest.mark.parametrize("standardize", [True, False], ids=["standardised", "raw"])
def test_a_loss_is_in_units_of_the_targets_variance_whatever_the_model_sees(data, standardize):
    """The loss is r² in model units times the scale; the RMSE is in the target's units."""
    prepared = prepare(
        make_config(
            {
                "data": {"path": str(data), "holdout": 1000, "standardize": standardize},
                "model": {"hidden": []},
            }
        ),
        learners=1,
        rates=1,
    )
    learner = prepared.learner(64, (0.01,), 0)
    (first,) = learner.consume(prepared.evaluation[:0], ends_epoch=False)
    raw = prepared.evaluation.astype(float) / prepared.standard.scale + prepared.standard.mean
    network = fitted_model(prepared, learner.engine.model_parameters()[0]).network()
    errors = raw[:, -1] - predict_rows(network, raw[:, :-1])
    assert first.holdout_rmse == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-3)
    best_constant = prepared.baselines.best_constant_loss
    variance = best_constant.rmse**2 / best_constant.value
    assert first.holdout_loss == pytest.approx(np.mean(errors**2) / variance, rel=1e-3)
    assert variance == pytest.approx(raw[:, -1].var(), rel=0.2)
    assert prepared.target_sd == pytest.approx(variance**0.5)


def test_evaluation_on_other_data(data, tmp_path):
    generate(tmp_path / "other", kind="friedman2", rows=2000, seed=9, span_rows=512)
    summary = streamtrain.sweep(
        data,
        out=tmp_path / "a",
        **{**SWEEP, "holdout": None, "eval_data": str(tmp_path / "other"), "trials": 1},
    ).summary
    assert summary["data"]["holdout_source"] == "eval_data"
    assert summary["data"]["holdout_rows"] == 2000
    assert 0 < summary["cells"][0]["holdout_loss"]["value"] < 1


def test_the_whole_protocol_tunes_reruns_on_fresh_seeds_and_confirms(data, tmp_path):
    flags = {
        "batch_sizes": [32, 128, 512],
        "lr_grid": [0.003, 0.03],
        "trials": 2,
        "holdout": 1000,
        "hidden": "8,8",
        "max_rows": 20_000,
    }
    result = streamtrain.sweep(
        data, out=tmp_path / "a", target_loss=0.2, lr_rule="tuned,linear", measure="none", **flags
    )
    records = [json.loads(line) for line in (result.out / "events.jsonl").read_text().splitlines()]
    passes = [(record["kind"], record["trial"]) for record in records if record["event"] == "pass"]
    kinds = [kind for kind, _ in passes]
    assert [(kind, trial) for kind, trial in passes if kind != "extension"] == [
        ("tuning", 0),
        ("tuning", 1),
        ("fresh", 2),
        ("fresh", 3),
    ]
    assert kinds[0] == "tuning"
    assert set(kinds[1 : kinds.index("fresh")]) <= {"tuning", "extension"}
    summary = result.summary
    assert summary["fresh_seeds"]
    assert summary["lr_rules"] == ["tuned", "linear"]
    assert all(
        cell["steps_to_target"]["n"] == 2
        for cell in summary["cells"]
        if cell["status"] == "reached"
    )
    assert [cell["lr"] for cell in summary["arms"]["linear"]] == [0.000125, 0.0005, 0.002]
    recommended = summary["recommendation"]["batch_size"]
    assert recommended in [confirmed["batch_size"] for confirmed in summary["confirmation"]]
    for record in (record for record in records if record["event"] == "confirmation"):
        assert record["trial"] in (2, 3)
        assert 0 < record["seconds"] < 60
        assert record["fill_seconds"] > 0
        cell = next(cell for cell in summary["cells"] if cell["batch_size"] == record["batch_size"])
        reached = cell["rows_to_target"]
        assert reached["lo"] is None or record["rows"] <= flags["max_rows"]
        assert record["holdout_loss"] < 0.25  # 0.2, interpolated between two evaluations


def test_a_target_that_the_first_weights_reach_takes_no_row_to_confirm(data, tmp_path):
    flags = {
        "batch_sizes": [64, 256],
        "lr_grid": [0.01],
        "trials": 1,
        "holdout": 1000,
        "hidden": "4",
        "max_rows": 5000,
        "measure": "none",
    }
    out = streamtrain.sweep(data, out=tmp_path / "a", target_loss=50.0, **flags).out
    records = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [record["rows"] for record in records if record["event"] == "confirmation"] == [0, 0]


def test_a_target_in_units_of_the_target_is_the_loss_of_that_error(data, tmp_path):
    flags = {**SWEEP, "trials": 1, "measure": "none", "confirm": False}
    summary = streamtrain.sweep(data, out=tmp_path / "a", target_rmse=200.0, **flags).summary
    assert summary["target_loss"] == pytest.approx((200.0 / summary["target_sd"]) ** 2)
    assert summary["target_loss_chosen"] == "given"
    assert summary["recommendation"]["target_rmse"] == pytest.approx(200.0)


def test_one_bad_cell_never_ends_a_sweep(data, tmp_path):
    summary = streamtrain.sweep(
        data, out=tmp_path / "a", optimizer="sgd", **{**SWEEP, "lr_grid": [100.0], "trials": 1}
    ).summary
    assert {cell["status"] for cell in summary["cells"]} <= {"diverged", "not_reached"}
    assert summary["cells"][0]["status"] == "diverged"
    json.dumps(summary, allow_nan=False)


def test_nothing_is_overwritten_and_a_refused_run_leaves_nothing(data, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is not empty"):
        streamtrain.train(data, out=tmp_path / "full")
    with pytest.raises(ConfigError, match="cannot be used here"):
        streamtrain.train(data, out=tmp_path / "new", device="cuda:7")
    assert not (tmp_path / "new").exists()


def test_peak_memory_is_within_the_projection(forked, data, tmp_path):
    """Run in a separate process, because the peak of this one includes other tests."""
    words = f"train {data} --out {tmp_path}/t --epochs 20 --progress none --no-report".split()
    ended = run_forked(forked, tmp_path, run, words)
    assert ended.code == 0, ended.err
    end = json.loads((tmp_path / "t" / "events.jsonl").read_text().splitlines()[-1])
    assert 0 <= end["peak_rss_bytes"] <= end["projected_bytes"]


def test_a_dry_run_counts_evaluations_and_what_shares_the_cores(data, monkeypatch):
    """With a microsecond per row of steps and of evaluation, and with reading on the same core."""
    cost = Cost(seconds=1e-6, core_seconds=1e-6)
    monkeypatch.setattr("streamtrain.report.dry_run._try_learners", lambda *_: ({1024: cost}, cost))
    monkeypatch.setattr("streamtrain.report.dry_run._read_rate", lambda _: 1e6)
    monkeypatch.setattr("streamtrain.report.dry_run._rate_of_tiny_epochs", lambda _: 1e6)
    config = make_config(
        {
            "data": {"path": str(data), "holdout": 1000},
            "train": {"max_rows": 2500, "batch_size": 1024, "threads": 1},
            "order": {"window_rows": 1024},
        }
    )
    records: list = []
    train(config, records.append, {"command": "", "env": {}})
    looks = sum(isinstance(record, Evaluation) for record in records)
    plan = plan_run(config, "train")
    assert plan["training_seconds"] == pytest.approx((2500 + looks * 1000) * 1e-6)
    assert plan["reading_seconds"] == pytest.approx(2500e-6)
    passes = plan["training_seconds"] + plan["reading_seconds"]
    assert plan["seconds"] == pytest.approx(passes + timing_seconds(passes, 5, 1))


def test_a_call_that_is_held_up_does_not_decide_the_cost_of_a_row(monkeypatch):
    monkeypatch.setattr("streamtrain.report.dry_run._TRY_SECONDS", 0.01)
    pauses = iter([0.0, 0.2])  # of the call that warms up, and of the first that counts
    assert _cost(lambda: time.sleep(next(pauses, 0.001)), 100).seconds < 0.1 / 100


def test_a_dry_run_tries_its_steps_with_blas_on_one_thread_as_the_run_does(data, monkeypatch):
    threads = []
    genuine = FusedEngine.advance

    def advance(self, *arguments):
        threads.extend(
            pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"
        )
        return genuine(self, *arguments)

    monkeypatch.setattr("streamtrain.report.dry_run._TRY_SECONDS", 0.0)
    with threadpool_limits(limits=2, user_api="blas"):
        monkeypatch.setattr(FusedEngine, "advance", advance)
        plan = plan_run(
            make_config(
                {"data": {"path": str(data), "holdout": 1000}, "sweep": {"batch_sizes": [64, 256]}}
            ),
            "sweep",
        )
    assert set(plan["step_rows_per_second"]) == {"64", "256"}
    assert threads
    assert set(threads) == {1}


def test_a_sweep_refuses_a_size_that_changes(data, tmp_path):
    config = make_config({"data": {"path": str(data)}, "train": {"batch_schedule": "8@0,16@99"}})
    with pytest.raises(ConfigError, match="a sweep compares constant sizes"):
        run_sweep(config, tmp_path / "out")


@pytest.mark.parametrize("average", ["on", "off"])
def test_the_model_that_train_delivers_is_the_one_that_was_judged(data, average):
    config = make_config(
        {
            "data": {"path": str(data), "holdout": 1000},
            "model": {"hidden": [8]},
            "train": {"average": average, "lr": 0.02, "batch_size": 64},
        }
    )
    records = []
    trained = train(config, records.append, {})
    losses = [record for record in records if isinstance(record, Evaluation)]
    prepared = prepare(config, learners=1, rates=1)
    raw = prepared.evaluation.astype(float) / prepared.standard.scale + prepared.standard.mean
    for network, record in (
        (trained.last.network(), losses[-1]),
        (trained.best.network(), min(losses, key=lambda record: record.holdout_loss)),
    ):
        errors = raw[:, -1] - predict_rows(network, raw[:, :-1])
        assert record.holdout_rmse == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-3)
