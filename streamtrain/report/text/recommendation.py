"""The recommendation in words: the reason, and why each other size was not chosen."""

import math
import shlex
from collections.abc import Sequence

from streamtrain.base.units import format_count
from streamtrain.report.analysis import Analysis
from streamtrain.report.number_format import (
    at_most_slower_text,
    error_text,
    loss_above_text,
    loss_text,
    size_text,
    sizes_text,
    slower_figure_text,
    slower_text,
    target_word,
)
from streamtrain.report.summary_parts import NOT_MEASURED, Recommended
from streamtrain.report.text.outlier import outlier_advice
from streamtrain.science.cells import Cell
from streamtrain.science.crossing import round_up, rows_to_reach, smallest_target
from streamtrain.science.intervals import Estimate
from streamtrain.science.judge import is_correlated
from streamtrain.science.next_run import next_run
from streamtrain.science.run_log import Run
from streamtrain.science.selection import Selection
from streamtrain.science.shuffle_quality import BAD_SHUFFLE_ABOVE


def describe(analysis: Analysis) -> Recommended:
    """Return `recommendation` of `summary.json`: the choice with its reasons in words."""
    run, choice, target = analysis.run, analysis.judgement.choice, analysis.judgement.target
    chosen = next((cell for cell in analysis.cells if cell.batch_size == choice.batch_size), None)
    folder, command = run.header.folder, None
    if folder and chosen is not None and run.header.verb == "sweep":
        command = f"streamtrain train --from {shlex.quote(folder)}"
    after = None if command is None or chosen is None else next_run(run, chosen)
    return Recommended(
        batch_size=choice.batch_size,
        learning_rate=None if chosen is None else chosen.lr,
        settled=choice.settled,
        slower_by=choice.regret,
        equivalent=choice.equivalent,
        target_loss=target,
        target_rmse=rmse_of_loss(run, target),
        command=command,
        rows=None if after is None else after.rows,
        expected_loss=NOT_MEASURED if after is None else after.loss,
        expected_rmse=NOT_MEASURED if after is None else _rmse_of(run, after.loss),
        fall_per_doubling=None if after is None else after.fall_per_doubling,
        is_flat=after is not None and after.is_flat,
        more_trials=choice.more_trials,
        reason=_no_reason(analysis) if choice.batch_size is None else _reason(analysis),
        not_chosen={
            str(cell.batch_size): why_not(analysis, cell)
            for cell in analysis.cells
            if cell.batch_size != choice.batch_size
        },
    )


def rmse_of_loss(run: Run, loss: float | None) -> float | None:
    """Return a loss as RMSE in the target's own units; None where its scale is not known."""
    if loss is None or run.header.target_sd is None:
        return None
    return math.sqrt(loss) * run.header.target_sd


def _rmse_of(run: Run, loss: Estimate) -> Estimate:
    """Return an estimate of a loss as one of the RMSE."""
    return Estimate(
        value=rmse_of_loss(run, loss.value),
        lo=rmse_of_loss(run, loss.lo),
        hi=rmse_of_loss(run, loss.hi),
        n=loss.n,
    )


def why_not(analysis: Analysis, cell: Cell) -> str:
    """Return why a size was not chosen."""
    run, choice = analysis.run, analysis.judgement.choice
    because = f": {cell.reason}" if cell.reason else ""
    match cell.status:
        case "out_of_memory":
            return f"ran out of memory{because}"
        case "failed" if cell.curves:
            return f"failed{because}"
        case "failed":
            return "not measured: the run ended before"
        case "diverged":
            return "diverged in every trial at every learning rate"
        case "not_reached" if run.goal == "time-to-loss":
            return _missed(analysis, cell)
        case "not_reached":
            pass
        case "reached":
            pass
    slower_by = choice.slower_by.get(cell.batch_size)
    if slower_by is None and is_correlated(run, cell.batch_size):
        return (
            "rows of its minibatches are similar to one another (design effect above"
            f" {BAD_SHUFFLE_ABOVE:g}): its figures describe the shuffle, not the size"
        )
    if slower_by is None or slower_by.value is None:
        return "reached the target, but its speed was not timed"
    chosen = size_text(choice.batch_size or 0)
    if run.goal != "time-to-loss":
        return f"loss above that of {chosen} by {loss_above_text(slower_by)}"
    if cell.batch_size in choice.equivalent:
        return f"as fast as {chosen} within {at_most_slower_text(slower_by.hi or 0.0)}"
    if cell.batch_size in choice.dropped:
        return f"slower than {chosen} by {slower_figure_text(slower_by)}"
    return f"not yet distinguishable from {chosen}: slower by {slower_figure_text(slower_by)}"


def _missed(analysis: Analysis, cell: Cell) -> str:
    target = analysis.judgement.target
    if target is None:
        return "no target loss to judge it by"
    some = ""
    if cell.steps_to_target:
        missed = len(cell.curves) - len(cell.steps_to_target)
        some = f" in {missed} of {len(cell.curves)} trials"
    text = f"did not reach loss {target_word(target)}{some} within {_trained_text([cell])} rows"
    slower_by = analysis.judgement.choice.slower_by.get(cell.batch_size)
    if slower_by is None or (slower_by.lo or 0.0) <= 0:
        return text
    return f"{text}: at least {slower_text(slower_by.lo or 0.0)} slower"


def _trained_text(cells: Sequence[Cell]) -> str:
    """Return the rows that cells trained on in each trial that judges them: `4M`, `327,346`.

    Fresh seeds may have fewer rows than the trials that chose the learning rates.
    """
    curves = [curve for cell in cells for curve in cell.curves.values() if curve.rows]
    finished = [curve.rows[-1] for curve in curves if curve.finished]
    rows = min(finished or [curve.rows[-1] for curve in curves], default=0)
    if rows >= 1e6 and rows % 10_000 == 0:
        return format_count(rows).replace(" ", "")
    return f"{rows:,}"


def has_constant_target(run: Run) -> bool:
    """True when the best constant has no loss at all."""
    return run.baseline.constant_loss == 0


def shuffle_caveat(run: Run, size: int) -> str:
    """Return what makes a recommendation doubtful where minibatches are correlated, "" elsewhere.

    It starts with a space.
    """
    if not is_correlated(run, size):
        return ""
    return (
        " But rows of a minibatch are similar to one another (design effect above"
        f" {BAD_SHUFFLE_ABOVE:g}), so this describes your shuffle as much as the size: shuffle the"
        " rows once with `streamtrain ingest --shuffle`, and sweep again."
    )


def _reason(analysis: Analysis) -> str:
    """Return why the recommended size is recommended."""
    choice, target = analysis.judgement.choice, target_word(analysis.judgement.target)
    if len(analysis.cells) == 1:
        return "the only size measured: there is nothing to compare it with"
    if len(choice.slower_by) == 1:
        return f"the only size that reached loss {target}"
    open_sizes = _undecided(choice)
    if analysis.run.goal != "time-to-loss":
        told = f"; not distinguishable from it: {sizes_text(open_sizes)}" if open_sizes else ""
        return f"the smallest mean log loss by --goal {analysis.run.goal}{told}"
    fastest = f"the fastest to loss {target} by the mean of log seconds"
    if not open_sizes:
        equal = choice.equivalent
        others = f"size outside {sizes_text(equal)}" if len(equal) > 1 else "other size"
        return f"{fastest}; every {others} is slower"
    return f"{fastest}; not distinguishable from it: {sizes_text(open_sizes)}"


def _undecided(choice: Selection) -> tuple[int, ...]:
    """Return the sizes that are neither as fast as the chosen one, nor slower, with certainty."""
    return tuple(
        size
        for size, ratio in choice.slower_by.items()
        if size not in choice.equivalent and size not in choice.dropped and ratio.n
    )


def _no_reason(analysis: Analysis) -> str:
    """Return why there is no recommendation.

    Where the target was missed, name the smallest loss and the budget that would reach the target.
    """
    run, target = analysis.run, analysis.judgement.target
    if not run.has_holdout:
        return (
            "No rows were held out, so no size can be recommended. Give --holdout or --eval-data."
        )
    reached = [cell.batch_size for cell in analysis.cells if cell.status == "reached"]
    if reached:
        return (
            "Sizes reached the target, but their speed was not timed, so none can be recommended."
        )
    cells = zip(analysis.summary.cells, analysis.cells, strict=True)
    losses = [(figures.holdout_loss.value, cell) for figures, cell in cells]
    scored = [(loss, cell) for loss, cell in losses if loss is not None]
    if not scored:
        return (
            "No size has a finite held-out loss, so none can be recommended. Try smaller learning"
            " rates with --lr-grid."
        )
    loss, cell = min(scored, key=lambda pair: pair[0])
    if has_constant_target(run):
        return (
            "The target is constant: there is nothing to learn, so no size can be recommended. Name"
            " another --target."
        )
    budget = _trained_text([cell for loss, cell in scored])
    if loss >= (run.baseline.constant_loss or math.inf):
        advice = outlier_advice(run) or "Try smaller rates with --lr-grid."
        return (
            f"No size did better than always guessing the mean within {budget} rows: none can be"
            f" recommended. {advice}"
        )
    if target is None:
        return (
            f"No size improved for two evaluations in a row within {budget} rows: none can be"
            " recommended. Raise --max-rows."
        )
    missed, smallest = f"loss {target_word(target)}", f"loss is {loss_text(loss)}"
    rmse, least = rmse_of_loss(run, target), rmse_of_loss(run, loss)
    if rmse is not None and least is not None:  # as in the table
        missed, smallest = f"RMSE {error_text(rmse)}", f"RMSE is {error_text(least)}"
    return (
        f"No size reached {missed} in every trial within {budget} rows; the smallest"
        f" {smallest}, at {size_text(cell.batch_size)}."
        f" {outlier_advice(run) or _needed_budget(run, cell, target)}"
    )


def held_loss(cell: Cell) -> float:
    """Return the smallest loss that every trial of a cell held."""
    loss = max(smallest_target(curve.steps, curve.holdout_loss) for curve in cell.curves.values())
    if not math.isfinite(loss):  # a trial did not improve for two evaluations in a row
        losses = (min(filter(math.isfinite, curve.holdout_loss)) for curve in cell.curves.values())
        loss = max(losses)
    return loss


def larger_target(run: Run, cell: Cell) -> str:
    """Return the flag of a target that every trial of a cell held."""
    loss = held_loss(cell)
    rmse = rmse_of_loss(run, loss)
    if rmse is None:
        return f"--target-loss {round_up(loss):g}"
    return f"--target-rmse {round_up(rmse):g}"


def _needed_budget(run: Run, cell: Cell, target: float) -> str:
    """Return the rows at which the curves of a cell would reach the target, as advice."""
    floor = (run.header.data.truth or {}).get("best_loss") or 0.0
    if target <= floor:
        return f"No budget would reach it: the best possible loss is {loss_text(floor)}."
    estimates = [
        rows_to_reach(curve.rows, curve.holdout_loss, target, floor)
        for curve in cell.curves.values()
    ]
    reachable = [rows for rows in estimates if rows is not None]
    if not reachable or len(reachable) < len(estimates):
        return (
            "Its curve no longer falls fast enough to tell which budget would; try a larger target,"
            f" such as {larger_target(run, cell)}."
        )
    # the fit may promise a budget at which the trials just failed
    rows = max(*reachable, 1.1 * run.train_rows)
    budget = format_count(round_up(rows, 2)).replace(" ", "")
    return f"If its curve continues to fall as it did, --max-rows {budget} would."
