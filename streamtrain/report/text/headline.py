"""The top of the page beside the answer: a few large figures, and a ladder of reference losses."""

import math
from collections.abc import Iterator, Sequence

from streamtrain.base.units import format_percent, format_seconds
from streamtrain.base.words import plural
from streamtrain.report.analysis import Analysis, Summary
from streamtrain.report.number_format import (
    NOTHING,
    cell_size_text,
    error_text,
    loss_text,
    rmse_text,
    sizes_in_turn,
    speed_text,
)
from streamtrain.report.summary_parts import CellFigures, ModelLoss
from streamtrain.science.intervals import value_of
from streamtrain.science.run_log import Curve, Run

_ENDED_EARLY = {
    "diverged": "diverged",
    "out_of_memory": "ran out of memory",
    "failed": "failed",
}
_EXPLAINED = " of the variance explained"


def trained_sentence(analysis: Analysis) -> str:
    """Return the answer of `train`: how good the model is, or how its training ended."""
    run, cell = analysis.run, analysis.summary.cells[0]
    curves = [curve for trials in run.curves.values() for curve in trials.values()]
    rows = run.rows_reached
    reason = next((curve.reason for curve in curves if curve.reason), "")
    size = f"minibatch size {sizes_in_turn(analysis.summary.sizes_used)}"
    if cell.status in _ENDED_EARLY:
        why = f": {reason}" if reason else ""
        ending = f"after {rows:,} rows{why}"
        if cell.status == "diverged":
            ending = f"within {_diverged_at(run, curves, rows):,} rows"
        return f"The training at {size} {_ENDED_EARLY[cell.status]} {ending}."
    trained = f"{plural(rows, 'row')} at {size}"
    loss = cell.holdout_loss.value
    if loss is None:
        return f"Trained on {trained}; no held-out loss says how good the model is."
    constant = run.baseline.constant_loss
    # a loss is a share of the variance of all rows, so 1 - loss is not the share explained here
    share = "" if constant is None else f": {explained(loss, constant)} in the held-out rows"
    rmse, why = cell.holdout_rmse.value, f" ({reason})" if reason else ""
    error = f"loss is {loss_text(loss)}"
    if rmse is not None:
        error = f"RMSE is {error_text(rmse)} (loss {loss_text(loss)})"
    comma = "," if len(analysis.summary.sizes_used) > 1 else ""
    return f"After {trained}{comma} the held-out {error}{share}{why}."


def _diverged_at(run: Run, curves: Sequence[Curve], last_rows: int) -> int:
    """Return the rows of the first evaluation with a loss that is not finite, else the last."""
    for curve in curves:
        losses = curve.holdout_loss if run.has_holdout else curve.train_loss
        for rows, loss in zip(curve.rows, losses, strict=True):
            if rows and not math.isfinite(loss):
                return rows
    return last_rows


def explained(loss: float, constant: float) -> str:
    """Return a loss as the share of the target's variance that the model explains.

    >>> explained(0.0106, 1.0), explained(1.2, 1.0)
    ('98.94 % of the variance explained', 'no better than the mean')
    >>> explained(1e-6, 1.0)
    'over 99.99 % of the variance explained'
    """
    share = 1 - loss / constant if constant else 0.0
    if share <= 0:
        return "no better than the mean"
    if share > 0.9999:
        return f"over 99.99 %{_EXPLAINED}"
    return f"{format_percent(share, 2)}{_EXPLAINED}"


def _share(loss: float, constant: float) -> str:
    return "0 %" if loss >= constant else explained(loss, constant).removesuffix(_EXPLAINED)


def tiles(summary: Summary) -> list[tuple[str, str, str]]:
    """Return `(name, figure, note)` of what `train` trained; a sweep has a table instead."""
    return list(_tiles(summary, summary.cells[0])) if summary.verb == "train" else []


def _tiles(summary: Summary, cell: CellFigures) -> Iterator[tuple[str, str, str]]:
    constant, loss = value_of(summary.best_constant_loss), cell.holdout_loss.value
    if loss is not None:
        yield (
            "held-out loss",
            loss_text(loss),
            "" if constant is None else explained(loss, constant),
        )
        rmse, _ = _apart(rmse_text(cell.holdout_rmse))
        yield "typical error (RMSE)", rmse, f"in units of {summary.data.target}"
    if cell.rows_per_second.value is not None:
        yield "rows per second", *_apart(speed_text(cell.rows_per_second))
    if summary.seconds:
        yield "duration", format_seconds(summary.seconds), ""


def _apart(text: str) -> tuple[str, str]:
    """Return a figure and its interval separately.

    >>> _apart("6.20 s ± 0.20"), _apart("4.01 M [3.90, 4.10]")
    (('6.20 s', '95 %: ± 0.20'), ('4.01 M', '95 %: [3.90, 4.10]'))
    """
    for mark in ("±", "["):
        figure, _, interval = text.partition(f" {mark}")
        if interval:
            return figure, f"95 %: {mark}{interval}"
    return text, ""


def ladder(summary: Summary) -> list[tuple[str, str, str, str, bool]]:
    """Return `(model, loss, RMSE, variance explained, is this run's)` of models to compare with.

    They go from always guessing the mean to the best possible model, where its loss is known.
    """
    constant = value_of(summary.best_constant_loss)
    if constant is None:
        return []
    rungs = [
        ("always the mean", summary.best_constant_loss, False),
        ("best linear model", summary.best_linear_loss, False),
    ]
    if cell := _best_scored(summary):
        loss = ModelLoss(value=cell.holdout_loss.value, rmse=cell.holdout_rmse.value)
        size = cell_size_text(cell.batch_size, summary.sizes_used)
        rungs.append((f"this network, minibatch {size}", loss, True))
    rungs.append(("best possible on this data", summary.best_possible_loss, False))
    return [
        (
            name,
            loss_text(loss.value),
            NOTHING if loss.rmse is None else error_text(loss.rmse),
            _share(loss.value, constant),
            is_own,
        )
        for name, loss, is_own in rungs
        if loss is not None and loss.value is not None
    ]


def _best_scored(summary: Summary) -> CellFigures | None:
    """Return the recommended cell if it has a loss, else the one with the smallest loss."""
    losses = [(cell.holdout_loss.value, cell) for cell in summary.cells]
    scored = [(loss, cell) for loss, cell in losses if loss is not None]
    for _, cell in scored:
        if cell.batch_size == summary.recommendation.batch_size:
            return cell
    return min(scored, key=lambda pair: pair[0])[1] if scored else None
