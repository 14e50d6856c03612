"""Ctrl-C once: a checkpoint and a report so far; the same command resumes the run."""

import json
import re
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import data_gen
from streamtrain.cli import run_verbs
from streamtrain.records import Evaluation

FLAGS = (
    "--batch-size",
    "64",
    "--epochs",
    "4",
    "--hidden",
    "4",
    "--memory",
    "1GiB",
    "--device",
    "cpu",
    "--set",
    "eval.first_row=256",
)


@pytest.fixture
def stop_at(monkeypatch):
    """`stop_at(7)` presses Ctrl-C in the next run at its seventh evaluation; `stop_at(0)` never."""

    def arm(number: int) -> None:
        evaluations = 0

        @contextmanager
        def interrupting_progress(mode, *, verbose=False):
            def on_record(record):
                nonlocal evaluations
                if isinstance(record, Evaluation):
                    evaluations += 1
                    if evaluations == number:
                        signal.raise_signal(signal.SIGINT)

            yield on_record

        monkeypatch.setattr(run_verbs, "progress", interrupting_progress)

    return arm


@pytest.mark.parametrize("out", [("--out", "m"), ()], ids=["a folder of its own", "runs/"])
def test_ctrl_c_leaves_a_report_and_the_same_words_go_on(
    command, stop_at, monkeypatch, tmp_path, out
):
    data_gen.generate(tmp_path / "d", kind="linear", rows=12_000, span_rows=4096)
    stop_at(7)
    said = command("train", "d", *FLAGS, *out)
    folder = Path("m") if out else next(Path("runs").iterdir())
    assert (said.code, said.out) == (130, "")
    assert said.err.splitlines() == [
        "SIGINT: stopping where the run can be saved next; a second one stops at once",
        f"{folder} was saved; resume with --resume {folder}",
        "writing the report so far; Ctrl-C skips it",
        f"report so far: {folder}/report.html",
        "interrupted",
    ]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["seconds"] is None
    assert "The run did not end" in summary["warnings"][0]["text"]
    assert "the run did not end" in (folder / "report.html").read_text()
    stop_at(0)
    with monkeypatch.context() as killed:  # after the last record, before the models
        killed.setattr("streamtrain.api.save_model", lambda *_, **__: 1 / 0)
        assert command("train", "d", *FLAGS, *out).code == 1
    assert not (folder / "summary.json").exists(), "the report so far would count as the end"
    said = command("train", "d", *FLAGS, *out)
    assert said.code == 0, said.err
    assert (folder / "model.safetensors").exists()
    assert json.loads((folder / "summary.json").read_text())["seconds"] > 0
    # The run was resumed in its folder, although a report was there already.
    assert len(list(Path("runs").glob("*"))) == (not out)


def test_a_run_on_a_csv_resumes_and_refuses_a_changed_one(command, stop_at, monkeypatch, tmp_path):
    rows = np.random.default_rng(0).normal(size=(12_000, 2)).round(3)
    lines = [f"{a},{b},{round(2 * a - b, 3)}" for a, b in rows.tolist()]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,y", *lines]))
    monkeypatch.setenv("STREAMTRAIN_TABLES", str(tmp_path / "tables"))
    stop_at(7)
    assert command("train", "t.csv", *FLAGS, "--out", "m", "--no-report").code == 130
    stop_at(0)
    (tmp_path / "t.csv").write_text("\n".join(["a,b,y", *lines[:-1], "1,1,1"]))
    said = command("train", "--resume", "m", "--no-report")
    assert said.code == 2
    assert re.search("m cannot be resumed: .*the data was", said.err), said.err
    (tmp_path / "t.csv").write_text("\n".join(["a,b,y", *lines]))
    shutil.rmtree(tmp_path / "tables")
    said = command("train", "--resume", "m", "--no-report")
    assert said.code == 0, said.err
    assert json.loads((tmp_path / "m/summary.json").read_text())["seconds"] > 0


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_what_workers_cannot_do_is_refused_before_anything_starts(command, tmp_path, more):
    """Neither the data nor a scheduler is looked for, and no folder is left."""
    words = ("none", "--batch-size", "auto", "--scheduler", "tcp://127.0.0.1:1", "--out", "m")
    said = command("train", *words, *more)
    assert said.code == 2
    assert said.err.startswith("error: --batch-size auto is for one machine")
    assert said.err.count("\n") == 1
    assert not said.out
    assert not list(tmp_path.iterdir())
