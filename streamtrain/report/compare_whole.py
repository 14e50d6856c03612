"""Two runs as wholes: the recommended or only size of each, whatever sizes they tried."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamtrain.base.units import format_count
from streamtrain.plan.batch_sizes import used_sizes
from streamtrain.records import parse
from streamtrain.report.analysis import Analysis, is_trained, strict
from streamtrain.report.cell_figures import ComparedAt, cell_figures
from streamtrain.report.change import NO_SAMPLE, change, change_text, samples
from streamtrain.report.number_format import (
    NOTHING,
    loss_figure_text,
    loss_text,
    rate_text,
    rmse_text,
    seconds_text,
    size_text,
    sizes_in_turn,
    status_text,
    target_word,
)
from streamtrain.report.summary_parts import NOT_MEASURED, CellFigures, Figure
from streamtrain.report.table import target_text
from streamtrain.science.cells import Cell, rows_in_common
from streamtrain.science.intervals import Estimate, measure
from streamtrain.science.run_log import Run
from streamtrain.types import Json

#: The figures of wholes that are compared; less is better for each.
WHOLE_FIGURES = ("holdout_loss", "holdout_rmse", "training_seconds", "seconds_to_target")

#: The most characters of a run's name above a column.
_NAME_WIDTH = 26

#: Relative change of a loss below which its printed digits are the same.
_SAME = 5e-4

#: Relative difference up to which the losses of the best constant are the same but for rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """The figures of a run at its recommended or only size, at the end of its training.

    Attributes:
        cell: The size with its figures; losses are at `rows`, seconds_to_target is for A's target.
            None where the run recommends no size.
        trials: Trials that judge it.
        rows: The last row at which each of these trials that finished was evaluated.
        training_seconds: Seconds of training on these rows; n counts timing repeats.
        sizes: The minibatch sizes of a training whose size changes; empty for others.
        lacks: Why the run has no held-out loss; empty where it has one.
    """

    cell: CellFigures | None = None
    trials: int = 0
    rows: int | None = None
    training_seconds: Figure = NOT_MEASURED
    sizes: str = ""
    lacks: str = ""


def whole_cell(analysis: Analysis, cells: Sequence[Cell]) -> Cell | None:
    """Return the cell of a run's recommended or only size, among its `cells`."""
    if len(cells) == 1:
        return cells[0]
    size = analysis.summary.recommendation.batch_size
    return next((cell for cell in cells if cell.batch_size == size), None)


def compare_wholes(
    sides: tuple[tuple[Run, Cell | None], tuple[Run, Cell | None]],
    *,
    pairs: bool,
    target: float | None,
) -> Json:
    """Return the comparison of two runs at one cell each, for the document of `compare`.

    Its keys are `answer`, `incomparable` (the reason why losses say nothing, or None), `wholes`
    and `whole`, the change of each of WHOLE_FIGURES. Nothing is compared where there is a reason.
    """
    (run_a, _), (run_b, _) = sides
    reason = incomparable(run_a, run_b)
    wholes = [_whole(run, cell) for run, cell in sides]
    by_name = [
        dict(samples(run, cell, whole.rows)) if cell is not None and reason is None else {}
        for (run, cell), whole in zip(sides, wholes, strict=True)
    ]
    changes = {
        name: change(
            by_name[0].get(name, NO_SAMPLE),
            by_name[1].get(name, NO_SAMPLE),
            pairs=pairs,
            more_is_better=False,
        )
        for name in WHOLE_FIGURES
    }
    return {
        "answer": _answer(reason, wholes, changes, target),
        "incomparable": reason,
        "wholes": [strict(whole) for whole in wholes],
        "whole": changes,
    }


def incomparable(a: Run, b: Run) -> str | None:
    """Return why the losses of two runs say nothing about which is better; None where they do."""
    data_a, data_b = a.header.data, b.header.data
    if data_a.target != data_b.target:
        return f"A predicts {data_a.target}, and B {data_b.target}"
    if data_a.fingerprint != data_b.fingerprint:
        urls = dict.fromkeys([data_a.url, data_b.url])
        what = " and ".join(urls) if len(urls) > 1 else f"{data_a.url} was changed"
        return f"they read different data ({what})"
    if a.has_holdout and b.has_holdout and not _same_rows(a, b):
        return "they were judged on different held-out rows"
    return None


def _same_rows(a: Run, b: Run) -> bool:
    """Whether both runs were judged on the same rows.

    Older runs have no hash. The best constant then tells: it was fitted on the rows around the
    held-out ones and scored on these.
    """
    if a.baseline.holdout_hash is not None and b.baseline.holdout_hash is not None:
        return a.baseline.holdout_hash == b.baseline.holdout_hash
    constants = (a.baseline.constant_loss, b.baseline.constant_loss)
    return a.header.data.holdout_rows == b.header.data.holdout_rows and (
        constants == (None, None) or math.isclose(*(c or 0.0 for c in constants), rel_tol=_ROUNDING)
    )


def _whole(run: Run, cell: Cell | None) -> Whole:
    if cell is None:
        return Whole(lacks="it recommends no size")
    rows = rows_in_common([cell])
    figures = cell_figures(run, cell, ComparedAt(rows=rows, steps=None, seconds=None))
    by_name = dict(samples(run, cell, rows))
    lacks = ""
    if not run.has_holdout:
        lacks = "nothing was held out"
    elif figures.holdout_loss.value is None:
        lacks = "it was not evaluated" if is_trained(cell.status) else status_text(cell.status)
    return Whole(
        cell=figures,
        trials=len(cell.curves),
        rows=rows,
        training_seconds=measure(by_name["training_seconds"].values.values(), log=True),
        sizes=sizes_in_turn(used_sizes(run.stages, rows or 0)) if len(run.stages) > 1 else "",
        lacks=lacks,
    )


def _answer(
    reason: str | None,
    wholes: Sequence[Whole],
    changes: Mapping[str, Json],
    target: float | None,
) -> str:
    """Return what the comparison found in one or two sentences."""
    if reason is not None:
        return f"Neither run can be called better: {reason}."
    sentence = _loss_sentence(wholes, changes["holdout_loss"])
    if target is None or any(whole.lacks for whole in wholes):
        return sentence
    return f"{sentence} {_target_sentence(wholes, changes['seconds_to_target'], target)}"


def _loss_sentence(wholes: Sequence[Whole], loss: Json) -> str:
    lacking = [(letter, w.lacks) for letter, w in zip("AB", wholes, strict=True) if w.lacks]
    if lacking:
        why = "; ".join(f"{letter}: {lacks}" for letter, lacks in lacking)
        return f"There are no two held-out losses to compare ({why})."
    values = _both_losses(wholes)
    if loss["change"] is None:  # a loss of zero has no ratio
        return f"The held-out losses are {values}."
    if loss["verdict"] in ("better", "worse"):
        word = "lower" if loss["change"] < 0 else "higher"
        return f"B has the {word} held-out loss: {values} ({change_text(loss)})."
    if loss["lo"] is not None:
        return f"No difference in held-out loss is shown: {values} ({change_text(loss)})."
    if abs(loss["change"]) < _SAME:
        return f"The held-out losses are the same to 0.1 %: {values}."
    word = "lower" if loss["change"] < 0 else "higher"
    fewest = min(whole.cell.holdout_loss.n for whole in wholes if whole.cell)
    chance = "one trial cannot show more than chance" if fewest == 1 else "no interval is known"
    return f"B's held-out loss is {word}, {values} ({change_text(loss)}), but {chance}."


def _both_losses(wholes: Sequence[Whole]) -> str:
    """Return B's loss against A's, with the rows of each where they differ."""
    texts = [loss_text(whole.cell and whole.cell.holdout_loss.value) for whole in wholes]
    rows = [whole.rows for whole in wholes]
    if rows[0] != rows[1]:
        texts = [
            f"{text} after {format_count(count or 0)} rows"
            for text, count in zip(texts, rows, strict=True)
        ]
    return f"{texts[1]} against {texts[0]}"


def _target_sentence(wholes: Sequence[Whole], seconds: Json, target: float) -> str:
    goal = f"A's target, loss ≤ {target_word(target)}"
    reached = [whole.cell.steps_to_target.n if whole.cell else 0 for whole in wholes]
    trials = [whole.trials for whole in wholes]
    if reached != trials:
        if reached[0] == trials[0] and not reached[1]:
            last = wholes[1].cell and wholes[1].cell.holdout_loss.value
            if last is not None and last <= target:
                return f"B meets {goal}, at its last evaluation, which alone does not count."
            return f"B does not reach {goal}."
        counts = [f"{n} of {of}" for n, of in zip(reached, trials, strict=True)]
        return f"B reaches {goal}, in {counts[1]} trials, and A in {counts[0]}."
    if seconds["change"] is None:
        return f"Both reach {goal}."
    if seconds["verdict"] in ("better", "worse"):
        word = "sooner" if seconds["change"] < 0 else "later"
        return f"B reaches {goal}, {word} ({change_text(seconds)})."
    if seconds["lo"] is not None:
        return f"Both reach {goal}; no difference in seconds is shown ({change_text(seconds)})."
    times = [seconds_text(Estimate(value=seconds[side])) for side in "ab"]
    return f"Both reach {goal}: B in {times[1]}, A in {times[0]}."


def whole_table(document: Mapping[str, Any], names: tuple[str, str]) -> list[list[str]]:
    """Return the rows of the table of two wholes: a label, A, B, and the change."""
    units = {side["target"] for side in document["sides"]}
    target = document["target_loss"]
    wholes = [parse(Whole, whole, "the comparison") for whole in document["wholes"]]
    columns = [_column(whole, target) for whole in wholes]
    changes = document["whole"]
    labels = {
        "minibatch size": "",
        "learning rate": "",
        "rows trained on": "",
        "trials": "",
        "held-out loss": change_text(changes["holdout_loss"]),
        f"RMSE, in {units.pop()}" if len(units) == 1 else "RMSE": change_text(
            changes["holdout_rmse"]
        ),
        "training": change_text(changes["training_seconds"]),
        f"to loss ≤ {target_word(target)}": change_text(changes["seconds_to_target"]),
    }
    table = [["", *(f"{letter} {_short(name)}" for letter, name in zip("AB", names, strict=True))]]
    table[0].append("change [95 %]")
    for index, (label, text) in enumerate(labels.items()):
        figures = [column[index] for column in columns]
        if any(figure != NOTHING for figure in figures):
            table.append([label, *figures, "" if text == NOTHING else text])
    return table


def _column(whole: Whole, target: float | None) -> list[str]:
    """Return the figures of a whole, in the order of the table's rows."""
    if whole.cell is None:
        return [NOTHING] * 8
    cell = whole.cell
    return [
        whole.sizes or size_text(cell.batch_size),
        rate_text(cell.lr),
        NOTHING if whole.rows is None else format_count(whole.rows),
        str(whole.trials),
        loss_figure_text(cell.holdout_loss),
        rmse_text(cell.holdout_rmse),
        seconds_text(whole.training_seconds),
        NOTHING if target is None else target_text(target, cell),
    ]


def _short(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else f"…{name[1 - _NAME_WIDTH :]}"
