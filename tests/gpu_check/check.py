"""What a GPU does with this project, in nine minutes at most: `make gpu-check`.

Each step is a process with its own limit of time, so that one that hangs or fails does not stop the
others. A step prints figures as it finds them, so that one that is cut off keeps what it found.
After each step the table so far is printed, and `gpu-check.json` written. Without a network,
packages that the machine lacks come from the folder of wheels that `make gpu-bundle` collects. Only
Python's standard library is used here, so that it runs before they are installed.

`--dry` runs small sizes on the CPU: it tests the script and measures nothing.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

#: What is too large for the folder of wheels: PyTorch with CUDA has gigabytes.
LARGE = ("torch", "numba", "numpy", "scipy", "pyarrow")

#: Packages of which any version serves. Of the others, one older than its wheel is replaced.
ANY_VERSION = ("numba-cuda", "cuda-", "pytest", "hypothesis", "iniconfig", "pluggy")

#: Where NVIDIA's toolkit is installed by default. Numba looks for it in these variables only.
TOOLKIT, TOOLKIT_VARIABLES = Path("/usr/local/cuda"), ("CUDA_HOME", "CUDA_PATH")

#: Test files that run on a GPU, by name: collecting all would need every package of the tests.
GPU_TESTS = (
    "tests/kernels/test_cuda_minibatch.py",
    "tests/stream/test_pinned_copy.py",
    "tests/training/test_cuda_engine.py",
    "tests/training/test_cuda_graphs.py",
    "tests/training/test_device_feed.py",
)

#: Steps in the order in which they run, what is needed most first, and the most seconds of each.
#: "tests" are the test files above, the others are parts of measure.py.
STEPS = (
    ("facts", 50),
    ("ceilings", 20),
    ("fused", 140),
    ("auto", 55),
    ("tests", 70),
    ("races", 50),
    ("passes", 40),
    ("steps", 45),
    ("runs", 70),
)

#: The most seconds of all together. A step gets what is left, and none with less than the least.
TOTAL_SECONDS, LEAST_SECONDS = 540, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A command that prints figures, one JSON object a line, or the outcomes of pytest -v."""

    name: str
    seconds: float
    command: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a step found. `outcome`: ok, failed, too slow, or no time."""

    name: str
    outcome: str
    seconds: float
    figures: dict[str, Any]
    output: str


def steps(*, dry: bool) -> list[Step]:
    """Return the steps in the order in which they run."""
    python, dry_flag = sys.executable, ["--dry"] if dry else []
    pytest = [python, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-m", "gpu", *GPU_TESTS]
    if importlib.util.find_spec("xdist"):  # kernels take long to compile
        pytest += ["-n", "4", "--dist", "worksteal"]
    measure = [python, "-m", "tests.gpu_check.measure"]
    return [
        Step(
            name=name,
            seconds=seconds,
            command=pytest if name == "tests" else [*measure, name, *dry_flag],
        )
        for name, seconds in STEPS
    ]


def run(step: Step, environment: dict[str, str], most_seconds: float = TOTAL_SECONDS) -> Result:
    """Run a step up to its limit of time, and `most_seconds` at most; leave no process behind."""
    started, limit = time.perf_counter(), min(step.seconds, most_seconds)
    if limit < LEAST_SECONDS and limit < step.seconds:
        return Result(name=step.name, outcome="no time", seconds=0.0, figures={}, output="")
    with tempfile.TemporaryFile("w+", errors="replace") as out:
        process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        outcome = "too slow"
        try:
            outcome = "ok" if process.wait(limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            pass
        finally:
            # what it started, too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0)
        output = out.read()
    return Result(
        name=step.name,
        outcome=outcome,
        seconds=time.perf_counter() - started,
        figures=figures_of(output, failed=outcome != "ok"),
        output=output[-8000:],
    )


def figures_of(output: str, *, failed: bool) -> dict[str, Any]:
    """Return the figures that a step printed; of one that failed, also its last line."""
    figures: dict[str, Any] = {}
    outcomes: dict[str, str] = {}
    for line in output.splitlines():
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                figures.update(json.loads(line))
        test = re.search(r"\btests/\S+::\S+", line)
        word = re.search(r"\b(PASSED|FAILED|ERROR)\b", line)
        if test and word:
            outcomes[test[0]] = word[0]
    if outcomes:
        bad = [test for test, word in outcomes.items() if word != "PASSED"]
        figures |= {"passed": len(outcomes) - len(bad), "failed": len(bad)}
        figures |= {f"failed {number}": test for number, test in enumerate(bad, 1)}
    lines = output.strip().splitlines()
    if lines and (failed or not figures) and not lines[-1].startswith("{"):
        figures["says"] = lines[-1][-160:]
    return figures


def table(results: list[Result]) -> str:
    """Return one line per step with its outcome, and one per figure."""
    lines: list[str] = []
    for result in results:
        lines.append(f"{result.name:<12} {result.outcome:<9} {result.seconds:5.0f} s")
        lines += [f"    {name:<44} {_shown(value)}" for name, value in result.figures.items()]
    return "\n".join(lines)


def _shown(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def with_wheels(bundle: Path, target: Path) -> str | None:
    """Install what this Python lacks from a folder of wheels; return the folder to import from.

    Raises RuntimeError where pip cannot install them.
    """
    missing = [wheel for wheel in sorted(bundle.glob("*.whl")) if not _is_installed(wheel)]
    if not missing:
        return None
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    pip += ["--no-compile", "--target", str(target)]
    done = subprocess.run([*pip, *map(str, missing)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"])[-1]
        version = sys.version.split()[0]
        raise RuntimeError(f"the wheels of {bundle} do not install in Python {version}: {said}")
    if list(target.glob("*.pth")):
        # numba-cuda takes its place by such a file, which Python reads in folders of sites only.
        (target / "sitecustomize.py").write_text(f"import site\nsite.addsitedir({str(target)!r})\n")
    return str(target)


def _is_installed(wheel: Path) -> bool:
    """Whether a package of a wheel's name is installed, in its version or a later one."""
    name, wanted = wheel.name.split("-")[:2]
    name = name.replace("_", "-").lower()
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return name.startswith(ANY_VERSION) or _numbers(found) >= _numbers(wanted)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version.split("+")[0])]


def missing_packages() -> list[str]:
    """Return what this Python lacks and the folder of wheels cannot hold."""
    return [name for name in LARGE if importlib.util.find_spec(name) is None]


def make_environment(found: str | None) -> dict[str, str]:
    """Return the environment of the steps, which import from the folder `found` first."""
    paths = [found, str(ROOT), os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if TOOLKIT.is_dir() and not any(os.environ.get(name) for name in TOOLKIT_VARIABLES):
        environment |= dict.fromkeys(TOOLKIT_VARIABLES, str(TOOLKIT))
    return environment


def run_all(found: list[Step], environment: dict[str, str], file: Path, started: float) -> bool:
    """Run the steps; print and write the results after each. Return whether all succeeded.

    A step ends the others by a figure of the name "stop", its reason.
    """
    results: list[Result] = []
    for step in found:
        left = TOTAL_SECONDS - (time.monotonic() - started)
        print(f"{step.name} (at most {min(step.seconds, left):.0f} s)", file=sys.stderr, flush=True)
        results.append(run(step, environment, left))
        print(table(results[-1:]), flush=True)
        part = file.with_name(f"{file.name}.part")
        part.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
        part.replace(file)
        if "stop" in results[-1].figures:
            print(f"gpu-check: {results[-1].figures['stop']}", file=sys.stderr)
            return False
    return all(result.outcome == "ok" for result in results)


def main(arguments: list[str]) -> int:
    """Run all steps. Return 0 when each succeeded, and 2 when packages are missing."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="small sizes on the CPU")
    parser.add_argument("--wheels", type=Path, default=ROOT / "gpu-bundle")
    parser.add_argument("--json", type=Path, default=Path("gpu-check.json"))
    options = parser.parse_args(arguments)
    if missing := missing_packages():
        print(
            f"gpu-check: {sys.executable} has no {', '.join(missing)}. Name a Python that has"
            " PyTorch for CUDA and these: make gpu-check GPU_PYTHON=...",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        try:
            environment = make_environment(with_wheels(options.wheels, Path(folder)))
        except RuntimeError as error:
            print(f"gpu-check: {error}", file=sys.stderr)
            return 2
        succeeded = run_all(steps(dry=options.dry), environment, options.json, started)
    print(f"written to {options.json}")
    return 0 if succeeded else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
