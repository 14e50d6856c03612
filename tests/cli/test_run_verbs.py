"""Ctrl-C once: a checkpoint, and a report of what was seen; the same words again go on."""

import json
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

import data_gen
from streamtrain.cli import run_verbs as cli_run

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
    """`stop_at(7)`: the progress of the next run presses Ctrl-C when it sees the seventh
    evaluation; 0: never.
    """

    def arm(number: int) -> None:
        seen = []

        @contextmanager
        def pressed(mode, *, verbose=False):
            def see(record):
                seen.extend([record] if record["event"] == "evaluation" else [])
                if seen and len(seen) == number:
                    seen.append(None)
                    signal.raise_signal(signal.SIGINT)

            yield see

        monkeypatch.setattr(cli_run, "progress", pressed)

    return arm


@pytest.mark.parametrize("out", [("--out", "m"), ()], ids=["a folder of its own", "runs/"])
def test_ctrl_c_leaves_a_report_and_the_same_words_go_on(
    command, stop_at, monkeypatch, tmp_path, out
):
    data_gen.generate(tmp_path / "d", kind="linear", rows=12_000, span_rows=4096)
    monkeypatch.setattr("streamtrain.run.timing.REGION_SECONDS", 0.004)
    stop_at(7)
    said = command("train", "d", *FLAGS, *out)
    folder = Path("m") if out else next(Path("runs").iterdir())
    assert (said.code, said.out) == (130, "")
    assert said.err.splitlines() == [
        "SIGINT: stopping where the run can be saved next; a second one stops at once",
        f"{folder} was saved; go on with --resume {folder}",
        "writing the report of what was seen; Ctrl-C leaves it out",
        f"report so far: {folder}/report.html",
        "interrupted",
    ]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["seconds"] is None
    assert "The run did not end" in summary["warnings"][0]["text"]
    assert "the run did not end" in (folder / "report.html").read_text()
    stop_at(0)
    said = command("train", "d", *FLAGS, *out)
    assert said.code == 0, said.err
    assert json.loads((folder / "summary.json").read_text())["seconds"] > 0
    # it went on where it was, though a report lay there
    assert len(list(Path("runs").glob("*"))) == (not out)
