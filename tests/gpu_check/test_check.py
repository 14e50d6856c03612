"""The script of `make gpu-check`: limits, table and file. What it measures needs a GPU."""

import json
import os
import subprocess
import sys
import time
import zipfile
from contextlib import suppress

import psutil
import pytest

from tests.gpu_check import check
from tests.gpu_check.bundle import wanted
from tests.gpu_check.check import STEPS, Step, figures_of, main, run, steps, table


def step(code: str, seconds: float = 60, name: str = "a step") -> Step:
    return Step(name=name, seconds=seconds, command=[sys.executable, "-c", code])


@pytest.mark.parametrize(
    ("code", "seconds", "outcome", "figures"),
    [
        pytest.param("""print('note\\n{"rows/s": 2.5}')""", 60, "ok", {"rows/s": 2.5}, id="ok"),
        pytest.param(
            """print('{"a": 1}'); print('{"b": 2}'); print("{'no': 'JSON'}")""",
            60,
            "ok",
            {"a": 1, "b": 2},
            id="several lines",
        ),
        pytest.param(
            "raise OSError('no GPU')", 60, "failed", {"says": "OSError: no GPU"}, id="fails"
        ),
        pytest.param(
            """print('{"a": 1}', flush=True); import time; time.sleep(60)""",
            1.5,
            "too slow",
            {"a": 1},
            id="hangs, after a figure",
        ),
    ],
)
def test_a_step_ends_by_itself_or_at_its_limit(code, seconds, outcome, figures):
    result = run(step(code, seconds), dict(os.environ))
    assert (result.outcome, result.figures) == (outcome, figures)
    assert f"a step       {outcome:<9}" in table([result])


def test_what_a_step_started_ends_with_it():
    """A process that is left would compute beside the next step."""
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid"
    code = f"import json, subprocess, sys; print(json.dumps({{'pid': {child}}}))"
    pid = run(step(code), dict(os.environ)).figures["pid"]
    with suppress(psutil.NoSuchProcess):
        left = psutil.Process(pid)
        assert left.status() == psutil.STATUS_ZOMBIE or left.wait(5) is None


def test_a_step_gets_the_time_that_is_left_and_none_with_little():
    hangs = step("import time; time.sleep(60)", 50)
    assert run(hangs, dict(os.environ), 2.0).outcome == "no time"
    monotonic = time.monotonic()
    assert run(step("raise SystemExit(3)", 50), dict(os.environ), 6.0).outcome == "failed"
    assert time.monotonic() - monotonic < 6


def test_outcomes_of_tests_are_counted_as_far_as_they_came():
    output = """tests/a.py::test_one[x] PASSED [ 20%]
[gw1] [ 40%] FAILED tests/a.py::test_two
tests/b.py::test_three ERROR
FAILED tests/a.py::test_two - assert 1 == 2
"""
    assert figures_of(output, failed=False) == {
        "passed": 1,
        "failed": 2,
        "failed 1": "tests/a.py::test_two",
        "failed 2": "tests/b.py::test_three",
    }


def test_one_that_fails_costs_nothing_but_itself(tmp_path, monkeypatch, capsys):
    found = [step("raise SystemExit(3)"), step("""print('{"gpu": "H100", "copy": 3e12}')""")]
    monkeypatch.setattr(check, "steps", lambda *, dry: found)
    file = tmp_path / "found.json"
    assert main(["--json", str(file), "--wheels", str(tmp_path)]) == 1
    assert [entry["outcome"] for entry in json.loads(file.read_text())] == ["failed", "ok"]
    assert "3e+12" in capsys.readouterr().out
    found.pop(0)
    assert main(["--json", str(file), "--wheels", str(tmp_path)]) == 0


def test_results_so_far_are_written_when_the_script_is_killed(tmp_path, monkeypatch):
    def stop(ran, *arguments):
        if ran.name == "second":
            raise KeyboardInterrupt
        return run(ran, *arguments)

    monkeypatch.setattr(check, "run", stop)
    found = [step("""print('{"copy": 3e12}')"""), step("", name="second")]
    monkeypatch.setattr(check, "steps", lambda *, dry: found)
    file = tmp_path / "found.json"
    with pytest.raises(KeyboardInterrupt):
        main(["--json", str(file), "--wheels", str(tmp_path)])
    assert [entry["figures"] for entry in json.loads(file.read_text())] == [{"copy": 3e12}]


def test_without_a_gpu_it_ends_with_the_first_step_and_says_why(tmp_path, monkeypatch, capsys):
    found = [step("""print('{"stop": "no GPU"}')"""), step("raise SystemExit(3)")]
    monkeypatch.setattr(check, "steps", lambda *, dry: found)
    file = tmp_path / "found.json"
    assert main(["--json", str(file), "--wheels", str(tmp_path)]) == 1
    assert len(json.loads(file.read_text())) == 1
    assert "gpu-check: no GPU" in capsys.readouterr().err


def test_without_torch_it_says_so_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check, "LARGE", ("numpy", "no_such_torch"))
    monkeypatch.setattr(check, "run", None)
    assert main(["--wheels", str(tmp_path)]) == 2
    assert "has no no_such_torch. Name a Python that has" in capsys.readouterr().err


def test_all_steps_take_nine_minutes_at_most():
    found = steps(dry=True)
    assert [each.name for each in found] == [name for name, _ in STEPS]
    assert sum(each.seconds for each in found) <= check.TOTAL_SECONDS == 540
    assert ["pytest" in each.command for each in found].count(True) == 1


def test_the_bundle_holds_what_the_machine_may_lack():
    names = {line.split("==")[0] for line in wanted()}
    assert {"pydantic", "zarr", "cyclopts", "dask", "altair", "pytest", "numba-cuda"} <= names
    assert "typing-extensions" in names, "torch needs it, too, but pydantic a later one"
    assert not {"torch", "numba", "llvmlite", "numpy", "streamtrain", "vl-convert-python"} & names


def make_wheel(folder, name, version, files):
    info = f"{name}-{version}.dist-info"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files |= {
        f"{info}/METADATA": about,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


def test_wheels_that_are_missing_are_installed_and_their_pth_files_read(tmp_path):
    files = {"a.pth": "import no_such_redirector", "no_such_redirector.py": "READ = 1"}
    make_wheel(tmp_path, "no_such_thing", "1", files)
    (tmp_path / "numpy-2.0-cp312-none-any.whl").touch()  # installed, in a later version
    (tmp_path / "pytest-999.0-py3-none-any.whl").touch()  # installed, and any version serves
    site = check.with_wheels(tmp_path, tmp_path / "site")
    code = "import sys; print('no_such_redirector' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=check.make_environment(site),
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "True\n"


@pytest.mark.parametrize(
    ("wheel", "installed"),
    [
        ("numpy-2.0-cp312-none-any.whl", True),
        ("numpy-999.0-cp312-none-any.whl", False),
        ("pytest-999.0-py3-none-any.whl", True),
        ("no_such_thing-1-py3-none-any.whl", False),
    ],
)
def test_an_older_package_is_replaced_unless_any_version_serves(tmp_path, wheel, installed):
    assert check._is_installed(tmp_path / wheel) == installed


def test_nothing_is_installed_where_nothing_is_missing(tmp_path):
    (tmp_path / "numpy-2.0-cp312-none-any.whl").touch()
    assert check.with_wheels(tmp_path, tmp_path / "site") is None


def test_wheels_for_another_python_are_refused_in_words(tmp_path, capsys):
    (tmp_path / "no_such_thing-1-cp27-cp27m-win32.whl").touch()
    assert main(["--wheels", str(tmp_path), "--json", str(tmp_path / "found.json")]) == 2
    assert "do not install in Python 3." in capsys.readouterr().err


def test_the_toolkit_is_named_where_nothing_names_it(tmp_path, monkeypatch):
    """Numba finds libnvvm by these variables only."""
    monkeypatch.setattr(check, "TOOLKIT", tmp_path)
    for name in check.TOOLKIT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert check.make_environment(None)["CUDA_HOME"] == str(tmp_path)
    monkeypatch.setenv("CUDA_PATH", "elsewhere")
    assert "CUDA_HOME" not in check.make_environment(None)
    monkeypatch.delenv("CUDA_PATH")
    monkeypatch.setattr(check, "TOOLKIT", tmp_path / "none")
    assert "CUDA_HOME" not in check.make_environment(None)
