"""The answer in one to three sentences: the size, what it reaches, and how sure that is."""

import math
from collections.abc import Sequence

from streamtrain.base.units import format_percent, two_digits
from streamtrain.base.words import plural
from streamtrain.report.analysis import Analysis, Summary
from streamtrain.report.number_format import (
    at_most_slower_text,
    error_text,
    rate_text,
    seconds_text,
    size_text,
    target_word,
)
from streamtrain.report.summary_parts import CellFigures, Recommended
from streamtrain.report.text.advice import LEAST_OFF_SECONDS
from streamtrain.report.text.headline import trained_sentence
from streamtrain.report.text.recommendation import held_loss, larger_target, shuffle_caveat
from streamtrain.science.contest import timing_variance
from streamtrain.science.intervals import Estimate
from streamtrain.science.run_log import Run
from streamtrain.science.selection import next_look
from streamtrain.science.spending import PASSES_SHARE, TIMING_DOUBT

#: A shorter training is not announced to the millisecond: reading the first rows and starting
#: threads take as long.
_SHORT_SECONDS = 0.5
#: The default of `eval.first_row`.
_FIRST_ROW = 1024


def sentence(analysis: Analysis) -> str:
    """Return the answer in one to three sentences: the size, what it reaches, and how sure that is.

    Then come a size that grows, where that is faster, and a caveat where rows are correlated.
    """
    growing, chosen = analysis.summary.growing, analysis.summary.recommended_cell
    text = _constant_sentence(analysis)
    if growing is not None and growing.wins:
        lo, hi = growing.slower_by.lo or 0.0, growing.slower_by.hi or 0.0
        sizes = [int(stage.partition("@")[0]) for stage in growing.batch_schedule.split(",")]
        text += (
            f" A size that grows from {size_text(sizes[0])} to {size_text(sizes[-1])} takes"
            f" {-100 * hi:.0f} to {-100 * lo:.0f} % less time still: the command below uses it."
        )
    if analysis.summary.verb == "sweep" and chosen is not None:
        text += shuffle_caveat(analysis.run, chosen.batch_size)
    return text


def next_note(summary: Summary) -> str:
    """Return what the recommended command does: its rows, seconds and RMSE; else nothing.

    Where these are less than half of the table, a sentence says what more of them would gain.
    """
    recommended, cell = summary.recommendation, summary.recommended_cell
    if recommended.command is None or recommended.rows is None or cell is None:
        return ""
    all_rows = (summary.data.num_rows or 0) - (summary.data.holdout_rows or 0)
    few = 2 * recommended.rows < all_rows
    of_all = f" of the {all_rows:,}" if few else ""
    text = f"It trains on {recommended.rows:,}{of_all} rows"
    gain = _gain_of_rows(recommended) if few else ""
    growing = summary.growing
    if growing is not None and growing.wins:
        return f"{text}."
    if speed := cell.rows_per_second.value:
        confirmed = summary.confirmed(cell)
        ratio = confirmed.ratio.value if confirmed is not None else None
        seconds = recommended.rows / speed * (ratio or 1.0)
        seconds += _evaluating_seconds(summary, recommended.rows)
        if seconds < _SHORT_SECONDS:
            text += " in less than a second"
        else:
            text += f" in about {seconds_text(Estimate(value=seconds))}"
    rmse = recommended.expected_rmse
    if rmse.value is None:
        return f"{text}.{gain}"
    text += f"; the RMSE to expect is {error_text(rmse.value)}"
    if rmse.lo is None or rmse.hi is None:
        return f"{text}.{gain}"
    return f"{text} [{error_text(rmse.lo)}, {error_text(rmse.hi)}].{gain}"


def _gain_of_rows(recommended: Recommended) -> str:
    """Return a sentence on what twice the rows gained in the sweep; nothing where unknown."""
    fall = recommended.fall_per_doubling
    if fall is None:
        return ""
    if fall <= 0:
        return " In the sweep, twice the rows gained nothing."
    gained = f" In the sweep, twice the rows lowered the loss by {two_digits(100 * fall)} %"
    if recommended.is_flat:
        return f"{gained} only."
    return f"{gained}: a sweep of more rows (--budget, --max-rows) may gain more."


def _evaluating_seconds(summary: Summary, rows: int) -> float:
    """Return about how long the evaluations of a training on `rows` rows take.

    They are at rows that grow by √2 each. A row costs a third of a step's row at the fastest size:
    the derivatives, which cost the other two, are not needed.
    """
    fastest = max((cell.rows_per_second.value or 0.0 for cell in summary.cells), default=0.0)
    if not fastest:
        return 0.0
    evaluations = 2 + 2 * math.log2(max(1.0, rows / _FIRST_ROW))
    return evaluations * (summary.data.holdout_rows or 0) / (3 * fastest)


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
    if summary.goal != "time-to-loss":
        return _loss_sentence(summary, chosen)
    seconds = _training_seconds(summary, chosen)
    use = f"Use {size_text(chosen.batch_size)} (learning rate {rate_text(chosen.lr)})"
    reaches = f"{use}: it reaches {goal} in {seconds}"
    ran, missed = _trials_of(analysis, chosen.batch_size)
    if missed:
        return (
            f"{use}: it reached {goal} in only {ran - missed} of {ran} trials"
            f" (median {seconds}).{_doubt_of_target(analysis, chosen.batch_size)}"
        )
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
    return f"{reaches}. It is the fastest of {len(summary.cells)} sizes{compared}."


def _trials_of(analysis: Analysis, size: int) -> tuple[int, int]:
    """Return the trials of a size, and how many of them missed the target."""
    cell = next(cell for cell in analysis.cells if cell.batch_size == size)
    return len(cell.curves), len(cell.curves) - len(cell.steps_to_target)


def _doubt_of_target(analysis: Analysis, size: int) -> str:
    """Return the target that every trial of a size reached, as advice; or that none is of use."""
    cell = next(cell for cell in analysis.cells if cell.batch_size == size)
    if held_loss(cell) >= (analysis.run.baseline.constant_loss or math.inf):
        return " At least one trial did no better than always guessing the mean."
    return (
        f" For a target that each of them reached, sweep again with"
        f" {larger_target(analysis.run, cell)}."
    )


def _training_seconds(summary: Summary, chosen: CellFigures) -> str:
    """Return the seconds of training: as measured where they were, else as the table has them.

    Where the table has noticeably other seconds, the predicted ones, both are given: alone, the
    second figure would look like a contradiction. The predicted ones are of the steps alone, so a
    training that takes longer by no more than a start does is no failure of the prediction.
    """
    seconds = chosen.seconds_to_target.value
    predicted = seconds_text(Estimate(value=seconds))
    confirmed = summary.confirmed(chosen)
    if confirmed is None or confirmed.measured_seconds.value is None:
        return f"{predicted} of training"
    measured = f"{seconds_text(Estimate(value=confirmed.measured_seconds.value))} of training"
    if confirmed.is_off:
        is_longer = confirmed.measured_seconds.value > (seconds or 0.0)
        if is_longer and confirmed.seconds_off <= LEAST_OFF_SECONDS:
            return f"{measured} ({predicted} predicted for its steps alone)"
        return f"{measured}, not the {predicted} predicted"
    if seconds is None or 0.8 <= confirmed.measured_seconds.value / seconds <= 1.25:
        return measured
    return f"{measured}, within the noise of the {predicted} predicted"


def _loss_sentence(summary: Summary, chosen: CellFigures) -> str:
    """Return the answer where losses after equal rows or in equal time are compared."""
    recommended = summary.recommendation
    bound, rmse = recommended.slower_by.hi, chosen.holdout_rmse.value
    budget = "after the same rows" if summary.goal == "loss-at-rows" else "in the same time"
    error = "" if rmse is None else f" (RMSE {error_text(rmse)} at the end)"
    use = f"Use {size_text(chosen.batch_size)} (learning rate {rate_text(chosen.lr)})"
    if bound is None:
        return f"{use}: it has the smallest loss {budget}{error}. So few trials cannot tell more."
    equal = ""
    if len(recommended.equivalent) > 1:
        sizes = _equal_sizes(summary.cells, recommended.equivalent)
        equal = f" {sizes} do equally well: it does not matter which."
    return (
        f"{use}: {budget} its loss{error} is at most {format_percent(bound, 1)} above that of the"
        f" best size tried (95 % sure).{equal}"
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
    """Return the flags that give a sweep with a budget of seconds `more_trials` more trials.

    The trials keep their rows; a larger budget alone would buy longer ones. "" for a sweep without
    such a budget.
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
        return f"{size}, takes {two_digits(1 + (figure.value or 0.0))} times as long"
    if hi is None:
        return f"{size}, takes at least {1 + lo:.3g} times as long"
    return f"{size}, takes {1 + lo:.3g} to {1 + hi:.3g} times as long"
