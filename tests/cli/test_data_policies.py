"""Whole runs on imperfect data: null policies, transforms, awkward sizes and scales."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamtrain

ROWS = 6_000
QUICK = ("--hidden", "4", "--memory", "1GiB", "--window-rows", "2048", "--lr", "0.01", "-q")


def make_rows(num_rows: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, num_rows))
    return {
        "a": a * scale,
        "b": b * scale,
        "y": (a - 2 * b + 0.1 * random.standard_normal(num_rows)) * scale,
    }


def write(path, columns, groups: int = 500) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=groups)
    return str(path)


def events(out, kind: str) -> list[dict]:
    return [
        record
        for line in (out / "events.jsonl").read_text().splitlines()
        if (record := json.loads(line))["event"] == kind
    ]


@pytest.fixture
def spoilt(tmp_path) -> str:
    columns = make_rows(ROWS)
    columns["a"][::50], columns["b"][::75], columns["y"][7::1000] = np.nan, np.inf, np.nan
    return write(tmp_path / "spoilt.parquet", columns)


GOOD = sum(not (row % 50 == 0 or row % 75 == 0 or row % 1000 == 7) for row in range(ROWS))


@pytest.mark.parametrize("engine", ["fused", "torch"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_drop_ends_with_its_epoch_and_counts_every_row_once(
    command, spoilt, tmp_path, engine, epochs
):
    refused = command("train", spoilt, "-o", "refused", *QUICK)
    assert refused.code == 3
    assert "--on-null drop" in refused.err
    assert refused.err.count("\n") == 1
    flags = ("--epochs", str(epochs), "--batch-size", "64", "--engine", engine)
    said = command("train", spoilt, "-o", "m", "--on-null", "drop", *flags, *QUICK)
    assert said.code == 0, said.err
    (run,), (done,), (outcome,) = (
        events(tmp_path / "m", kind) for kind in ("run", "pass", "outcome")
    )
    assert run["data"]["on_null"] == "drop"
    assert run["data"]["holdout_rows"] < 1200
    assert done["dropped"]["total"] == epochs * (ROWS - GOOD)
    assert set(done["dropped"]["columns"]) == {"a", "b", "y"}
    assert (
        done["rows_read"]
        == done["receipt"]["count"]
        == outcome["rows"]
        == epochs * (GOOD - run["data"]["holdout_rows"])
    )
    assert outcome["steps"] == epochs * math.ceil(outcome["rows"] / epochs / 64)
    warnings = json.loads((tmp_path / "m" / "summary.json").read_text())["warnings"]
    (text,) = (warning["text"] for warning in warnings if warning["flag"] == "--on-null")
    assert text.startswith(f"{ROWS - GOOD:,} of {ROWS:,} rows have a null, NaN or infinite value,")


def test_drop_trains_on_what_a_clean_file_would_give_statistics_of(command, spoilt, tmp_path):
    assert (
        command("train", spoilt, "-o", "m", "--on-null", "drop", "--holdout", "0", *QUICK).code == 0
    )
    (run,), columns = events(tmp_path / "m", "run"), pq.read_table(spoilt).to_pydict()
    table = np.stack([columns[name] for name in "aby"], axis=1)
    good = table[np.isfinite(table).all(axis=1)]
    assert run["standard"]["mean"] == pytest.approx(good.mean(axis=0).tolist(), rel=1e-9)
    assert run["standard"]["scale"] == pytest.approx((1 / good.std(axis=0)).tolist(), rel=1e-9)


def test_a_sweep_with_dropped_rows_reaches_one_row_count(command, spoilt, tmp_path):
    grid = (
        "--batch-sizes",
        "64,512",
        "--lr-grid",
        "0.01,0.02",
        "--trials",
        "2",
        "--extend-grid",
        "off",
        "--rerun",
        "off",
    )
    said = command("sweep", spoilt, "-o", "s", "--on-null", "drop", *grid, *QUICK)
    assert said.code == 0, said.err
    outcomes = events(tmp_path / "s", "outcome")
    assert len({record["rows"] for record in outcomes}) == 1
    assert len(outcomes) == 8
    assert (
        json.loads((tmp_path / "s" / "summary.json").read_text())["holdout_loss_at_rows"]
        == outcomes[0]["rows"]
    )


def test_impute_goes_into_the_model(command, tmp_path):
    columns = make_rows(ROWS)
    columns["a"][::50] = np.nan
    data = write(tmp_path / "a.parquet", columns)
    assert (
        command("train", data, "-o", "m", "--on-null", "impute", "--epochs", "1", *QUICK).code == 0
    )
    (run,), (done,) = (events(tmp_path / "m", kind) for kind in ("run", "pass"))
    assert done["rows_read"] == run["epoch_rows"]
    assert set(done["imputed"]["columns"]) == {"a"}
    model = streamtrain.load_model(tmp_path / "m")
    import torch

    with torch.no_grad():
        hole, mean = (
            model(torch.tensor([[a, 0.5]], dtype=torch.float64))
            for a in (math.nan, run["data"]["imputed"]["a"])
        )
    assert torch.equal(hole, mean)
    assert command("predict", "m", data, "-o", "p.parquet").code == 0
    assert np.isfinite(pq.read_table(tmp_path / "p.parquet")["prediction"].to_numpy()).all()


@pytest.mark.parametrize("policy", ["drop", "impute"])
def test_other_evaluation_data_meets_the_same_policy(command, tmp_path, policy):
    columns = make_rows(2000)
    columns["a"][::50] = np.nan
    clean, spoilt = (
        write(tmp_path / "clean.parquet", make_rows(ROWS)),
        write(tmp_path / "other.parquet", columns),
    )
    said = command("train", clean, "-o", "m", "--eval-data", spoilt, "--on-null", policy, *QUICK)
    assert said.code == 0, said.err
    assert events(tmp_path / "m", "run")[0]["data"]["holdout_rows"] == (
        2000 if policy == "impute" else 1960
    )
    assert command("train", clean, "-o", "n", "--eval-data", spoilt, *QUICK).code == 3


def test_both_models_of_a_run_predict_with_its_null_policy(command, spoilt, tmp_path):
    said = command("train", spoilt, "-o", "m", "--on-null", "drop", "--epochs", "1", *QUICK)
    assert said.code == 0, said.err
    rows = []
    for model, out in (("m", "p.parquet"), ("m/best", "q.parquet")):
        said = command("predict", model, spoilt, "-o", out)
        assert said.code == 0, said.err
        rows.append(pq.read_metadata(tmp_path / out).num_rows)
    assert rows[0] == rows[1] < ROWS


def test_nothing_left_is_refused(command, tmp_path):
    columns = make_rows(ROWS)
    columns["a"][:] = np.nan
    said = command(
        "train", write(tmp_path / "a.parquet", columns), "-o", "m", "--on-null", "drop", *QUICK
    )
    assert said.code == 3
    assert "every sampled row" in said.err
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("verb", ["train", "sweep"])
@pytest.mark.parametrize("policy", ["error", "drop"])
@pytest.mark.parametrize("value", [3.0, 0.0, np.nan])
def test_a_target_that_says_nothing_is_refused_before_the_first_step(
    command, tmp_path, verb, policy, value
):
    """All null: what `df.to_csv()` and a trailing comma leave at the end of a table."""
    columns = make_rows(ROWS) | {"y": np.full(ROWS, value)}
    data = write(tmp_path / "a.parquet", columns)
    said = command(verb, data, "-o", "m", "--on-null", policy, *QUICK)
    assert said.code == 3
    (line,) = said.err.splitlines()
    assert "choose another" in line.lower()
    assert "--target" in line
    assert not (tmp_path / "m").exists()
    columns["y"][:9] = 2.0
    if value == 3.0 and verb == "train":
        data = write(tmp_path / "b.parquet", columns)
        assert command(verb, data, "-o", "n", "--max-rows", "500", *QUICK).code == 0


@pytest.mark.parametrize("verb", ["train", "sweep"])
def test_features_that_say_nothing_are_refused_before_the_first_step(command, tmp_path, verb):
    columns = {name: np.full(ROWS, 0.1) for name in "ab"} | {"y": np.arange(ROWS) / 3}
    data = write(tmp_path / "a.parquet", columns)
    said = command(verb, data, "-o", "m", *QUICK)
    assert said.code == 3
    (line,) = said.err.splitlines()
    assert "each feature is constant" in line
    assert "a = 0.1, b = 0.1. There is nothing to learn from. Choose others with --features" in line
    assert not (tmp_path / "m").exists()


def test_a_transform_from_file_to_predictions(command, tmp_path):
    data = write(tmp_path / "a.parquet", make_rows(ROWS))
    module = tmp_path / "features_of_a_run.py"
    module.write_text(
        "def make(c):\n    return {'sum': c['a'] + c['b'], 'difference': c['a'] - c['b'], 'square':"
        " c['a'] ** 2}\n"
    )
    flags = ("--transform", "features_of_a_run:make")
    said = command("train", data, "-o", "m", *flags, "--epochs", "3", "--batch-size", "64", *QUICK)
    assert said.code == 0, said.err
    (run,) = events(tmp_path / "m", "run")
    assert run["data"]["features"] == ["sum", "difference", "square"]
    assert run["data"]["transform"]["function"] == "features_of_a_run:make"
    assert len(run["data"]["transform"]["sha256"]) == 64
    assert (
        command("train", data, "--dry-run", *flags, *QUICK).out.count("sum, difference, square → y")
        == 1
    )
    refused = command("predict", "m", data, "-o", "p.parquet")
    assert refused.code == 2
    assert "if you trust it, name it too, --transform features_of_a_run:make" in refused.err
    assert command("predict", "m", data, "-o", "p.parquet", *flags).code == 0
    predictions, y = (
        pq.read_table(tmp_path / "p.parquet")["prediction"].to_numpy(),
        pq.read_table(data)["y"].to_numpy(),
    )
    assert np.mean((predictions - y) ** 2) < 0.2 * np.var(y)
    module.write_text(module.read_text() + "# changed\n")
    assert (
        "changed since the model was trained"
        in command("predict", "m", data, "-o", "q.parquet", *flags).err
    )
    about = json.loads((tmp_path / "m" / "model.json").read_text())
    about["transform"]["function"] = "features_that_are_gone:make"
    (tmp_path / "m" / "model.json").write_text(json.dumps(about))
    gone_flags = ("--transform", "features_that_are_gone:make")
    gone = command("predict", "m", data, "-o", "r.parquet", *gone_flags)
    assert gone.code == 2
    assert "no module 'features_that_are_gone'" in gone.err
    assert gone.err.count("\n") == 1
    assert streamtrain.load_model(tmp_path / "m").features == ("sum", "difference", "square")


SHAPES = {
    "five rows": make_rows(5),
    "fewer rows than a minibatch": make_rows(100),
    "a constant feature": make_rows(ROWS) | {"b": np.full(ROWS, 0.1)},
    "values of 1e30": make_rows(ROWS, 1e30),
    "values of 1e-30": make_rows(ROWS, 1e-30),
    "a large mean": make_rows(ROWS) | {"b": 1e9 + np.arange(ROWS) % 2},
}


@pytest.mark.parametrize(
    ("shape", "policy"),
    [pytest.param(shape, "error", id=shape.replace(" ", "-")) for shape in SHAPES]
    + [pytest.param("five rows", policy, id=f"five-rows-{policy}") for policy in ("drop", "impute")]
    + [
        pytest.param("values of 1e30", policy, id=f"values-of-1e30-{policy}")
        for policy in ("drop", "impute")
    ],
)
def test_awkward_data_has_stable_statistics(command, tmp_path, shape, policy):
    columns = SHAPES[shape]
    data = write(tmp_path / "a.parquet", columns)
    said = command("train", data, "-o", "m", "--on-null", policy, "--epochs", "2", *QUICK)
    assert said.code == 0, said.err
    (run,), (done,), (outcome,) = (
        events(tmp_path / "m", kind) for kind in ("run", "pass", "outcome")
    )
    assert outcome["outcome"] == "finished", outcome
    standard, table = (
        run["standard"],
        np.stack([np.asarray(columns[name]) for name in "aby"], axis=1),
    )
    assert np.isfinite(standard["mean"]).all()
    assert np.isfinite(standard["scale"]).all()
    if run["data"]["holdout_rows"] == 0:
        assert standard["mean"] == pytest.approx(table.mean(axis=0).tolist())
    assert done["rows_read"] + 2 * run["data"]["holdout_rows"] == 2 * len(table)


def test_no_rows_are_refused(command, tmp_path):
    said = command("train", write(tmp_path / "a.parquet", make_rows(0)), "-o", "m", *QUICK)
    assert said.code == 3
    assert "no rows" in said.err
