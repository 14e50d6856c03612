"""How a figure changed from run A to run B, with its 95 % interval."""

import math
import statistics
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from streamtrain.report.number_format import NOTHING
from streamtrain.science.cells import Cell, losses_at, seconds_to_target, throughput
from streamtrain.science.intervals import independent_ratio, paired_ratio
from streamtrain.science.run_log import Run
from streamtrain.types import Json


class Sample(NamedTuple):
    """The values of one figure by trial, or by timing repeat where they cannot be paired."""

    values: Mapping[int, float]
    paired: bool


#: The sample of a figure that a run does not have.
NO_SAMPLE = Sample({}, paired=False)


def samples(run: Run, cell: Cell, rows: int | None) -> Iterator[tuple[str, Sample]]:
    """Yield the sample of each figure; losses are those at `rows`."""
    speeds, _ = throughput(run, cell.batch_size)
    yield "rows_per_second", Sample(dict(enumerate(speeds)), paired=False)
    seconds = [rows / speed for speed in throughput(run, cell.batch_size, rows)[0]] if rows else []
    yield "training_seconds", Sample(dict(enumerate(seconds)), paired=False)
    evaluated = [
        trial for trial, curve in cell.curves.items() if curve.finished and rows in curve.rows
    ]
    for name in ("holdout_loss", "holdout_rmse"):
        losses = losses_at(cell, rows, name) if run.has_holdout else []
        by_trial = dict(zip(evaluated, losses, strict=True)) if losses else {}
        yield name, Sample(by_trial, paired=True)
    to_target = {
        "seconds_to_target": seconds_to_target(run, cell),
        "rows_to_target": cell.rows_to_target,
        "steps_to_target": cell.steps_to_target,
    }
    for name, by_trial in to_target.items():
        yield name, Sample(by_trial if cell.status == "reached" else {}, paired=True)


def in_pairs(a: Collection[int], b: Collection[int]) -> list[int]:
    """Return the trials of both runs.

    There are none where the runs share one trial of several: all of them as independent samples say
    more then.

    >>> in_pairs([3, 4, 5], [3, 4, 5, 6]), in_pairs([3, 4, 5], [2, 3]), in_pairs([0], [0, 1])
    ([3, 4, 5], [], [0])
    """
    shared = sorted(set(a) & set(b))
    return shared if len(shared) > 1 or min(len(a), len(b)) == 1 else []


def change(a: Sample, b: Sample, *, pairs: bool, more_is_better: bool) -> Json:
    """Return the change from A to B: `{change, lo, hi, a, b, verdict}`; see `compare.compare`.

    `pairs`: trial n of both runs read the same rows in the same order.
    """
    values_a, values_b = _positive(a.values), _positive(b.values)
    figure: Json = {
        "a": _median(values_a),
        "b": _median(values_b),
        "change": None,
        "lo": None,
        "hi": None,
    }
    if not values_a or not values_b:
        verdict = "gained" if values_b else "none"
        return figure | {"verdict": "missing" if values_a else verdict}
    trials = in_pairs(values_a, values_b) if pairs and a.paired else []
    if trials:
        ratio = paired_ratio(
            [values_b[trial] for trial in trials], [values_a[trial] for trial in trials]
        )
    else:
        ratio = independent_ratio(list(values_b.values()), list(values_a.values()))
    value, lo, hi = ratio.value or 0.0, ratio.lo, ratio.hi
    figure["change"] = value - 1
    if lo is None or hi is None:
        return figure | {"verdict": "undecided"}
    verdict = "better" if (value > 1) == more_is_better else "worse"
    return figure | {
        "lo": lo - 1,
        "hi": hi - 1,
        "verdict": "undecided" if lo <= 1 <= hi else verdict,
    }


def change_text(figure: Mapping[str, Any]) -> str:
    """Return a change with its interval, in percent.

    >>> change_text({"change": 0.0312, "lo": -0.01, "hi": 0.075, "verdict": "undecided"})
    '+3.1 % [-1.0, +7.5]'
    >>> change_text({"change": None, "lo": None, "hi": None, "verdict": "missing"})
    'no value in B'
    >>> change_text({"change": 0.5, "lo": -0.99, "hi": 2e13, "verdict": "undecided"})
    '+50.0 % [-99.0, +2.0e+15]'
    """
    if figure["change"] is None:
        missing = {"missing": "no value in B", "gained": "no value in A"}
        return missing.get(figure["verdict"], NOTHING)
    text = f"{_percent(figure['change'])} %"
    if figure["lo"] is None:
        return text
    return f"{text} [{_percent(figure['lo'])}, {_percent(figure['hi'])}]"


def _percent(change: float) -> str:
    percent = 100 * change
    if abs(percent) < 100:
        return f"{percent:+.1f}"
    return f"{percent:+,.0f}" if abs(percent) < 1e6 else f"{percent:+.1e}"


def _positive(values: Mapping[int, float]) -> dict[int, float]:
    """Return the values that are positive and finite."""
    return {
        trial: value
        for trial, value in values.items()
        if value and value > 0 and not math.isinf(value)
    }


def _median(values: Mapping[int, float]) -> float | None:
    return statistics.median(values.values()) if values else None
