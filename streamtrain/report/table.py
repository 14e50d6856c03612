"""The table of the answer, and the table of every figure behind it, as texts."""

from dataclasses import replace

from streamtrain.base.units import format_count
from streamtrain.base.words import plural
from streamtrain.report.analysis import Summary, is_trained
from streamtrain.report.number_format import (
    NOTHING,
    cell_size_text,
    error_text,
    loss_above_text,
    loss_figure_text,
    loss_text,
    rate_text,
    rmse_text,
    seconds_text,
    share_text,
    size_text,
    slower_figure_text,
    speed_text,
    status_text,
    target_word,
)
from streamtrain.report.summary_parts import CellFigures
from streamtrain.report.text.advice import is_input_bound
from streamtrain.science.intervals import Estimate


def answer_headings(summary: Summary) -> list[str]:
    """Return the headings of the answer's columns."""
    error = "RMSE" if _has_rmse(summary) else "held-out loss"
    if summary.verb == "train":
        return ["batch", "lr", "rows/s [95 %]", error, "verdict"]
    if (rows := summary.holdout_loss_at_rows) is not None:
        error += f" at {count_word(rows)} rows"
    compared = "slower by [95 %]" if summary.goal == "time-to-loss" else "loss above by [95 %]"
    return ["batch", error, _target_heading(summary), compared, "verdict"]


def answer_texts(summary: Summary, cell: CellFigures) -> list[str]:
    """Return one cell as the texts of the answer's five columns."""
    has_rmse = _has_rmse(summary)
    error = rmse_text(cell.holdout_rmse) if has_rmse else loss_figure_text(cell.holdout_loss)
    size = cell_size_text(cell.batch_size, summary.sizes_used)
    verdict = plain_verdict(summary, cell)
    if summary.verb == "train":
        return [size, rate_text(cell.lr), speed_text(cell.rows_per_second), error, verdict]
    chosen = cell.batch_size == summary.recommendation.batch_size
    as_text = slower_figure_text if summary.goal == "time-to-loss" else loss_above_text
    slower_by = NOTHING if chosen else as_text(cell.slower_by)
    # How sure the order is stands in the next column: seconds of few trials have wide intervals.
    seconds = Estimate(value=cell.seconds_to_target.value)
    to_target = target_text(summary.target_loss, replace(cell, seconds_to_target=seconds))
    return [size, error, to_target, slower_by, verdict]


def _has_rmse(summary: Summary) -> bool:
    return any(cell.holdout_rmse.value is not None for cell in summary.cells)


def _target_heading(summary: Summary) -> str:
    if summary.target_loss is None:
        return "to target"
    rmse = summary.recommendation.target_rmse
    if rmse is not None and _has_rmse(summary):
        return f"to RMSE ≤ {error_text(rmse)}"
    return f"to loss ≤ {target_word(summary.target_loss)}"


def headings(summary: Summary) -> list[str]:
    """Return the headings of the table of every size's speed and loss."""
    rows, target = summary.holdout_loss_at_rows, summary.target_loss
    return [
        "batch",
        "lr",
        "rows/s [95 %]",
        "held-out loss" if rows is None else f"loss at {count_word(rows)} rows",
        "to target" if target is None else f"to loss ≤ {target_word(target)}",
        "waits",
        "verdict",
    ]


def row_texts(summary: Summary, cell: CellFigures) -> list[str]:
    """Return one cell as the texts of the columns of `headings`."""
    return [
        cell_size_text(cell.batch_size, summary.sizes_used),
        rate_text(cell.lr),
        speed_text(cell.rows_per_second),
        loss_figure_text(cell.holdout_loss),
        target_text(summary.target_loss, cell),
        share_text(cell.wait_fraction),
        verdict_text(summary, cell),
    ]


def target_text(target: float | None, cell: CellFigures) -> str:
    """Return the seconds to the target loss, or the status: a missed target stays in the table."""
    seconds, is_timed = cell.seconds_to_target, cell.seconds_to_target.value is not None
    if cell.status == "reached":
        return seconds_text(seconds) if is_timed else "reached, not timed"
    if cell.status == "not_reached" and cell.steps_to_target.n:
        median = f", median {seconds_text(seconds)}" if is_timed else ""
        trials = plural(max(cell.holdout_loss.n, cell.steps_to_target.n), "trial")
        return f"{cell.steps_to_target.n} of {trials}{median}"
    if cell.status == "not_reached" and target is None:
        return NOTHING
    return status_text(cell.status)


def verdict_text(summary: Summary, cell: CellFigures) -> str:
    """Return the verdict of a size, marked where the size waits for rows: `slower, input-bound`."""
    verdict, size = plain_verdict(summary, cell), cell.batch_size
    advised = (summary.recommendation.batch_size, *summary.recommendation.equivalent)
    if size in advised or not is_input_bound(summary, cell):
        return verdict
    return "input-bound" if verdict == "trained" else f"{verdict}, input-bound"


def plain_verdict(summary: Summary, cell: CellFigures) -> str:
    """Return `recommended`, `as good`, `slower`, `undecided`, or how it missed the target.

    A size that missed the target is slower where its bound says so. It is `worse` where losses are
    compared.
    """
    recommendation = summary.recommendation
    if summary.verb == "train" and is_trained(cell.status):
        return "trained"
    if cell.batch_size == recommendation.batch_size:
        if len(summary.cells) == 1:
            return "the only size"
        return "recommended" if recommendation.settled else "recommended (not settled)"
    if cell.batch_size in recommendation.equivalent:
        return "as good"
    if recommendation.batch_size is not None and (cell.slower_by.lo or 0.0) > 0:
        return "slower" if summary.goal == "time-to-loss" else "worse"
    if recommendation.batch_size is not None and cell.status == "reached":
        return "undecided"
    if cell.status == "not_reached" and cell.steps_to_target.n:
        return "reached in some trials"
    return status_text(cell.status)


def frontier_table(summary: Summary) -> list[list[str]]:
    """Return the fastest size to each loss of the ladder, headings first."""
    rows = [
        [
            loss_text(point.loss),
            NOTHING if point.rmse is None else error_text(point.rmse),
            size_text(point.batch_size),
            seconds_text(Estimate(value=point.seconds)),
        ]
        for point in summary.frontier
    ]
    return [["loss", "RMSE", "best size", "seconds of training"], *rows]


def count_word(rows: int) -> str:
    """Return a count of rows, at three digits from a million on: `100M`, `2.1M`, `1,024`."""
    return f"{rows:,}" if rows < 1_000_000 else format_count(rows).replace(" ", "")
