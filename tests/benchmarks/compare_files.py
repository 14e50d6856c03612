"""How the figures of one benchmark file differ from those of another; exit 5 where B is worse.

    python -m tests.benchmarks.compare_files A.json B.json --tolerance 0.03

Each line is a figure of both files: A, B, and B/A with its 95 % interval (Welch, on logarithms). Of
forty such intervals two miss by chance, so the verdict is from wider ones, which all hold at once
with 95 % (Bonferroni): B is worse where such an interval lies on the worse side of 1, by more than
`--tolerance`. On unlike machines only ratios are judged, because rates and seconds belong to the
machine. The intervals hold what varied between the rounds of each run: what changes a machine from
one hour to the next is not in them, so compare files from quiet machines, and look at the
yardsticks first.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streamtrain.base.units import format_bytes, format_count, format_seconds
from streamtrain.base.words import aligned
from streamtrain.errors import CheckFailed, StreamTrainError
from streamtrain.records.record import to_json
from streamtrain.science.intervals import Estimate
from tests.benchmarks.bench_file import BenchFile, Figure, Unit, ratio, read_bench

Verdict = Literal["worse", "better", "same", "unknown", "yardstick", "missing", "new"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """A figure in both files.

    `ratio` is B/A. The verdict is "same" where the wider interval holds 1, "unknown" where there is
    no interval or where unlike machines measured it, "missing" or "new" where one file lacks it or
    has no value for it.
    """

    name: str
    unit: Unit
    a: Estimate | None
    b: Estimate | None
    ratio: Estimate
    verdict: Verdict


def compare_files(a: BenchFile, b: BenchFile, *, tolerance: float = 0.0) -> list[Change]:
    """Return the change of each figure, in the order of A and then what only B has."""
    return list(_changes(a, b, tolerance))


def _changes(a: BenchFile, b: BenchFile, tolerance: float) -> Iterator[Change]:
    one_machine = a.machine.hardware == b.machine.hardware
    before, after = a.figures(), b.figures()
    judged = sum(figure.better != "yardstick" for figure in before.values())
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        either = old or new
        assert either is not None
        had, has = (one is not None and one.estimate.value is not None for one in (old, new))
        quotient = Estimate(value=None)
        if old is None or new is None or had != has:
            verdict: Verdict = "missing" if had else "new"
            if either.better == "yardstick":
                verdict = "yardstick"
        elif old.unit != new.unit:
            verdict = "yardstick" if new.better == "yardstick" else "unknown"
        else:
            quotient = ratio(new.estimate, old.estimate)
            wide = ratio(new.estimate, old.estimate, error=0.05 / max(judged, 1))
            verdict = judge(new, wide, tolerance, one_machine=one_machine)
        yield Change(
            name=name,
            unit=either.unit,
            a=old and old.estimate,
            b=new and new.estimate,
            ratio=quotient,
            verdict=verdict,
        )


def judge(figure: Figure, quotient: Estimate, tolerance: float, *, one_machine: bool) -> Verdict:
    """Return the verdict on a figure whose B/A is certain to lie within `quotient`."""
    if figure.better == "yardstick":
        return "yardstick"
    comparable = one_machine or figure.unit in ("x", "loss")
    if not comparable or quotient.lo is None or quotient.hi is None:
        return "unknown"
    if quotient.lo <= 1 <= quotient.hi:
        return "same"
    if (quotient.lo > 1) == (figure.better == "more"):
        return "better"
    reach = 1 / quotient.hi if figure.better == "more" else quotient.lo
    return "worse" if reach > 1 + tolerance else "same"


def failures(changes: Sequence[Change]) -> list[str]:
    """Return a sentence on each figure that is worse, or that B has lost."""
    sentences = []
    for one in changes:
        if one.verdict == "worse":
            sentences.append(f"{one.name} is worse: B/A is {_ratio_text(one.ratio)}")
        elif one.verdict == "missing":
            sentences.append(f"{one.name} has no value in B")
    return sentences


def page(a: BenchFile, b: BenchFile, changes: Sequence[Change]) -> str:
    """Return what was compared, and a table with a line per figure."""
    heads = [
        f"{label}: {bench.date}, commit {bench.commit or 'unknown'}, {bench.machine.cpu},"
        f" {bench.machine.cores} cores"
        for label, bench in (("A", a), ("B", b))
    ]
    if a.machine.hardware != b.machine.hardware:
        heads.append("The machines differ: only ratios and losses are judged.")
    versions = a.machine.versions | b.machine.versions
    heads += [
        f"{name} {a.machine.versions.get(name, 'none')} -> {b.machine.versions.get(name, 'none')}"
        for name in versions
        if a.machine.versions.get(name) != b.machine.versions.get(name)
    ]
    if a.quick or b.quick:
        heads.append("A file of --quick: its figures say nothing about speed.")
    lines = [["figure", "A", "B", "B/A [95 %]", "verdict"]]
    for one in changes:
        values = [_text(estimate, one.unit) for estimate in (one.a, one.b)]
        lines.append([one.name, *values, _ratio_text(one.ratio), one.verdict])
    return "\n".join([*heads, "", aligned(lines, right=frozenset({1, 2}))])


def _text(estimate: Estimate | None, unit: Unit) -> str:
    if estimate is None or estimate.value is None:
        return "none"
    value = estimate.value
    forms = {"bytes": format_bytes, "s": format_seconds, "rows/s": format_count}
    if unit in forms:
        return forms[unit](value)
    return f"{value:.4g}"


def _ratio_text(quotient: Estimate) -> str:
    if quotient.value is None:
        return ""
    if quotient.lo is None or quotient.hi is None:
        return f"{quotient.value:.3f}"
    return f"{quotient.value:.3f} [{quotient.lo:.3f}, {quotient.hi:.3f}]"


def main(words: Sequence[str] | None = None) -> int:
    """Print the comparison and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", type=Path, help="the earlier file")
    parser.add_argument("b", type=Path, help="the later file")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="a figure fails only if it is worse by more than this fraction for certain",
    )
    parser.add_argument("--json", action="store_true", help="print the changes as JSON")
    options = parser.parse_args(words)
    try:
        a, b = read_bench(options.a), read_bench(options.b)
        changes = compare_files(a, b, tolerance=options.tolerance)
        print(json.dumps(to_json(changes), indent=1) if options.json else page(a, b, changes))
        if worse := failures(changes):
            raise CheckFailed("\n".join(worse))
    except StreamTrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
