"""The tables behind the charts of speed, learning rates and measurements.

`repeats`, `delivery`, `law`, `parts`: speed. `tried`, `stability`, `arms`: learning rates. `noise`,
`sqrt_m`, `curvature`, `sharpness`, `line`: what `--measure` found. `confirmed`: sizes trained from
start to end. Every value is finite or None.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from streamtrain.base.units import format_count, format_seconds
from streamtrain.report.analysis import Analysis, Summary, estimate_of, finite, section
from streamtrain.report.number_format import size_text, status_text
from streamtrain.report.summary_parts import NOT_MEASURED, CellFigures
from streamtrain.science.intervals import LOWER_BOUND, Estimate, value_of
from streamtrain.science.landmarks import Laws, Stability
from streamtrain.science.run_log import Curve, Run
from streamtrain.types import Json

Row = dict[str, Any]
Tables = Mapping[str, Sequence[Row]]
#: Points of the curve of a law.
_CURVE_POINTS = 60
#: Names of the stream's parts for a reader; others are shown as they are.
_PARTS = {
    "decode": "decode",
    "deal": "shuffle: deal",
    "permute": "shuffle: permute",
    "wait": "training waits",
    "consumer": "training",
}
#: Tables that every page has, also when empty.
_ALWAYS_USED = ("cells", "curves", "references")


def measure_tables(analysis: Analysis) -> dict[str, list[Row]]:
    """Return every table by name; those without data are empty."""
    run, summary = analysis.run, analysis.summary
    curvature = section(summary.measures, "curvature")
    sharpness = section(summary.measures, "sharpness")
    tables = {
        "repeats": _repeats(run),
        "delivery": _delivery(analysis.landmarks.laws),
        "law": _law(summary.cells, analysis.landmarks.laws),
        "parts": _parts(summary),
        "confirmed": _confirmed(summary),
        "tried": _tried(run, summary),
        "stability": _stability(analysis.landmarks.stability, curvature),
        "arms": _arms(summary),
        "noise": _noise(summary, analysis.landmarks.laws),
        "sqrt_m": _sqrt_m(section(summary.measures, "sqrt_m_slope")),
        "curvature": _curvature(curvature),
        "sharpness": _sharpness(section(sharpness, "by_batch_size")),
        "line": _line(section(sharpness, "parametric_line")),
    }
    return {
        name: [{key: finite(value) for key, value in row.items()} for row in rows]
        for name, rows in tables.items()
    }


def used_tables(tables: Tables) -> dict[str, Sequence[Row]]:
    """Return the tables with rows, and those that every page has."""
    return {name: rows for name, rows in tables.items() if rows or name in _ALWAYS_USED}


def _repeats(run: Run) -> Iterator[Row]:
    # a size that changes in training is timed at each that it came to, not only at its first
    for size in dict.fromkeys([*run.batch_sizes, *sorted(run.step_seconds)]):
        for repeat, (rows, seconds) in sorted(run.step_seconds.get(size, {}).items()):
            if seconds > 0:
                yield {
                    "batch_size": size,
                    "size": size_text(size),
                    "repeat": repeat,
                    "rows_per_second": rows / seconds,
                }


def _delivery(laws: Laws) -> Iterator[Row]:
    """Yield the delivery rate, which limits the rows per second of every size."""
    rate = value_of(laws.throughput.delivery_rate)
    if rate:
        yield {"name": f"delivery {format_count(rate)} rows/s", "rows_per_second": rate}


def _law(cells: Sequence[CellFigures], laws: Laws) -> Iterator[Row]:
    """Yield the curves of the fitted laws, from the smallest to the largest size.

    The step alone takes B/(α + βB) rows per second, and the target
    T(B) = S_min·(1 + B_crit/B)·max(α + βB, B/R) seconds at a delivery rate of R; `seconds` is None
    where the sizes do not determine B_crit.
    """
    timings, steps = laws.throughput, laws.steps
    alpha, beta = value_of(timings.alpha_seconds), value_of(timings.beta_seconds_per_row)
    rate = value_of(timings.delivery_rate)
    sizes = [cell.batch_size for cell in cells]
    if alpha is None or beta is None or alpha + beta <= 0 or len(sizes) < 2:
        return
    low, high = math.log(min(sizes)), math.log(max(sizes))
    for point in range(_CURVE_POINTS):
        size = math.exp(low + (high - low) * point / (_CURVE_POINTS - 1))
        step = alpha + beta * size
        slower = max(step, size / rate) if rate else step
        seconds = None
        if steps.known:
            steps_min, critical = steps.known
            seconds = steps_min * (1 + critical / size) * slower
        yield {"batch_size": size, "step_rows_per_second": size / step, "seconds": seconds}


def _parts(summary: Summary) -> Iterator[Row]:
    for name, seconds in summary.stream_seconds.items():
        if seconds:
            part = name.removesuffix("_seconds")
            yield {
                "part": _PARTS.get(part, part.replace("_", " ")),
                "seconds": seconds,
                "label": format_seconds(seconds),
            }


def _confirmed(summary: Summary) -> Iterator[Row]:
    for confirmation in summary.confirmation:
        yield {
            "batch_size": confirmation.batch_size,
            "size": size_text(confirmation.batch_size),
            "seconds": confirmation.measured_seconds.value,
        }


def _tried(run: Run, summary: Summary) -> Iterator[Row]:
    """Yield every size and rate with the median of the losses at the learners' last evaluation.

    A rate that was stopped early has few rows.
    """
    chosen = {cell.batch_size: cell.lr for cell in summary.cells}
    for (size, lr), trials in sorted(run.curves.items()):
        curves = list(trials.values())
        last_losses = [_last_loss(run, curve) for curve in curves if curve.finished]
        losses = [loss for loss in last_losses if loss is not None]
        outcomes = {status_text(curve.outcome) or "interrupted" for curve in curves}
        yield {
            "batch_size": size,
            "size": size_text(size),
            "lr": lr,
            "loss": statistics.median(losses) if losses else None,
            "rows": max((curve.rows[-1] for curve in curves if curve.rows), default=None),
            "outcome": ", ".join(sorted(outcomes)),
            "chosen": chosen.get(size) == lr,
        }


def _last_loss(run: Run, curve: Curve) -> float | None:
    losses = curve.holdout_loss if run.has_holdout else [2 * loss for loss in curve.train_loss]
    return losses[-1] if losses and math.isfinite(losses[-1]) and losses[-1] > 0 else None


def _stability(stability: Stability | None, curvature: Json) -> Iterator[Row]:
    """Yield the rates at which steps become unstable.

    One line is by the measured curvature, the other in the mean square of a linear model (SGD).
    """
    for size, found in section(curvature, "by_batch_size").items():
        largest, line = _stepped_curvature(found).get("value"), found.get("stability_line")
        if largest and largest > 0 and line:
            yield {
                "line": "curvature",
                "batch_size": int(size),
                "size": size_text(int(size)),
                "lr": found["lr"] * line / largest,
            }
    for size, lr in (stability.learning_rates if stability else {}).items():
        yield {
            "line": "mean-square stability",
            "batch_size": size,
            "size": size_text(size),
            "lr": lr,
        }


def _stepped_curvature(found: Json) -> Json:
    """Return the curvature in the coordinates in which training steps, which Adam scales.

    The stability line holds for that one.
    """
    return found.get("preconditioned") or found


def _arms(summary: Summary) -> Iterator[Row]:
    arms = dict.fromkeys(summary.lr_rules[:1], summary.cells) | summary.arms
    if len(arms) < 2:
        return
    for rule, cells in arms.items():
        for cell in cells:
            yield {
                "rule": rule,
                "batch_size": cell.batch_size,
                "size": size_text(cell.batch_size),
                "lr": cell.lr,
                "holdout_loss": cell.holdout_loss.value,
                "status": status_text(cell.status),
            }


def _noise(summary: Summary, laws: Laws) -> Iterator[Row]:
    """Yield the noise scales, the critical batch size of the steps and the recommended size."""
    noise = section(summary.measures, "noise_scale")
    scales = {
        "B_simple": estimate_of(noise),
        "B_noise (weighted by curvature)": estimate_of(noise.get("weighted")),
        "B_simple as Adam steps": estimate_of(noise.get("preconditioned")),
        "B_crit (fitted to the steps)": laws.steps.critical_batch_size,
    }
    for name, scale in scales.items():
        # a scale below one row only says that every size is above it
        if scale and (scale.value or 0) >= 1 and not is_without_bounds(scale):
            yield {
                "name": name,
                "value": scale.value,
                "lo": _positive(scale.lo),
                "hi": _positive(scale.hi),
                "kind": "measured",
            }
    if size := summary.recommendation.batch_size:
        yield {"name": "recommended", "value": size, "lo": None, "hi": None, "kind": "chosen"}


def is_without_bounds(scale: Estimate) -> bool:
    """Return whether a noise scale can have any value: it has a lower bound only, below one row."""
    return scale.kind == LOWER_BOUND and (scale.lo or 0.0) < 1


def _positive(value: float | None) -> float | None:
    return value if (value or 0) > 0 else None


def _sqrt_m(slope: Json) -> Iterator[Row]:
    sizes, sds = slope.get("sizes", []), slope.get("sd", [])
    for size, sd in zip(sizes, sds, strict=True):
        yield {"m": size, "sd": sd, "ideal": sds[0] * math.sqrt(sizes[0] / size)}


def _curvature(curvature: Json) -> Iterator[Row]:
    for size, found in section(curvature, "by_batch_size").items():
        largest = estimate_of(_stepped_curvature(found)) or NOT_MEASURED
        yield {
            "batch_size": int(size),
            "size": size_text(int(size)),
            "value": largest.value,
            "lo": largest.lo,
            "hi": largest.hi,
            "line": found.get("stability_line"),
        }


def _sharpness(by_batch_size: Json) -> Iterator[Row]:
    """Yield both sharpnesses of every size, each at the smallest ε, which comes first."""
    by_size = {int(size): found for size, found in by_batch_size.items()}
    for size, found in sorted(by_size.items()):
        adaptive = next(iter(section(found, "adaptive").values()), {})
        values = {"Keskar's φ": found.get("value"), "adaptive φ": adaptive.get("value")}
        for name, value in values.items():
            if value is not None:
                yield {
                    "batch_size": size,
                    "size": size_text(size),
                    "measure": name,
                    "value": value,
                }


def _line(line: Json) -> Iterator[Row]:
    """Yield the loss between two models; their batch sizes are at α = 0 and α = 1."""
    ends = {0.0: line.get("small_batch_size"), 1.0: line.get("large_batch_size")}
    for alpha, loss in zip(line.get("alpha") or (), line.get("loss") or (), strict=True):
        sizes = [
            size for end, size in ends.items() if size and math.isclose(alpha, end, abs_tol=1e-9)
        ]
        yield {"alpha": alpha, "loss": loss, "end": size_text(sizes[0]) if sizes else ""}
