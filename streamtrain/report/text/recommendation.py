"""The answer in words: the sentence, the reason, and why each other size was not chosen."""

import math
from collections.abc import Sequence

from streamtrain.base.units import format_count
from streamtrain.base.words import plural
from streamtrain.plan.plan import default_window_rows
from streamtrain.report.analysis import Analysis
from streamtrain.report.number_format import (
    loss_text,
    seconds_text,
    size_text,
    sizes_text,
    target_word,
    times_text,
)
from streamtrain.report.summary_parts import CellFigures, Recommended
from streamtrain.report.text.headline import trained_sentence
from streamtrain.science.cells import Cell
from streamtrain.science.crossing import round_up, rows_to_reach
from streamtrain.science.intervals import Estimate
from streamtrain.science.judge import is_correlated
from streamtrain.science.rule import EQUIVALENT_BELOW
from streamtrain.science.run_log import Run
from streamtrain.science.shuffle_quality import BAD_SHUFFLE_ABOVE


def describe(analysis: Analysis) -> Recommended:
    """Return `recommendation` of `summary.json`: the rule's choice with its reasons in words."""
    choice = analysis.judgement.choice
    undecided = tuple(
        size
        for size, ratio in choice.ratios.items()
        if size not in choice.equivalent and not _proven(ratio)
    )
    reason = _no_reason(analysis) if choice.batch_size is None else _reason(analysis, undecided)
    return Recommended(
        batch_size=choice.batch_size,
        reason=reason,
        conclusive=choice.conclusive,
        equivalent=tuple(choice.equivalent),
        undecided=undecided,
        more_trials=choice.more_trials,
        not_chosen={
            str(cell.batch_size): why_not(analysis, cell)
            for cell in analysis.cells
            if cell.batch_size != choice.batch_size
        },
    )


def sentence(analysis: Analysis) -> str:
    """Return the answer in one sentence.

    It says what the recommended size does, and how the largest size that is not as good compares.
    """
    summary = analysis.summary
    recommendation, chosen = summary.recommendation, summary.recommended_cell
    if summary.verb == "train":
        return trained_sentence(analysis)
    if chosen is None:
        return recommendation.reason
    text = (
        f"{size_text(chosen.batch_size)} reaches loss {target_word(summary.target_loss)} in"
        f" {seconds_text(chosen.seconds_to_target)}"
    )
    others = [cell for cell in summary.cells if cell.batch_size not in recommendation.equivalent]
    if others:
        largest = max(others, key=lambda cell: cell.batch_size)
        contrast = _contrast(analysis.run, largest, chosen)
        text += f"; {size_text(largest.batch_size)} {contrast}"
    return text + "." + _doubt(recommendation, len(summary.cells))


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
    ratio = choice.ratios.get(cell.batch_size)
    if ratio is None or choice.best is None:
        return "reached the target, but its speed was not timed"
    if cell.batch_size in choice.equivalent:
        return (
            f"as good as {size_text(choice.best)} within {EQUIVALENT_BELOW - 1:.0%}, and larger"
            " than needed"
        )
    proven = "" if _proven(ratio) else ": no difference proven at this budget"
    return f"took {_ratio_text(ratio)} times the seconds of {size_text(choice.best)}{proven}"


def _missed(analysis: Analysis, cell: Cell) -> str:
    target = analysis.judgement.target
    if target is None:
        return "no target loss to judge it by"
    some = ""
    if cell.steps_to_target:
        missed = len(cell.curves) - len(cell.steps_to_target)
        some = f" in {missed} of {len(cell.curves)} trials"
    budget = budget_text(analysis.run)
    return f"did not reach loss {target_word(target)}{some} within {budget} rows"


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


def _reason(analysis: Analysis, undecided: Sequence[int]) -> str:
    """Return why the recommended size is recommended."""
    choice, target = analysis.judgement.choice, target_word(analysis.judgement.target)
    if len(analysis.cells) == 1:
        return "the only size measured: there is nothing to compare it with"
    if len(choice.ratios) == 1:
        return f"the only size that reached loss {target} in every trial"
    if len(choice.equivalent) > 1:
        sizes = ", ".join(map(size_text, choice.equivalent))
        fastest = size_text(choice.best or choice.equivalent[0])
        return (
            f"the smallest of the sizes that are as good as the fastest ({fastest})"
            f" within {EQUIVALENT_BELOW - 1:.0%}: {sizes}"
        )
    if not undecided:
        return f"the fastest to loss {target}; every other size that reached it is slower"
    one_run = choice.ratios[undecided[0]].lo is None
    why = "one run of each cannot tell" if one_run else "the intervals overlap"
    return (
        f"the fastest to loss {target} in the median; {sizes_text(undecided)} may be as fast: {why}"
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


def _contrast(run: Run, cell: CellFigures, chosen: CellFigures) -> str:
    """Return how another size compares with the chosen one."""
    seconds, best = cell.seconds_to_target.value, chosen.seconds_to_target.value
    match cell.status:
        case "reached" if seconds is not None and best:
            return f"takes {times_text(seconds / best)} times as long"
        case "reached":
            return "reaches it too"
        case "diverged":
            return "diverged"
        case "out_of_memory":
            return "ran out of memory"
        case "failed":
            return "failed"
        case "not_reached":
            return f"did not reach it within {budget_text(run)} rows"


def _doubt(recommendation: Recommended, num_cells: int) -> str:
    if recommendation.conclusive or num_cells == 1 or recommendation.batch_size is None:
        return ""
    doubt = " Inconclusive: no difference detected at this budget"
    if recommendation.undecided:
        chosen, others = recommendation.batch_size, recommendation.undecided
        doubt += f" between {size_text(chosen)} and {sizes_text(others)}"
    if not recommendation.more_trials:
        return f"{doubt}."
    return f"{doubt}; about {plural(recommendation.more_trials, 'more trial')} would show one."


def _proven(ratio: Estimate) -> bool:
    return ratio.lo is not None and ratio.lo > 1


def _ratio_text(ratio: Estimate) -> str:
    if ratio.lo is None or ratio.hi is None:
        return f"{ratio.value:.2f}"
    return f"{ratio.value:.2f} [{ratio.lo:.2f}, {ratio.hi:,.2f}]"
