"""The recommendation put to the test: the chosen size and its neighbours trained to the target,
from shards, against the clock.
"""

import math

from streamtrain.records import Confirmed, Emit
from streamtrain.run.passes import run_pass
from streamtrain.run.prepare import Prepared
from streamtrain.science.cells import Cell
from streamtrain.science.judge import Judgement, judge
from streamtrain.science.run_log import Run

#: Trials of each size that are run again: a clock's figure needs repeats, not many.
MOST_TRIALS = 3


def confirm(prepared: Prepared, run: Run, emit: Emit) -> None:
    """Emit a `confirmation` record for each size and trial; none without a recommendation.

    A trial's rows and weights repeat, so where it reached the target is known to the step: the
    learner trains that far alone on the machine, and is evaluated when the clock has stopped. Sizes
    take turns within a trial.
    """
    judgement = judge(run)
    cells = neighbours(judgement)
    for trial in (
        sorted(set.intersection(*(set(cell.steps_to_target) for cell in cells)))[:MOST_TRIALS]
        if cells
        else ()
    ):
        for cell in cells:
            emit(_train_to(prepared, cell, trial))


def neighbours(judgement: Judgement) -> list[Cell]:
    """The recommended size and the next smaller and larger ones that reached the target,
    ascending.
    """
    reached = sorted(
        (cell for cell in judgement.cells if cell.status == "reached"),
        key=lambda cell: cell.batch_size,
    )
    sizes = [cell.batch_size for cell in reached]
    if judgement.choice.batch_size not in sizes:
        return []
    at = sizes.index(judgement.choice.batch_size)
    return reached[max(0, at - 1) : at + 2]


def _train_to(prepared: Prepared, cell: Cell, trial: int) -> Confirmed:
    """Rows trained on, seconds from the first block to the last step, seconds until the first
    block, the held-out loss reached.
    """
    learner = prepared.learner(
        cell.batch_size, (cell.lr,), trial, stop_row=cell.arrival_row(trial), watched=False
    )
    done = run_pass(prepared, [learner], trial, lambda record: None, kind="confirmation")
    loss = float(learner.engine.evaluate(prepared.evaluation)[0] * prepared.loss_scale)
    return Confirmed(
        batch_size=cell.batch_size,
        lr=cell.lr,
        trial=trial,
        rows=learner.rows,
        seconds=done.training_seconds,
        fill_seconds=done.fill_seconds,
        holdout_loss=loss if math.isfinite(loss) else None,
    )
