"""What the top of the page says beside the sentence: a few large figures, and a ladder of losses to
compare the model's with.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from streamtrain.base.units import format_seconds
from streamtrain.report.number_format import (
    loss_text,
    rmse_text,
    seconds_text,
    size_text,
    speed_text,
    target_word,
)
from streamtrain.science.run_log import Curve, Run

Summary = Mapping[str, Any]


def trained_sentence(run: Run, cell: Mapping[str, Any]) -> str:
    """The answer of `train`: how good the model is after how many rows, or how its training
    ended.
    """
    size, curves = (
        size_text(cell["batch_size"]),
        [curve for trials in run.curves.values() for curve in trials.values()],
    )
    rows = max((curve.rows[-1] for curve in curves if curve.rows), default=0)
    reason = next((f": {curve.reason}" for curve in curves if curve.reason), "")
    if cell["status"] in ("diverged", "out_of_memory", "failed"):
        word = {"diverged": "diverged", "out_of_memory": "ran out of memory", "failed": "failed"}[
            cell["status"]
        ]
        if cell["status"] == "diverged":
            return f"The training at minibatch size {size} {word} {_lost(run, curves, rows)}."
        return f"The training at minibatch size {size} {word} after {rows:,} rows{reason}."
    loss, constant = (
        cell["holdout_loss"]["value"],
        run.baseline.constant_loss,
    )
    done = f"{rows:,} row{'s' * (rows != 1)} at minibatch size {size}"
    if loss is None:
        return f"Trained on {done}; no held-out loss says how good the model is."
    share = "" if constant is None else f": {explained(loss, constant)}"
    return (
        f"After {done} the held-out loss is"
        f" {loss_text(loss)}{share}{f' ({reason[2:]})' if reason else ''}."
    )


def _lost(run: Run, curves: Sequence[Curve], rows: int) -> str:
    """When a training left all bounds: at the first evaluation whose loss was no number, else at
    its end.
    """
    each = (
        (curve.rows, curve.holdout_loss if run.has_holdout else curve.train_loss)
        for curve in curves
    )
    losses = (
        (at, loss) for where, values in each for at, loss in zip(where, values, strict=True) if at
    )
    first = next((at for at, loss in losses if not math.isfinite(loss)), rows)
    return f"within {first:,} rows"


def explained(loss: float, constant: float) -> str:
    """A loss as the share of the target's variance that the model explains.

    >>> explained(0.0106, 1.0), explained(1.2, 1.0)
    ('98.94% of the variance explained', 'no better than the mean')
    >>> explained(1e-6, 1.0)
    'over 99.99% of the variance explained'
    """
    share = 1 - loss / constant if constant else 0.0
    if share <= 0:
        return "no better than the mean"
    return (
        "over 99.99% of the variance explained"
        if share > 0.9999
        else f"{100 * share:.2f}% of the variance explained"
    )


def _share(loss: float, constant: float) -> str:
    return (
        "0%"
        if loss >= constant
        else explained(loss, constant).removesuffix(" of the variance explained")
    )


def tiles(summary: Summary) -> list[tuple[str, str, str]]:
    """`(name, figure, note)` of the recommended size, or of the only one; none where there is
    neither.
    """
    chosen = summary["recommendation"]["batch_size"]
    cells = [cell for cell in summary["cells"] if cell["batch_size"] == chosen] or (
        summary["cells"] if len(summary["cells"]) == 1 else []
    )
    return list(_tiles(summary, cells[0])) if cells else []


def _tiles(summary: Summary, cell: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    target, constant = summary["target_loss"], summary["best_constant_loss"] or {}
    if summary["verb"] != "train" and cell["seconds_to_target"]["value"] is not None:
        yield f"to loss ≤ {target_word(target)}", *_apart(seconds_text(cell["seconds_to_target"]))
    if (loss := cell["holdout_loss"]["value"]) is not None:
        share = explained(loss, constant["value"]) if constant.get("value") is not None else ""
        yield "held-out loss", loss_text(loss), share
        yield (
            "typical error (RMSE)",
            _apart(rmse_text(cell["holdout_rmse"]))[0],
            f"in units of {summary['data'].get('target', 'the target')}",
        )
    if cell["rows_per_second"]["value"] is not None:
        yield "rows per second", *_apart(speed_text(cell["rows_per_second"]))
    if summary["verb"] == "train" and summary["seconds"]:
        yield "duration", format_seconds(summary["seconds"]), ""


def _apart(text: str) -> tuple[str, str]:
    """A figure, and its interval below it."""
    for mark in (" ±", " ["):
        figure, found, interval = text.partition(mark)
        if found:
            return (
                figure,
                f"95 %: {mark.strip()}{interval if mark == ' [' else f' {interval.strip()}'}",
            )
    return text, ""


def ladder(summary: Summary) -> list[tuple[str, str, str, str, bool]]:
    """`(model, loss, rmse, explained, is this run's)`: from always guessing the mean to the best
    possible, where known.
    """
    constant = summary["best_constant_loss"] or {}
    if constant.get("value") is None:
        return []
    rungs = [
        (name, summary[key], False)
        for name, key in (
            ("always the mean", "best_constant_loss"),
            ("best linear model", "best_linear_loss"),
        )
    ]
    scored = [cell for cell in summary["cells"] if cell["holdout_loss"]["value"] is not None]
    chosen = [
        cell for cell in scored if cell["batch_size"] == summary["recommendation"]["batch_size"]
    ] or sorted(scored, key=lambda cell: cell["holdout_loss"]["value"])[:1]
    rungs += [
        (
            f"this network, minibatch {size_text(cell['batch_size'])}",
            {"value": cell["holdout_loss"]["value"], "rmse": cell["holdout_rmse"]["value"]},
            True,
        )
        for cell in chosen
    ]
    rungs.append(("best possible on this data", summary["best_possible_loss"], False))
    return [
        (
            name,
            loss_text(one["value"]),
            f"{one['rmse']:.4g}",
            _share(one["value"], constant["value"]),
            own,
        )
        for name, one, own in rungs
        if one and one["value"] is not None
    ]
