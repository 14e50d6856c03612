"""Every benchmark whose figures README.md gives, into one file: `make bench OUT=file.json`.

    python -m tests.benchmarks.all --out runs/bench.json
    python -m tests.benchmarks.all --out runs/quick.json --quick    # small inputs, no true speeds
    python -m tests.benchmarks.bench_markdown runs/bench.json       # the tables of README.md
    python -m tests.benchmarks.compare_files A.json B.json          # exit 5 where B is worse

The parts that time something take turns in `--rounds` rounds, each time in a process of its own,
because two processes, or two minutes, differ by more than the turns within one: a figure is the
geometric mean of its rounds, and its interval is from them. The sweeps run once. Each process has a
time limit; a part that fails is listed with its reason, and the others still run. The race of
`quality.py` includes XGBoost where that is installed (the extra [peers]).

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
from tests.benchmarks.bench_rounds import join_turns, pool
from tests.benchmarks.bench_tables import TABLES
from tests.benchmarks.quality import SIDES

#: A process that takes longer is stopped, so that one that hangs does not cost the others.
LIMIT_SECONDS = 180.0
ROUNDS = 5


class PartFailed(Exception):
    """A command that failed or took too long; the message says which of them, in one line."""


@dataclass(frozen=True)
class Job:
    """A part to be measured.

    `prepare(folder)` writes its data and returns the words of its command; `figures` takes what the
    command printed as JSON, or what `pool` makes of that of several rounds. A part without `pool`
    runs once.
    """

    name: str
    prepare: Callable[[Path], list[str]]
    figures: Callable[[Json], Iterable[Figure]]
    pool: Callable[[Sequence[Json]], Json] | None = None


def jobs(*, quick: bool) -> Iterator[Job]:
    """Yield the parts in order."""
    stream_rows, race_rows = (100_000, 200_000) if quick else (20_000_000, 10_000_000)

    def stream(folder: Path) -> list[str]:
        path = generate(folder / "spans", stream_rows, span_rows=250_000)
        words = ["bench", "stream", str(path), "--batch-size", "1000"]
        return [*verb(words), "--repeats", "2"]

    def step(folder: Path) -> list[str]:
        sizes = "32,1024" if quick else "32,256,1024,4096,65536"
        return [*verb(["bench", "step", "--batch-sizes", sizes]), "--repeats", "2"]

    def train(folder: Path) -> list[str]:
        path = generate(folder / "spans", stream_rows, span_rows=250_000)
        sizes = "1024" if quick else "32,1024,65536"
        return [*verb(["bench", "train", str(path), "--batch-sizes", sizes]), "--repeats", "1"]

    def quality(folder: Path) -> list[str]:
        path = generate(folder / "quality", race_rows)
        sides = [side for side in SIDES if side != "xgboost" or find_spec("xgboost")]
        words = [sys.executable, str(Path(__file__).with_name("quality.py")), "--json"]
        words += [str(path), "--sides", *sides, "--repeats", "1"]
        return words + (["--rows", "65536"] if quick else [])

    def sweep(table: int, folder: Path) -> list[str]:
        chosen = TABLES[table]
        path = chosen.make(folder, quick)
        words = ["sweep", str(path), "--target", chosen.target, "--out"]
        words.append(str(folder / f"sweep-{chosen.name}"))
        return [*verb(words), "--budget", "2s" if quick else "20s"]

    yield Job("stream", stream, stream_figures, pool)
    yield Job("step", step, step_figures, pool)
    yield Job("train", train, train_figures, pool)
    yield Job("quality", quality, quality_figures, join_turns)
    for number, table in enumerate(TABLES):
        figures = partial(answer_figures, table.name)
        yield Job(f"answer {table.name}", partial(sweep, number), figures)


def verb(words: Sequence[str]) -> list[str]:
    """Return the command of a verb of streamtrain that prints JSON alone."""
    return [sys.executable, "-m", "streamtrain", *words, "--json", "--quiet"]


def generate(folder: Path, rows: int, span_rows: int = 262_144) -> Path:
    """Write rows of friedman2, unless the folder is there, and return it."""
    if not folder.exists():
        data_gen.generate(folder, kind="friedman2", rows=rows, span_rows=span_rows)
    return folder


class Rounds:
    """A part and what its rounds have printed."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job = job
        self.reason = ""
        self._folder = folder
        self._command = ""
        self._seconds = 0.0
        self._documents: list[Json] = []

    def run(self, limit_seconds: float) -> None:
        """Run the part once, with its data written first; not again after it has failed.

        A failure is kept as the reason, so that the figures of other parts are not lost with it.
        """
        if self.reason:
            return
        started = time.perf_counter()
        try:
            words = self.job.prepare(self._folder)
            self._command = shortened(words, self._folder)
            self._documents.append(run_json(words, limit_seconds))
        except PartFailed as failure:
            self.reason = str(failure)
        self._seconds += time.perf_counter() - started

    def part(self) -> Part:
        """Return the part of the file."""
        document, figures = None, ()
        if self._documents:
            pooled = self.job.pool
            document = self._documents[0] if pooled is None else pooled(self._documents)
            figures = tuple(self.job.figures(document))
        return Part(
            name=self.job.name,
            command=self._command,
            rounds=len(self._documents),
            seconds=round(self._seconds, 1),
            figures=figures,
            document=document,
            reason=self.reason,
        )


def shortened(words: Sequence[str], folder: Path) -> str:
    """Return a command without the folders of this run."""
    command = " ".join(words).replace(f"{folder}/", "").replace(sys.executable, "python")
    return command.replace(f"{ROOT}/", "")


def run_json(words: Sequence[str], limit_seconds: float) -> Json:
    """Run a command from the repository's root and return what it printed as JSON.

    Raises PartFailed for a command that fails, or that takes longer than `limit_seconds`; then it
    is ended with the processes that it started, which would disturb the parts after it.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env, pipe = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, subprocess.PIPE
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
    *, quick: bool, rounds: int, only: Sequence[str] = (), limit_seconds: float = LIMIT_SECONDS
) -> BenchFile:
    """Measure all parts, or those named in `only`, and return the file."""
    date, commit = now(), this_commit()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        parts = [
            Rounds(job, Path(name))
            for job in jobs(quick=quick)
            if not only or job.name.split()[0] in only
        ]
        for number in range(rounds):
            for part in parts:
                if number and part.job.pool is None:
                    continue
                started = time.perf_counter()
                part.run(limit_seconds)
                said = part.reason or f"{time.perf_counter() - started:.0f} s"
                print(f"round {number + 1}, {part.job.name}: {said}", file=sys.stderr, flush=True)
        measured = tuple(part.part() for part in parts)
    return BenchFile(date=date, commit=commit, machine=this_machine(), quick=quick, parts=measured)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write the file, and return 1 if a part failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    parser.add_argument("--quick", action="store_true", help="small inputs, to try the command")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of the timed parts")
    parser.add_argument("--markdown", action="store_true", help="print the tables of README.md")
    parser.add_argument(
        "--only", nargs="+", default=(), choices=("stream", "step", "train", "quality", "answer")
    )
    parser.add_argument(
        "--limit-seconds", type=float, default=LIMIT_SECONDS, help="the longest time of a part"
    )
    options = parser.parse_args(words)
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least 1")
    bench = measure_all(
        quick=options.quick,
        rounds=options.rounds,
        only=options.only,
        limit_seconds=options.limit_seconds,
    )
    write_bench(bench, options.out)
    if options.markdown:
        print(markdown(bench))
    return int(any(part.reason for part in bench.parts))


if __name__ == "__main__":
    raise SystemExit(main())
