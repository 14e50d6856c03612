"""docs/faults.md, row 1: a run that is killed anywhere and resumed equals an unbroken run.

It is killed with SIGKILL, and resumed until it is done. Weights, records (losses, rows, steps,
outcomes) and receipts are compared bit for bit; each row was trained on exactly once per epoch.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamtrain.training.until_flat import LEAST_ROWS
from tests.faults.killing import print_killing
from tests.faults.run_output import left_over, timeless_records, weights
from tests.forked import run_forked

ROOT = Path(__file__).parents[2]
ONE_THREAD = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}

#: Verb, format, config, kills at random times (five times as many if slow), and kills of each of
#: the three kinds at a call.
CASES = {
    "train, Parquet, fused engine": (
        "train",
        "parquet",
        {"train": {"batch_size": 16, "epochs": 6, "engine": "fused"}},
        2,
        1,
    ),
    "train, Parquet, minibatches that grow": (
        "train",
        "parquet",
        {"train": {"batch_schedule": "8@0,32@5k,100@20k,2500@40k", "epochs": 6}},
        1,
        1,
    ),
    "train, Parquet, until flat": (
        "train",
        "parquet",
        {"train": {"lr": 0.02}, "model": {"hidden": []}},
        2,
        1,
    ),
    "train, Zarr, torch engine": (
        "train",
        "zarr",
        {"train": {"batch_size": 128, "epochs": 4, "engine": "torch", "compile": "off"}},
        1,
        1,
    ),
    "sweep, Parquet": (
        "sweep",
        "parquet",
        {
            "train": {"optimizer": "sgd"},
            "sweep": {
                "batch_sizes": [32, 256, 700],
                "lr_grid": 2,
                "trials": 2,
                "confirm": False,
                "measure": [],
            },
        },
        1,
        1,
    ),
    "sweep, Parquet, passes at once": (
        "sweep",
        "parquet",
        {
            "train": {"engine": "fused"},
            "sweep": {
                "batch_sizes": [32, 700],
                "lr_grid": 2,
                "trials": 2,
                "extend_grid": False,
                "confirm": False,
                "measure": [],
            },
        },
        2,
        1,
    ),
}


def make_task(name: str, shards: dict[str, Path], folder: Path) -> dict:
    """Return the task of a case for `print_killing`."""
    verb, format, parts, kills, renames = CASES[name]
    config = {
        "data": {"path": str(shards[format]), "holdout": 1000},
        "order": {"window_rows": 2048},
        "model": {"hidden": [8, 8]},
        "fetch": {"memory": "64MiB", "readers": 2},
        **parts,
    }
    return {
        "verb": verb,
        "config": config,
        "whole": str(folder / "whole"),
        "out": str(folder / "out"),
        "kills": kills,
        "renames": renames,
        "at once": name.endswith("at once"),
        # Other moments in every run; the seed is shown on failure.
        "seed": random.SystemRandom().randrange(2**32),
    }


#: test_resume.py interrupts these between two steps in the default run.
SLOW = ("train, Parquet, minibatches that grow", "train, Parquet, until flat")


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CASES],
)
def test_a_run_that_is_killed_and_resumed_is_the_unbroken_run(
    forked, shards, tmp_path, name, times
):
    task = make_task(name, shards, tmp_path)
    task["kills"] *= times
    done = run_forked(forked, tmp_path, print_killing, task)
    assert done.code == 0, f"{task}\n{done.err}"
    result = json.loads(done.out)
    assert result["broken"] == 0, f"{task}\n{result}"
    assert result["finished"] >= 1, f"{task}\n{result}"
    assert result["killed"] == task["kills"] + 3 * task["renames"], f"{task}\n{result}"
    passes = [
        record for record in timeless_records(Path(task["whole"])) if record["event"] == "pass"
    ]
    for record in passes:
        assert record["receipt"]["count"] == record["rows_read"]
    train, rows = task["config"]["train"], {record["receipt"]["count"] for record in passes}
    if task["verb"] == "train" and "epochs" not in train:
        assert min(rows) >= LEAST_ROWS
    else:
        assert rows == {train.get("epochs", 1) * (12_000 - 1000)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "format", [pytest.param("parquet", id="Parquet"), pytest.param("zarr", id="Zarr")]
)
def test_the_command_itself_killed_twenty_times(shards, tmp_path, format):
    """The same with whole processes, from the first import to the report."""
    words = (
        "train",
        str(shards[format]),
        "--batch-size",
        "4",
        "--epochs",
        "200",
        "--holdout",
        "1000",
        "--window-rows",
        "2048",
        "--hidden",
        "8,8",
        "--memory",
        "64MiB",
        "--progress",
        "none",
        "--resume",
        "auto",
    )

    def start(out: Path) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "streamtrain", *words, "-o", str(out)],
            cwd=ROOT,
            env=ONE_THREAD,
            stdout=subprocess.DEVNULL,
        )

    started = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    run_seconds = time.monotonic() - started
    kills, chance = 0, random.Random(format)
    while kills < 20:
        process = start(tmp_path / "out")
        time.sleep(chance.uniform(0.1, 1) * min(run_seconds, 8))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if (tmp_path / "out" / "summary.json").exists():
            (tmp_path / "out").rename(tmp_path / f"done-{kills}")
    assert start(tmp_path / "out").wait() == 0
    for out in (tmp_path / "out", *tmp_path.glob("done-*")):
        assert timeless_records(out) == timeless_records(tmp_path / "whole")
        assert weights(out) == weights(tmp_path / "whole")
        assert left_over(out) == []
