"""What a GPU does with this project, in about six minutes: `make gpu-check`.

Each step is a process with its own limit of time, so that one that hangs or fails does not stop the
others. At the end come one table and `gpu-check.json`. Without a network, packages that the machine
lacks come from the folder of wheels that `make gpu-bundle` collects. Only Python's standard library
is used here, so that it runs before they are installed.

`--dry` runs small sizes on the CPU: it tests the script and measures nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

#: Test files that run on a GPU, by name: collecting all would need every package of the tests.
GPU_TESTS = (
    "tests/kernels/test_cuda_minibatch.py",
    "tests/stream/test_pinned_copy.py",
    "tests/training/test_cuda_engine.py",
    "tests/training/test_cuda_graphs.py",
    "tests/training/test_device_feed.py",
)

#: Parts of measure.py, in order, and the most seconds that each may take: 340 together.
PARTS = (
    ("facts", 20),
    ("ceilings", 25),
    ("steps", 80),
    ("population", 60),
    ("sharing", 60),
    ("train", 45),
    ("sweep", 50),
)
TEST_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A command that prints figures as its last line, one JSON object, or nothing."""

    name: str
    seconds: float
    command: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a step found. `outcome`: ok, failed, or too slow."""

    name: str
    outcome: str
    seconds: float
    figures: dict[str, Any]
    output: str


def steps(*, dry: bool) -> list[Step]:
    """Return the steps in the order in which they run: what is needed most comes first."""
    python, dry_flag = sys.executable, ["--dry"] if dry else []
    parts = [
        Step(
            name=name,
            seconds=seconds,
            command=[python, "-m", "tests.gpu_check.measure", name, *dry_flag],
        )
        for name, seconds in PARTS
    ]
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", *GPU_TESTS]
    tests = Step(name="gpu tests", seconds=TEST_SECONDS, command=pytest)
    return [*parts[:1], tests, *parts[1:]]


def run(step: Step, environment: dict[str, str]) -> Result:
    """Run a step up to its limit of time."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            step.command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            outcome = "ok" if process.wait(step.seconds) == 0 else "failed"
        except subprocess.TimeoutExpired:
            outcome = "too slow"
            process.kill()
            process.wait()
        out.seek(0)
        output = out.read()
    lines = [line for line in output.splitlines() if line.startswith("{")]
    figures: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    if not figures and output.strip():
        figures = {"says": output.strip().splitlines()[-1][-160:]}
    seconds = time.perf_counter() - started
    return Result(
        name=step.name, outcome=outcome, seconds=seconds, figures=figures, output=output[-4000:]
    )


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
    """Install what this Python lacks from a folder of wheels; return the folder to import from."""
    wheels = sorted(bundle.glob("*.whl"))
    missing = [wheel for wheel in wheels if not _is_installed(wheel.name.split("-")[0])]
    if not missing:
        return None
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(target), *map(str, missing)], check=True)
    return str(target)


def _is_installed(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(name.replace("_", "-"))
    except PackageNotFoundError:
        return False
    return True


def main(arguments: list[str]) -> int:
    """Run all steps; return 0 when each succeeded."""
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="small sizes on the CPU")
    parser.add_argument("--wheels", type=Path, default=ROOT / "gpu-bundle")
    parser.add_argument("--json", type=Path, default=Path("gpu-check.json"))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        found = with_wheels(options.wheels, Path(folder))
        paths = [str(ROOT), *filter(None, [found, os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        results: list[Result] = []
        for step in steps(dry=options.dry):
            print(f"{step.name} (at most {step.seconds:.0f} s)", file=sys.stderr, flush=True)
            results.append(run(step, environment))
    print(table(results))
    options.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    print(f"written to {options.json}")
    return 0 if all(result.outcome == "ok" for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
