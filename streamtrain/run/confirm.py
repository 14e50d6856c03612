"""Check the recommendation: train to the target from shards, and measure the time.

The recommended size and its neighbours are trained.
"""

import math
import time

from streamtrain.records import Confirmed, Emit
from streamtrain.run.passes import run_pass
from streamtrain.run.prepare import Prepared
from streamtrain.run.sweep_plan import for_trial
from streamtrain.science.cells import Cell
from streamtrain.science.judge import Judgement, judge
from streamtrain.science.run_log import Run

#: At most this many trials are run again for each size: a few repeats are enough for a time.
MOST_TRIALS = 3

#: The recommended size and as many neighbours on each side.
MOST_SIZES = 3


def confirm(prepared: Prepared, run: Run, emit: Emit, max_seconds: float = math.inf) -> None:
    """Emit a `confirmation` record for each size and trial; none without a recommendation.

    The rows and initial weights of a trial are reproducible, so the step at which it reached the
    target is known. The learner trains up to that step, alone on the machine, and is evaluated
    after the clock has stopped. Sizes take turns within a trial. After `max_seconds` no further
    trial is begun.
    """
    cells = neighbours(judge(run))
    if not cells:
        return
    trials_reached = set.intersection(*(set(cell.steps_to_target) for cell in cells))
    started = time.perf_counter()
    for trial in sorted(trials_reached)[:MOST_TRIALS]:
        if time.perf_counter() - started > max_seconds:
            return
        for cell in cells:
            emit(_train_to_target(for_trial(prepared, run, trial), cell, trial))


def neighbours(judgement: Judgement) -> list[Cell]:
    """Return the recommended size and the next smaller and larger ones that reached the target.

    They are ascending. The list is empty when no size is recommended.
    """
    reached = sorted(
        (cell for cell in judgement.cells if cell.status == "reached"),
        key=lambda cell: cell.batch_size,
    )
    sizes = [cell.batch_size for cell in reached]
    if judgement.choice.batch_size not in sizes:
        return []
    index = sizes.index(judgement.choice.batch_size)
    beside = MOST_SIZES // 2
    return reached[max(0, index - beside) : index + beside + 1]


def _train_to_target(prepared: Prepared, cell: Cell, trial: int) -> Confirmed:
    learner = prepared.learner(
        cell.batch_size, (cell.lr,), trial, stop_row=cell.row_at_target(trial), watched=False
    )
    pass_record = run_pass(prepared, [learner], trial, lambda record: None, kind="confirmation")
    # Only a held-out loss can have reached the target.
    assert prepared.evaluation is not None
    loss = float(learner.engine.evaluate(prepared.evaluation)[0] * prepared.loss_scale)
    return Confirmed(
        batch_size=cell.batch_size,
        lr=cell.lr,
        trial=trial,
        rows=learner.rows,
        seconds=pass_record.training_seconds,
        fill_seconds=pass_record.fill_seconds,
        holdout_loss=loss if math.isfinite(loss) else None,
    )
