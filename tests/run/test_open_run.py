"""Runs that are started together in one folder: each gets a folder of its own, or is refused."""

import os
from pathlib import Path

import pytest

import data_gen
from streamtrain import api
from streamtrain.cli.main import run
from streamtrain.config import make_config
from streamtrain.errors import ConfigError, DataError, ResourceError, RunInUse
from streamtrain.records import RunEnded, RunStarted
from streamtrain.report.run_files import read_records
from streamtrain.run import directory, open_run
from streamtrain.run.directory import RunDirectory
from tests.forked import run_together

SMALL = ("--no-report", "--holdout", "200", "--hidden", "4", "--memory", "64MiB", "-q")
TRAIN = ("train", "d", *SMALL, "--max-rows", "2000", "--batch-size", "64")
SWEEP = (
    *("sweep", "d", *SMALL, "--max-rows", "2000", "--batch-sizes", "64,256", "--lr-grid", "1"),
    *("--trials", "1", "--no-confirm", "--measure", "none"),
)


def _command(folder, barrier, words):
    os.chdir(folder)
    barrier.wait()
    return run(words)


@pytest.fixture
def together(forked, tmp_path):
    """`together(words, n)`: start the command in n processes at once; return how they ended."""
    data_gen.generate(tmp_path / "d", kind="linear", rows=2_000)

    def call(words, number):
        return run_together(forked, tmp_path, number, _command, words)

    return call


@pytest.mark.parametrize(("words", "number"), [(TRAIN, 3), (SWEEP, 2)], ids=["train", "sweep"])
def test_runs_started_together_take_the_next_number(together, words, number, tmp_path):
    ends = together(words, number)
    assert [(end.code, end.err) for end in ends] == [(0, "")] * number
    folders = sorted((tmp_path / "runs").iterdir())
    assert [folder.name.rpartition("-")[2] for folder in folders] == ["1", "2", "3"][:number]
    for folder in folders:
        records = read_records(folder / "events.jsonl")
        assert sum(isinstance(record, RunStarted) for record in records) == 1
        assert isinstance(records[-1], RunEnded)


@pytest.mark.parametrize(("words", "number"), [(TRAIN, 3), (SWEEP, 2)], ids=["train", "sweep"])
def test_one_of_the_runs_started_together_gets_a_given_folder(together, words, number, tmp_path):
    ends = together([*words, "--out", "one"], number)
    # on a busy machine one of them may come when the run is complete
    told = ("one: another process is using this run", "one is already complete")
    refused = [end for end in ends if any(words in end.err for words in told)]
    assert [end.code for end in ends if end not in refused] == [0]
    records = read_records(tmp_path / "one/events.jsonl")
    assert sum(isinstance(record, RunStarted) for record in records) == 1
    assert isinstance(records[-1], RunEnded)


@pytest.mark.parametrize("out", [None, "a/b"], ids=["automatic", "given"])
def test_a_run_that_is_refused_leaves_nothing_behind(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError), api.open_run("train", make_config({}), out, "auto") as opened:
        assert os.listdir(opened.out) == ["events.jsonl"]
        raise DataError("no such column")
    assert os.listdir(tmp_path) == []


def test_a_folder_of_the_user_stays(tmp_path):
    with RunDirectory(tmp_path / "out"):
        pass
    (tmp_path / "out").mkdir()
    with RunDirectory(tmp_path / "out"):
        pass
    assert os.listdir(tmp_path / "out") == []


def test_a_log_that_another_run_removes_is_not_used(tmp_path, monkeypatch):
    """A run that is refused removes its empty log after another run opened and before it locked."""
    with RunDirectory(tmp_path) as run:
        run.log(RunStarted())
    lock = directory.fcntl.flock

    def lock_late(file, how):
        os.unlink(tmp_path / "events.jsonl")
        lock(file, how)

    monkeypatch.setattr(directory.fcntl, "flock", lock_late)
    with pytest.raises(RunInUse):
        RunDirectory(tmp_path, resume=True)


def test_a_name_that_another_run_takes_meanwhile_is_passed_over(tmp_path, monkeypatch):
    """It was free when it was looked for."""
    names = [tmp_path / "1", tmp_path / "2"]
    monkeypatch.setattr(open_run, "_free_names", lambda verb: iter(names))
    with RunDirectory(names[0]), api.open_run("train", make_config({}), None, "never") as opened:
        assert opened.out == names[1]


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").write_text("a file")
    for resume in ("auto", "never"):
        with pytest.raises(ResourceError, match=r"runs/train-.*: cannot be written \(Not a dir"):
            api.open_run("train", make_config({}), None, resume)
    with (
        pytest.raises(ResourceError, match=r"runs/predict-.*: cannot be written"),
        open_run.new_folder("predict"),
    ):
        pass


def test_predictions_made_together_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_run.new_folder("predict") as one, open_run.new_folder("predict") as two:
        assert (one.name.rpartition("-")[2], two.name.rpartition("-")[2]) == ("1", "2")
        (two / "predictions.csv").write_text("row_id,prediction\n")
    assert os.listdir("runs") == [two.name]


def test_a_folder_of_another_run_is_named_by_resume(tmp_path):
    with pytest.raises(ConfigError, match="there is no run"):
        api.open_run("train", make_config({}), None, tmp_path)
