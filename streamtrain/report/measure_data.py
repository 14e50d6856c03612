"""The tables behind the charts of throughput, learning rates and measurements; every value is
finite or None.

`repeats`, `roof`, `law`, `parts`: speed. `tried`, `stability`, `arms`: learning rates. `noise`,
`sqrt_m`, `curvature`, `sharpness`, `line`: what `--measure` found. `confirmed`: sizes trained from
end to end.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from streamtrain.base.units import format_count, format_seconds
from streamtrain.report.axis import spread
from streamtrain.report.number_format import size_text
from streamtrain.science.run_log import Curve, Run
from streamtrain.types import Json

Row = dict[str, Any]
Summary = Mapping[str, Any]
#: Points of a law's curve: it is smooth.
_CURVE_POINTS = 60
#: Names of the stream's parts as a reader knows them; others are shown as they are.
_PARTS = {
    "decode": "decode",
    "deal": "shuffle: deal",
    "permute": "shuffle: permute",
    "wait": "training waits",
    "consumer": "training",
}


def measure_tables(run: Run, summary: Summary) -> dict[str, list[Row]]:
    """Every table by name; those without data are empty."""
    measures = summary["measures"] or {}
    tables = {
        "repeats": list(_repeats(run)),
        "roof": _roof(summary),
        "law": list(_law(summary)),
        "parts": list(_parts(summary)),
        "confirmed": [
            {
                "batch_size": one["batch_size"],
                "size": size_text(one["batch_size"]),
                "seconds": one["measured_seconds"]["value"],
            }
            for one in summary["confirmation"]
        ],
        "tried": list(_tried(run, summary)),
        "stability": list(_stability(summary, measures)),
        "arms": list(_arms(summary)),
        "noise": list(_noise(summary, measures)),
        "sqrt_m": list(_sqrt_m(measures.get("sqrt_m_slope") or {})),
        "curvature": list(_curvature(measures)),
        "sharpness": list(_sharpness(measures)),
        "line": list(_line(measures)),
    }
    return {
        name: [{key: _finite(value) for key, value in row.items()} for row in rows]
        for name, rows in tables.items()
    }


def _repeats(run: Run) -> Iterator[Row]:
    for size in run.batch_sizes:
        for repeat, (rows, seconds) in sorted(run.step_seconds.get(size, {}).items()):
            if seconds > 0:
                yield {
                    "batch_size": size,
                    "size": size_text(size),
                    "repeat": repeat,
                    "rows_per_second": rows / seconds,
                }


def _roof(summary: Summary) -> list[Row]:
    rate = (_laws(summary).get("rows_per_second") or {}).get("value")
    return (
        [{"name": f"delivery {format_count(rate)} rows/s", "rows_per_second": rate}] if rate else []
    )


def _law(summary: Summary) -> Iterator[Row]:
    """The step's rate B/(α + βB), and T(B) = S_min(1 + B_crit/B)·max(α + βB, B/R), from the
    smallest to the largest size.
    """
    laws = _laws(summary)
    values = {
        name: (laws.get(name) or {}).get("value")
        for name in (
            "alpha_seconds",
            "beta_seconds_a_row",
            "rows_per_second",
            "steps_min",
            "critical_batch_size",
        )
    }
    alpha, beta = values["alpha_seconds"], values["beta_seconds_a_row"]
    sizes = [cell["batch_size"] for cell in summary["cells"]]
    if alpha is None or beta is None or alpha + beta <= 0 or len(sizes) < 2:
        return
    low, high = math.log(min(sizes)), math.log(max(sizes))
    for point in range(_CURVE_POINTS):
        size = math.exp(low + (high - low) * point / (_CURVE_POINTS - 1))
        step = alpha + beta * size
        slower = max(step, size / values["rows_per_second"]) if values["rows_per_second"] else step
        known = values["steps_min"] and values["critical_batch_size"]
        seconds = (
            values["steps_min"] * (1 + values["critical_batch_size"] / size) * slower
            if known
            else None
        )
        yield {"batch_size": size, "step_rows_per_second": size / step, "seconds": seconds}


def _parts(summary: Summary) -> Iterator[Row]:
    for name, seconds in summary["stream_seconds"].items():
        if seconds:
            word = name.removesuffix("_seconds")
            yield {
                "part": _PARTS.get(word, word.replace("_", " ")),
                "seconds": seconds,
                "label": format_seconds(seconds),
            }


def _tried(run: Run, summary: Summary) -> Iterator[Row]:
    """Every size and rate with the median of the losses at its learners' last evaluation; a rate
    that was stopped early has few rows.
    """
    chosen = {cell["batch_size"]: cell["lr"] for cell in summary["cells"]}
    for (size, lr), trials in sorted(run.curves.items()):
        ended = [(curve, _last_loss(run, curve)) for curve in trials.values()]
        losses = [loss for curve, loss in ended if curve.finished and loss is not None]
        outcomes = sorted({curve.outcome.replace("_", " ") or "interrupted" for curve, _ in ended})
        yield {
            "batch_size": size,
            "size": size_text(size),
            "lr": lr,
            "loss": statistics.median(losses) if losses else None,
            "rows": max((curve.rows[-1] for curve, _ in ended if curve.rows), default=None),
            "outcome": ", ".join(outcomes),
            "chosen": chosen.get(size) == lr,
        }


def _last_loss(run: Run, curve: Curve) -> float | None:
    losses = curve.holdout_loss if run.has_holdout else [2 * loss for loss in curve.train_loss]
    return losses[-1] if losses and math.isfinite(losses[-1]) and losses[-1] > 0 else None


def _stability(summary: Summary, measures: Summary) -> Iterator[Row]:
    """Rates at which steps become unstable: by the curvature that was measured, and in the mean
    square of a linear model (SGD).
    """
    for size, one in ((measures.get("curvature") or {}).get("by_batch_size") or {}).items():
        judged = (one.get("preconditioned") or one).get("value")
        if judged and judged > 0 and one.get("stability_line"):
            yield {
                "line": "curvature",
                "batch_size": int(size),
                "size": size_text(int(size)),
                "lr": one["lr"] * one["stability_line"] / judged,
            }
    found = (summary.get("landmarks") or {}).get("stability")
    for size, lr in zip(found["batch_sizes"], found["lrs"], strict=True) if found else ():
        yield {
            "line": "mean-square stability",
            "batch_size": size,
            "size": size_text(size),
            "lr": lr,
        }


def _arms(summary: Summary) -> Iterator[Row]:
    arms = dict.fromkeys(summary["lr_rules"][:1], summary["cells"]) | summary["arms"]
    if len(arms) < 2:
        return
    heights = _label_heights(arms)
    for rule, cells in arms.items():
        scored = [cell["batch_size"] for cell in cells if cell["holdout_loss"]["value"] is not None]
        for cell in cells:
            yield {
                "rule": rule,
                "batch_size": cell["batch_size"],
                "size": size_text(cell["batch_size"]),
                "lr": cell["lr"],
                "holdout_loss": cell["holdout_loss"]["value"],
                "status": cell["status"].replace("_", " "),
                "last": bool(scored) and cell["batch_size"] == max(scored),
                "label_loss": heights.get(rule),
            }


def _label_heights(arms: Mapping[str, Any]) -> dict[str, float]:
    """Rule → the loss at which its name stands, at the end of its line; names at one size stand
    apart.
    """
    ends: dict[int, list[tuple[float, str]]] = {}
    losses = []
    for rule, cells in arms.items():
        scored = [
            (cell["batch_size"], cell["holdout_loss"]["value"])
            for cell in cells
            if (cell["holdout_loss"]["value"] or 0) > 0
        ]
        losses += [loss for _, loss in scored]
        if scored:
            size, loss = max(scored)
            ends.setdefault(size, []).append((math.log(loss), rule))
    gap = max(math.log(max(losses) / min(losses)), 0.5) / 16 if losses else 0.0
    placed = {}
    for found in ends.values():
        for (_, rule), height in zip(
            sorted(found), spread([height for height, _ in sorted(found)], gap), strict=True
        ):
            placed[rule] = math.exp(height)
    return placed


def _noise(summary: Summary, measures: Summary) -> Iterator[Row]:
    """The noise scales, then the critical batch size of the steps, then the recommended size."""
    scales = measures.get("noise_scale") or {}
    named = [
        ("B_simple", scales),
        ("B_noise (weighted by curvature)", scales.get("weighted")),
        ("B_simple as Adam steps", scales.get("preconditioned")),
        ("B_crit (fitted to the steps)", _laws(summary).get("critical_batch_size")),
    ]
    for name, found in named:
        # a scale below one row says no more than: any size
        if found and (found.get("value") or 0) >= 1:
            ends = {
                end: found.get(end) if (found.get(end) or 0) > 0 else None for end in ("lo", "hi")
            }
            yield {"name": name, "value": found["value"], **ends, "kind": "measured"}
    if size := summary["recommendation"]["batch_size"]:
        yield {"name": "recommended", "value": size, "lo": None, "hi": None, "kind": "chosen"}


def _sqrt_m(found: Summary) -> Iterator[Row]:
    sizes, sds = found.get("sizes") or (), found.get("sd") or ()
    for m, sd in zip(sizes, sds, strict=True):
        yield {"m": m, "sd": sd, "ideal": sds[0] * math.sqrt(sizes[0] / m)}


def _curvature(measures: Summary) -> Iterator[Row]:
    """Where training scales its steps (Adam) the curvature in the coordinates in which it steps:
    the line holds for that one.
    """
    for size, one in ((measures.get("curvature") or {}).get("by_batch_size") or {}).items():
        found = one.get("preconditioned") or one
        row = {
            "batch_size": int(size),
            "size": size_text(int(size)),
            **{end: found.get(end) for end in ("value", "lo", "hi")},
        }
        yield row | {"line": one.get("stability_line")}


def _sharpness(measures: Summary) -> Iterator[Row]:
    each = sorted(
        (int(size), one)
        for size, one in ((measures.get("sharpness") or {}).get("by_batch_size") or {}).items()
    )
    for at, (size, one) in enumerate(each):
        for name, found in (("Keskar's φ", one), ("adaptive φ", _first(one.get("adaptive")))):
            if found and found.get("value") is not None:
                yield {
                    "batch_size": size,
                    "size": size_text(size),
                    "measure": name,
                    "value": found["value"],
                    "last": at == len(each) - 1,
                }


def _first(found: Json | None) -> Json | None:
    """The one at the smallest ε, which is named first."""
    return next(iter(found.values()), None) if found else None


def _line(measures: Summary) -> Iterator[Row]:
    found = (measures.get("sharpness") or {}).get("parametric_line") or {}
    ends = {0.0: found.get("small_batch_size"), 1.0: found.get("large_batch_size")}
    for alpha, loss in zip(found.get("alpha") or (), found.get("loss") or (), strict=True):
        size = next(
            (size for end, size in ends.items() if size and math.isclose(alpha, end, abs_tol=1e-9)),
            None,
        )
        yield {"alpha": alpha, "loss": loss, "end": size_text(size) if size else ""}


def _laws(summary: Summary) -> Mapping[str, Any]:
    return (summary.get("landmarks") or {}).get("laws") or {}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def used_tables(tables: Mapping[str, Sequence[Row]]) -> dict[str, Sequence[Row]]:
    """Those with rows, and the three that every page has."""
    return {
        name: rows
        for name, rows in tables.items()
        if rows or name in ("cells", "curves", "references")
    }
