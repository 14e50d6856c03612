"""The answer in words: the sentence, the reason, and why each other size was not chosen."""

import math
import shlex
from collections.abc import Sequence

from streamtrain.base.units import format_count
from streamtrain.base.words import plural
from streamtrain.plan.plan import default_window_rows
from streamtrain.report.analysis import Analysis
from streamtrain.report.number_format import (
    at_most_slower_text,
    error_text,
    loss_text,
    rate_text,
    seconds_text,
    size_text,
    sizes_text,
    slower_figure_text,
    slower_text,
    target_word,
)
from streamtrain.report.summary_parts import CellFigures, Recommended
from streamtrain.report.text.headline import trained_sentence
from streamtrain.science.cells import Cell
from streamtrain.science.contest import timing_variance
from streamtrain.science.crossing import round_up, rows_to_reach
from streamtrain.science.intervals import Estimate
from streamtrain.science.judge import is_correlated
from streamtrain.science.run_log import Run
from streamtrain.science.selection import Selection, next_look
from streamtrain.science.shuffle_quality import BAD_SHUFFLE_ABOVE
from streamtrain.science.spending import PASSES_SHARE

#: Timings are named as the cause where their deviation alone is this part of the bound.
TIMING_DOUBT = 0.4


def describe(analysis: Analysis) -> Recommended:
    """Return `recommendation` of `summary.json`: the choice with its reasons in words."""
    run, choice, target = analysis.run, analysis.judgement.choice, analysis.judgement.target
    chosen = next((cell for cell in analysis.cells if cell.batch_size == choice.batch_size), None)
    folder, command = run.header.folder, None
    if folder and chosen is not None and run.header.verb == "sweep":
        command = f"streamtrain train --from {shlex.quote(folder)}"
    return Recommended(
        batch_size=choice.batch_size,
        learning_rate=None if chosen is None else chosen.lr,
        settled=choice.settled,
        slower_by=choice.regret,
        equivalent=choice.equivalent,
        target_loss=target,
        target_rmse=rmse_of_loss(run, target),
        command=command,
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


def sentence(analysis: Analysis) -> str:
    """Return the answer in one to three sentences: the size, what it reaches, and how sure that is.

    The last one is about a size that grows, where that is faster.
    """
    growing = analysis.summary.growing
    if growing is None or not growing.wins:
        return _constant_sentence(analysis)
    lo, hi = growing.slower_by.lo or 0.0, growing.slower_by.hi or 0.0
    sizes = [int(stage.partition("@")[0]) for stage in growing.batch_schedule.split(",")]
    return (
        f"{_constant_sentence(analysis)} A size that grows from {size_text(sizes[0])} to"
        f" {size_text(sizes[-1])} takes {-100 * hi:.0f} to {-100 * lo:.0f} % less time still: the"
        " command below uses it."
    )


def _constant_sentence(analysis: Analysis) -> str:
    """Return the answer about one size.

    One of three ends: it is the fastest; others are as fast; or what would settle it.
    """
    summary = analysis.summary
    recommended, chosen = summary.recommendation, summary.recommended_cell
    if summary.verb == "train":
        return trained_sentence(analysis)
    if chosen is None:
        return recommended.reason
    goal = _goal(recommended)
    # The interval is in the table: a sentence has one figure.
    seconds = seconds_text(Estimate(value=summary.typical_seconds(chosen)))
    use = f"Use {size_text(chosen.batch_size)} (learning rate {rate_text(chosen.lr)})"
    reaches = f"{use}: it reaches {goal} in {seconds} of training"
    if len(summary.cells) == 1:
        return f"{reaches}. It is the only size tried."
    bound = recommended.slower_by.hi
    if not recommended.settled:
        return f"{reaches}{_doubt(analysis)}"
    if len(recommended.equivalent) > 1:
        bounds = [
            cell.slower_by.hi or 0.0
            for cell in summary.cells
            if cell.batch_size in recommended.equivalent
        ]
        equal = _equal_sizes(summary.cells, recommended.equivalent)
        within = at_most_slower_text(max(*bounds, bound or 0.0))
        return (
            f"{reaches}. {equal} do equally well (within {within}, 95 % sure): it does not matter"
            " which."
        )
    following = _next_fastest(summary.cells, chosen)
    if following is not None and (following.slower_by.lo or 0.0) < 0:
        return f"{reaches}{_at_most(bound or 0.0)}."
    compared = "" if following is None else f"; the next, {_compared(following)}"
    return (
        f"{use}. It is the fastest of {len(summary.cells)} sizes to {goal} ({seconds} of"
        f" training{compared})."
    )


def _goal(recommended: Recommended) -> str:
    if recommended.target_rmse is None:
        return f"loss {target_word(recommended.target_loss)}"
    return f"RMSE {error_text(recommended.target_rmse)}"


def _at_most(bound: float) -> str:
    return f", at most {at_most_slower_text(bound)} slower than the best size tried (95 % sure)"


def _doubt(analysis: Analysis) -> str:
    """Return how much slower than the best an unsettled choice may be, and what would tell."""
    recommended, trials = analysis.summary.recommendation, analysis.summary.trials
    bound = recommended.slower_by.hi
    if bound is None:
        return f". {'One trial' if trials == 1 else 'So few trials'} cannot tell how sure that is."
    doubt = f"{_at_most(bound)}."
    if not recommended.more_trials:
        timing = math.sqrt(2 * timing_variance(analysis.run, analysis.run.batch_sizes))
        is_timing = timing > TIMING_DOUBT * math.log1p(bound)
        return f"{doubt} Its timings vary too much: try a quieter machine." if is_timing else doubt
    more = recommended.more_trials
    if analysis.run.header.ladder is not None:
        more = (next_look(trials + more - 1) or trials + more) - trials
    budget = _budget_for(analysis.run, more)
    return f"{doubt} About {plural(more, 'more trial')} would settle it{budget}."


def _budget_for(run: Run, more_trials: int) -> str:
    """Return the flags that buy a sweep with a budget of seconds so many more trials of its rows.

    A larger budget alone would buy longer trials. "" for a sweep without such a budget.
    """
    ladder = run.header.ladder
    if ladder is None or ladder.budget_seconds is None or not run.passes:
        return ""
    spent = sum(record.seconds for record in run.passes)
    seconds = max(ladder.budget_seconds, spent / PASSES_SHARE)
    seconds += more_trials * run.passes[-1].seconds / PASSES_SHARE
    minutes = math.ceil(seconds / 30) / 2
    budget = f"{round(60 * minutes)}s" if minutes % 1 else f"{round(minutes)}m"
    return f": --budget {budget} --max-rows {run.train_rows}"


def _equal_sizes(cells: Sequence[CellFigures], equivalent: Sequence[int]) -> str:
    """Return the equivalent sizes: `64 to 1,024` where no other size lies between them."""
    between = [
        cell.batch_size for cell in cells if equivalent[0] <= cell.batch_size <= equivalent[-1]
    ]
    if len(equivalent) > 2 and len(between) == len(equivalent):
        return f"{size_text(equivalent[0])} to {size_text(equivalent[-1])}"
    *first, last = map(size_text, equivalent)
    return f"{', '.join(first)} and {last}"


def _next_fastest(cells: Sequence[CellFigures], chosen: CellFigures) -> CellFigures | None:
    """Return the size that comes closest to the chosen one."""
    others = [(cell.slower_by.value, cell) for cell in cells if cell is not chosen]
    known = [(value, cell) for value, cell in others if value is not None]
    return min(known, key=lambda pair: pair[0])[1] if known else None


def _compared(cell: CellFigures) -> str:
    """Return how many times as long a size takes as the chosen one."""
    figure, size = cell.slower_by, size_text(cell.batch_size)
    lo, hi = figure.lo, figure.hi
    if lo is None:
        return f"{size}, takes {1 + (figure.value or 0.0):.2g} times as long"
    if hi is None:
        return f"{size}, takes at least {1 + lo:.3g} times as long"
    return f"{size}, takes {1 + lo:.3g} to {1 + hi:.3g} times as long"


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
        case "not_reached":
            return _missed(analysis, cell)
        case "reached":
            pass
    if is_correlated(run, cell.batch_size):
        return (
            "rows of its minibatches are similar to one another (design effect above"
            f" {BAD_SHUFFLE_ABOVE:g}): its figures describe the shuffle, not the size"
        )
    slower_by = choice.slower_by.get(cell.batch_size)
    if slower_by is None or slower_by.value is None:
        return "reached the target, but its speed was not timed"
    chosen = size_text(choice.batch_size or 0)
    if cell.batch_size in choice.equivalent:
        return f"as fast as {chosen} within {at_most_slower_text(slower_by.hi or 0.0)}"
    if cell.batch_size in choice.dropped:
        return f"slower than {chosen} by {slower_figure_text(slower_by)}"
    return f"not told apart from {chosen} yet: slower by {slower_figure_text(slower_by)}"


def _missed(analysis: Analysis, cell: Cell) -> str:
    target = analysis.judgement.target
    if target is None:
        return "no target loss to judge it by"
    some = ""
    if cell.steps_to_target:
        missed = len(cell.curves) - len(cell.steps_to_target)
        some = f" in {missed} of {len(cell.curves)} trials"
    text = f"did not reach loss {target_word(target)}{some} within {budget_text(analysis.run)} rows"
    slower_by = analysis.judgement.choice.slower_by.get(cell.batch_size)
    if slower_by is None or (slower_by.lo or 0.0) <= 0:
        return text
    return f"{text}: at least {slower_text(slower_by.lo or 0.0)} slower"


def budget_text(run: Run) -> str:
    """Return the rows that each learner trains on, for a sentence: `4M`, `327,346`."""
    rows = run.train_rows
    if rows >= 1e6 and rows % 10_000 == 0:
        return format_count(rows).replace(" ", "")
    return f"{rows:,}"


def has_constant_target(run: Run) -> bool:
    """True when the best constant has no loss at all."""
    return run.baseline.constant_loss == 0


def mixed_span_rows(run: Run) -> int:
    """Return rows per span at which a window holds 64 spans of the whole data set.

    Few rows of a minibatch are then neighbours that resemble one another.
    """
    order = run.header.config.get("order", {})
    window = order.get("window_rows") or default_window_rows(len(run.header.data.features) + 1)
    return max(1, window // 64)


def _reason(analysis: Analysis) -> str:
    """Return why the recommended size is recommended."""
    choice, target = analysis.judgement.choice, target_word(analysis.judgement.target)
    if len(analysis.cells) == 1:
        return "the only size measured: there is nothing to compare it with"
    if len(choice.slower_by) == 1:
        return f"the only size that reached loss {target}"
    open_sizes = _undecided(choice)
    fastest = f"the fastest to loss {target} by the mean of log seconds"
    if not open_sizes:
        return f"{fastest}; every size outside {sizes_text(choice.equivalent)} is slower"
    return f"{fastest}; not told apart from it: {sizes_text(open_sizes)}"


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
    if reached and all(is_correlated(run, size) for size in reached):
        rows = mixed_span_rows(run)
        return (
            "Sizes reached the target, but the design effect of their minibatches is above"
            f" {BAD_SHUFFLE_ABOVE:g}: these statistics describe your shuffle, not the batch size,"
            " so none can be recommended. Let a window mix rows of many places: streamtrain"
            f" ingest --span-rows {rows}, then --span-rows {rows} here too; or raise --window-rows."
        )
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
    budget = budget_text(run)
    if loss >= (run.baseline.constant_loss or math.inf):
        return (
            f"No size did better than always guessing the mean within {budget} rows: none can be"
            " recommended. Try smaller rates with --lr-grid."
        )
    if target is None:
        return (
            f"No size improved for two evaluations in a row within {budget} rows: none can be"
            " recommended. Raise --max-rows."
        )
    return (
        f"No size reached loss {target_word(target)} in every trial within {budget} rows; the"
        f" smallest loss is {loss_text(loss)}, at {size_text(cell.batch_size)}."
        f" {_needed_budget(run, cell, target)}"
    )


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
            "Its curve no longer falls fast enough to tell which budget would; try a larger"
            " --target-loss."
        )
    # the fit may promise a budget at which the trials just failed
    rows = max(*reachable, 1.1 * run.train_rows)
    budget = format_count(round_up(rows, 2)).replace(" ", "")
    return f"If its curve continues to fall as it did, --max-rows {budget} would."
