"""Every verb on real shards, with the words that a user types."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import data_gen

ROWS = 20_000
QUICK = ("--max-rows", "4096", "--hidden", "4", "--memory", "1GiB", "--device", "cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "linear"
    data_gen.generate(folder, kind="linear", rows=ROWS, span_rows=4096, seed=1)
    return folder


def test_generate_prints_the_noise_floor_and_inspect_reads_it_back(command):
    said = command(
        "--json",
        "generate",
        "made",
        "--kind",
        "linear",
        "--rows",
        "10k",
        "--noise",
        "0.5",
        "--span-rows",
        "2Ki",
        "--seed",
        "3",
    )
    document = json.loads(said.out)
    assert (said.code, document["rows"], document["columns"]) == (
        0,
        10_000,
        ["x0", "x1", "x2", "x3", "y"],
    )
    assert document["truth"]["best_loss"] == pytest.approx(0.2)
    assert (
        "best possible loss is 0.2"
        in command("generate", "again", "--kind", "linear", "--rows", "10k", "--noise", "0.5").out
    )
    page = command("inspect", "made").out
    assert "10,000" in page
    assert "verified" in page
    assert "the best possible loss is 0.2" in page
    assert [
        line.split()[:2]
        for line in page.splitlines()
        if line.split()[1:2] in (["feature"], ["target"])
    ][-1] == ["y", "target"]
    assert json.loads(command("inspect", "made", "--json").out)["num_rows"] == 10_000


def test_inspect_tells_extremes_apart(command, tmp_path):
    pq.write_table(
        pa.table({"a": [1e9 - 10, 1e9 + 10], "b": [0.5, 0.5], "y": [1 / 3, 2e6 / 3]}),
        tmp_path / "in.parquet",
    )
    lines = [line.split() for line in command("inspect", "in.parquet").out.splitlines()]
    texts = {words[0]: words[4:6] for words in lines if words and words[0] in ("a", "b", "y")}
    assert texts == {
        "a": ["999999990", "1000000010"],
        "b": ["0.5", "0.5"],
        "y": ["0.333333", "666667"],
    }


def test_inspect_lists_what_is_left_out_and_why(command, tmp_path):
    days = pa.array([0, 86_400, 0, 0, 0], pa.timestamp("s"))
    towns, y = ["Bonn", "Ulm", "Bonn", "Bonn", "Ulm"], [1.0, 2.0, 2.0, 1.0, 1.0]
    table = pa.table({"a": [1.0, None, 3.0, 2.0, 1.0], "town": towns, "day": days, "y": y})
    pq.write_table(table, tmp_path / "in.parquet")
    said = command("inspect", "in.parquet")
    lines = [re.split(" {2,}", line) for line in said.out.splitlines()]
    assert lines[:5] == [
        ["column", "use", "type", "nulls", "min", "max", "first rows"],
        ["a", "feature", "double", "1", "1", "3", "1, null, 3"],
        ["y", "target", "double", "0", "1", "2", "1, 2, 2"],
        ["town", "left out", "string", "0", "Bonn", "Ulm",
         "only numbers can be decoded: write its values as numbers, such as 0 and 1 for no"
         " and yes"],
        ["day", "left out", "timestamp[ms]", "0", "1970-01-01 00:00:00", "1970-01-02 00:00:00",
         "it is a feature with --datetime epoch or --datetime parts"],
    ]  # fmt: skip
    assert "Next: streamtrain sweep in.parquet --on-null impute\n" in said.out
    assert "--on-null drop leaves their rows out (1 of 5), --on-null impute" in said.out
    document = json.loads(command("inspect", "in.parquet", "--json").out)
    assert [column["name"] for column in document["left_out"]] == ["town", "day"]
    assert document["columns"][0]["sample"] == [1.0, None, 3.0]


@pytest.mark.parametrize(
    ("nulls", "policy", "features"),
    [
        ({"y": 1}, "drop", ""),
        ({"a": 1, "b": 1}, "drop", ""),
        ({"a": 300}, "impute", ""),
        ({"a": 501, "y": 1}, "drop", "b"),
        ({"a": 500, "y": 1}, "drop", ""),
        ({"a": 900, "b": 900, "y": 1}, "drop", ""),
        ({}, "", ""),
    ],
    ids=[
        "of the target",
        "few",
        "many of a feature",
        "most of a feature",
        "half of a feature",
        "most of all features",
        "none",
    ],
)
def test_the_command_of_inspect_runs_on_rows_with_nulls(command, tmp_path, nulls, policy, features):
    values, rows = np.random.default_rng(0).normal(size=(3, 1000)), np.arange(1000)
    columns = {
        name: pa.array(column, mask=rows < nulls.get(name, 0))
        for name, column in zip("aby", values, strict=True)
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    page = command("inspect", "in.parquet").out
    words = re.search(r"^Next: streamtrain (.*)$", page, re.MULTILINE)[1].split()
    given = {"--features": features, "--on-null": policy}
    flags = [word for flag, value in given.items() if value for word in (flag, value)]
    assert words == ["sweep", "in.parquet", *flags]
    assert ("Most values of a are null: without it (--features), --on-null drop leaves out 1 of"
            in page) == bool(features)  # fmt: skip
    config = command("init", "in.parquet", "--out", "-").out
    assert (re.search(r"^  on_null: (\w+)", config, re.MULTILINE) or ["", ""])[1] == policy
    assert command("train", *words[1:], "-o", "m", *QUICK).code == 0


@pytest.mark.filterwarnings("default:a is 10000")
def test_train_names_a_wrong_value_of_a_training_row(command, tmp_path):
    a, y = np.random.default_rng(0).normal(size=(2, 1000))
    a[500] = 1e4
    pq.write_table(pa.table({"a": a, "y": y}), tmp_path / "in.parquet")
    said = command("train", "in.parquet", "-o", "m", "--holdout", "0", *QUICK)
    assert said.code == 0, said.err
    assert "warning: a is 10000 in a training row, 32 standard deviations from its" in said.err


def test_inspect_shows_the_columns_where_no_target_can_be_chosen(command, tmp_path):
    pq.write_table(pa.table({"a": [1.0], "b": [2.0], "town": ["Ulm"]}), tmp_path / "in.parquet")
    said = command("inspect", "in.parquet")
    assert said.code == 3
    assert re.search("^b +number +double", said.out, re.MULTILINE)
    assert "in.parquet: the last column, 'town', has type string" in said.out
    assert "Next:" not in said.out
    assert command("inspect", "in.parquet", "--target", "town").code == 3


def test_inspect_says_which_data_ingest_has_shuffled(command, tmp_path):
    pq.write_table(pa.table({"a": [1.0, 2.0], "y": [1.0, 2.0]}), tmp_path / "in.parquet")
    for flag, is_said in (("--shuffle", True), ("--no-shuffle", False)):
        out = flag.removeprefix("--")
        assert command("ingest", "in.parquet", out, flag).code == 0
        assert ("shuffled by ingest (seed 0)" in command("inspect", out).out) == is_said


def test_inspect_counts_the_columns_that_it_does_not_list(command, tmp_path):
    table = pa.table({f"c{number}": [1.0, 2.0] for number in range(100)})
    pq.write_table(table, tmp_path / "in.parquet")
    out = command("inspect", "in.parquet").out
    assert "and 70 more features; --json lists all" in out
    assert "\nc99 " in out


def test_ingest_moves_the_target_last(command, tmp_path):
    pa.csv.write_csv(
        pa.table({"y": [1.0, 2.0, 3.0], "a": [1.0, 0.5, 2.0], "b": [3, 1, 2]}), tmp_path / "in.csv"
    )
    for format in ("parquet", "zarr"):
        said = command(
            "ingest", "in.csv", format, "--target", "y", "--format", format, "--features", "b,a"
        )
        assert said.code == 0
        assert "3 rows in 1 shard, shuffled by seed 0" in said.out
        assert "b, a → y" in said.out
        assert [
            column["name"]
            for column in json.loads(command("inspect", format, "--json").out)["columns"]
        ] == ["b", "a", "y"]


def test_ingest_shuffles_unless_it_is_told_not_to(command, tmp_path):
    pa.csv.write_csv(pa.table({"a": np.arange(500.0), "y": np.ones(500)}), tmp_path / "in.csv")
    for name, flags in (("kept", ["--no-shuffle"]), ("one", []), ("two", ["--seed", "2"])):
        document = json.loads(
            command("ingest", "in.csv", name, "--memory", "1GiB", "--json", *flags).out
        )
        assert document["shuffle_seed"] == {"kept": None, "one": 0, "two": 2}[name]
    kept, one, two = (pq.read_table(tmp_path / n)["a"].to_pylist() for n in ("kept", "one", "two"))
    assert kept == sorted(one) == sorted(two) == [*range(500)]
    assert len({tuple(ids) for ids in (kept, one, two)}) == 3


def test_sweep_then_report_again(command, data, tmp_path):
    said = command(
        "-o",
        "a",
        "sweep",
        data,
        "--batch-sizes",
        "64..1024*4",
        "--lr-grid",
        "0.01,0.02",
        "--trials",
        "2",
        *QUICK,
    )
    assert said.code == 0, said.err
    assert said.out.rstrip().endswith("report: a/report.html")
    assert "best linear" in said.out
    assert "\r" not in said.err
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert [cell["batch_size"] for cell in summary["cells"]] == [64, 256, 1024]
    assert summary["best_linear_loss"]["value"] < summary["best_constant_loss"]["value"]
    assert json.loads(command("report", "a", "-o", "b", "--json").out) == summary
    assert json.loads((tmp_path / "b" / "summary.json").read_text()) == summary
    refused = command("sweep", data, "-o", "a", *QUICK)
    assert refused.code == 2
    assert "cannot be resumed: sweep.batch_sizes was [64, 256, 1024], is " in refused.err
    refused = command("sweep", data, "-o", "a", "--resume", "never", *QUICK)
    assert refused.code == 2
    assert "nothing is overwritten" in refused.err


def test_train_then_predict(command, data, tmp_path):
    said = command("train", data, "-o", "m", "--batch-size", "64", "--lr", "0.01", "-q", *QUICK)
    assert (said.code, said.err) == (0, "")
    assert (tmp_path / "m" / "model.safetensors").exists()
    assert command("predict", "m", data, "-o", "p.parquet").out == "20,000 predictions: p.parquet\n"
    table, truth = (
        pq.read_table(tmp_path / "p.parquet"),
        pq.read_table(sorted(data.glob("*.parquet"))),
    )
    assert sorted(table["row_id"].to_pylist()) == list(range(ROWS))
    errors = [
        (p - y) ** 2
        for p, y in zip(table["prediction"].to_pylist(), truth["y"].to_pylist(), strict=True)
    ]
    mean = math.fsum(truth["y"].to_pylist()) / ROWS
    assert math.fsum(errors) < 0.5 * math.fsum((y - mean) ** 2 for y in truth["y"].to_pylist())
    assert command("predict", "m", data, "-o", "p.parquet").code == 2
    for words in (
        ["predict", "m", data, "-o", "p.parquet/q"],
        ["report", "m", "-o", "p.parquet/q"],
    ):
        said = command(*words)
        assert (said.code, said.out) == (4, ""), said.err
        assert re.fullmatch(
            r"error: p.parquet/q: cannot be written \(.*\). Choose another --out.\n", said.err
        ), said.err


def test_a_training_that_diverged_is_no_success_and_its_model_no_model(command, data):
    said = command(
        "train",
        data,
        "--optimizer",
        "sgd",
        "--lr",
        "1e6",
        "--batch-size",
        "64",
        "--max-rows",
        "4k",
        "--out",
        "m",
    )
    assert said.code == 1
    assert said.err.splitlines()[-1] == "error: m: the training diverged. Try a smaller --lr."
    assert "diverged within" in said.out
    assert "[--lr]" in said.out
    assert "To use it" not in said.out
    for words in (["predict", "m", data, "-o", "p.parquet"], ["evaluate", "m", data, "--json"]):
        said = command(*words)
        assert (said.code, said.out) == (3, "")
        assert "its training diverged" in said.err
        assert said.err.count("\n") == 1


def test_a_sweep_in_which_no_size_trained_is_no_success(command, data):
    flags = [
        "--optimizer",
        "sgd",
        "--lr-grid",
        "1e6",
        "--trials",
        "1",
        "--no-confirm",
        "--max-rows",
        "4k",
        "--measure",
        "none",
        "-q",
    ]
    said = command("sweep", data, "--batch-sizes", "16,64", *flags, "--out", "s")
    assert said.code == 1
    assert said.err == "error: s: every size diverged. Try a smaller --lr.\n"
    assert "diverged" in said.out


def test_dry_run_and_json_write_no_file(command, data, tmp_path):
    for verb in ("sweep", "train"):
        said = command(verb, data, "--dry-run", *QUICK)
        assert said.code == 0
        assert f"{ROWS:,}" in said.out
        assert json.loads(command(verb, data, "--dry-run", "--json", *QUICK).out)["verb"] == verb
    assert list(tmp_path.iterdir()) == []


def test_the_run_keeps_its_config(command, data, tmp_path):
    assert (
        command(
            "train",
            data,
            "-o",
            "m",
            "--batch-size",
            "64",
            "--set",
            "eval.first_row=512",
            "--seed",
            "7",
            "-q",
            *QUICK,
        ).code
        == 0
    )
    said = json.loads(command("config", "show", "-c", "m/config.resolved.yaml", "--json").out)
    expected = {
        "data.path": str(data),
        "train.batch_size": 64,
        "eval.first_row": 512,
        "order.seed": 7,
        "fetch.memory": 2**30,
    }
    assert {key: said[key]["value"] for key in expected} == expected


def test_a_budget_of_time_ends_a_run_and_its_lines(command, data, tmp_path):
    for verb in (
        ["train", "--batch-size", "64"],
        [
            "sweep",
            "--batch-sizes",
            "64,512",
            "--trials",
            "1",
            "--confirm",
            "off",
            "--measure",
            "none",
        ],
    ):
        said = command(
            verb[0],
            data,
            *verb[1:],
            "-o",
            verb[0],
            "--max-time",
            "0.3s",
            "--hidden",
            "4",
            "--holdout",
            "1000",
            "--memory",
            "1GiB",
        )
        assert said.code == 0, said.err
        assert "held-out" in said.err
        assert said.err.count("\n") > 4


def test_train_writes_tensorboard_beside_its_records(command, data, tmp_path):
    assert (
        command("train", data, "-o", "m", "--batch-size", "64", "-q", "--tensorboard", *QUICK).code
        == 0
    )
    evaluations = sum(
        '"event": "evaluation"' in line
        for line in (tmp_path / "m" / "events.jsonl").read_text().splitlines()
    )
    [file] = (tmp_path / "m" / "tensorboard").rglob("*tfevents*")
    assert evaluations > 3
    assert file.read_bytes().count(b"loss/held out") == evaluations


def test_without_a_report_train_imports_only_what_it_needs_and_report_makes_the_rest(
    command, data, tmp_path
):
    """One subprocess: in this one, other tests have imported everything."""
    words = ["train", str(data), "-o", "m", "-q", "--batch-size", "64", "--no-report", *QUICK]
    code = f"""
import sys
from streamtrain.cli.main import run
code = run({words!r})
heavy = ["altair", "distributed", "scipy.optimize", "torch", "vl_convert", "zarr"]
print([name for name in [*heavy, "streamtrain.cluster.runner"] if name in sys.modules], code)
"""
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert said.stdout.splitlines()[-1] == "[] 0", said.stderr
    assert "report: m/report.md" in said.stdout
    made = {path.name for path in (tmp_path / "m").iterdir()}
    assert made >= {"summary.json", "summary.csv", "report.md", "model.safetensors"}
    assert not made & {"report.html", "charts"}
    again = command("train", "--resume", "m", "-q", "--no-report")
    assert (again.code, again.err) == (0, "m is already complete: nothing to do\n")
    summary = (tmp_path / "m/summary.json").read_bytes()
    assert command("report", "m", "-q").code == 0
    assert (tmp_path / "m/report.html").exists()
    assert (tmp_path / "m/summary.json").read_bytes() == summary
