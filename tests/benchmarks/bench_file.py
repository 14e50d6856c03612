"""A file of benchmark results: the machine, the commit, and figures with their intervals."""

import json
import math
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import psutil
from pydantic import TypeAdapter, ValidationError

from streamtrain.errors import DataError
from streamtrain.records.record import to_json
from streamtrain.run.environment import environment
from streamtrain.science.intervals import Estimate, estimate
from streamtrain.science.scipy_functions import t_quantile
from streamtrain.types import Json

ROOT = Path(__file__).parents[2]

#: Raised when an older file can no longer be compared.
FORMAT = 2

Unit = Literal["rows/s", "GFLOP/s", "s", "x", "bytes", "loss", "rows"]

#: `yardstick` is a figure that says something about the machine or the data, not about this
#: project: it is shown, and it is neither better nor worse.
Better = Literal["more", "less", "yardstick"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured figure.

    Attributes:
        name: `PART/WHAT/…/KEY`, unique in a file.
        estimate: Value and 95 % interval; there are no ends where it was measured once.
        unit: Unit of the value; "x" is a ratio to something measured in the same minutes.
        better: Which direction is better.
    """

    name: str
    estimate: Estimate
    unit: Unit
    better: Better


@dataclass(frozen=True, kw_only=True)
class Part:
    """A command of the benchmark and what it measured.

    Attributes:
        name: Name of the part.
        command: The command that measured it, with folders shortened.
        rounds: Processes that measured it.
        seconds: Wall time of all rounds, compilation and data sets included.
        figures: What it measured.
        document: What the command printed, pooled over rounds, from which tables are made.
        reason: Why there are no figures, or why some are missing; "" otherwise.
    """

    name: str
    command: str
    rounds: int
    seconds: float
    figures: tuple[Figure, ...] = ()
    document: Json | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the figures come from; two files with unlike `hardware` are of unlike machines."""

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    versions: dict[str, str]

    @property
    def hardware(self) -> tuple[str, int]:
        """What has to be equal for rates to be comparable."""
        return self.cpu, self.cores


@dataclass(frozen=True, kw_only=True)
class BenchFile:
    """All parts of one run of the benchmark.

    Attributes:
        date: When it started, in UTC, ISO 8601.
        commit: Commit of the repository, with "+" where files were changed; None outside of git.
        machine: The machine.
        quick: True for small inputs, whose figures say nothing about speed.
        parts: The parts, in order.
        format: `FORMAT` of the program that wrote the file.
    """

    date: str
    commit: str | None
    machine: Machine
    quick: bool
    parts: tuple[Part, ...]
    format: int = FORMAT

    def figures(self) -> dict[str, Figure]:
        """Return all figures by name."""
        return {figure.name: figure for part in self.parts for figure in part.figures}

    def part(self, name: str) -> Part | None:
        """Return the part of that name that has a document; None where there is none."""
        return next((p for p in self.parts if p.name == name and p.document is not None), None)


def write_bench(bench: BenchFile, path: Path) -> None:
    """Write the file as strict JSON."""
    path.write_text(json.dumps(to_json(bench), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_bench(path: Path) -> BenchFile:
    """Read a file that `write_bench` wrote.

    Raises DataError for a file that is missing, is no such file, or has another format.
    """
    try:
        bench = TypeAdapter(BenchFile).validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}. Write it with make bench OUT=FILE") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(f"{path}: not a file of make bench: {where}: {first['msg']}") from error
    if bench.format != FORMAT:
        raise DataError(
            f"{path}: format {bench.format}, and this program reads {FORMAT}; measure it again with"
            " make bench"
        )
    return bench


def this_machine() -> Machine:
    """Return the machine and the versions of the libraries."""
    env = environment()
    known = ("cpu", "cores", "system", "byte_order")
    return Machine(
        cpu=env["cpu"],
        cores=env["cores"],
        memory_bytes=psutil.virtual_memory().total,
        system=env["system"],
        versions={name: value for name, value in env.items() if name not in known},
    )


def this_commit() -> str | None:
    """Return the commit of the repository, with "+" where tracked files differ from it."""
    try:
        commit, changes = (
            subprocess.run(
                ["git", *words], cwd=ROOT, check=True, capture_output=True, text=True
            ).stdout.strip()
            for words in (
                ["rev-parse", "--short=12", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no"],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changes else "")


def now() -> str:
    """Return the time of day in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def ratio(b: Estimate, a: Estimate, *, error: float = 0.05) -> Estimate:
    """Return b/a of two positive estimates from unlike hours, with Welch's interval on logarithms.

    The interval misses the true ratio with probability `error`.

    The standard error of each is taken from its interval, which `intervals.measure` makes from
    Student's t on logarithms; one with n = 1 comes from the rows of one run and counts as normal.
    There is no interval where either has none, and no value where either is not positive.

    >>> ratio(Estimate(value=3.0, n=1), Estimate(value=2.0, n=1)).value
    1.5
    """
    if not a.value or not b.value or min(a.value, b.value) <= 0:
        return Estimate(value=None)
    value, n = b.value / a.value, min(a.n, b.n)
    spreads = [_log_error(one) for one in (a, b)]
    parts = [spread**2 for spread in spreads if spread is not None]
    if len(parts) < 2:
        return Estimate(value=value, n=n)
    variance = sum(parts)
    if not variance:
        return Estimate(value=value, lo=value, hi=value, n=n)
    freedom = [_freedom(one) for one in (a, b)]
    degrees = variance**2 / sum(p**2 / f for p, f in zip(parts, freedom, strict=True))
    reach = t_quantile(degrees, 1 - error / 2) * math.sqrt(variance)
    return estimate(value, value * math.exp(-reach), value * math.exp(reach), n=n)


def _log_error(one: Estimate) -> float | None:
    """The standard error of the logarithm, from the interval."""
    if one.n < 1 or not one.lo or not one.hi or one.lo <= 0:
        return None
    return math.log(one.hi / one.lo) / 2 / t_quantile(_freedom(one))


def _freedom(one: Estimate) -> float:
    """Degrees of freedom of an interval; so many that it is normal where n = 1."""
    return one.n - 1 if one.n > 1 else 1e9
