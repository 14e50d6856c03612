"""The script of `make gpu-check`: limits, table and file. What it measures needs a GPU."""

import json
import os
import sys

import pytest

from tests.gpu_check import check
from tests.gpu_check.bundle import wanted
from tests.gpu_check.check import PARTS, TEST_SECONDS, Step, main, run, steps, table


def step(code: str, seconds: float = 60) -> Step:
    return Step(name="a step", seconds=seconds, command=[sys.executable, "-c", code])


@pytest.mark.parametrize(
    ("code", "seconds", "outcome", "figures"),
    [
        pytest.param("""print('note\\n{"rows/s": 2.5}')""", 60, "ok", {"rows/s": 2.5}, id="ok"),
        pytest.param(
            "raise OSError('no GPU')", 60, "failed", {"says": "OSError: no GPU"}, id="fails"
        ),
        pytest.param("import time; time.sleep(60)", 0.1, "too slow", {}, id="hangs"),
    ],
)
def test_a_step_ends_by_itself_or_at_its_limit(code, seconds, outcome, figures):
    result = run(step(code, seconds), dict(os.environ))
    assert (result.outcome, result.figures) == (outcome, figures)
    assert f"a step       {outcome:<9}" in table([result])


def test_one_that_fails_costs_nothing_but_itself(tmp_path, monkeypatch, capsys):
    found = [step("raise SystemExit(3)"), step("""print('{"gpu": "H100", "copy": 3e12}')""")]
    monkeypatch.setattr(check, "steps", lambda *, dry: found)
    file = tmp_path / "found.json"
    assert main(["--json", str(file), "--wheels", str(tmp_path)]) == 1
    assert [entry["outcome"] for entry in json.loads(file.read_text())] == ["failed", "ok"]
    assert "3e+12" in capsys.readouterr().out
    found.pop(0)
    assert main(["--json", str(file), "--wheels", str(tmp_path)]) == 0


def test_all_steps_take_about_six_minutes():
    found = steps(dry=True)
    assert len(found) == len(PARTS) + 1
    assert sum(each.seconds for each in found) <= 400
    assert any(each.seconds == TEST_SECONDS and "gpu" in each.command for each in found)


def test_the_bundle_holds_what_the_machine_may_lack():
    names = {line.split("==")[0] for line in wanted()}
    assert {"pydantic", "zarr", "cyclopts", "dask", "altair"} <= names
    assert not {"torch", "numba", "llvmlite", "numpy", "streamtrain"} & names


def test_only_wheels_that_are_missing_are_installed(tmp_path, monkeypatch):
    installed = []
    monkeypatch.setattr(
        check.subprocess, "run", lambda command, **_options: installed.extend(command[-1:])
    )
    for name in ("numpy-2.0-cp312-none-any.whl", "no_such_thing-1-py3-none-any.whl"):
        (tmp_path / name).touch()
    assert check.with_wheels(tmp_path, tmp_path / "site") == str(tmp_path / "site")
    assert installed == [str(tmp_path / "no_such_thing-1-py3-none-any.whl")]
    (tmp_path / "no_such_thing-1-py3-none-any.whl").unlink()
    assert check.with_wheels(tmp_path, tmp_path / "site") is None
