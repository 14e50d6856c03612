"""`train --from RUN` trains what a sweep recommends, and says what it took."""

import contextlib
import json
import shutil
from unittest.mock import Mock

import pytest
import yaml

import data_gen
from streamtrain.cli.config_layers import Setting
from streamtrain.cli.from_sweep import FinishedSweep, refuse_moved
from streamtrain.cli.main import run
from streamtrain.errors import ConfigError
from streamtrain.report.run_files import read_summary

SWEEP = ("--batch-sizes", "16,64", "--max-rows", "8192", "--trials", "2", "--lr-grid", "2")
QUICK = ("--hidden", "4", "--memory", "1GiB", "--device", "cpu", "--no-report")


@pytest.fixture(scope="module")
def sweep_folder(tmp_path_factory):
    """A folder with data and a sweep over them, whose target is a column of its own choice."""
    folder = tmp_path_factory.mktemp("swept")
    with contextlib.chdir(folder):
        data_gen.generate(folder / "data", kind="linear", rows=20_000, span_rows=4096, seed=1)
        code = run(
            [
                *("sweep", "data", "--target", "x3", "--set", "sweep.measure=none", "--no-confirm"),
                *(*SWEEP, *QUICK, "--out", "a sweep", "--target-loss", "0.999", "--quiet"),
            ]
        )
    assert code == 0
    return folder


@pytest.fixture
def swept(sweep_folder, tmp_path):
    """The summary of that sweep, of which the test has a copy in its own folder."""
    shutil.copytree(sweep_folder, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "a sweep").iterdir():  # they name the data by the whole path
        if path.suffix in (".json", ".jsonl", ".yaml"):
            path.write_text(path.read_text().replace(str(sweep_folder), str(tmp_path)))
    return json.loads((tmp_path / "a sweep" / "summary.json").read_text())


def test_the_printed_command_trains_at_the_recommended_size_rate_and_rows(command, swept, tmp_path):
    recommended = swept["recommendation"]
    assert recommended["command"] == "streamtrain train --from 'a sweep'"
    said = command("train", "--from", "a sweep", "--out", "model", "--no-report")
    assert said.code == 0, said.err
    size, rate = recommended["batch_size"], recommended["learning_rate"]
    assert (
        f"from a sweep: data data, batch size {size}, learning rate {rate:g}, 8,192 rows,"
        " averaged weights on" in said.err
    )
    config = yaml.safe_load((tmp_path / "model" / "config.resolved.yaml").read_text())
    assert (config["train"]["batch_size"], config["train"]["lr"]) == (size, rate)
    assert config["train"]["max_rows"] == swept["train_rows"] == 8192
    assert (config["data"]["target"], config["model"]["hidden"]) == ("x3", [4])
    assert "Next:" not in said.out


def test_what_is_given_wins_over_the_sweep(command, swept, tmp_path):
    said = command(
        *("train", "data", "--from", "a sweep", "--lr", "0.002", "--epochs", "0.1"),
        *("--batch-schedule", "8@0,32@1k", "--out", "model", "--no-report"),
    )
    assert said.code == 0, said.err
    assert "given here: --batch-schedule, --epochs, --lr, DATA" in said.err
    train = yaml.safe_load((tmp_path / "model" / "config.resolved.yaml").read_text())["train"]
    assert (train["lr"], train["epochs"], train["max_rows"]) == (0.002, 0.1, None)
    assert train["batch_size"] == 8


def test_a_size_that_grows_is_taken_where_it_won(command, swept, tmp_path):
    path = tmp_path / "a sweep" / "summary.json"
    growing = {"batch_schedule": "16@0,64@1024", "learning_rate": 0.003, "wins": False}
    for wins, size, rate in (
        (False, swept["recommendation"]["batch_size"], swept["recommendation"]["learning_rate"]),
        (True, 16, 0.003),
    ):
        path.write_text(json.dumps(swept | {"growing": growing | {"wins": wins}}))
        out = f"model {wins}"
        said = command("train", "--from", "a sweep", "--out", out, "--no-report")
        assert said.code == 0, said.err
        assert ("batch sizes 16@0,64@1024, learning rate 0.003" in said.err) == wins
        train = yaml.safe_load((tmp_path / out / "config.resolved.yaml").read_text())["train"]
        assert (train["batch_size"], train["lr"]) == (size, rate)
        assert train["batch_schedule"] == ([[16, 0], [64, 1024]] if wins else None)


@pytest.mark.parametrize("wins", [False, True], ids=["a constant size", "a size that grows"])
def test_the_rate_is_that_of_the_size_that_is_trained(command, swept, tmp_path, wins):
    """Of 16 and 64, the size nearest to 50 is 64; a rate of the other, or of a growing size, is
    for other steps.
    """
    path = tmp_path / "a sweep" / "summary.json"
    growing = {"batch_schedule": "16@0,64@1024", "learning_rate": 0.003, "wins": wins}
    for cell in swept["cells"]:
        cell["lr"] = cell["batch_size"] / 1000
    path.write_text(json.dumps(swept | {"growing": growing}))
    said = command("train", "--from", "a sweep", "--batch-size", "50", "--out", "m", "--no-report")
    assert said.code == 0, said.err
    assert "learning rate 0.064 (the sweep's for 64)" in said.err
    train = yaml.safe_load((tmp_path / "m" / "config.resolved.yaml").read_text())["train"]
    assert (train["batch_size"], train["lr"], train["batch_schedule"]) == (50, 0.064, None)
    said = command(
        *("train", "--from", "a sweep", "--batch-size", "50", "--lr", "0.01", "--dry-run")
    )
    assert "the sweep's for" not in said.err


@pytest.mark.parametrize("wins", [False, True], ids=["a constant size", "a size that grows"])
def test_auto_is_what_the_sweep_recommends_whatever_else_is_set(command, swept, tmp_path, wins):
    growing = {"batch_schedule": "16@0,64@1024", "learning_rate": 0.003, "wins": wins}
    (tmp_path / "a sweep" / "summary.json").write_text(json.dumps(swept | {"growing": growing}))
    (tmp_path / "own.yaml").write_text("train:\n  batch_schedule: 8@0,32@99\n")
    plain = command("train", "--from", "a sweep", "--dry-run", "--json")
    said = command(
        *("train", "--from", "a sweep", "-c", "own.yaml", "--batch-size", "auto"),
        *("--out", "m", "--no-report"),
    )
    assert said.code == 0, said.err
    assert "batch_s" not in said.err.partition("given here")[2].partition("\n")[0]
    train = yaml.safe_load((tmp_path / "m" / "config.resolved.yaml").read_text())["train"]
    size = swept["recommendation"]["batch_size"]
    assert train["batch_size"] == (16 if wins else size)
    assert train["batch_schedule"] == ([[16, 0], [64, 1024]] if wins else None)
    assert json.loads(plain.out)["batch_sizes"] == ([16, 64] if wins else [size])


def test_the_summary_is_read_once(command, swept, monkeypatch):
    """It was read for the recommendation, for the rate's origin, and to compare the data."""
    paths = []
    monkeypatch.setattr(
        "streamtrain.report.run_files.read_summary",
        lambda path: paths.append(str(path)) or read_summary(path),
    )
    words = ("--batch-size", "50", "--max-rows", "64", "--out", "m", "--no-report")
    said = command("train", "--from", "a sweep", *words)
    assert (said.code, "(the sweep's for" in said.err) == (0, True)
    assert paths == ["a sweep/summary.json"]


def test_auto_and_a_schedule_together_are_refused(command, swept, tmp_path):
    """The schedule was trained, as if `auto` had not been given."""
    (tmp_path / "own.yaml").write_text("train: {batch_size: auto, batch_schedule: '8@0,32@99'}\n")
    flags = ("--batch-size", "auto", "--batch-schedule", "8@0,32@1k")
    for words, names in (
        (flags, ("--batch-size", "--batch-schedule")),
        (("-c", "own.yaml"), ("own.yaml:1", "own.yaml:1")),
    ):
        said = command("train", "--from", "a sweep", *words, "--dry-run")
        assert said.code == 2
        assert said.err == (
            f"error: {names[0]} auto takes the sizes that the sweep of --from recommends, and"
            f" {names[1]} gives others. Leave out one of them.\n"
        )
    unset = ("--batch-size", "auto", "--set", "train.batch_schedule=null", "--dry-run")
    assert command("train", "--from", "a sweep", *unset).code == 0


def test_no_schedule_is_the_constant_size_with_its_own_rate(command, swept, tmp_path):
    """The rate of a size that grew was said to be the sweep's for the default of 256 rows."""
    growing = {"batch_schedule": "16@0,64@1024", "learning_rate": 0.003, "wins": True}
    (tmp_path / "a sweep" / "summary.json").write_text(json.dumps(swept | {"growing": growing}))
    wanted = swept["recommendation"]
    for more, size in (((), wanted["batch_size"]), (("--batch-size", "16"), 16)):
        said = command(
            *("train", "--from", "a sweep", "--set", "train.batch_schedule=null", *more),
            *("--out", f"m{len(more)}", "--no-report"),
        )
        assert said.code == 0, said.err
        path = tmp_path / f"m{len(more)}" / "config.resolved.yaml"
        train = yaml.safe_load(path.read_text())["train"]
        rate = next(cell["lr"] for cell in swept["cells"] if cell["batch_size"] == size)
        assert (train["batch_size"], train["batch_schedule"], train["lr"]) == (size, None, rate)


def test_auto_trains_the_schedule_that_it_prints(command, tmp_path):
    data_gen.generate(tmp_path / "data", kind="linear", rows=4000, span_rows=1024, seed=1)
    flags = ("--max-rows", "300k", *QUICK)
    said = command("train", "data", "--batch-size", "auto", "--out", "auto", *flags)
    assert said.code == 0, said.err
    schedule = "32@0,64@131072,128@262144"
    assert f"batch sizes: --batch-schedule {schedule}\n" in said.err
    assert "at minibatch size 32, then 64, then 128, the held-out" in said.out.replace("\n", " ")
    given = command("train", "data", "--batch-schedule", schedule, "--out", "given", *flags)
    assert given.code == 0
    model = (tmp_path / "auto" / "model.safetensors").read_bytes()
    assert model == (tmp_path / "given" / "model.safetensors").read_bytes()
    planned = command("train", "data", "--batch-size", "auto", *flags, "--dry-run")
    assert f"--batch-schedule {schedule}" in planned.out


def test_a_folder_that_recommends_nothing_is_refused(command, swept, tmp_path):
    path = tmp_path / "a sweep" / "summary.json"
    swept["recommendation"] |= {"batch_size": None, "reason": "No size did better."}
    path.write_text(json.dumps(swept))
    said = command("train", "--from", "a sweep")
    assert (said.code, "recommends no size. No size did better." in said.err) == (2, True)
    path.write_text(json.dumps(swept | {"seconds": None}))
    said = command("train", "--from", "a sweep")
    assert (said.code, "this sweep did not finish" in said.err) == (2, True)
    path.write_text(json.dumps(swept | {"verb": "train"}))
    said = command("train", "--from", "a sweep")
    assert (said.code, "the folder of a finished sweep" in said.err) == (2, True)
    for text in ("{", "[]"):
        path.write_text(text)
        said = command("train", "--from", "a sweep")
        assert (said.code, "a sweep/summary.json: line 1: " in said.err) == (3, True)
    path.write_text('{"verb": "sweep", "cells": 1}')
    said = command("train", "--from", "a sweep")
    assert (said.code, "summary.json" in said.err) == (3, True)
    said = command("train", "--from", "nowhere")
    assert (said.code, "nowhere/summary.json cannot be read" in said.err) == (2, True)


def test_a_sweep_is_trained_on_from_another_folder(command, swept, tmp_path, monkeypatch):
    """The folder has other data under the same name, which must not be taken."""
    other = tmp_path / "other"
    data_gen.generate(other / "data", kind="linear", rows=1000, span_rows=512, seed=9)
    monkeypatch.chdir(other)
    said = command("train", "--from", "../a sweep", "--out", "model", "--no-report", "--json")
    assert said.code == 0, said.err
    assert f"data {tmp_path}/data, batch size" in said.err
    assert json.loads(said.out)["data"]["url"] == f"{tmp_path}/data"
    # a report that is made again names the run where it is now
    said = command("report", "../a sweep", "--json")
    assert json.loads(said.out)["recommendation"]["command"] == (
        "streamtrain train --from '../a sweep'"
    )
    (tmp_path / "data").rename(tmp_path / "moved")
    said = command("train", "--from", "../a sweep", "--out", "m2", "--no-report")
    assert said.code == 2
    assert f"the sweep read {tmp_path}/data, which is not there any more" in said.err
    assert said.err.rstrip().endswith("streamtrain train DATA --from '../a sweep'")
    said = command("train", "../moved", "--from", "../a sweep", "--out", "m2", "--no-report")
    assert said.code == 0, said.err


@pytest.mark.parametrize(
    ("source", "is_there"),
    [
        ("{}/here", True),
        ("{}/gone", False),
        ("{}/here@v3", True),
        ("{}/gone@v3", False),
        ("{}/gone/*.parquet", True),
        ("duckdb:{}/here?table=t", True),
        ("duckdb:{}/gone?table=t", False),
        ("duckdb:{}/gone?query=SELECT * FROM t", False),
        ("s3://bucket/gone", True),
    ],
)
def test_data_that_were_moved_are_named_whatever_their_kind(tmp_path, source, is_there):
    """Whether a glob still matches, and what a store has, is found out by reading it."""
    (tmp_path / "here").touch()
    path = Setting(source.format(tmp_path), "--from a")
    sweep = FinishedSweep("a", Mock())
    refuse_moved(None, {"data.path": path}, {})
    refuse_moved(sweep, {"data.path": path}, {"data.path": Setting("other", "DATA")})
    if is_there:
        refuse_moved(sweep, {"data.path": path}, {})
    else:
        with pytest.raises(ConfigError, match=r"^--from a: the sweep read .*DATA --from a$"):
            refuse_moved(sweep, {"data.path": path}, {})


def test_the_config_that_a_run_keeps_finds_its_data_from_another_folder(
    command, swept, tmp_path, monkeypatch
):
    evaluated = ("--eval-data", "data", "--max-rows", "2048", "--batch-size", "64")
    said = command("train", "data", *evaluated, *QUICK, "--out", "m")
    assert said.code == 0, said.err
    monkeypatch.chdir(tmp_path / "m")
    kept = yaml.safe_load((tmp_path / "m" / "config.resolved.yaml").read_text())["data"]
    assert kept["path"] == kept["eval_data"] == f"{tmp_path}/data"
    said = command("train", "-c", "config.resolved.yaml", "--out", "again", "--no-report", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["data"]["url"] == f"{tmp_path}/data"


def test_data_that_changed_since_the_sweep_are_named(command, swept, tmp_path):
    said = command("train", "--from", "a sweep", "--out", "same", "--max-rows", "64", "--no-report")
    assert "is not what the sweep" not in said.err
    shutil.rmtree(tmp_path / "data")
    data_gen.generate(tmp_path / "data", kind="linear", rows=10_000, span_rows=4096, seed=1)
    words = ("train", "--from", "a sweep", "--max-rows", "64", "--no-report")
    said = command(*words, "--out", "other")
    assert said.code == 0, said.err
    assert "not what the sweep in a sweep read: it had 20,000 rows then, and has 10,000" in said.err
    assert "is not what" not in command(*words, "--quiet", "--out", "quiet").err
    (tmp_path / "data").rename(tmp_path / "moved")
    assert "is not what" not in command(*words, "moved", "--out", "named").err


def test_a_sweep_has_no_model_and_the_error_says_how_to_get_one(command, swept):
    said = command("predict", "a sweep", "data", "--out", "p.csv")
    assert said.code == 3
    assert "no trained model here (model.json is missing)" in said.err
    assert "train one with `streamtrain train --from 'a sweep' --out MODEL`" in said.err
