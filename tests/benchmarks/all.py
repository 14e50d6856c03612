"""Every benchmark whose figures README.md gives, into one file: `make bench OUT=file.json`.

    python -m tests.benchmarks.all --out runs/bench.json
    python -m tests.benchmarks.all --out runs/quick.json --quick    # small inputs, no true speeds
    python -m tests.benchmarks.bench_markdown runs/bench.json       # the tables of README.md
    python -m tests.benchmarks.compare_files A.json B.json          # exit 5 where B is worse

It takes six minutes on two quiet cores. Parts run one after another, each in a process of its own,
and each has a time limit; a part that fails is listed with its reason, and the others still run.
The race of `quality.py` includes XGBoost where that is installed (the extra [peers]).

This is a script of the tests, and no verb, because it needs the repository: the commit, the race
and its rivals, and scikit-learn's table.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import data_gen
from streamtrain.types import Json
from tests.benchmarks.bench_figures import (
    answer_figures,
    quality_figures,
    step_figures,
    stream_figures,
    train_figures,
)
from tests.benchmarks.bench_file import (
    ROOT,
    BenchFile,
    Figure,
    Part,
    now,
    this_commit,
    this_machine,
    write_bench,
)
from tests.benchmarks.bench_markdown import markdown
from tests.benchmarks.bench_tables import TABLES

#: A part that takes longer is stopped, so that one that hangs does not cost the others.
LIMIT_SECONDS = 180.0


class PartFailed(Exception):
    """A command that failed or took too long; the message says which of them, in one line."""


@dataclass(frozen=True)
class Job:
    """A part to be measured.

    `prepare(folder)` writes its data and returns the words of its command; `figures` takes what the
    command printed as JSON.
    """

    name: str
    prepare: Callable[[Path], list[str]]
    figures: Callable[[Json], Iterable[Figure]]


def jobs(*, quick: bool) -> Iterator[Job]:
    """Yield the parts in order."""
    repeats = "2" if quick else "5"
    stream_rows, race_rows = (100_000, 200_000) if quick else (20_000_000, 10_000_000)

    def stream(folder: Path) -> list[str]:
        generate(folder / "stream", stream_rows, span_rows=250_000)
        words = ["bench", "stream", str(folder / "stream"), "--batch-size", "1000"]
        return [*verb(words), "--repeats", repeats]

    def step(folder: Path) -> list[str]:
        sizes = "32,1024" if quick else "32,256,1024,4096,65536"
        return [*verb(["bench", "step", "--batch-sizes", sizes]), "--repeats", repeats]

    def train(folder: Path) -> list[str]:
        generate(folder / "train", stream_rows, span_rows=250_000)
        sizes = "1024" if quick else "32,1024,65536"
        words = ["bench", "train", str(folder / "train"), "--batch-sizes", sizes]
        return [*verb(words), "--repeats", "2" if quick else "3"]

    def quality(folder: Path) -> list[str]:
        generate(folder / "quality", race_rows)
        sides = ["streamtrain", "torch_loop"] + (["xgboost"] if find_spec("xgboost") else [])
        words = [sys.executable, str(Path(__file__).with_name("quality.py")), "--json"]
        words += [str(folder / "quality"), "--sides", *sides, "--repeats", "1" if quick else "3"]
        return words + (["--rows", "65536"] if quick else [])

    def sweep(table: int, folder: Path) -> list[str]:
        chosen = TABLES[table]
        path = chosen.make(folder, quick)
        words = ["sweep", str(path), "--target", chosen.target, "--out", str(folder / "run")]
        return [*verb(words), "--budget", "2s" if quick else "20s"]

    yield Job("stream", stream, stream_figures)
    yield Job("step", step, step_figures)
    yield Job("train", train, train_figures)
    yield Job("quality", quality, quality_figures)
    for number, table in enumerate(TABLES):
        figures = partial(answer_figures, table.name)
        yield Job(f"answer {table.name}", partial(sweep, number), figures)


def verb(words: Sequence[str]) -> list[str]:
    """Return the command of a verb of streamtrain that prints JSON alone."""
    return [sys.executable, "-m", "streamtrain", *words, "--json", "--quiet"]


def generate(folder: Path, rows: int, span_rows: int = 262_144) -> None:
    """Write rows of friedman2."""
    data_gen.generate(folder, kind="friedman2", rows=rows, span_rows=span_rows)


def measure_part(job: Job, limit_seconds: float) -> Part:
    """Measure one part in a folder that is removed afterwards.

    What fails is the reason of the part, so that an hour's other figures are not lost with it.
    """
    started, command = time.perf_counter(), ""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        try:
            words = job.prepare(Path(name))
            command = " ".join(words).replace(f"{name}/", "").replace(sys.executable, "python")
            command = command.replace(f"{ROOT}/", "")
            document = run_json(words, limit_seconds)
            figures, reason = tuple(job.figures(document)), ""
        except PartFailed as failure:
            document, figures, reason = None, (), str(failure)
    return Part(
        name=job.name,
        command=command,
        seconds=round(time.perf_counter() - started, 1),
        figures=figures,
        document=document,
        reason=reason,
    )


def run_json(words: Sequence[str], limit_seconds: float) -> Json:
    """Run a command from the repository's root and return what it printed as JSON.

    Raises PartFailed for a command that fails, or that takes longer than `limit_seconds`; then it
    is ended with the processes that it started, which would disturb the parts after it.
    """
    env, pipe = os.environ | {"PYTHONPATH": str(ROOT)}, subprocess.PIPE
    with subprocess.Popen(
        words, cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as child:
        try:
            out, err = child.communicate(timeout=limit_seconds)
        except BaseException as error:
            os.killpg(child.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise PartFailed(f"it took more than {limit_seconds:g} s") from error
            raise
    if child.returncode:
        last = (err.strip().splitlines() or ["no message"])[-1]
        raise PartFailed(f"exit {child.returncode}: {last}")
    return json.loads(out)


def measure_all(
    *, quick: bool, only: Sequence[str] = (), limit_seconds: float = LIMIT_SECONDS
) -> BenchFile:
    """Measure all parts, or those named in `only`, and return the file."""
    date, commit, parts = now(), this_commit(), list[Part]()
    for job in jobs(quick=quick):
        if only and job.name.split()[0] not in only:
            continue
        part = measure_part(job, limit_seconds)
        parts.append(part)
        said = part.reason or f"{len(part.figures)} figures"
        print(f"{part.name}: {part.seconds:.0f} s, {said}", file=sys.stderr, flush=True)
    return BenchFile(
        date=date, commit=commit, machine=this_machine(), quick=quick, parts=tuple(parts)
    )


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write the file, and return 1 if a part failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    parser.add_argument("--quick", action="store_true", help="small inputs, to try the command")
    parser.add_argument("--markdown", action="store_true", help="print the tables of README.md")
    parser.add_argument(
        "--only", nargs="+", default=(), choices=("stream", "step", "train", "quality", "answer")
    )
    parser.add_argument(
        "--limit-seconds", type=float, default=LIMIT_SECONDS, help="the longest time of a part"
    )
    options = parser.parse_args(words)
    bench = measure_all(quick=options.quick, only=options.only, limit_seconds=options.limit_seconds)
    write_bench(bench, options.out)
    if options.markdown:
        print(markdown(bench))
    return int(any(part.reason for part in bench.parts))


if __name__ == "__main__":
    raise SystemExit(main())
