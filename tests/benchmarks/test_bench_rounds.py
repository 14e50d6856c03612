"""The benchmark's rounds: one document of several, false alarms, and processes that fail."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import all as every
from tests.benchmarks import compare_files
from tests.benchmarks.bench_file import BenchFile, Figure, Machine, Part
from tests.benchmarks.bench_rounds import join_turns, over_rounds, pool

MACHINE = Machine(cpu="Test CPU", cores=2, memory_bytes=24 * 2**30, system="Linux", versions={})


def run_python(code: str, folder: Path, seconds: float = 30.0, rounds: int = 1) -> Part:
    """Measure a part whose command is a line of Python."""
    job = every.Job("one", lambda _: [sys.executable, "-c", code], lambda document: (), pool)
    part = every.Rounds(job, folder)
    for _ in range(rounds):
        part.run(seconds)
    return part.part()


def test_a_part_that_fails_says_why_and_is_not_run_again(tmp_path):
    assert run_python("print('{}')", tmp_path).reason == ""
    # the second round finds the folder that the first one made
    once = f"import os, sys; os.mkdir({str(tmp_path / 'x')!r}); print('{{}}')"
    failed = run_python(f"{once}", tmp_path, rounds=4)
    assert failed.reason.startswith("exit 1: FileExistsError")
    assert (failed.rounds, failed.document) == (1, {})
    failed = run_python("import sys; sys.exit('error: no rows')", tmp_path)
    assert (failed.reason, failed.rounds, failed.document) == ("exit 1: error: no rows", 0, None)


def test_rounds_are_pooled_into_one_document():
    rounds = [
        {
            "reasons": {},
            "engine": name,
            "valid": True,
            "threads": threads,
            "none": None,
            "cells": [{"rate": rate, "intervals": {"rate": {"value": rate, "lo": 0, "n": 2}}}],
        }
        for name, threads, rate in (("a", 1, 2.0), ("b", 2, 4.0), ("b", 2, 8.0))
    ]
    rounds[1]["reasons"] = {"loop": "no memory"}
    pooled = pool(rounds)
    (cell,) = pooled.pop("cells")
    assert pooled == {
        "reasons": {"loop": "no memory"},
        "engine": "b",
        "valid": True,
        "threads": 2,
        "none": None,
    }
    assert cell["rate"] == pytest.approx(4.0)
    # Student's interval with 2 degrees of freedom on the logarithms, whose deviation is log 2
    reach = 2 ** (4.302653 / 3**0.5)
    found = cell["intervals"]["rate"]
    assert (found["value"], found["lo"], found["hi"]) == pytest.approx((4, 4 / reach, 4 * reach))
    assert found["n"] == 3
    with pytest.raises(ValueError, match="zip"):
        pool([{"cells": [1]}, {"cells": [1, 2]}])
    assert join_turns([{"us": [[1]]}, {"us": [[2]]}]) == {"us": [[1], [2]]}


def test_two_runs_of_one_program_differ_in_some_figure_with_a_twentieth():
    """Forty figures of five rounds each, without a true difference, 400 times."""
    random = np.random.default_rng(7)
    alarms = 0
    for _ in range(400):
        logs = random.normal(0.0, 0.1, (2, 40, 5))
        files = []
        for rounds in np.exp(logs):
            figures = tuple(
                Figure(
                    name=f"stream/{number}",
                    estimate=over_rounds(values.tolist()),
                    unit="rows/s",
                    better="more",
                )
                for number, values in enumerate(rounds)
            )
            part = Part(name="stream", command="", rounds=5, seconds=1.0, figures=figures)
            files.append(
                BenchFile(date="2026", commit=None, machine=MACHINE, quick=False, parts=(part,))
            )
        verdicts = {one.verdict for one in compare_files.compare_files(*files)}
        alarms += bool(verdicts - {"same"})
    # a binomial of 400 trials at 0.05 exceeds 33 with 0.1 %
    assert alarms <= 33


def test_a_process_that_takes_too_long_is_ended_with_its_children(tmp_path):
    started = tmp_path / "pid"
    code = (
        "import pathlib, subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"pathlib.Path({str(started)!r}).write_text(str(child.pid)); time.sleep(60)"
    )
    assert run_python(code, tmp_path, 4.0).reason == "it took more than 4 s"
    process = Path("/proc") / started.read_text() / "stat"
    for _ in range(100):
        # a process without a parent may stay as a zombie (Z) until init looks at it
        if not process.exists() or process.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the child of a part that was stopped still runs")
