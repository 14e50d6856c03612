"""The answer in words: the sentence, the reason, and why each other size was not chosen."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from streamtrain.base.units import format_count
from streamtrain.plan.plan import default_window_rows
from streamtrain.report.number_format import (
    loss_text,
    seconds_text,
    size_text,
    sizes_text,
    target_word,
    times_text,
)
from streamtrain.report.text.headline import trained_sentence
from streamtrain.science.cells import Cell
from streamtrain.science.crossing import round_up, rows_to_reach
from streamtrain.science.judge import is_correlated
from streamtrain.science.rule import EQUIVALENT_BELOW, Ratio, Recommendation
from streamtrain.science.run_log import Run
from streamtrain.science.shuffle_quality import BAD_SHUFFLE_ABOVE


def describe(
    run: Run,
    cells: Sequence[Cell],
    figures: Sequence[Mapping[str, Any]],
    choice: Recommendation,
    target: float | None,
) -> dict[str, Any]:
    """`recommendation` of summary.json: the rule's choice with its reasons in words.

    `figures` are the cells' figures.
    """
    undecided = [
        size
        for size, ratio in choice.ratios.items()
        if size not in choice.equivalent and not _proven(ratio)
    ]
    reason = (
        _reason(choice, undecided, target, len(cells))
        if choice.batch_size is not None
        else _no_reason(run, cells, figures, target)
    )
    return {
        "batch_size": choice.batch_size,
        "reason": reason,
        "conclusive": choice.conclusive,
        "equivalent": list(choice.equivalent),
        "undecided": undecided,
        "more_trials": choice.more_trials,
        "not_chosen": {
            str(cell.batch_size): why_not(run, cell, choice, target)
            for cell in cells
            if cell.batch_size != choice.batch_size
        },
    }


def sentence(
    run: Run,
    cells: Sequence[Mapping[str, Any]],
    recommendation: Mapping[str, Any],
    target: float | None,
) -> str:
    """The one-sentence answer: what the recommended size does, and how the largest other size
    compares.
    """
    chosen = recommendation["batch_size"]
    if run.header.verb == "train":
        return trained_sentence(run, cells[0])
    if chosen is None:
        return recommendation["reason"]
    by_size = {cell["batch_size"]: cell for cell in cells}
    text = (
        f"{size_text(chosen)} reaches loss {target_word(target)} in"
        f" {seconds_text(by_size[chosen]['seconds_to_target'])}"
    )
    others = [size for size in by_size if size not in recommendation["equivalent"]]
    if others:
        text += (
            f"; {size_text(max(others))} {_contrast(run, by_size[max(others)], by_size[chosen])}"
        )
    return text + "." + _doubt(recommendation, len(cells))


def why_not(run: Run, cell: Cell, choice: Recommendation, target: float | None) -> str:
    """Why a size was not chosen."""
    match cell.status:
        case "out_of_memory":
            return f"ran out of memory{_because(cell)}"
        case "failed":
            return (
                f"failed{_because(cell)}"
                if cell.curves
                else "left no measurement: the run ended before"
            )
        case "diverged":
            return "diverged in every trial at every learning rate"
        case "not_reached" if target is None:
            return "no target loss to judge it by"
        case "not_reached":
            some = (
                f" in {len(cell.curves) - len(cell.steps_to_target)} of {len(cell.curves)} trials"
                if cell.steps_to_target
                else ""
            )
            return f"did not reach loss {target_word(target)}{some} within {budget_text(run)} rows"
    if is_correlated(run, cell.batch_size):
        return (
            "rows of its minibatches resemble one another (design effect above"
            f" {BAD_SHUFFLE_ABOVE:g}): its figures are of the shuffle, not of the size"
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


def budget_text(run: Run) -> str:
    """The rows each learner trains on, for a sentence: `4M`, `327,346`."""
    rows = run.train_rows
    return (
        format_count(rows).replace(" ", "") if rows >= 1e6 and rows % 10_000 == 0 else f"{rows:,}"
    )


def has_constant_target(run: Run) -> bool:
    """Whether the best constant leaves no loss at all."""
    return run.baseline.constant_loss == 0


def mixed_span_rows(run: Run) -> int:
    """Rows a span of which a window holds 64, drawn from the whole data set: neighbours that
    resemble one another are then few.
    """
    order = run.header.config.get("order", {})
    window = order.get("window_rows") or default_window_rows(len(run.header.data.features) + 1)
    return max(1, window // 64)


def _reason(
    choice: Recommendation, undecided: Sequence[int], target: float | None, num_cells: int
) -> str:
    fastest = size_text(choice.best)
    if num_cells == 1:
        return "the only size measured: there is nothing to compare it with"
    if len(choice.ratios) == 1:
        return f"the only size that reached loss {target_word(target)} in every trial"
    if len(choice.equivalent) == 1:
        if not undecided:
            return (
                f"the fastest to loss {target_word(target)}; every other size that reached it is"
                " slower"
            )
        why = (
            "one run of each cannot tell"
            if choice.ratios[undecided[0]].lo is None
            else "the intervals overlap"
        )
        return (
            f"the fastest to loss {target_word(target)} in the median; {sizes_text(undecided)} may"
            f" be as fast: {why}"
        )
    sizes = ", ".join(size_text(size) for size in choice.equivalent)
    return (
        f"the smallest of the sizes that are as good as the fastest ({fastest}) within"
        f" {EQUIVALENT_BELOW - 1:.0%}: {sizes}"
    )


def _no_reason(
    run: Run, cells: Sequence[Cell], figures: Sequence[Mapping[str, Any]], target: float | None
) -> str:
    """Why there is no recommendation: names the smallest loss at equal rows and the budget that
    would reach the target.
    """
    if not run.has_holdout:
        return (
            "No rows were held out, so no size can be recommended. Give --holdout or --eval-data."
        )
    reached = [cell.batch_size for cell in cells if cell.status == "reached"]
    if reached and all(is_correlated(run, size) for size in reached):
        rows = mixed_span_rows(run)
        return (
            "Sizes reached the target, but the design effect of their minibatches is above"
            f" {BAD_SHUFFLE_ABOVE:g}: these statistics are of your shuffle, not of the batch size,"
            " so none can be recommended. Let a window hold rows of many places: streamtrain"
            f" ingest --span-rows {rows}, then --span-rows {rows} here too; or raise --window-rows."
        )
    if reached:
        return (
            "Sizes reached the target, but their speed was not timed, so none can be recommended."
        )
    losses = [figure["holdout_loss"]["value"] for figure in figures]
    scored = [(loss, cell) for loss, cell in zip(losses, cells, strict=True) if loss is not None]
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
    if loss >= (run.baseline.constant_loss or math.inf):
        return (
            f"No size did better than always guessing the mean within {budget_text(run)} rows: none"
            " can be recommended. Try smaller rates with --lr-grid."
        )
    if target is None:
        return (
            f"No size improved for two evaluations in a row within {budget_text(run)} rows: none"
            " can be recommended. Raise --max-rows."
        )
    return (
        f"No size reached loss {target_word(target)} in every trial within {budget_text(run)} rows;"
        f" the smallest loss is {loss_text(loss)}, at {size_text(cell.batch_size)}."
        f" {_budget(run, cell, target)}"
    )


def _budget(run: Run, cell: Cell, target: float) -> str:
    floor = (run.header.data.truth or {}).get("best_loss") or 0.0
    if target <= floor:
        return f"No budget would reach it: the best possible loss is {loss_text(floor)}."
    estimates = [rows_to_reach(c.rows, c.holdout_loss, target, floor) for c in cell.curves.values()]
    if not estimates or any(rows is None for rows in estimates):
        return (
            "Its curve no longer falls fast enough to say which budget would; try a larger"
            " --target-loss."
        )
    # the fit may promise what the trials just failed to do
    rows = max(*estimates, 1.1 * run.train_rows)
    return (
        "If its curve goes on falling as it did, --max-rows"
        f" {format_count(round_up(rows, 2)).replace(' ', '')} would."
    )


def _contrast(run: Run, cell: Mapping[str, Any], chosen: Mapping[str, Any]) -> str:
    seconds, best = cell["seconds_to_target"]["value"], chosen["seconds_to_target"]["value"]
    match cell["status"]:
        case "reached" if seconds is not None and best:
            return f"takes {times_text(seconds / best)} times as long"
        case "diverged":
            return "diverged"
        case "out_of_memory":
            return "ran out of memory"
        case "failed":
            return "failed"
        case "reached":
            return "reaches it too"
    return f"did not reach it within {budget_text(run)} rows"


def _doubt(recommendation: Mapping[str, Any], num_cells: int) -> str:
    if recommendation["conclusive"] or num_cells == 1:
        return ""
    more = recommendation["more_trials"]
    doubt = " Inconclusive: no difference detected at this budget"
    if recommendation["undecided"]:
        doubt += (
            f" between {size_text(recommendation['batch_size'])} and"
            f" {sizes_text(recommendation['undecided'])}"
        )
    return (
        f"{doubt}; about {more} more {'trial' if more == 1 else 'trials'} would show one."
        if more
        else f"{doubt}."
    )


def _proven(ratio: Ratio) -> bool:
    return ratio.lo is not None and ratio.lo > 1


def _because(cell: Cell) -> str:
    return f": {cell.reason}" if cell.reason else ""


def _ratio_text(ratio: Ratio) -> str:
    return f"{ratio.value:.2f}" + (
        "" if ratio.lo is None else f" [{ratio.lo:.2f}, {ratio.hi:,.2f}]"
    )
