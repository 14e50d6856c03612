"""Warnings: what a reader must know before believing a figure, each with the flag that mends it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from streamtrain.base.units import format_bytes
from streamtrain.report.number_format import (
    loss_text,
    rate_text,
    size_text,
    sizes_text,
    target_word,
)
from streamtrain.report.text.recommendation import has_constant_target, mixed_span_rows
from streamtrain.science.cells import Cell
from streamtrain.science.crossing import round_up
from streamtrain.science.judge import is_correlated
from streamtrain.science.run_log import Run

#: Bringing rows for more than this share of the time is called input-bound; a choice of this
#: project, as is the next one.
INPUT_BOUND = 0.2
_FEW_STEPS = 30
#: A target that was chosen so far above the smallest loss is called easy; a choice of this project
#: too.
_EASY_TARGET = 1.5
#: A loss on n rows is known to about √(2/n) of itself: to a seventh on 100.
_FEW_HELD_OUT = 100

#: A training that takes this much longer or shorter than predicted, for sure and by more than
#: starting takes, is said.
MOST_OFF, LEAST_OFF_SECONDS = 1.25, 0.1


def warn(
    run: Run, cells: Sequence[Cell], summary: Mapping[str, Any]
) -> list[dict[str, str | None]]:
    """The warnings of a run as `{text, flag}`, most serious first.

    `flag` is None where none helps.
    """
    found = [
        *_of_run(run, summary),
        *_of_outcomes(run, cells),
        *_of_losses(run, cells, summary),
        *_of_rates(run, cells, summary),
        *_of_speed(summary),
    ]
    return [{"text": text, "flag": flag} for text, flag in found]


Warnings = Iterator[tuple[str, str | None]]


def _of_run(run: Run, summary: Mapping[str, Any]) -> Warnings:
    if not run.end:
        yield "The run did not end: these figures are of what had been read when it stopped.", None
    if not run.has_holdout:
        yield "No rows were held out: there is no held-out loss and no recommendation.", "--holdout"
    elif (rows := run.header.data.holdout_rows) and rows < _FEW_HELD_OUT:
        yield (
            (
                f"Only {rows:,} row{'s were' if rows > 1 else ' was'} held out: a loss on so few"
                " says little."
            ),
            "--eval-data",
        )
    if run.header.data.integrity == "unverified":
        yield (
            (
                "Integrity unverified: the data carry no checksums, so a flipped bit would go"
                " unnoticed."
            ),
            "streamtrain ingest",
        )
    if sizes := sizes_text(
        [cell["batch_size"] for cell in summary["cells"] if is_correlated(run, cell["batch_size"])]
    ):
        text = (
            f"Rows of a minibatch resemble one another at {sizes}: these statistics are of your"
            " shuffle, not of the batch size."
        )
        yield (
            f"{text} Ingest the data with smaller spans, and read them so.",
            f"--span-rows {mixed_span_rows(run)}",
        )
    for what, of in (("dropped", "rows"), ("imputed", "values")):
        counts = [found for one in run.passes if (found := getattr(one, what)) is not None]
        if total := sum(found.total for found in counts):
            columns: Counter[str] = sum((Counter(found.columns) for found in counts), Counter())
            where = ", ".join(f"{name}: {count:,}" for name, count in columns.most_common(8))
            yield (
                (
                    f"{total:,} {of} were {what} for being null, NaN or infinite, over all passes"
                    f" ({where})."
                ),
                "--on-null",
            )
    projected, peak = summary["projected_bytes"], summary["peak_rss_bytes"]
    if projected and peak and peak > projected:
        yield (
            f"Peak memory was {format_bytes(peak)}, above the projected {format_bytes(projected)}.",
            "--memory",
        )


def _of_outcomes(run: Run, cells: Sequence[Cell]) -> Warnings:
    is_sweep = run.header.verb == "sweep"
    rate_flag = "--lr-grid" if is_sweep and run.rules[0] == "tuned" else "--lr"
    for status, text, flag in (
        ("diverged", "diverged" + " in every trial at every learning rate" * is_sweep, rate_flag),
        ("out_of_memory", "ran out of memory", "--memory"),
        ("failed", "failed", None),
    ):
        if sizes := _sizes(cell for cell in cells if cell.status == status):
            yield f"{sizes} {text}.", flag


def _of_losses(run: Run, cells: Sequence[Cell], summary: Mapping[str, Any]) -> Warnings:
    if summary["target_loss"] is not None and (
        sizes := _sizes(cell for cell in cells if cell.status == "not_reached")
    ):
        yield f"{sizes} did not reach the target in every trial with this many rows.", "--max-rows"
    if early := [cell for cell in cells if cell.is_guessed]:
        text = (
            f"{_sizes(early)} reached the target before the first evaluation: its steps and rows"
            " are guessed, and may be several times too many."
        )
        yield text, f"--set eval.first_row={min(cell.batch_size for cell in cells)}"
    rows = summary["epoch_rows"]
    if (
        rows
        and len(cells) > 1
        and (sizes := _sizes(cell for cell in cells if cell.batch_size > rows and _steps(cell) > 0))
    ):
        yield (
            (
                f"{sizes}: more than the {rows:,} rows that there are to train on, so every step"
                " takes all of them."
            ),
            "--batch-sizes",
        )
    if sizes := _sizes(
        cell
        for cell in cells
        if cell.curves and _steps(cell) == 0 and cell.status in ("reached", "not_reached")
    ):
        yield (
            (
                f"{sizes} took no step: there were fewer rows than one minibatch, so its weights"
                " are those it began with."
            ),
            "--batch-size",
        )
    losses = [
        cell["holdout_loss"]["value"]
        for cell in summary["cells"]
        if cell["holdout_loss"]["value"] is not None
    ]
    constant, linear = (
        (summary[name] or {}).get("value") for name in ("best_constant_loss", "best_linear_loss")
    )
    if losses and has_constant_target(run):
        yield "The target is constant: there is nothing to learn.", "--target"
    elif losses:
        if constant is not None and min(losses) >= constant:
            yield (
                (
                    "No size is better than the best constant: nothing was learned from these"
                    " features."
                ),
                "--features",
            )
        if linear is not None and min(losses) > linear:
            yield (
                f"No size is better than the best linear model (loss {loss_text(linear)}).",
                "--max-rows",
            )
    target = summary["target_loss"]
    if (
        losses
        and len(cells) > 1
        and summary["target_loss_chosen"] == "automatic"
        and target > _EASY_TARGET * min(losses)
    ):
        text = (
            f"The target, {target_word(target)}, was chosen so that at least half of the sizes"
            f" reach it; the smallest loss is {loss_text(min(losses))}"
        )
        yield (
            f"{text}, and a size may be fast to the one and slow to the other.",
            f"--target-loss {round_up(1.05 * min(losses), 2):g}",
        )
    few = _sizes(cell for cell in cells if 0 < _steps(cell) < _FEW_STEPS)
    if few:
        text = (
            f"{few} took fewer than {_FEW_STEPS} steps: a budget of rows favours small minibatches;"
            " look at the loss by steps too."
        )
        yield text, "--max-rows"


def _of_rates(run: Run, cells: Sequence[Cell], summary: Mapping[str, Any]) -> Warnings:
    if (
        not summary["fresh_seeds"]
        and run.rules[0] == "tuned"
        and any(len(run.rates(cell.batch_size)) > 1 for cell in cells)
    ):
        text = (
            "Learning rates were chosen on the same trials that judge them (the winner's curse):"
            " the figures are a little too good."
        )
        yield text, "--set sweep.rerun=on"
    learned = [
        cell
        for cell in cells
        if run.rules[0] == "tuned"
        and cell.status in ("reached", "not_reached")
        and len(run.rates(cell.batch_size)) > 1
        and _steps(cell) > 0
    ]
    for name, pick in (("smallest", min), ("largest", max)):
        edge = [cell for cell in learned if cell.lr == pick(run.rates(cell.batch_size))]
        if edge:
            tried = ", ".join(sorted({rate_text(cell.lr) for cell in edge}, key=float))
            yield (
                (
                    f"The best learning rate of {_sizes(edge)} is the {name} that was tried"
                    f" ({tried}): the best may lie beyond."
                ),
                "--lr-grid",
            )
    if len(cells) > 1 and run.header.trials == 1:
        yield "One run per size: no interval, and no conclusion.", "--trials"


def _of_speed(summary: Mapping[str, Any]) -> Warnings:
    bound = [
        cell["batch_size"]
        for cell in summary["cells"]
        if (cell["wait_fraction"]["value"] or 0) > INPUT_BOUND
    ]
    for one in summary["confirmation"]:
        lo, hi = one["ratio"]["lo"], one["ratio"]["hi"]
        off = abs(one["measured_seconds"]["value"] - one["predicted_seconds"]["value"])
        if lo is not None and off > LEAST_OFF_SECONDS and (lo > MOST_OFF or hi < 1 / MOST_OFF):
            ratio = one["ratio"]["value"]
            yield (
                (
                    f"{size_text(one['batch_size'])} took {ratio:.2g} times the seconds predicted:"
                    " trust the ranking less than usual."
                ),
                None,
            )
    if bound:
        yield (
            (
                f"{sizes_text(bound)}: bringing rows takes more than {INPUT_BOUND:.0%} of the time,"
                " beside steps on the same cores: input-bound."
            ),
            "--readers",
        )
    recommendation = summary["recommendation"]
    if (
        recommendation["batch_size"] is not None
        and not recommendation["conclusive"]
        and recommendation["more_trials"]
    ):
        yield (
            "The sizes cannot be told apart with certainty.",
            f"--trials {summary['trials'] + recommendation['more_trials']}",
        )


def _steps(cell: Cell) -> int:
    return max(
        (curve.steps[-1] for curve in cell.curves.values() if curve.finished and curve.steps),
        default=0,
    )


def _sizes(cells: Any) -> str:
    return sizes_text([cell.batch_size for cell in cells])
